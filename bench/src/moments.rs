//! The moments at which something happened: nanoseconds of `CLOCK_MONOTONIC`, which is also what
//! the traffic programs read.

use std::net::SocketAddrV4;
use std::num::{NonZeroU32, NonZeroU64};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with,
};
use rustix::time::{ClockId, clock_gettime};

use crate::netns::Netns;

/// Time between looks at a word.
pub const WATCH: Duration = Duration::from_micros(20);

/// How often one who waits for a packet looks whether it should end.
const PATIENCE: Duration = Duration::from_millis(20);

/// Now.
pub fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// Makes the sleeps of this thread as long as they say; they are 50 µs longer otherwise, and
/// without the permission.
pub fn sleep_exactly() {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
}

/// When a word changes for the first time; none: not until `done`.
pub fn when_changed(word: impl Fn() -> u64, done: &AtomicBool) -> Option<u64> {
    sleep_exactly();
    let before = word();
    while !done.load(Ordering::Relaxed) {
        if word() != before {
            return Some(now_ns());
        }
        std::thread::sleep(WATCH);
    }
    None
}

/// Waits for packets that a socket in a namespace receives.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
}

impl Listener {
    /// Hears of every change of a link in `netns` (rtnetlink(7), `RTMGRP_LINK`).
    ///
    /// # Errors
    /// When the socket cannot be opened.
    pub fn links(netns: &Netns) -> Result<Self> {
        const RTMGRP_LINK: u32 = 1;
        let socket = netns.run(|| {
            let flags = SocketFlags::CLOEXEC;
            // Protocol 0 is NETLINK_ROUTE.
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            bind(&socket, &SocketAddrNetlink::new(0, RTMGRP_LINK))?;
            Ok::<_, Errno>(socket)
        })?;
        Self::with(socket.context("cannot listen to netlink")?)
    }

    /// Hears every IPv4 packet that a port of `netns` receives and gives to the kernel (packet(7)).
    ///
    /// # Errors
    /// As [`Self::links`].
    pub fn packets(netns: &Netns) -> Result<Self> {
        // ETH_P_IP in network byte order.
        let ip = NonZeroU32::new(u32::from(0x0800u16.to_be())).map(Protocol::from_raw);
        let (family, kind) = (AddressFamily::PACKET, SocketType::DGRAM);
        let socket = netns.run(|| socket_with(family, kind, SocketFlags::CLOEXEC, ip))?;
        Self::with(socket.context("cannot listen to packets")?)
    }

    fn with(socket: OwnedFd) -> Result<Self> {
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket })
    }

    /// When the first packet arrives that is `wanted`; none: not until `done`.
    ///
    /// # Errors
    /// When the socket fails.
    pub fn first(&self, wanted: impl Fn(&[u8]) -> bool, done: &AtomicBool) -> Result<Option<u64>> {
        let mut buffer = [0; 4096];
        while !done.load(Ordering::Relaxed) {
            match recv(&self.socket, &mut buffer, RecvFlags::empty()) {
                Ok((length, _)) if wanted(&buffer[..length]) => return Ok(Some(now_ns())),
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error).context("cannot receive"),
            }
        }
        Ok(None)
    }
}

/// Is this message about a link without carrier (`struct nlmsghdr`, `struct ifinfomsg`)?
pub fn is_carrier_loss(message: &[u8]) -> bool {
    const RTM_NEWLINK: u16 = 16;
    const IFF_LOWER_UP: u32 = 1 << 16;
    let (Some(kind), Some(flags)) = (message.get(4..6), message.get(24..28)) else { return false };
    let flags = u32::from_ne_bytes([flags[0], flags[1], flags[2], flags[3]]);
    u16::from_ne_bytes([kind[0], kind[1]]) == RTM_NEWLINK && flags & IFF_LOWER_UP == 0
}

/// Is this packet, IPv4 without options, of this protocol (TCP or UDP) to this address and port?
pub fn is_to(packet: &[u8], protocol: u8, to: SocketAddrV4) -> bool {
    packet.first() == Some(&0x45)
        && packet.get(9) == Some(&protocol)
        && packet.get(16..20) == Some(&to.ip().octets())
        && packet.get(22..24) == Some(&to.port().to_be_bytes())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_packet_is_known_by_protocol_address_and_port() {
        let mut packet = [0; 40];
        (packet[0], packet[9]) = (0x45, 6);
        packet[16..20].copy_from_slice(&[198, 51, 100, 1]);
        packet[22..24].copy_from_slice(&[0, 7]);
        let to = |port| SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 1), port);
        assert!(is_to(&packet, 6, to(7)));
        assert!(!is_to(&packet, 6, to(8)) && !is_to(&packet[..22], 6, to(7)));
        assert!(!is_to(&packet, 17, to(7)));
    }

    #[test]
    fn a_link_with_carrier_has_not_lost_it() {
        let mut message = [0; 32];
        message[4..6].copy_from_slice(&16u16.to_ne_bytes());
        assert!(is_carrier_loss(&message));
        message[24..28].copy_from_slice(&(1u32 << 16).to_ne_bytes());
        assert!(!is_carrier_loss(&message) && !is_carrier_loss(&[]));
    }
}
