//! Frames: memory registered with the kernel, and who owns which part of it.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Shape of a [`Umem`].
#[derive(Clone, Copy, Debug)]
pub struct UmemConfig {
    /// Number of frames.
    pub frames: u32,
    /// Bytes per frame, 2048 or 4096: a power of two no larger than a page (aligned mode of
    /// `net/xdp/xdp_umem.c`).
    pub frame_size: u32,
    /// Take huge pages: reserved ones if there are any, else transparent ones.
    pub huge_pages: bool,
}

/// A mapping of packet memory. It ends when nobody has it who frames belong to, or who registers it
/// with the kernel.
#[derive(Debug)]
pub(crate) struct Memory {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: an address and a length. Who has them reaches nothing by them but through a `Umem`, which
// is one thread's.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the range mapped in `Umem::new`, with nobody left who refers to it.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// Nobody's: the frame is in no ring.
const NOBODY: u16 = 0;

/// Memory of frames, with the list of those that are free. One thread's.
#[derive(Debug)]
pub struct Umem {
    memory: Arc<Memory>,
    frames: u32,
    frame_size: u32,
    huge: bool,
    free: UnsafeCell<Vec<u32>>,
    /// Per frame: whose rings it is in, so the kernel's; [`NOBODY`]: it is not.
    in_ring: Box<[Cell<u16>]>,
    /// Which numbers of owners are taken, from 1 on.
    owners: RefCell<Vec<bool>>,
    /// Frames that rings held when their socket closed: the kernel may still write to them, so
    /// they stay out of use until somebody knows better.
    forfeited: Cell<u32>,
}

impl Umem {
    /// Maps the memory. All frames are free.
    pub fn new(config: UmemConfig) -> std::io::Result<Self> {
        let UmemConfig { frames, frame_size, huge_pages } = config;
        if !matches!(frame_size, 2048 | 4096) || frames == 0 {
            let text = format!(
                "a UMEM of {frames} frames of {frame_size} bytes is not possible: frames are of 2048 or 4096 bytes, and there is at least one"
            );
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, text));
        }
        const HUGE: usize = 2 << 20;
        let bytes = (frames as usize * frame_size as usize).next_multiple_of(HUGE);
        let map = |extra| {
            let prot = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a fresh anonymous mapping at an address of the kernel's choice.
            unsafe {
                let flags = MapFlags::PRIVATE | extra;
                rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, prot, flags)
            }
        };
        let reserved = MapFlags::HUGETLB | MapFlags::HUGE_2MB | MapFlags::POPULATE;
        let reserved = huge_pages.then(|| map(reserved)).and_then(Result::ok);
        let (base, huge) = match reserved {
            Some(base) => (base, true),
            None => {
                let base = map(MapFlags::empty())?;
                // SAFETY: the range was mapped above, and advice changes none of its contents.
                let advise = |advice| unsafe { rustix::mm::madvise(base, bytes, advice) };
                let huge = huge_pages && advise(Advice::LinuxHugepage).is_ok();
                // The kernel must not find a page missing; it pins them all in any case.
                let _ = advise(Advice::LinuxPopulateWrite);
                (base, huge)
            }
        };
        let base =
            NonNull::new(base.cast()).ok_or_else(|| std::io::Error::other("mmap returned null"))?;
        Ok(Self {
            memory: Arc::new(Memory { base, bytes }),
            frames,
            frame_size,
            huge,
            free: UnsafeCell::new((0..frames).rev().collect()),
            in_ring: (0..frames).map(|_| Cell::new(NOBODY)).collect(),
            owners: RefCell::default(),
            forfeited: Cell::new(0),
        })
    }

    /// A free frame, empty; `None` when all are in use.
    #[inline]
    pub fn alloc(&self) -> Option<Frame<'_>> {
        // SAFETY: the list is only touched here and in `give_back`, neither of which calls out
        // while holding it; `Umem` is not Sync.
        let index = unsafe { &mut *self.free.get() }.pop()?;
        Some(Frame { umem: self, index, offset: HEADROOM, len: 0 })
    }

    /// Frames on the free list.
    pub fn free_frames(&self) -> u32 {
        // SAFETY: as in `alloc`; the reference ends with the expression.
        unsafe { &*self.free.get() }.len() as u32
    }

    /// Frames in all.
    pub fn frames(&self) -> u32 {
        self.frames
    }

    /// Frames that closed sockets held, out of use until they are [reclaimed](Lease::reclaim).
    pub fn forfeited(&self) -> u32 {
        self.forfeited.get()
    }

    /// Are the frames on huge pages, as far as the kernel had them?
    pub fn on_huge_pages(&self) -> bool {
        self.huge
    }

    /// Bytes of a frame.
    pub fn frame_size(&self) -> u32 {
        self.frame_size
    }

    /// Bytes that a packet can have which is written by [`Frame::set_data`].
    pub fn room(&self) -> usize {
        (self.frame_size - HEADROOM) as usize
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    pub(crate) fn address(&self) -> u64 {
        self.memory.base.as_ptr() as u64
    }

    /// A number for who puts frames into rings; `None` when there is no other.
    pub(crate) fn lease(&self) -> Option<Lease<'_>> {
        let mut owners = self.owners.borrow_mut();
        let free = owners.iter().position(|taken| !taken).unwrap_or(owners.len());
        let owner = u16::try_from(free + 1).ok()?;
        match owners.get_mut(free) {
            Some(taken) => *taken = true,
            None => owners.push(true),
        }
        Some(Lease { umem: self, owner, held: 0 })
    }

    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.frames) * u64::from(self.frame_size)
    }

    #[inline]
    fn give_back(&self, index: u32) {
        // SAFETY: as in `alloc`. The list never grows beyond its capacity: one entry per frame.
        unsafe { &mut *self.free.get() }.push(index);
    }

    /// The frame that a descriptor from the kernel names; `None` for an address or length that is
    /// out of bounds, or a frame that was not in a ring of this owner.
    #[inline]
    pub(crate) fn take_from_ring(&self, owner: u16, addr: u64, len: u32) -> Option<Frame<'_>> {
        let index = u32::try_from(addr / u64::from(self.frame_size)).ok()?;
        let offset = (addr % u64::from(self.frame_size)) as u32;
        let in_ring = self.in_ring.get(index as usize)?;
        if len > self.frame_size - offset || in_ring.get() != owner {
            return None;
        }
        in_ring.set(NOBODY);
        Some(Frame { umem: self, index, offset, len })
    }
}

