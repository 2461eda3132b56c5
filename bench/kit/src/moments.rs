//! The moments at which something happened: nanoseconds of `CLOCK_MONOTONIC`, which is also what
//! the traffic programs read.

use std::net::{IpAddr, SocketAddr};
use std::num::{NonZeroU32, NonZeroU64};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use aya::maps::Array;
use aya::programs::SocketFilter;
use aya::{Ebpf, EbpfLoader};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, bind, socket_with};
use rustix::time::{ClockId, clock_gettime};
use weir_traffic::{MOMENT, NOTICE, PATTERN, Part, Pattern};
use zerocopy::transmute;

use crate::netns::Netns;
use crate::traffic::OBJECT;

/// Time between looks at a word.
pub const WATCH: Duration = Duration::from_micros(20);

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

/// Notes when a socket of a namespace is first given a message of a kind: the kernel's clock as it
/// gives it, however late anybody is who could wait for it.
pub struct Notice {
    ebpf: Ebpf,
    // The filter ends with it.
    _socket: OwnedFd,
}

impl Notice {
    /// The first event about this device of `netns` without carrier (rtnetlink(7), `RTMGRP_LINK`).
    ///
    /// # Errors
    /// When there is no such device, when the socket cannot be opened, or when the kernel refuses
    /// its filter.
    pub fn of_carrier_loss(netns: &Netns, device: &str) -> Result<Self> {
        const RTMGRP_LINK: u32 = 1;
        let socket = netns.run(|| {
            let flags = SocketFlags::CLOEXEC;
            // Protocol 0 is NETLINK_ROUTE.
            let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            bind(&socket, &SocketAddrNetlink::new(0, RTMGRP_LINK))?;
            Ok::<_, Errno>(socket)
        })?;
        let ifindex = netns.ifindex(device)?;
        Self::on(socket.context("cannot listen to netlink")?, carrier_loss(ifindex))
    }

    /// The first packet of this protocol (TCP or UDP) to this address and port, without options or
    /// extension headers, that any port of `netns` receives and gives to the kernel (packet(7)). Of
    /// an address of IPv6 the last four bytes count.
    ///
    /// # Errors
    /// When the socket cannot be opened, or the kernel refuses its filter.
    pub fn of_packet(netns: &Netns, protocol: u8, to: SocketAddr) -> Result<Self> {
        // ETH_P_IP or ETH_P_IPV6, in network byte order.
        let ethertype = if to.is_ipv4() { 0x0800u16 } else { 0x86dd };
        let ip = NonZeroU32::new(u32::from(ethertype.to_be())).map(Protocol::from_raw);
        let (family, kind) = (AddressFamily::PACKET, SocketType::DGRAM);
        let socket = netns.run(|| socket_with(family, kind, SocketFlags::CLOEXEC, ip))?;
        Self::on(socket.context("cannot listen to packets")?, packet(protocol, to))
    }

    fn on(socket: OwnedFd, pattern: Pattern) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).context("traffic programs")?;
        let map = ebpf.map_mut(PATTERN).context("no map of patterns")?;
        let bytes: [u8; size_of::<Pattern>()] = transmute!(pattern);
        Array::<_, [u8; size_of::<Pattern>()]>::try_from(map)?.set(0, bytes, 0)?;
        let program = ebpf.program_mut(NOTICE).context("no traffic program to notice")?;
        let filter: &mut SocketFilter = program.try_into()?;
        filter.load().context("the filter of a socket")?;
        filter.attach(&socket).context("cannot attach a filter to a socket")?;
        Ok(Self { ebpf, _socket: socket })
    }

    /// When it was; none: not yet.
    ///
    /// # Errors
    /// When the time cannot be read.
    pub fn moment(&self) -> Result<Option<u64>> {
        let map = self.ebpf.map(MOMENT).context("no map of a moment")?;
        let moment = Array::<_, u64>::try_from(map)?.get(&0, 0)?;
        Ok((moment != 0).then_some(moment))
    }
}

/// A message about a link without carrier (`struct nlmsghdr`, `struct ifinfomsg`).
fn carrier_loss(ifindex: u32) -> Pattern {
    const RTM_NEWLINK: u16 = 16;
    const IFF_LOWER_UP: u32 = 1 << 16;
    let [low, high] = RTM_NEWLINK.to_ne_bytes();
    let kind = Part { at: 4, mask: [0xff, 0xff, 0, 0], value: [low, high, 0, 0] };
    let device = Part { at: 20, mask: [0xff; 4], value: ifindex.to_ne_bytes() };
    let down = Part { at: 24, mask: IFF_LOWER_UP.to_ne_bytes(), value: [0; 4] };
    Pattern { parts: [kind, device, down, Part::default()] }
}

/// A packet, without options or extension headers, of this protocol (TCP or UDP) to this address and
/// port.
fn packet(protocol: u8, to: SocketAddr) -> Pattern {
    let [high, low] = to.port().to_be_bytes();
    let parts = match to.ip() {
        IpAddr::V4(address) => [
            Part { at: 0, mask: [0xff, 0, 0, 0], value: [0x45, 0, 0, 0] },
            Part { at: 8, mask: [0, 0xff, 0, 0], value: [0, protocol, 0, 0] },
            Part { at: 16, mask: [0xff; 4], value: address.octets() },
            Part { at: 20, mask: [0, 0, 0xff, 0xff], value: [0, 0, high, low] },
        ],
        IpAddr::V6(address) => {
            let [.., a, b, c, d] = address.octets();
            [
                Part { at: 0, mask: [0xf0, 0, 0, 0], value: [0x60, 0, 0, 0] },
                Part { at: 4, mask: [0, 0, 0xff, 0], value: [0, 0, protocol, 0] },
                Part { at: 36, mask: [0xff; 4], value: [a, b, c, d] },
                Part { at: 40, mask: [0, 0, 0xff, 0xff], value: [0, 0, high, low] },
            ]
        }
    };
    Pattern { parts }
}
