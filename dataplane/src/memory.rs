//! A worker's packet memory.
//!
//! A UMEM cannot grow, and all its frames are of one size. And the kernel keeps a head for every frame
//! of a UMEM with each socket on it (`xp_create_and_assign_umem`, `net/xdp/xsk_buff_pool.c`), so one
//! UMEM for hundreds of sockets would cost many times its size. So at start there is one for every
//! [`SHARERS`] sockets of the known devices with small frames, the same for those with large ones, and
//! others are made as devices come that need more than is left. A frame that leaves by a socket of
//! another UMEM is copied.

use std::cell::OnceCell;
use std::io;

use weir_layout::{BEFORE_PACKET, LARGEST_FRAME};
use weir_xsk::{Frame, Umem, UmemConfig};

use crate::engine::BATCH;

/// Most UMEMs of a worker.
const UMEMS: usize = 64;
/// Most sockets on a UMEM: with so many, the kernel's heads take as much memory as the frames.
pub const SHARERS: usize = 16;
/// Frames beyond what rings hold: to answer with, and to take over from other workers.
const SPARE: u32 = 4 * BATCH as u32;
/// The size of most frames, bytes.
const SMALL_FRAME: u32 = 2048;

/// What sockets have of a UMEM.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    /// How many there are.
    pub sockets: usize,
    /// Most frames that their rings hold.
    pub frames: u32,
}

/// The UMEMs.
#[derive(Debug)]
pub struct PacketMemory {
    umems: [OnceCell<Umem>; UMEMS],
}

/// Bytes of a frame for packets of a device with this MTU.
pub fn frame_size(mtu: u32) -> u32 {
    if mtu + BEFORE_PACKET > SMALL_FRAME { LARGEST_FRAME } else { SMALL_FRAME }
}

impl Default for PacketMemory {
    /// None yet.
    fn default() -> Self {
        Self { umems: [const { OnceCell::new() }; UMEMS] }
    }
}

impl PacketMemory {
    /// Maps memory for rings that hold so many frames of a size.
    ///
    /// # Errors
    /// When there is no memory, or too many pieces.
    pub fn add(&self, frame_size: u32, frames: u32) -> io::Result<&Umem> {
        let config = UmemConfig { frames: frames + SPARE, frame_size, huge_pages: true };
        let unused = self.umems.iter().find(|cell| cell.get().is_none());
        let cell = unused.ok_or_else(|| {
            io::Error::other("too many pieces of packet memory: restart weir-dataplane")
        })?;
        let umem = Umem::new(config)?;
        Ok(cell.get_or_init(|| umem))
    }

    /// A UMEM where some of so many sockets have room, each with rings that hold so many frames, given
    /// what others hold of a UMEM; and how many of them have. A new one if there is none.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn room(
        &self,
        frame_size: u32,
        sockets: usize,
        frames: u32,
        held: impl Fn(&Umem) -> Held,
    ) -> io::Result<(&Umem, usize)> {
        for umem in self.umems().filter(|umem| umem.frame_size() == frame_size) {
            let held = held(umem);
            let left = umem.frames().saturating_sub(held.frames + umem.forfeited() + SPARE);
            let room = SHARERS.saturating_sub(held.sockets).min((left / frames) as usize);
            if room > 0 {
                return Ok((umem, room.min(sockets)));
            }
        }
        let room = sockets.min(SHARERS);
        Ok((self.add(frame_size, room as u32 * frames)?, room))
    }

    /// A free frame for so many bytes.
    #[inline]
    pub fn alloc(&self, bytes: usize) -> Option<Frame<'_>> {
        self.umems().filter(|umem| umem.room() >= bytes).find_map(Umem::alloc)
    }

    /// A free frame, of the largest there are.
    pub fn alloc_large(&self) -> Option<Frame<'_>> {
        let free = self.umems().filter(|umem| umem.free_frames() > 0);
        free.max_by_key(|umem| umem.frame_size())?.alloc()
    }

    /// Those that there are.
    pub fn umems(&self) -> impl Iterator<Item = &Umem> {
        self.umems.iter().map_while(OnceCell::get)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_and_what_stands_before_it_fit_a_frame() {
        assert_eq!([1500, 1774].map(frame_size), [2048; 2]);
        assert_eq!([1775, 3822, 9000].map(frame_size), [4096; 3]);
    }

    #[test]
    fn what_does_not_fit_gets_memory_of_its_own() {
        let memory = PacketMemory::default();
        let first = memory.add(2048, 128).unwrap();
        let room = |sockets, frames| {
            let held = Held { sockets, frames };
            let (umem, room) = memory.room(2048, 3, 64, |_| held).unwrap();
            (std::ptr::eq(umem, first), room)
        };
        assert_eq!([room(0, 0), room(1, 64)], [(true, 2), (true, 1)]);
        assert_eq!(room(1, 65), (false, 3));
        let (large, _) = memory.room(4096, 1, 64, |_| Held::default()).unwrap();
        assert_eq!((large.frame_size(), memory.umems().count()), (4096, 3));
    }

    #[test]
    fn few_sockets_share_a_umem_however_many_there_are() {
        let memory = PacketMemory::default();
        memory.add(2048, 64 * 128).unwrap();
        let room = |sockets| memory.room(2048, 96, 128, |_| Held { sockets, frames: 0 }).unwrap().1;
        assert_eq!([room(0), room(SHARERS - 1), memory.umems().count()], [SHARERS, 1, 1]);
        assert_eq!([room(SHARERS), memory.umems().count()], [SHARERS, 2]);
    }

    #[test]
    fn a_frame_is_of_memory_whose_frames_are_large_enough() {
        let memory = PacketMemory::default();
        memory.add(2048, 1).unwrap();
        assert!(memory.alloc(60).is_some());
        assert!(memory.alloc(3000).is_none());
        memory.add(4096, 1).unwrap();
        assert!(memory.alloc(3000).is_some_and(|mut frame| frame.set_data(&[0; 3000])));
    }

    #[test]
    fn there_is_an_end_to_it() {
        let memory = PacketMemory::default();
        for _ in 0..UMEMS {
            memory.add(2048, 1).unwrap();
        }
        assert!(memory.add(2048, 1).unwrap_err().to_string().contains("restart"));
    }
}
