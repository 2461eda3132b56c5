//! The kernel tier: the next packet of an established flow leaves here, as its entry says.
//!
//! Nothing is changed before it is certain that the packet can leave; whatever is not, goes the way
//! of all packets, to the user tier.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_REDIRECT};
use aya_ebpf::helpers::{bpf_ktime_get_coarse_ns, bpf_xdp_adjust_head};
use aya_ebpf::programs::XdpContext;
use weir_wire::ethernet::TAG_LEN;
use weir_wire::layout::MAX_PORTS;
use weir_wire::layout::control::{ControlHalf, Port, uplink_state};
use weir_wire::layout::flow::{FlowEntry4, flag};
use weir_wire::layout::neighbour::FIRST_LAN_L2;
use weir_wire::plain::{self, Ip4};
use weir_wire::{icmp, tcp, udp};

use crate::words::{load16, load32, load64, store16, store32, store64};
use crate::{flows, maps, words};

/// Start of the IP header in an untagged frame, and in one with a tag.
pub const UNTAGGED: usize = 14;
pub const TAGGED: usize = UNTAGGED + TAG_LEN;

/// A plain packet, and what stands in it.
struct Packet {
    ip: Ip4,
    /// See [`plain::flow`].
    ports: u32,
}

/// What leaves, from the entry.
struct Departure {
    addresses: u64,
    ports: u32,
    l3_delta: u16,
    l4_delta: u16,
    port: Port,
    destination: u64,
}

/// What was forwarded, to be counted.
pub struct Forwarded {
    /// The XDP action.
    pub action: u32,
    /// Uplink index.
    pub uplink: u8,
    /// To the uplink, not from it.
    pub outward: bool,
    /// From the IP header on.
    pub bytes: u64,
}

/// Forwards the frame, whose IP header is at `L3`, if a flow of the kernel tier wants it. The
/// caller has found that the frame is the gateway's, from one of its ports.
#[inline(always)]
pub fn forward<const L3: usize>(ctx: &XdpContext, half: *const ControlHalf) -> Option<Forwarded> {
    let packet = recognise::<L3>(ctx)?;
    let (entry, state) = flows::find(plain::key(&packet.ip, packet.ports))?;
    // SAFETY: an entry of the table; its words are read whole, and once.
    let (meta, addresses, rewrite, out) = unsafe {
        let words = entry.cast::<u64>();
        (
            words.add(2).read_volatile(),
            words.add(3).read_volatile(),
            words.add(4).read_volatile(),
            words.add(5).read_volatile(),
        )
    };
    if !flows::still(entry, state) {
        return None;
    }
    let [_, _, _, _, _, flags, _, uplink] = meta.to_le_bytes();
    let [l2_lo, l2_hi, port, ..] = out.to_le_bytes();
    if flags & flag::OFFLOAD == 0 || maps::uplink_state(uplink) & uplink_state::USABLE == 0 {
        return None;
    }
    // SAFETY: the index is masked.
    let port = unsafe {
        (&raw const (*half).ports).cast::<Port>().add(port as usize & (MAX_PORTS - 1)).read()
    };
    let destination = destination(half, u16::from_le_bytes([l2_lo, l2_hi]))?;
    if packet.ip.total > port.mtu {
        return None;
    }
    maps::DEVICES.redirect(u32::from(port.device), 0).ok()?;
    let departure = Departure {
        addresses,
        ports: rewrite as u32,
        l3_delta: (rewrite >> 32) as u16,
        l4_delta: (rewrite >> 48) as u16,
        port,
        destination,
    };
    let sent = match (L3 == TAGGED, departure.port.vlan != 0) {
        (false, false) => depart::<UNTAGGED>(ctx, half, &packet, &departure),
        (true, true) => depart::<TAGGED>(ctx, half, &packet, &departure),
        (tagged, _) => {
            let shift = if tagged { TAG_LEN as i32 } else { -(TAG_LEN as i32) };
            // SAFETY: the context is the kernel's; a head that cannot move is left alone.
            if unsafe { bpf_xdp_adjust_head(ctx.ctx, shift) } != 0 {
                return None;
            }
            if tagged {
                depart::<UNTAGGED>(ctx, half, &packet, &departure)
            } else {
                depart::<TAGGED>(ctx, half, &packet, &departure)
            }
        }
    };
    let bytes = u64::from(packet.ip.total);
    count(entry, bytes);
    let action = if sent.is_some() { XDP_REDIRECT } else { XDP_DROP };
    Some(Forwarded { action, uplink, outward: flags & flag::TO_UPLINK != 0, bytes })
}

