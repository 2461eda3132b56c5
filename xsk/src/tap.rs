//! A tap device as a way to transmit: what is written to its queue *n* an XDP program on it can
//! redirect to the *n*th device of a map.
//!
//! In copy mode the kernel makes a socket buffer of every frame that an AF_XDP socket sends. What is
//! written to a tap goes to the XDP program as it is (`tun_build_skb`, `drivers/net/tun.c`), and from
//! there to the device's own XDP transmit function. The device is gone with its last queue.
//!
//! A write that succeeds does not say that the frame was sent. What the redirect refuses, because the
//! target is down or gone, is counted ([`Tap::refused`]); what the target's driver then refuses,
//! because its ring is full, is known to the driver alone.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{c_char, c_int, c_short, ifreq};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Most queues of a tap device, `MAX_TAP_QUEUES` of the kernel.
pub const MAX_TAP_QUEUES: u32 = 256;

/// Longest frame that goes to the XDP program as it is, on pages of 4 KiB (`tun_can_build_skb`). A
/// longer one becomes a socket buffer, and may be overtaken by shorter ones.
pub const LONGEST_FRAME: u32 = 3400;

/// Bytes. IPv6 stays off a device with less than 1280, so the kernel has nothing to say on it.
const MTU: c_int = 68;

/// A tap device with a number of queues. Frames may be written from any thread.
#[derive(Debug)]
pub struct Tap {
    queues: Vec<OwnedFd>,
    name: String,
    ifindex: u32,
}

impl Tap {
    /// Makes a tap device and brings it up. `name` may have a `%d` for the first number that is
    /// free.
    ///
    /// # Errors
    /// Without `/dev/net/tun` or CAP_NET_ADMIN.
    pub fn create(name: &str, queues: u32) -> io::Result<Self> {
        if queues == 0 || queues > MAX_TAP_QUEUES {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let mut request = request(name)?;
        // The kernel completes the name when the first queue is opened; the others are opened by it.
        let queues =
            (0..queues).map(|_| open_queue(&mut request)).collect::<io::Result<Vec<_>>>()?;
        let named = request.ifr_name;
        for queue in &queues {
            ioctl(queue, libc::TUNGETIFF, &mut request)?;
            if request.ifr_name != named {
                return Err(io::Error::other("somebody renamed it meanwhile"));
            }
        }
        let socket = rustix::net::socket_with(
            AddressFamily::INET,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        request.ifr_ifru.ifru_mtu = MTU;
        ioctl(&socket, libc::SIOCSIFMTU, &mut request)?;
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_NOARP) as c_short;
        ioctl(&socket, libc::SIOCSIFFLAGS, &mut request)?;
        ioctl(&socket, libc::SIOCGIFINDEX, &mut request)?;
        // SAFETY: the request above has written this field.
        let ifindex = unsafe { request.ifr_ifru.ifru_ifindex };
        let name = named.iter().take_while(|c| **c != 0).map(|c| char::from(*c as u8)).collect();
        Ok(Self { queues, name, ifindex: ifindex as u32 })
    }

    /// Kernel interface index.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Frames that were written and then refused by the redirect, and those that the device dropped
    /// for other reasons. `None`: it is gone, renamed, or in another network namespace.
    pub fn refused(&self) -> Option<u64> {
        let devices = std::fs::read_to_string("/proc/thread-self/net/dev").ok()?;
        let figures = devices
            .lines()
            .find_map(|line| line.trim().strip_prefix(&self.name)?.strip_prefix(':'))?;
        // Received: bytes, packets, errors, dropped.
        figures.split_whitespace().nth(3)?.parse().ok()
    }

    /// Kernel name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes a frame, from its Ethernet header on, to a queue.
    ///
    /// # Errors
    /// What `write` says, above all that the device is gone; nothing was sent then.
    #[inline]
    pub fn write(&self, queue: u8, frame: &[u8]) -> io::Result<()> {
        let queue = self.queues.get(usize::from(queue)).ok_or(io::ErrorKind::InvalidInput)?;
        rustix::io::write(queue, frame)?;
        Ok(())
    }
}

fn request(name: &str) -> io::Result<ifreq> {
    // SAFETY: all zero is a valid value of a structure of numbers.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as c_char;
    }
    Ok(request)
}

/// Opens the next queue of the device that the request names; the kernel completes the name.
fn open_queue(request: &mut ifreq) -> io::Result<OwnedFd> {
    // Non-blocking: only such a queue gives its frames to XDP as they are (`tun_can_build_skb`).
    let queue = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?
        .into();
    request.ifr_ifru.ifru_flags =
        (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_MULTI_QUEUE) as c_short;
    ioctl(&queue, libc::TUNSETIFF, request)?;
    Ok(queue)
}

fn ioctl(fd: &OwnedFd, operation: libc::Ioctl, request: &mut ifreq) -> io::Result<()> {
    // SAFETY: each operation used here reads and writes one `ifreq`.
    match unsafe { libc::ioctl(fd.as_raw_fd(), operation, &raw mut *request) } {
        0.. => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
