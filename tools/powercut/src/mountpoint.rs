//! Mount points: which there are, which are dead, and how they go.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::mount::UnmountFlags;

/// Whether this user can mount here.
///
/// # Errors
/// What is missing, and how to get it.
pub fn can_mount() -> Result<(), String> {
    match fs::File::options().read(true).write(true).open(DEVICE) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(format!(
                "there is no {DEVICE}: load the kernel module (`modprobe fuse`), or start the container with \
                 `--device {DEVICE} --cap-add SYS_ADMIN`"
            ));
        }
        Err(error) => return Err(format!("{DEVICE}: {error}: this user may not use FUSE")),
    }
    if rustix::process::geteuid().is_root() || helper().is_some() {
        return Ok(());
    }
    Err("an ordinary user mounts through `fusermount3`, which is not in PATH: install the package fuse3, or run this \
         as root"
        .to_owned())
}

/// Why the mount call failed, where it is not the kernel's plain refusal.
pub(crate) fn explain(error: &io::Error) -> Option<String> {
    // Not allowed to mount itself, the library starts `fusermount3`, and does not find it.
    (error.kind() == io::ErrorKind::NotFound && helper().is_none()).then(|| {
        format!(
            "this process may not mount (a container needs `--device {DEVICE} --cap-add SYS_ADMIN`), and \
             `fusermount3` is not in PATH (package fuse3)"
        )
    })
}

/// Unmounts what killed processes left behind at `place` and below, as far as this user may; returns where. What is
/// dead elsewhere belongs to somebody else, who may be about to look at it.
///
/// # Errors
/// The list of mounts cannot be read.
pub fn clean_dead_mounts(place: &Path) -> io::Result<Vec<PathBuf>> {
    let place = real_path(place)?;
    let mut cleaned = Vec::new();
    for path in mounts()?.into_iter().filter_map(|mount| mount.ours.then_some(mount.path)) {
        if path.starts_with(&place) && is_dead(&path) && detach(&path).is_ok() {
            cleaned.push(path);
        }
    }
    Ok(cleaned)
}

/// The path as the kernel's list of mounts has it, also of a dead mount, of which nothing can be asked.
fn real_path(path: &Path) -> io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    match (path.canonicalize(), path.parent(), path.file_name()) {
        (Ok(real), _, _) => Ok(real),
        (Err(_), Some(parent), Some(name)) if is_dead(&path) => Ok(parent.canonicalize()?.join(name)),
        _ => Ok(path),
    }
}

/// A mount whose process is gone.
pub(crate) fn is_dead(path: &Path) -> bool {
    fs::symlink_metadata(path)
        .is_err_and(|error| matches!(Errno::from_io_error(&error), Some(Errno::NOTCONN | Errno::CONNABORTED)))
}

pub(crate) fn is_mountpoint(path: &Path) -> io::Result<bool> {
    Ok(mounts()?.iter().any(|mount| mount.path == path))
}

/// Unmounts; fails when somebody uses it.
pub(crate) fn unmount(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::empty()) {
        Err(Errno::PERM) => run_helper(path, &["-u"]),
        result => Ok(result?),
    }
}

/// Takes the mount out of the tree, whoever still uses it.
pub(crate) fn detach(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH) {
        Err(Errno::PERM) => run_helper(path, &["-u", "-z"]),
        result => Ok(result?),
    }
}

/// Ends the connection of a mount that is still used: what waits in it fails. False where the kernel's list of
/// connections is not mounted; then it ends with this process.
pub(crate) fn abort(device: u64) -> bool {
    // The list is by the minor number of the device.
    fs::write(format!("/sys/fs/fuse/connections/{}/abort", rustix::fs::minor(device)), "1").is_ok()
}

/// The device number of a mounted file system.
pub(crate) fn device(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.dev())
}

fn run_helper(path: &Path, arguments: &[&str]) -> io::Result<()> {
    let helper = helper().ok_or_else(|| io::Error::other("fusermount3 is not in PATH"))?;
    let output = Command::new(helper).args(arguments).arg("--").arg(path).stdin(Stdio::null()).output()?;
    if output.status.success() {
        Ok(())
    } else {
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }
}

fn helper() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    ["fusermount3", "fusermount"]
        .iter()
        .flat_map(|name| folders.iter().map(move |folder| folder.join(name)))
        .find(|path| path.is_file())
}

struct Mounted {
    path: PathBuf,
    ours: bool,
}

fn mounts() -> io::Result<Vec<Mounted>> {
    Ok(fs::read("/proc/self/mountinfo")?.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// One line of mountinfo: `36 35 98:0 /root /path options … - type source options`.
fn parse(line: &[u8]) -> Option<Mounted> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let path = PathBuf::from(unescape(fields.get(4)?));
    let dash = fields.iter().position(|field| *field == b"-")?;
    let ours = fields.get(dash + 1)?.starts_with(b"fuse") && *fields.get(dash + 2)? == SOURCE.as_bytes();
    Some(Mounted { path, ours })
}

/// Blanks and the like stand as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let (mut bytes, mut rest) = (Vec::new(), field);
    while let Some((&first, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|digits| first == b'\\' && digits.iter().all(u8::is_ascii_digit));
        match octal {
            Some(digits) => {
                bytes.push(digits.iter().fold(0_u8, |value, digit| value.wrapping_mul(8) + (digit & 7)));
                rest = &after[3..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// What the list of mounts calls it.
pub(crate) const SOURCE: &str = "powercut";
const DEVICE: &str = "/dev/fuse";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn a_line_of_mountinfo_is_read() {
        let line = br"99 24 0:54 / /mnt/a\040b\134c rw,nosuid,nodev shared:7 - fuse powercut rw,user_id=0";
        let mount = parse(line).unwrap();
        assert_eq!((mount.path.as_os_str().as_bytes(), mount.ours), (&br"/mnt/a b\c"[..], true));
        let other = parse(b"24 1 254:0 / / rw - ext4 /dev/vda rw").unwrap();
        assert!(!other.ours);
        assert!(parse(b"").is_none());
    }

    #[test]
    fn the_root_is_mounted_and_alive() {
        assert!(is_mountpoint(Path::new("/proc")).unwrap());
        assert!(!is_dead(Path::new("/proc")));
    }
}
