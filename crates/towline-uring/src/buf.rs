//! Owned, aligned buffers: moved into an operation and handed back by its completion.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// Zeroed bytes at an address and with a length that O_DIRECT accepts.
pub struct AlignedBuf {
    base: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the allocation belongs to this value alone, like a `Box<[u8]>`.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above; shared access only reads.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// At least `len` zero bytes, rounded up to whole blocks of 4 KiB.
    pub fn zeroed(len: usize) -> Self {
        let size = len.max(1).next_multiple_of(BLOCK);
        let Ok(layout) = Layout::from_size_align(size, BLOCK) else {
            // Only a length near the end of the address space gets here; it cannot be had.
            handle_alloc_error(Layout::new::<u8>())
        };
        // SAFETY: the layout is not empty.
        let base = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { handle_alloc_error(layout) };
        Self { base, layout }
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: allocated with this size, zeroed, and owned by `self`; while an operation uses the
        // buffer it is inside the ring's table, where nobody dereferences it.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.layout.size()) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.layout.size()) }
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, freed once. The ring leaks its buffers rather than drop
        // them before their completion.
        unsafe { dealloc(self.base.as_ptr(), self.layout) }
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.layout.size())
    }
}

/// A fixed number of equal buffers. A buffer returns to its pool when it is dropped, on any thread.
#[derive(Clone)]
pub struct BufPool {
    home: Arc<Home>,
}

struct Home {
    free: Mutex<Vec<AlignedBuf>>,
    buf_len: usize,
}

impl BufPool {
    /// A pool of `count` buffers of at least `len` bytes each.
    pub fn new(count: usize, len: usize) -> Self {
        let free: Vec<_> = (0..count).map(|_| AlignedBuf::zeroed(len)).collect();
        let buf_len = free.first().map_or(0, |buf| buf.len());
        Self { home: Arc::new(Home { free: Mutex::new(free), buf_len }) }
    }

    /// Takes a buffer; `None` when all are out. Its contents are those of its last use.
    pub fn get(&self) -> Option<PoolBuf> {
        let buf = self.home.free.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
        Some(PoolBuf { buf: Some(buf), home: Arc::clone(&self.home) })
    }

    /// Buffers that are not out.
    pub fn available(&self) -> usize {
        self.home.free.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Length of each buffer in bytes.
    pub fn buf_len(&self) -> usize {
        self.home.buf_len
    }
}

/// A buffer checked out of a [`BufPool`].
pub struct PoolBuf {
    /// `None` only inside `drop`.
    buf: Option<AlignedBuf>,
    home: Arc<Home>,
}

impl PoolBuf {
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.buf.as_ref().map_or(std::ptr::null_mut(), AlignedBuf::as_ptr)
    }
}

impl Deref for PoolBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.buf.as_deref().unwrap_or_default()
    }
}

impl DerefMut for PoolBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.buf.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for PoolBuf {
    fn drop(&mut self) {
        if let Some(buf) = self.buf.take() {
            self.home.free.lock().unwrap_or_else(PoisonError::into_inner).push(buf);
        }
    }
}

impl fmt::Debug for PoolBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PoolBuf({} bytes)", self.len())
    }
}

/// What every O_DIRECT file we know of accepts as memory alignment.
const BLOCK: usize = 4096;
