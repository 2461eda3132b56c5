//! Frames as a worker has them: in one piece of packet memory, used in turn.

use std::collections::VecDeque;

use anyhow::Result;
use weir_dataplane::packet::{Output, Received};
use weir_xsk::{Frame, Umem, UmemConfig};

use crate::memory::traffic::External;

/// Frames in turn: the receive and the transmit ring of one socket, 2048 slots each.
pub const FRAMES: u32 = 4096;
/// Bytes of a frame.
pub const FRAME_SIZE: u32 = 2048;

/// The packet memory.
///
/// # Errors
/// When it cannot be mapped.
pub fn umem(huge_pages: bool) -> Result<Umem> {
    Ok(Umem::new(UmemConfig { frames: FRAMES, frame_size: FRAME_SIZE, huge_pages })?)
}

/// The free frames in turn. What the engine transmits goes to the end.
pub struct Ring<'u> {
    umem: &'u Umem,
    frames: VecDeque<Frame<'u>>,
}

impl<'u> Ring<'u> {
    /// All frames of the memory.
    pub fn new(umem: &'u Umem) -> Self {
        let mut frames = VecDeque::with_capacity(umem.frames() as usize);
        frames.extend(std::iter::from_fn(|| umem.alloc()));
        Self { umem, frames }
    }

    /// Takes frames back that the engine dropped.
    pub fn recycle(&mut self) {
        self.frames.extend(std::iter::from_fn(|| self.umem.alloc()));
    }

    /// Puts a frame that was received by `device` into the batch.
    ///
    /// # Panics
    /// When all frames are in use: a batch is smaller than the ring.
    pub fn receive(&mut self, batch: &mut Vec<Received<Frame<'u>>>, device: u8, data: &[u8]) {
        let mut frame = self.frames.pop_front().expect("the engine gives frames back");
        assert!(frame.set_data(data), "a frame holds {FRAME_SIZE} bytes");
        batch.push(Received { frame, device });
    }
}

impl<'u> Output<Frame<'u>> for Ring<'u> {
    #[inline]
    fn transmit(&mut self, _: u8, frame: Frame<'u>) -> Result<(), Frame<'u>> {
        self.frames.push_back(frame);
        Ok(())
    }

    fn send_for_another(&mut self, _: u8, _: &[u8]) {}

    fn allocate(&mut self) -> Option<Frame<'u>> {
        None
    }

    fn hand_off(&mut self, _: u8, _: u8, _: &[u8]) -> bool {
        false
    }
}

/// A ring that keeps what the flows look like outside, in the order of transmission.
pub struct Capture<'r, 'u> {
    /// Where the frames go.
    pub ring: &'r mut Ring<'u>,
    /// Source and device of every frame.
    pub seen: &'r mut Vec<External>,
}

impl<'u> Output<Frame<'u>> for Capture<'_, 'u> {
    fn transmit(&mut self, device: u8, frame: Frame<'u>) -> Result<(), Frame<'u>> {
        self.seen.push(External::of(frame.data(), device));
        self.ring.transmit(device, frame)
    }

    fn send_for_another(&mut self, _: u8, _: &[u8]) {}

    fn allocate(&mut self) -> Option<Frame<'u>> {
        None
    }

    fn hand_off(&mut self, _: u8, _: u8, _: &[u8]) -> bool {
        false
    }
}