/// The right of a socket to put frames into rings; when it is closed, what is left there.
#[derive(Debug)]
pub struct Lease<'u> {
    umem: &'u Umem,
    owner: u16,
    held: u32,
}

impl Lease<'_> {
    pub(crate) fn owner(&self) -> u16 {
        self.owner
    }

    /// The rings are gone, with so many frames in them.
    pub(crate) fn close(&mut self, frames: u32) {
        self.held = frames;
        self.umem.forfeited.set(self.umem.forfeited.get() + frames);
    }

    /// Puts the frames back on the free list. For when the kernel has let go of the socket, so that
    /// nobody writes to them any more; a lease that is dropped leaves them out of use.
    pub fn reclaim(self) {
        let umem = self.umem;
        for (index, owner) in (0..umem.frames).zip(&umem.in_ring) {
            if owner.get() == self.owner {
                owner.set(NOBODY);
                umem.give_back(index);
            }
        }
        umem.forfeited.set(umem.forfeited.get() - self.held);
        umem.owners.borrow_mut()[usize::from(self.owner) - 1] = false;
    }
}

/// Room in front of a frame's data when it is allocated; what the kernel receives has more
/// (`XDP_PACKET_HEADROOM`).
const HEADROOM: u32 = 64;

/// A frame in user hands. Dropping it returns it to the free list.
#[derive(Debug)]
pub struct Frame<'u> {
    umem: &'u Umem,
    index: u32,
    offset: u32,
    len: u32,
}

impl<'u> Frame<'u> {
    /// The packet.
    #[inline]
    pub fn data(&self) -> &[u8] {
        // SAFETY: the range is within the frame (every setter keeps offset + len ≤ frame size),
        // the frame within the mapping, and the token makes this the only reference.
        unsafe { std::slice::from_raw_parts(self.pointer(), self.len as usize) }
    }

    /// The packet, writable.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `data`; `&mut self` makes it exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(), self.len as usize) }
    }

    /// Makes the packet `n` bytes longer in front; `false` when there is no room.
    #[inline]
    pub fn grow_front(&mut self, n: usize) -> bool {
        let Some(offset) = u32::try_from(n).ok().and_then(|n| self.offset.checked_sub(n)) else {
            return false;
        };
        (self.offset, self.len) = (offset, self.len + (self.offset - offset));
        true
    }

    /// Takes `n` bytes off the front; `false` when the packet is shorter.
    #[inline]
    pub fn shrink_front(&mut self, n: usize) -> bool {
        let Some(len) = u32::try_from(n).ok().and_then(|n| self.len.checked_sub(n)) else {
            return false;
        };
        (self.offset, self.len) = (self.offset + (self.len - len), len);
        true
    }

    /// Replaces the packet; `false` when it does not fit behind the current start.
    pub fn set_data(&mut self, data: &[u8]) -> bool {
        if data.len() > (self.umem.frame_size - self.offset) as usize {
            return false;
        }
        self.len = data.len() as u32;
        self.data_mut().copy_from_slice(data);
        true
    }

    fn pointer(&self) -> *mut u8 {
        let at = self.index as usize * self.umem.frame_size as usize + self.offset as usize;
        // SAFETY: within the mapping, see `data`.
        unsafe { self.umem.memory.base.as_ptr().add(at) }
    }

    pub(crate) fn umem(&self) -> &'u Umem {
        self.umem
    }

    /// Offset in the UMEM and length; the frame is the kernel's from here on, in a ring of `owner`.
    #[inline]
    pub(crate) fn into_ring(self, owner: u16) -> (u64, u32) {
        let at = u64::from(self.index) * u64::from(self.umem.frame_size) + u64::from(self.offset);
        self.umem.in_ring[self.index as usize].set(owner);
        let len = self.len;
        std::mem::forget(self);
        (at, len)
    }

    /// As [`Self::into_ring`], for a frame to be received into: its start.
    #[inline]
    pub(crate) fn into_fill(mut self, owner: u16) -> u64 {
        (self.offset, self.len) = (0, 0);
        self.into_ring(owner).0
    }
}

