//! A BPF array, or anonymous memory, mapped into the process.
//!
//! This is the one module of the shared memory with `unsafe`: mapping, and viewing the mapping as
//! atomics.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;

use aya::maps::{MapData, MapInfo};
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::Error;
use crate::flows::slot::Slot;
use crate::flows::tags::TagWord;
use crate::flows::words::Stored;
use crate::publish;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// `BPF_F_MMAPABLE` of `linux/bpf.h`.
pub const MMAPABLE: u32 = 1 << 10;
const BPF_MAP_TYPE_ARRAY: u32 = 2;

/// Types a mapping may be viewed as.
///
/// # Safety
/// Every bit pattern is a value, all access is atomic, there is no drop glue, and the alignment
/// divides the page size.
pub unsafe trait Shared: Sync {}
// SAFETY: an atomic integer takes any bits.
unsafe impl Shared for AtomicU64 {}
// SAFETY: an atomic integer takes any bits.
unsafe impl Shared for AtomicU32 {}
// SAFETY: families are sealed, and the slots of each are made of atomic integers only, without
// padding (asserted at the definition of their words).
unsafe impl<F: Stored> Shared for Slot<F> {}
// SAFETY: an atomic integer takes any bits.
unsafe impl Shared for TagWord {}

/// What a process may do to a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loads only; a store would fault, so writers ask for [`Access::Write`].
    Read,
    /// Loads and stores.
    Write,
}

/// Shape of an array: `entries` values of `value_size` bytes, which must be a multiple of 8 so
/// that values are adjacent (the kernel rounds each up to 8, `kernel/bpf/arraymap.c`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes per value.
    pub value_size: u32,
    /// Number of values.
    pub entries: u32,
}

impl Shape {
    /// Bytes of all values.
    pub const fn bytes(self) -> usize {
        self.value_size as usize * self.entries as usize
    }
}

/// Mapped memory. Unmapped on drop; the pinned map lives on.
#[derive(Debug)]
pub struct Mmap {
    base: NonNull<c_void>,
    bytes: usize,
    access: Access,
    _memory: PhantomData<AtomicU64>,
}

// SAFETY: the memory is only reachable as atomics, which are Sync.
unsafe impl Send for Mmap {}
// SAFETY: as above.
unsafe impl Sync for Mmap {}

impl Mmap {
    /// Zeroed memory of this process alone, in huge pages where the kernel has them: regions for
    /// tests and for measuring the user tier without a kernel.
    pub fn anonymous(bytes: usize) -> std::io::Result<Self> {
        const HUGE: usize = 2 << 20;
        let rounded = bytes.next_multiple_of(if bytes >= HUGE { HUGE } else { 4096 });
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: a fresh anonymous mapping at an address of the kernel's choice aliases nothing.
        let base =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), rounded, prot, flags) }?;
        // SAFETY: advice on the mapping just made; it changes no contents, and failing is harmless.
        let _ = unsafe { rustix::mm::madvise(base, rounded, Advice::LinuxHugepage) };
        let base = NonNull::new(base).ok_or_else(|| std::io::Error::other("mmap returned null"))?;
        Ok(Self { base, bytes: rounded, access: Access::Write, _memory: PhantomData })
    }

    fn of_fd(fd: impl AsFd, bytes: usize, access: Access) -> std::io::Result<Self> {
        let prot = match access {
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        let rounded = bytes.next_multiple_of(4096);
        // SAFETY: a shared mapping at an address of the kernel's choice; the memory is only ever
        // viewed as atomics, so writers outside this process are no data race.
        let base = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), rounded, prot, MapFlags::SHARED, fd, 0)
        }?;
        let base = NonNull::new(base).ok_or_else(|| std::io::Error::other("mmap returned null"))?;
        Ok(Self { base, bytes: rounded, access, _memory: PhantomData })
    }

    /// May the memory be stored to?
    pub fn writable(&self) -> bool {
        self.access == Access::Write
    }

    /// The memory from `offset` bytes on, as far as whole `T` fit.
    ///
    /// # Panics
    /// When `offset` is no multiple of the alignment of `T`: a mistake in the program.
    pub fn view<T: Shared>(&self, offset: usize) -> &[T] {
        assert!(offset.is_multiple_of(align_of::<T>()) && offset <= self.bytes);
        let count = (self.bytes - offset) / size_of::<T>();
        // SAFETY: the range lies in the mapping, which lives as long as `self`; `base` is page
        // aligned and the offset aligned for `T`; `Shared` says any bits are a `T`. Views of
        // different types are disjoint in use: every field is always accessed at one width.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().byte_add(offset).cast(), count) }
    }
}

