//! A faster way out than sockets in copy mode: a tap device of the process, whose XDP program sends
//! on what workers write to it. For devices that carry the program natively and whose driver
//! transmits for XDP.

use anyhow::{Context, Result};
use weir_wire::layout::MAX_DEVICES;
use weir_xsk::Tap;

use crate::attach::Program;

/// The kernel completes the name. The device goes when the process does.
const NAME: &str = "weirtx%d";

/// The tap device, and the devices that it sends to.
#[derive(Debug)]
pub struct Transmitter {
    tap: Tap,
    /// A bit for each device index.
    devices: u64,
}

const _: () = assert!(MAX_DEVICES <= u64::BITS as usize);

impl Transmitter {
    /// Makes the tap device and attaches the program's part to it. `devices` are those that the
    /// program may send by, a bit for each index, and not zero.
    ///
    /// # Errors
    /// When the kernel has no tap devices, or refuses this one.
    pub fn new(program: &mut Program, devices: u64) -> Result<Self> {
        // Queue n is device n's.
        let queues = u64::BITS - devices.leading_zeros();
        let tap = Tap::create(NAME, queues).context("cannot make a tap device")?;
        program.attach_transmit(tap.ifindex())?;
        Ok(Self { tap, devices })
    }

    /// Does it send to this device?
    #[inline]
    pub fn serves(&self, device: u8) -> bool {
        self.devices.checked_shr(device.into()).is_some_and(|devices| devices & 1 != 0)
    }

    /// Sends a frame to a device it serves; `false`: the tap device refused it, as it does when
    /// somebody took it down.
    #[inline]
    pub fn send(&self, device: u8, frame: &[u8]) -> bool {
        self.tap.write(device, frame).is_ok()
    }
}
