//! Which packets from uplinks are the user tier's though no flow asked for them: what asks for a
//! published service, and, where rules are asked, whatever may begin a flow.
//!
//! The worker decides what becomes of them. Here it is told what it must not get, as the kernel has
//! services of its own on the same ports: of other uplinks, and of other addresses of the gateway.

use core::arch::asm;

use weir_layout::control::{
    Address, MAX_POOL, OPEN_PORTS, OpenPorts, Path, Port, PortRole, Translate, host_class,
};
use weir_wire::parse::{Kind, Parsed};
use weir_wire::tcp::flag::{ACK, FIN, RST, SYN};
use weir_wire::{protocol, tcp, udp};

use crate::fragments;
use crate::maps::{self, Published};
use crate::stateless::Bears;

/// Does a packet ask for a host: for a published service, by an uplink, or in a LAN by the address that
/// the host has outside (RFC 4787 REQ-9); or for any, by an uplink with rules? Later fragments of it
/// follow. By a protocol without ports a service is asked for by uplinks alone.
#[inline(always)]
pub fn is_asked<F: Bears>(published: Published, port: &Port, p: &Parsed<F>) -> bool {
    let in_lan = port.role == PortRole::Lan as u8;
    let is_echo = p.proto == F::ICMP && p.dport == [0, F::ECHO_REQUEST];
    let is_portless = protocol::is_portless(p.proto);
    if !(matches!(p.proto, tcp::PROTOCOL | udp::PROTOCOL) || is_echo || is_portless && !in_lan)
        || !matches!(p.kind, Kind::Flow | Kind::Fragment { first: true })
    {
        return false;
    }
    let uplink = if in_lan {
        let Some(uplink) = host_class::uplink(maps::host::<F>(p.dst)) else { return false };
        uplink
    } else {
        port.uplink
    };
    // SAFETY: a path of the half.
    let path = unsafe { &*published.path(F::path(uplink)) };
    let ruled = !in_lan && path.is_ruled();
    let key = OpenPorts::key(F::FAMILY, p.proto, u16::from_be_bytes(p.dport));
    // SAFETY: a field of the half.
    let open = uplinks(unsafe { &raw const (*published.half).open_ports }, key);
    // A connection begins with a SYN. Another segment may be of one that the gateway has itself; and
    // whom the kernel has a way of its own to, it answers itself, or does not believe.
    let begins = p.proto != tcp::PROTOCOL
        || p.tcp_flags & (SYN | ACK | FIN | RST) == SYN
        || p.kind != Kind::Flow;
    if (!ruled || is_portless) && (is_echo || open >> (uplink & 63) & 1 == 0)
        || !begins
        || maps::host_class::<F>(p.src) == host_class::KERNEL
    {
        return false;
    }
    let asks = match path.translation() {
        Translate::Napt => holds(path, F::words_of(p.dst)),
        // The host's own, or one that is translated to it: neither the gateway's nor a VPN's.
        Translate::None | Translate::Npt | Translate::Source => {
            matches!(
                maps::host_class::<F>(p.dst),
                host_class::LAN | host_class::POOL | host_class::LINK
            )
        }
    };
    if asks && p.kind == (Kind::Fragment { first: true }) {
        fragments::first(p, true);
    }
    asks
}

/// As [`OpenPorts::uplinks`], without a branch: the verifier goes through it once.
#[inline(always)]
fn uplinks(open: *const OpenPorts, key: u32) -> u64 {
    let (mut at, mut step) = (0, OPEN_PORTS / 2);
    while step > 0 {
        // SAFETY: the index is masked to the array, which is part of the half.
        let first = unsafe {
            (&raw const (*open).keys).cast::<u32>().add((at + step) & (OPEN_PORTS - 1)).read()
        };
        // All ones where it begins behind.
        let mut behind = i64::from(key) - i64::from(first);
        // SAFETY: one instruction, on a register.
        unsafe { asm!("{0} s>>= 63", inout(reg) behind, options(nostack, nomem, pure)) };
        at += step & !(behind as usize);
        step /= 2;
    }
    // SAFETY: as above.
    unsafe { (&raw const (*open).uplinks).cast::<u64>().add(at & (OPEN_PORTS - 1)).read() }
}

/// Has a path this address, for flows that begin? See [`Path::addresses`].
#[inline(always)]
pub fn holds(path: &Path, address: [u64; 2]) -> bool {
    let count = usize::from(path.pool_len);
    let mut held = path.pool.iter().take(MAX_POOL).enumerate();
    held.any(|(at, of_path)| at < count && words(of_path) == address)
}

/// An address as words in memory order, IPv4 in the first.
#[inline(always)]
fn words(address: &Address) -> [u64; 2] {
    zerocopy::transmute!(address.0)
}
