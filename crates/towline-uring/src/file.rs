//! Data files: direct or buffered, prepared with zeros, renamed durably.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use crate::buf::AlignedBuf;

/// A file of the log.
#[derive(Debug)]
pub struct DataFile {
    file: File,
    path: PathBuf,
    mode: FileMode,
    alignment: Alignment,
}

/// How a file is read and written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileMode {
    /// O_DIRECT: past the page cache.
    Direct,
    /// Through the page cache.
    Buffered,
}

/// What O_DIRECT asks of memory addresses and of file offsets and lengths, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alignment {
    /// Of the memory.
    pub memory: u32,
    /// Of offsets and lengths.
    pub offset: u32,
}

impl DataFile {
    /// Opens an existing file for reading and writing.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open(path: impl AsRef<Path>, mode: FileMode) -> Result<Self, FileError> {
        Self::open_with(path.as_ref(), mode, OFlags::RDWR)
    }

    /// Opens an existing file for reading only.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn open_read_only(path: impl AsRef<Path>, mode: FileMode) -> Result<Self, FileError> {
        Self::open_with(path.as_ref(), mode, OFlags::RDONLY)
    }

    /// Creates a file that must not exist yet, readable by its owner and group.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn create(path: impl AsRef<Path>, mode: FileMode) -> Result<Self, FileError> {
        let path = path.as_ref();
        let made = Self::open_with(path, mode, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL);
        if matches!(made, Err(FileError::DirectUnsupported { .. })) {
            // Ours, empty, and of no use: leave nothing behind.
            let _ = std::fs::remove_file(path);
        }
        made
    }

    fn open_with(path: &Path, mode: FileMode, access: OFlags) -> Result<Self, FileError> {
        let mut flags = access | OFlags::CLOEXEC;
        if mode == FileMode::Direct {
            flags |= OFlags::DIRECT;
        }
        let file = match rustix::fs::open(path, flags, Mode::from_raw_mode(0o640)) {
            Ok(fd) => File::from(fd),
            Err(Errno::INVAL) if mode == FileMode::Direct => {
                // The open may have created the file before the kernel refused O_DIRECT.
                return Err(FileError::direct(path, "open with O_DIRECT is refused"));
            }
            Err(errno) => return Err(FileError::io(path, "open", errno.into())),
        };
        let mut this =
            Self { file, path: path.to_owned(), mode, alignment: Alignment { memory: 1, offset: 1 } };
        if mode == FileMode::Direct {
            this.alignment = this.direct_alignment(access.contains(OFlags::RDWR))?;
        }
        Ok(this)
    }

    /// Asks the file system; one that does not say is tried with a write of one block.
    fn direct_alignment(&self, may_write: bool) -> Result<Alignment, FileError> {
        let wanted = StatxFlags::DIOALIGN | StatxFlags::SIZE;
        let stat = rustix::fs::statx(&self.file, "", AtFlags::EMPTY_PATH, wanted)
            .map_err(|errno| FileError::io(&self.path, "statx", errno.into()))?;
        if stat.stx_mask & StatxFlags::DIOALIGN.bits() != 0 {
            let found = Alignment { memory: stat.stx_dio_mem_align, offset: stat.stx_dio_offset_align };
            return if found.memory == 0 || found.offset == 0 {
                Err(FileError::direct(&self.path, "the file system offers no direct I/O"))
            } else if found.memory as usize > BLOCK || found.offset as usize > BLOCK {
                Err(FileError::direct(&self.path, "direct I/O needs an alignment above 4096 bytes"))
            } else {
                Ok(found)
            };
        }
        self.trial(stat.stx_size, may_write)?;
        Ok(Alignment { memory: BLOCK as u32, offset: BLOCK as u32 })
    }

    /// Writes the first block back as it is (or as zeros, then cuts it off again).
    fn trial(&self, size: u64, may_write: bool) -> Result<(), FileError> {
        let refused = |error: io::Error| match Errno::from_io_error(&error) {
            Some(Errno::INVAL | Errno::OPNOTSUPP) => {
                FileError::direct(&self.path, "a direct write of 4096 bytes is refused")
            }
            _ => FileError::io(&self.path, "trial write", error),
        };
        let mut block = AlignedBuf::zeroed(BLOCK);
        if !may_write {
            self.file.read_at(&mut block, 0).map(drop).map_err(refused)
        } else if size >= BLOCK as u64 {
            self.file.read_exact_at(&mut block, 0).map_err(refused)?;
            self.file.write_all_at(&block, 0).map_err(refused)
        } else if size == 0 {
            self.file.write_all_at(&block, 0).map_err(refused)?;
            self.file.set_len(0).map_err(refused)
        } else {
            // A part of a block cannot be written back in place; reading it shows the alignment too.
            self.file.read_at(&mut block, 0).map(drop).map_err(refused)
        }
    }

    /// Gives the file `len` bytes of written zeros on stable storage, so that later writes only
    /// overwrite. Earlier contents are lost. `len` is a multiple of 4096.
    ///
    /// # Errors
    /// [`FileError`]; the disk may be full.
    pub fn prealloc_zeroed(&self, len: u64) -> Result<(), FileError> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, len) {
            // A file system without fallocate gets its blocks from the zeros.
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(FileError::io(&self.path, "allocate", errno.into())),
        }
        let zeros = AlignedBuf::zeroed(ZERO_CHUNK);
        let mut at = 0;
        while at < len {
            let count = (len - at).min(zeros.len() as u64) as usize;
            self.pwrite_all(at, &zeros[..count])?;
            at += count as u64;
        }
        self.fdatasync()
    }

    /// Writes all of `bytes`, not durably. Direct files need aligned memory ([`AlignedBuf`]), offset and
    /// length.
    ///
    /// # Errors
    /// [`FileError`]; part of it may be written.
    pub fn pwrite_all(&self, offset: u64, bytes: &[u8]) -> Result<(), FileError> {
        self.file.write_all_at(bytes, offset).map_err(|e| FileError::io(&self.path, "write", e))
    }

    /// Fills `bytes` from the file, aligned as [`pwrite_all`](Self::pwrite_all).
    ///
    /// # Errors
    /// [`FileError`]; also when the file ends before.
    pub fn pread_exact(&self, offset: u64, bytes: &mut [u8]) -> Result<(), FileError> {
        self.file.read_exact_at(bytes, offset).map_err(|e| FileError::io(&self.path, "read", e))
    }

    /// Makes the file's data durable. After a failure nothing is known of what was written before:
    /// never retry it.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn fdatasync(&self) -> Result<(), FileError> {
        self.file.sync_data().map_err(|e| FileError::io(&self.path, "fdatasync", e))
    }

    /// Length of the file in bytes.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn size(&self) -> Result<u64, FileError> {
        Ok(self.file.metadata().map_err(|e| FileError::io(&self.path, "stat", e))?.len())
    }

    /// How it is read and written.
    pub fn mode(&self) -> FileMode {
        self.mode
    }

    /// What direct I/O on it asks for; 1 and 1 for a buffered file.
    pub fn alignment(&self) -> Alignment {
        self.alignment
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for DataFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for DataFile {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Renames `from` to `to` in the same directory and makes the directory durable. The file's own
/// contents must be durable before.
///
/// # Errors
/// [`FileError`].
pub fn rename_durable(from: &Path, to: &Path) -> Result<(), FileError> {
    std::fs::rename(from, to).map_err(|e| FileError::io(from, "rename", e))?;
    fsync_dir(to.parent().unwrap_or(Path::new(".")))
}

/// Makes a directory's entries durable.
///
/// # Errors
/// [`FileError`].
pub fn fsync_dir(dir: &Path) -> Result<(), FileError> {
    if bug!(DirectoryNotFsynced) {
        return Ok(());
    }
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    File::open(dir).and_then(|file| file.sync_all()).map_err(|e| FileError::io(dir, "sync directory", e))
}

/// Why a file operation failed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file system cannot do O_DIRECT as Towline needs it.
    #[error("{path}: {why}; use another file system, or --buffered to go through the page cache")]
    DirectUnsupported {
        /// The file.
        path: PathBuf,
        /// What is missing.
        why: &'static str,
    },
    /// The kernel refused.
    #[error("{path}: {what}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The step that failed.
        what: &'static str,
        /// The cause.
        source: io::Error,
    },
}

