//! A faster way out than sockets in copy mode: a tap device of the process, whose XDP program sends
//! on what workers write to it. For devices that carry the program natively and whose driver
//! transmits for XDP.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result};
use weir_layout::MAX_DEVICES;
use weir_layout::set::IndexSet;
use weir_xsk::Tap;
use weir_xsk::tap::LONGEST_FRAME;

use crate::attach::Program;

/// The kernel completes the name. The device goes when the process does.
const NAME: &str = "weirtx%d";

/// The tap device, and the devices that it sends to.
#[derive(Debug)]
pub struct Transmitter {
    tap: Tap,
    /// The [`IndexSet`] of devices that it sends to.
    devices: AtomicU64,
    /// Somebody removed it.
    gone: AtomicBool,
}

impl Transmitter {
    /// May it send by a device with this MTU? A worker's frame has an Ethernet header and a tag.
    pub fn fits(mtu: u32) -> bool {
        mtu + 18 <= LONGEST_FRAME
    }

    /// Makes the tap device, with a queue for every device that there may be, and attaches the
    /// program's part to it. It sends to none yet.
    ///
    /// # Errors
    /// When the kernel has no tap devices, or refuses this one.
    pub fn new(program: &mut Program) -> Result<Self> {
        let tap = Tap::create(NAME, MAX_DEVICES as u32).context("cannot make a tap device")?;
        program.attach_transmit(tap.ifindex())?;
        Ok(Self { tap, devices: AtomicU64::new(0), gone: AtomicBool::new(false) })
    }

    /// From now on it sends to a device that the program may send by, or does so no more.
    pub fn serve(&self, device: u8, serve: bool) {
        let bit = IndexSet::of(device).bits();
        if serve && !self.gone.load(Ordering::Relaxed) {
            self.devices.fetch_or(bit, Ordering::Relaxed);
        } else {
            self.devices.fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Does it send to this device?
    #[inline]
    pub fn serves(&self, device: u8) -> bool {
        IndexSet::from_bits(self.devices.load(Ordering::Relaxed)).contains(device)
    }

    /// Sends a frame to a device it serves. `false`: the tap device did not take it, and will not be
    /// asked again; that it took it does not say that the device did, see [`Tap::write`].
    #[inline]
    pub fn send(&self, device: u8, frame: &[u8]) -> bool {
        let Err(error) = self.tap.write(device, frame) else { return true };
        let first = !self.gone.swap(true, Ordering::Relaxed);
        self.devices.store(0, Ordering::Relaxed);
        if first {
            tracing::warn!(
                "the tap device {} is gone, so the user tier sends by its sockets, which is \
                 slower, until weir-dataplane starts again: {error}",
                self.tap.name()
            );
        }
        false
    }

    /// Frames that it took and lost, because the device they were for was down or gone.
    pub fn refused(&self) -> u64 {
        self.tap.refused().unwrap_or(0)
    }
}