/// Reads the headers.
#[inline(always)]
fn recognise<const L3: usize>(ctx: &XdpContext) -> Option<Packet> {
    let room = (ctx.data_end() - ctx.data()).wrapping_sub(L3) as u32;
    let ip = words::at::<28>(ctx, L3)?;
    // SAFETY: 28 bytes are there.
    let (header, first, second) = unsafe {
        let words = [load32(ip), load32(ip.add(4)), load32(ip.add(8))];
        (Ip4::new(words, load64(ip.add(12)), room)?, load32(ip.add(20)), load32(ip.add(24)))
    };
    let fourth = if header.proto() == tcp::PROTOCOL {
        // SAFETY: the bytes are there.
        unsafe { load32(words::at::<4>(ctx, L3 + 32)?) }
    } else {
        0
    };
    let ports = plain::flow(header.proto(), first, second, fourth, u32::from(header.total) - 20)?;
    Some(Packet { ip: header, ports })
}

/// The destination's hardware address, in the low six bytes; `None` while it is not known.
#[inline(always)]
fn destination(half: *const ControlHalf, l2: u16) -> Option<u64> {
    let address = if l2 < FIRST_LAN_L2 {
        let uplink = maps::uplink(half, l2 as u8);
        // SAFETY: an uplink of the half.
        let [a, b, c, d, e, f] = unsafe { (*uplink).next_hop_mac };
        u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
    } else {
        maps::neighbour(l2 - FIRST_LAN_L2)?
    };
    (address & 0xffff_ffff_ffff != 0).then_some(address)
}

/// Writes the headers of the frame, whose IP header is now at `L3`.
#[inline(always)]
fn depart<const L3: usize>(
    ctx: &XdpContext,
    half: *const ControlHalf,
    packet: &Packet,
    new: &Departure,
) -> Option<()> {
    let frame = if L3 == TAGGED {
        words::at::<{ TAGGED + 28 }>(ctx, 0)?
    } else {
        words::at::<{ UNTAGGED + 28 }>(ctx, 0)?
    };
    // SAFETY: 28 more bytes are there.
    let ip = unsafe { frame.add(L3) };
    // SAFETY: a device of the half.
    let [a, b, c, d, e, f] = unsafe { (*maps::device(half, new.port.device)).mac };
    let proto = packet.ip.proto();
    // SAFETY: all of it is in the bytes that are there.
    unsafe {
        store32(frame, new.destination as u32);
        store16(frame.add(4), (new.destination >> 32) as u16);
        store16(frame.add(6), u16::from_le_bytes([a, b]));
        store32(frame.add(8), u32::from_le_bytes([c, d, e, f]));
        if L3 == TAGGED {
            store16(frame.add(12), 0x8100u16.to_be());
            store16(frame.add(14), new.port.vlan.to_be());
            store16(frame.add(16), 0x0800u16.to_be());
        } else {
            store16(frame.add(12), 0x0800u16.to_be());
        }
        store32(ip.add(8), packet.ip.next_ttl_word(new.l3_delta));
        store64(ip.add(12), new.addresses);
    }
    let checksum = match proto {
        tcp::PROTOCOL => words::at::<2>(ctx, L3 + 20 + tcp::field::CHECKSUM)?,
        // SAFETY: within the 28 bytes.
        udp::PROTOCOL => unsafe { ip.add(20 + udp::field::CHECKSUM) },
        // SAFETY: within the 28 bytes.
        _ => unsafe { ip.add(20 + icmp::field::CHECKSUM) },
    };
    // SAFETY: both are within the frame.
    unsafe {
        let field = plain::next_checksum(proto, load16(checksum), new.l4_delta);
        store16(checksum, field);
        if proto == icmp::PROTOCOL {
            store16(ip.add(20 + icmp::field::IDENT), new.ports as u16);
        } else {
            store32(ip.add(20), new.ports);
        }
    }
    Some(())
}

/// Counts the packet on its entry, and says that the flow lives.
#[inline(always)]
fn count(entry: *mut FlowEntry4, bytes: u64) {
    // SAFETY: the helper has no conditions; the entry is of the table, and these fields are the
    // forwarding tier's.
    unsafe {
        let now = bpf_ktime_get_coarse_ns() / 1_000_000;
        (&raw mut (*entry).last_seen).write_volatile(now as u32);
        (*entry).packets = (*entry).packets.wrapping_add(1);
        (*entry).bytes = (*entry).bytes.wrapping_add(bytes);
    }
}
