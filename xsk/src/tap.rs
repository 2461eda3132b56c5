//! A tap device as a way to transmit: what is written to its queue *n* an XDP program on it can
//! redirect to the *n*th device of a map.
//!
//! In copy mode the kernel makes a socket buffer of every frame that an AF_XDP socket sends. What is
//! written to a tap goes to the XDP program as it is (`tun_build_skb`, `drivers/net/tun.c`), and from
//! there to the device's own XDP transmit function. The device is gone with its last queue.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use libc::{c_char, c_int, c_short, ifreq};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// Most queues of a tap device (`MAX_TAP_QUEUES`).
pub const MAX_QUEUES: u32 = 256;

/// Bytes. IPv6 stays off a device with less than 1280, so the kernel has nothing to say on it.
const MTU: c_int = 68;

/// A tap device with a number of queues. Frames may be written from any thread.
#[derive(Debug)]
pub struct Tap {
    queues: Vec<OwnedFd>,
    ifindex: u32,
}

impl Tap {
    /// Makes a tap device and brings it up. `name` may have a `%d` for the first number that is
    /// free.
    ///
    /// # Errors
    /// Without `/dev/net/tun` or CAP_NET_ADMIN.
    pub fn create(name: &str, queues: u32) -> io::Result<Self> {
        if queues == 0 || queues > MAX_QUEUES {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        let mut request = request(name)?;
        let queues = (0..queues).map(|_| open_queue(&mut request)).collect::<io::Result<_>>()?;
        // Named by the kernel when the first queue was opened.
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
        Ok(Self { queues, ifindex: ifindex as u32 })
    }

    /// Kernel interface index.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Writes a frame, from its Ethernet header on, to a queue.
    ///
    /// # Errors
    /// What `write` says; nothing was sent then.
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
