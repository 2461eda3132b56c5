//! The XDP program of a copy, on maps of its own.

use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use anyhow::{Context, Result};
use rustix::net::{AddressFamily, SocketType, socket};
use weir_dataplane::attach::Program;
use weir_dataplane::engine::Regions;
use weir_layout::control::ControlHalf;
use weir_layout::status::DeviceState;
use weir_shm::hosts::{Hosts4, Hosts6};
use weir_shm::map::Access;
use weir_shm::pins::name;
use weir_shm::status::Status;
use weir_shm::{Pins, Role};

/// See the module's text.
pub struct Xdp {
    program: Program,
    /// For as long as they are open, they are in the program's map.
    _sockets: Vec<OwnedFd>,
}

impl std::fmt::Debug for Xdp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Xdp")
    }
}

impl Xdp {
    /// The program on the regions that are pinned in `own`, which no longer need to be once it is
    /// loaded. It has the destinations, the sockets and the devices that the one of `live` has: a
    /// device that is out of use there has none.
    pub(crate) fn load(live: &Pins, own: &Pins, of: &Regions, half: &ControlHalf) -> Result<Self> {
        let (mut hosts, mut hosts6) = (Hosts4::open(own)?, Hosts6::open(own)?);
        // Where nothing was ever entered there is no map, and asking makes none.
        if live.path(name::HOSTS4).exists() {
            hosts.sync(&Hosts4::open(live)?.prefixes()?)?;
        }
        if live.path(name::HOSTS6).exists() {
            hosts6.sync(&Hosts6::open(live)?.prefixes()?)?;
        }
        let pages = [of.flows.pages(), of.flows6.pages()];
        let mut xdp =
            Self { program: Program::load(own, pages, of.hash_key)?, _sockets: Vec::new() };
        let status = Status::open(live, Access::Read)?.read();
        let runs = live.is_claimed(Role::Dataplane)?;
        for ((number, device), status) in (0..).zip(&half.devices).zip(&status.devices) {
            let attached = DeviceState::from_byte(status.state) == DeviceState::Attached;
            if device.ifindex == 0 || !attached {
                continue;
            }
            if device.xdp_transmit != 0 {
                xdp.program.send_by(number, device.ifindex)?;
            }
            if runs {
                let socket = socket(AddressFamily::XDP, SocketType::RAW, None)
                    .context("no socket for the copy of the XDP program")?;
                xdp.program.set_socket(number, 0, socket.as_fd().as_raw_fd())?;
                xdp._sockets.push(socket);
            }
        }
        Ok(xdp)
    }

    /// What the program leaves of a frame that comes in by an interface.
    pub(crate) fn run(&mut self, ifindex: u32, frame: &[u8]) -> Result<Vec<u8>> {
        let (_, left) = self.program.test_run(ifindex, frame)?;
        Ok(left)
    }
}
