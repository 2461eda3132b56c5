//! What workers allow sources to send, by socket: see [`weir_layout::allowance`].

use std::sync::Arc;

use weir_layout::allowance::{ALL, SOCKETS};
use weir_layout::{MAX_DEVICES, MAX_QUEUES};

use crate::map::{Access, Mmap};
use crate::sync::{AtomicU64, Ordering};
use crate::{Error, Pins};

/// The region; a word has one writer, the worker whose socket it is of.
#[derive(Clone, Debug)]
pub struct Allowances(Arc<Mmap>);

impl Allowances {
    /// Opens the pinned region, creating it when there is none. What an earlier process set holds no
    /// more: nobody would take it back.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        let allowances = Self(Arc::new(pins.allowances(Access::Write)?));
        allowances.words().iter().for_each(|word| word.store(ALL, Ordering::Relaxed));
        Ok(allowances)
    }

    /// A region of this process alone.
    pub fn anonymous() -> std::io::Result<Self> {
        Ok(Self(Arc::new(Mmap::anonymous(SOCKETS * size_of::<u64>())?)))
    }

    /// Allows each source so many packets in a tick.
    pub fn set(&self, device: u8, queue: u32, packets: u64) {
        self.word(device, queue).store(packets, Ordering::Relaxed);
    }

    /// What each source is allowed.
    pub fn get(&self, device: u8, queue: u32) -> u64 {
        self.word(device, queue).load(Ordering::Relaxed)
    }

    fn word(&self, device: u8, queue: u32) -> &AtomicU64 {
        let (device, queue) = (usize::from(device) % MAX_DEVICES, queue as usize % MAX_QUEUES);
        &self.words()[device * MAX_QUEUES + queue]
    }

    fn words(&self) -> &[AtomicU64] {
        &self.0.view(0)[..SOCKETS]
    }
}