impl Drop for Mmap {
    fn drop(&mut self) {
        // SAFETY: exactly the range mapped in the constructor; views borrow `self`, so none is left.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr(), self.bytes) };
    }
}

/// Bytes of a cache line.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Asks the processor for the cache lines of `slot`, to be written soon.
#[inline]
pub fn prefetch<T>(slot: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_ET0, _mm_prefetch};
        let first = std::ptr::from_ref(slot).cast::<i8>();
        for line in 0..size_of::<T>().div_ceil(LINE) {
            // SAFETY: a prefetch changes no state and faults on no address.
            unsafe { _mm_prefetch::<_MM_HINT_ET0>(first.wrapping_byte_add(line * LINE)) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = slot;
}

/// Creates the array, lets `init` fill it, and pins it: nobody sees it unfinished.
pub fn create(
    path: &Path,
    name: &str,
    shape: Shape,
    init: impl FnOnce(&Mmap),
) -> Result<Mmap, Error> {
    let failed = |action, source| Error::Map { action, path: path.to_owned(), source };
    let object = aya_obj::Map::new_from_params(
        BPF_MAP_TYPE_ARRAY,
        4,
        shape.value_size,
        shape.entries,
        MMAPABLE,
    );
    let map = MapData::create(object, name, None).map_err(|e| failed("create", Box::new(e)))?;
    let mmap = Mmap::of_fd(map.fd(), shape.bytes(), Access::Write)
        .map_err(|e| failed("map", Box::new(e)))?;
    init(&mmap);
    map.pin(path).map_err(|e| failed("pin", Box::new(e)))?;
    Ok(mmap)
}

/// Maps a pinned array, whose shape must be `shape`; `None` for entries takes any number.
pub fn open(
    path: &Path,
    creator: &'static str,
    value_size: u32,
    entries: Option<u32>,
    access: Access,
) -> Result<(Mmap, Shape), Error> {
    if !path.exists() {
        return Err(Error::Missing { path: PathBuf::from(path), creator });
    }
    let failed = |action, source| Error::Map { action, path: path.to_owned(), source };
    let info = MapInfo::from_pin(path).map_err(|e| failed("open", Box::new(e)))?;
    let found = Shape { value_size: info.value_size(), entries: info.max_entries() };
    let wanted = Shape { value_size, entries: entries.unwrap_or(found.entries) };
    if found != wanted || info.map_flags() & MMAPABLE == 0 {
        let text = |s: Shape| format!("{} values of {} bytes", s.entries, s.value_size);
        return Err(Error::Layout {
            path: path.to_owned(),
            found: text(found),
            expected: text(wanted),
        });
    }
    let map = MapData::from_pin(path).map_err(|e| failed("open", Box::new(e)))?;
    let mmap =
        Mmap::of_fd(map.fd(), found.bytes(), access).map_err(|e| failed("map", Box::new(e)))?;
    Ok((mmap, found))
}

/// [Updates](publish::update) a plain structure at `offset`, word by word.
pub fn store<T: zerocopy::IntoBytes + zerocopy::Immutable>(mmap: &Mmap, offset: usize, value: &T) {
    const { assert!(size_of::<T>().is_multiple_of(8)) };
    let words = mmap.view::<AtomicU64>(offset);
    for (word, bytes) in words.iter().zip(value.as_bytes().as_chunks::<8>().0) {
        publish::update(word, u64::from_ne_bytes(*bytes));
    }
}

/// Copies so many bytes from `offset` on to another mapping, word by word, relaxed. Pages that are
/// zero in both are not touched there.
pub fn copy(from: &Mmap, to: &Mmap, offset: usize, bytes: usize) {
    let words = to.view::<AtomicU64>(offset).iter().zip(from.view::<AtomicU64>(offset));
    for (word, found) in words.take(bytes / size_of::<u64>()) {
        publish::update(word, found.load(Ordering::Relaxed));
    }
}

/// Loads a plain structure from `offset`, word by word, relaxed.
pub fn load<T: zerocopy::FromBytes + zerocopy::IntoBytes>(mmap: &Mmap, offset: usize) -> T {
    let mut value = T::new_zeroed();
    load_into(mmap, offset, &mut value);
    value
}

/// Like [`load`], into a structure that is too large to move.
pub fn load_into<T: zerocopy::FromBytes + zerocopy::IntoBytes>(
    mmap: &Mmap,
    offset: usize,
    value: &mut T,
) {
    const { assert!(size_of::<T>().is_multiple_of(8)) };
    let words = mmap.view::<AtomicU64>(offset);
    for (word, bytes) in words.iter().zip(value.as_mut_bytes().as_chunks_mut::<8>().0) {
        *bytes = word.load(Ordering::Relaxed).to_ne_bytes();
    }
}
