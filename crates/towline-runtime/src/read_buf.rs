//! Memory to read the log into.

use bytes::Bytes;
use memmap2::MmapMut;

/// Bytes that were read, in memory that is used again. What is long comes from the system itself and goes back to it at
/// once: an allocator would keep some of it for every thread that reads.
#[derive(Debug, Default)]
pub(crate) struct ReadBuf {
    memory: Memory,
    len: usize,
}

#[derive(Debug)]
enum Memory {
    Heap(Vec<u8>),
    Mapped(MmapMut),
}

impl ReadBuf {
    /// Empty, with room for `bytes`.
    pub(crate) fn with_capacity(bytes: usize) -> ReadBuf {
        let mapped = (bytes >= MAPPED_BYTES).then(|| MmapMut::map_anon(bytes)).and_then(Result::ok);
        let memory = mapped.map_or_else(|| Memory::Heap(vec![0; bytes]), Memory::Mapped);
        ReadBuf { memory, len: 0 }
    }

    pub(crate) fn capacity(&self) -> usize {
        match &self.memory {
            Memory::Heap(bytes) => bytes.len(),
            Memory::Mapped(bytes) => bytes.len(),
        }
    }

    /// The place of `len` bytes to be read; what was there is given up.
    pub(crate) fn fill(&mut self, len: usize) -> &mut [u8] {
        if self.capacity() < len {
            self.memory = Memory::Heap(vec![0; len]);
        }
        self.len = len;
        match &mut self.memory {
            Memory::Heap(bytes) => &mut bytes[..len],
            Memory::Mapped(bytes) => &mut bytes[..len],
        }
    }

    /// Leaves out what lies behind the first `len` bytes.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// The bytes, which give the memory back when the last of them is dropped.
    pub(crate) fn into_bytes(self) -> Bytes {
        match self.memory {
            Memory::Heap(mut bytes) => {
                bytes.truncate(self.len);
                Bytes::from(bytes)
            }
            Memory::Mapped(_) => Bytes::from_owner(self),
        }
    }
}

impl AsRef<[u8]> for ReadBuf {
    fn as_ref(&self) -> &[u8] {
        match &self.memory {
            Memory::Heap(bytes) => &bytes[..self.len],
            Memory::Mapped(bytes) => &bytes[..self.len],
        }
    }
}

impl Default for Memory {
    fn default() -> Memory {
        Memory::Heap(Vec::new())
    }
}

/// From here on the two system calls and the first touch of each page are little beside what is read.
const MAPPED_BYTES: usize = 32 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_long_memory_holds_what_was_read_and_grows_past_its_size() {
        for capacity in [0, 100, MAPPED_BYTES, 1 << 20] {
            let mut buf = ReadBuf::with_capacity(capacity);
            assert_eq!((buf.capacity(), buf.as_ref()), (capacity, &b""[..]));
            for len in [100, capacity, capacity + 1, 50] {
                buf.fill(len).fill(len as u8);
                assert_eq!(buf.as_ref(), vec![len as u8; len]);
            }
            buf.truncate(20);
            buf.truncate(30);
            let bytes = buf.into_bytes();
            assert_eq!(bytes, vec![50; 20]);
        }
    }
}
