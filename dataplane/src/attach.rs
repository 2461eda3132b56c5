//! The XDP program on its devices. Links are pinned, so the program stays when the process goes;
//! a new process puts its own program in their place in one step.

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;

use anyhow::{Context, Result, anyhow};
use aya::maps::{DevMap, MapData, XskMap};
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{TestRun as _, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use weir_ebpf::{OBJECT, names};
use weir_layout::{Family, MAX_QUEUES};
use weir_shm::pins::name;
use weir_shm::{Pins, program};

/// Bytes that a frame may grow by in XDP.
const TEST_ROOM: usize = 64;

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpChoice {
    /// In the driver, else generic with a warning.
    Auto,
    /// In the driver or an error.
    Native,
    /// In the kernel's generic hook, whatever the driver can do.
    Generic,
}

/// How a device carries the program, as published in the status page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Attached {
    /// In the driver.
    Native = 1,
    /// Generic.
    Generic = 2,
}

/// The loaded program and its map of sockets.
pub struct Program {
    ebpf: Ebpf,
    sockets: XskMap<MapData>,
    devices: DevMap<MapData>,
    pins: Pins,
}

impl Program {
    /// Loads the program on the pinned regions, which must exist. The flow tables have so many
    /// pages, by family, and are searched with this key.
    pub fn load(pins: &Pins, pages: [u32; Family::COUNT], hash_key: [u64; 2]) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        loader.override_global(names::FLOW_SECRET, &hash_key, true);
        let [pages, pages6] = pages;
        loader.override_global(names::FLOW_PAGES, &pages, true);
        loader.override_global(names::FLOW_PAGES6, &pages6, true);
        for map in name::PROGRAM {
            loader.map_pin_path(map, pins.path(map));
        }
        let mut ebpf = loader.load(OBJECT).context("cannot load the XDP object")?;
        let mut take =
            |name: &str| ebpf.take_map(name).ok_or_else(|| anyhow!("the XDP object has no {name}"));
        let sockets = XskMap::try_from(take(names::XSKS)?)?;
        let devices = DevMap::try_from(take(names::DEVICES)?)?;
        let mut program = Self { ebpf, sockets, devices, pins: pins.clone() };
        program::load(program.xdp()?).context("the kernel refused the XDP program")?;
        Ok(program)
    }

    /// Sends a queue's transit to a socket.
    pub fn set_socket(&mut self, device: u8, queue: u32, socket: impl AsRawFd) -> Result<()> {
        let done = self.sockets.set(socket_index(device, queue), socket, 0);
        done.context("cannot enter a socket in the XDP program's map")
    }

    /// Sends a queue's transit to no socket any more.
    pub fn clear_socket(&mut self, device: u8, queue: u32) {
        // Absent already, when the socket has ended.
        let _ = self.sockets.unset(socket_index(device, queue));
    }

    /// Lets the program send by a device; by interface 0: no more (`__dev_map_update_elem`).
    pub fn send_by(&mut self, device: u8, ifindex: u32) -> Result<()> {
        let done = self.devices.set(device.into(), ifindex, None, 0);
        done.context("cannot enter a device in the XDP program's map")
    }

    /// What the program makes of a frame that comes in by an interface of this network namespace,
    /// on its first queue: its verdict (`enum xdp_action`, `linux/bpf.h`), and the frame as it
    /// leaves it. Nothing is sent, and no socket gets anything (`BPF_PROG_TEST_RUN`).
    pub fn test_run(&mut self, ifindex: u32, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        // `struct xdp_md`, of which the kernel takes the length and the interface.
        let context = [0, frame.len() as u32, 0, ifindex, 0, 0].map(u32::to_ne_bytes).concat();
        // A tag may be added.
        let mut left = vec![0; frame.len() + TEST_ROOM];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut left),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        let result =
            self.xdp()?.test_run(options).context("the kernel does not run the program")?;
        left.truncate(result.data_size_out as usize);
        Ok((result.return_value, left))
    }

    /// Puts the program on a device, in place of an earlier process's.
    pub fn attach(&mut self, ifindex: u32, interface: &str, choice: XdpChoice) -> Result<Attached> {
        for mode in [Attached::Native, Attached::Generic] {
            let pin = self.pin(mode, ifindex);
            if !pin.exists() {
                continue;
            }
            match self.replace(&pin) {
                Ok(()) => return Ok(mode),
                // The interface went and another has its number.
                Err(error) => {
                    tracing::debug!(interface, "pinned link is dead: {error:#}");
                    std::fs::remove_file(&pin)
                        .with_context(|| format!("cannot remove {}", pin.display()))?;
                }
            }
        }
        let modes: &[_] = match choice {
            XdpChoice::Auto => {
                &[(XdpMode::Driver, Attached::Native), (XdpMode::Skb, Attached::Generic)]
            }
            XdpChoice::Native => &[(XdpMode::Driver, Attached::Native)],
            XdpChoice::Generic => &[(XdpMode::Skb, Attached::Generic)],
        };
        let mut refused = None;
        for (mode, attached) in modes {
            match self.xdp()?.attach_to_if_index(ifindex, *mode) {
                Ok(id) => {
                    let link: FdLink = self.xdp()?.take_link(id)?.try_into()?;
                    let pin = self.pin(*attached, ifindex);
                    link.pin(&pin).with_context(|| format!("cannot pin {}", pin.display()))?;
                    if *attached == Attached::Generic {
                        tracing::warn!(
                            interface,
                            "no native XDP: generic mode costs an skb per packet, several times the work"
                        );
                    }
                    return Ok(*attached);
                }
                Err(error) => refused = Some(error),
            }
        }
        let error = refused.map_or_else(|| anyhow!("no mode to try"), anyhow::Error::from);
        Err(error.context(format!(
            "cannot attach XDP to {interface}: if another XDP program is there, remove it with `ip link set dev {interface} xdp off`"
        )))
    }

    /// Lets frames that are written to queue *n* of a tap device leave by the *n*th
    /// device [to send by](Self::send_by), for as long as this program lives.
    pub fn attach_transmit(&mut self, ifindex: u32) -> Result<()> {
        let program = xdp(&mut self.ebpf, names::TRANSMIT)?;
        program::load(program).context("the kernel refused the XDP program")?;
        program
            .attach_to_if_index(ifindex, XdpMode::Driver)
            .context("cannot attach XDP to the tap device")?;
        Ok(())
    }

    /// Takes the program off devices that are no longer ours.
    pub fn detach_others(&self, ours: &BTreeSet<u32>) -> Result<()> {
        let directory = self.pins.directory();
        for entry in std::fs::read_dir(directory)
            .with_context(|| format!("cannot list {}", directory.display()))?
        {
            let entry = entry?;
            let file = entry.file_name().to_string_lossy().into_owned();
            let Some(link) = file.strip_prefix(name::LINK) else { continue };
            let ifindex = link.rsplit('-').next().and_then(|n| n.parse().ok());
            if !ifindex.is_some_and(|ifindex| ours.contains(&ifindex)) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Takes the program off a device.
    pub fn detach(&self, ifindex: u32) {
        for mode in [Attached::Native, Attached::Generic] {
            // Not there: it was attached in the other mode, or not at all.
            let _ = std::fs::remove_file(self.pin(mode, ifindex));
        }
    }

    fn pin(&self, mode: Attached, ifindex: u32) -> std::path::PathBuf {
        let mode = match mode {
            Attached::Native => "native",
            Attached::Generic => "generic",
        };
        self.pins.path(&format!("{}{mode}-{ifindex}", name::LINK))
    }

    fn replace(&mut self, pin: &std::path::Path) -> Result<()> {
        let link: FdLink = PinnedLink::from_pin(pin)?.into();
        let id = self.xdp()?.attach_to_link(XdpLink::try_from(link)?)?;
        // Dropping the descriptor leaves the pinned link attached.
        drop(self.xdp()?.take_link(id)?);
        Ok(())
    }

    fn xdp(&mut self) -> Result<&mut Xdp> {
        xdp(&mut self.ebpf, names::PROGRAM)
    }
}

fn socket_index(device: u8, queue: u32) -> u32 {
    u32::from(device) * MAX_QUEUES as u32 + queue
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = ebpf.program_mut(name);
    Ok(program.ok_or_else(|| anyhow!("the XDP object has no program {name}"))?.try_into()?)
}