impl FileError {
    fn direct(path: &Path, why: &'static str) -> Self {
        Self::DirectUnsupported { path: path.to_owned(), why }
    }

    fn io(path: &Path, what: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), what, source }
    }
}

const BLOCK: usize = 4096;
const ZERO_CHUNK: usize = 1 << 20;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn a_prepared_file_is_zero_and_renamed_whole() {
        let dir = disk_dir();
        let (temporary, name) = (dir.path().join("segment.tmp"), dir.path().join("segment"));
        let file = DataFile::create(&temporary, FileMode::Direct).unwrap();
        assert!(file.alignment().memory >= 1 && file.alignment().offset >= 512);
        // Old contents, as a recycled segment has them.
        let mut block = AlignedBuf::zeroed(BLOCK);
        block.fill(0xff);
        file.pwrite_all(0, &block).unwrap();
        let len = (ZERO_CHUNK + 2 * BLOCK) as u64;
        file.prealloc_zeroed(len).unwrap();
        rename_durable(&temporary, &name).unwrap();
        assert!(!temporary.exists());
        assert_eq!(file.size().unwrap(), len);
        assert!(std::fs::read(&name).unwrap().iter().all(|byte| *byte == 0));
        assert!(matches!(
            DataFile::create(&name, FileMode::Direct),
            Err(FileError::Io { what: "open", source, .. }) if source.kind() == io::ErrorKind::AlreadyExists
        ));

        file.pwrite_all(BLOCK as u64, &block).unwrap();
        file.fdatasync().unwrap();
        let reader = DataFile::open_read_only(&name, FileMode::Buffered).unwrap();
        let mut found = [0; 10];
        reader.pread_exact(BLOCK as u64 - 5, &mut found).unwrap();
        assert_eq!(found, [0, 0, 0, 0, 0, 255, 255, 255, 255, 255]);
        assert!(reader.pwrite_all(0, &found).is_err(), "read only");
        assert!(reader.pread_exact(len, &mut found).is_err(), "past the end");
    }

    #[test]
    fn the_trial_keeps_contents_and_length() {
        let dir = disk_dir();
        for (name, size) in [("empty", 0), ("part", 100), ("whole", 2 * BLOCK)] {
            let path = dir.path().join(name);
            std::fs::write(&path, vec![0x42; size]).unwrap();
            let file = DataFile::open(&path, FileMode::Direct).unwrap();
            file.trial(size as u64, true).unwrap();
            file.trial(size as u64, false).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), vec![0x42; size]);
        }
    }

    #[test]
    fn a_file_without_direct_io_is_refused_with_advice() {
        let error = DataFile::open("/proc/self/oom_score_adj", FileMode::Direct).unwrap_err();
        assert!(matches!(error, FileError::DirectUnsupported { .. }), "{error}");
        assert!(error.to_string().contains("--buffered"));
        assert!(DataFile::open("/proc/self/oom_score_adj", FileMode::Buffered).is_ok());
    }

    /// On the disk that the build is on, not in memory, where integration tests have theirs (`CARGO_TARGET_TMPDIR`,
    /// which unit tests are not told): the folder beside this program may be another user's.
    pub(crate) fn disk_dir() -> tempfile::TempDir {
        let program = std::env::current_exe().unwrap();
        let temporary = program.ancestors().nth(3).unwrap().join("tmp");
        std::fs::create_dir_all(&temporary).unwrap();
        tempfile::tempdir_in(temporary).unwrap()
    }
}