impl Drop for Frame<'_> {
    #[inline]
    fn drop(&mut self) {
        self.umem.give_back(self.index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn umem(frames: u32) -> Umem {
        Umem::new(UmemConfig { frames, frame_size: 2048, huge_pages: false }).unwrap()
    }

    #[test]
    fn a_dropped_frame_is_free_again() {
        let umem = umem(4);
        let frames: Vec<_> = std::iter::from_fn(|| umem.alloc()).collect();
        assert_eq!((frames.len(), umem.free_frames()), (4, 0));
        drop(frames);
        assert_eq!(umem.free_frames(), 4);
    }

    #[test]
    fn frames_do_not_overlap() {
        let umem = umem(4);
        let mut frames: Vec<_> = std::iter::from_fn(|| umem.alloc()).collect();
        for (n, frame) in frames.iter_mut().enumerate() {
            assert!(frame.set_data(&[n as u8; 2048 - 64]));
        }
        for (n, frame) in frames.iter().enumerate() {
            assert!(frame.data().iter().all(|b| usize::from(*b) == n));
        }
    }

    #[test]
    fn data_never_leaves_its_frame() {
        let umem = umem(1);
        let mut frame = umem.alloc().unwrap();
        assert!(!frame.set_data(&[0; 2048]));
        assert!(frame.set_data(&[1; 100]));
        assert!(!frame.grow_front(65));
        assert!(frame.grow_front(64));
        assert_eq!(frame.data().len(), 164);
        assert!(!frame.shrink_front(165));
        assert!(frame.shrink_front(164));
        assert_eq!(frame.data(), &[] as &[u8]);
    }

    #[test]
    fn descriptors_that_make_no_sense_are_refused() {
        let umem = umem(2);
        let owner = umem.lease().unwrap().owner();
        let (addr, len) = umem.alloc().unwrap().into_ring(owner);
        assert!(umem.take_from_ring(owner, addr, 2048).is_none(), "beyond the frame");
        assert!(umem.take_from_ring(owner, 4096, 0).is_none(), "beyond the memory");
        assert!(umem.take_from_ring(owner, u64::MAX, 0).is_none(), "beyond everything");
        assert!(umem.take_from_ring(owner, 2048, 0).is_none(), "not in a ring");
        assert!(umem.take_from_ring(owner + 1, addr, 0).is_none(), "in a ring of another");
        let frame = umem.take_from_ring(owner, addr, len).unwrap();
        assert!(umem.take_from_ring(owner, addr, len).is_none(), "twice");
        drop(frame);
        assert_eq!(umem.free_frames(), 2);
    }

    #[test]
    fn what_a_closed_socket_held_is_out_of_use_until_it_is_reclaimed() {
        let umem = umem(4);
        let (mut one, other) = (umem.lease().unwrap(), umem.lease().unwrap());
        let kept = umem.alloc().unwrap().into_ring(other.owner()).0;
        for _ in 0..2 {
            umem.alloc().unwrap().into_ring(one.owner());
        }
        one.close(2);
        assert_eq!((umem.free_frames(), umem.forfeited()), (1, 2));
        let number = one.owner();
        one.reclaim();
        assert_eq!((umem.free_frames(), umem.forfeited()), (3, 0));
        assert_eq!(umem.lease().unwrap().owner(), number, "the number is free again");
        assert!(umem.take_from_ring(other.owner(), kept, 0).is_some(), "of another socket");
    }

    #[test]
    fn a_frame_size_the_kernel_refuses_is_refused_first() {
        let odd = UmemConfig { frames: 1, frame_size: 1500, huge_pages: false };
        assert!(Umem::new(odd).unwrap_err().to_string().contains("2048 or 4096"));
    }
}
