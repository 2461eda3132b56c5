//! The kernel tier: the next packet of an established flow leaves here, as its entry says.
//!
//! Nothing is changed before it is certain that the packet can leave; whatever is not, goes the way
//! of all packets, to the user tier.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_REDIRECT};
use aya_ebpf::helpers::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use weir_wire::ethernet::{self, TAG_LEN};
use weir_wire::layout::control::{Tier, uplink_state};
use weir_wire::layout::counters::Lane;
use weir_wire::layout::flow::{FlowEntry4, flag};
use weir_wire::layout::neighbour;
use weir_wire::plain::{self, Ip4};
use weir_wire::{icmp, tcp, udp};

use crate::flows::Search;
use crate::maps::Published;
use crate::words::{load16, load32, load64, store16, store32, store64};
use crate::{flows, maps, words};

/// Start of the IP header in an untagged frame, and in one with a tag.
const UNTAGGED: usize = 14;
const TAGGED: usize = UNTAGGED + TAG_LEN;

/// The low six bytes of a word: a hardware address.
const MAC: u64 = 0xffff_ffff_ffff;

/// A packet's headers.
struct Packet {
    ip: Ip4,
    /// Of the transport header: the first two words, and of TCP the next two.
    transport: [u64; 4],
    /// Bytes from the IP header to the frame's end.
    room: u64,
}

/// Where a frame comes from.
struct Arrival {
    /// Where packets go that come in by its port, see [`flag::heading`].
    heading: u8,
    /// Its sender's [`neighbour::word`].
    sender: u64,
}

/// What leaves, from the entry.
struct Departure {
    addresses: u64,
    /// Ports, and the deltas of both checksums.
    rewrite: u64,
    destination: u64,
    source: u64,
    vlan: u16,
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
    /// A TCP segment with data of the connection: what it is.
    pub segment: Option<tcp::Place>,
    /// Its LAN host, and its remote host.
    pub ends: [u32; 2],
}

/// Forwards the frame if it is the next packet of an established flow.
#[inline(always)]
pub fn established(ctx: &XdpContext, published: Published, lane: *mut Lane) -> Option<Forwarded> {
    // SAFETY: a field of the half.
    if unsafe { (*published.half).tier } != Tier::Kernel as u8 {
        return None;
    }
    // SAFETY: the bytes are there.
    let ethertype = u16::from_be(unsafe { load16::<12>(words::at::<UNTAGGED>(ctx, 0)?) } as u16);
    if ethertype == ethernet::IPV4 {
        return forward::<UNTAGGED>(ctx, published, lane);
    }
    // SAFETY: the bytes are there.
    let inner = u16::from_be(unsafe { load16::<16>(words::at::<TAGGED>(ctx, 0)?) } as u16);
    if ethertype != ethernet::VLAN || inner != ethernet::IPV4 {
        return None;
    }
    forward::<TAGGED>(ctx, published, lane)
}

/// Forwards the frame, whose IP header is at `L3`, if a flow of the kernel tier wants it.
#[inline(always)]
fn forward<const L3: usize>(
    ctx: &XdpContext,
    published: Published,
    lane: *mut Lane,
) -> Option<Forwarded> {
    let packet = Packet::read::<L3>(ctx)?;
    // The search's loads take their time, so it begins before all that can be checked meanwhile.
    let search = Search::begin(packet.key())?;
    let arrival = arrival::<L3>(ctx, published)?;
    if !packet.is_plain() {
        return None;
    }
    let found = search.finish()?;
    // SAFETY: an entry of the table; its words are read whole, and once.
    let (addresses, rewrite, out) = unsafe {
        let words = found.entry.cast::<u64>();
        (words.add(3).read_volatile(), words.add(4).read_volatile(), words.add(5).read_volatile())
    };
    if !found.stands() {
        return None;
    }
    let [_, _, _, _, _, flags, _, uplink] = found.meta.to_le_bytes();
    let port = (out >> 16) as u8;
    let offered = flags & (flag::OFFLOAD | flag::TO_UPLINK) == flag::OFFLOAD | arrival.heading;
    if !offered || published.uplink_state(uplink) & uplink_state::USABLE == 0 {
        return None;
    }
    let (host, peer) = (out as u16, (out >> 32) as u32);
    let destination = match arrival.heading {
        0 => maps::neighbour(host)? & MAC,
        _ if host != neighbour::mark(arrival.sender, peer) => return None,
        // SAFETY: an uplink of the half.
        _ => unsafe { (*published.uplink(uplink)).next_hop_mac.word() },
    };
    if destination == 0 {
        return None;
    }
    let port = published.port(port);
    // SAFETY: a port of the half.
    let (device, mtu, vlan, source) =
        unsafe { ((*port).device, (*port).mtu, (*port).vlan, (*port).mac.word()) };
    if packet.ip.total() > mtu {
        return None;
    }
    maps::DEVICES.redirect(u32::from(device), 0).ok()?;
    let departure = Departure { addresses, rewrite, destination, source, vlan };
    let sent = match (L3 == TAGGED, vlan != 0) {
        (false, false) => depart::<UNTAGGED>(ctx, &packet, &departure),
        (true, true) => depart::<TAGGED>(ctx, &packet, &departure),
        (tagged, _) => {
            let shift = if tagged { TAG_LEN as i32 } else { -(TAG_LEN as i32) };
            // SAFETY: the context is the kernel's; a head that cannot move is left alone.
            if unsafe { bpf_xdp_adjust_head(ctx.ctx, shift) } != 0 {
                return None;
            }
            if tagged {
                depart::<UNTAGGED>(ctx, &packet, &departure)
            } else {
                depart::<TAGGED>(ctx, &packet, &departure)
            }
        }
    };
    let bytes = u64::from(packet.ip.total());
    count(found.entry, maps::milliseconds(lane), bytes);
    let segment = follow(found.entry, peer, &packet);
    let action = if sent.is_some() { XDP_REDIRECT } else { XDP_DROP };
    let outward = flags & flag::TO_UPLINK != 0;
    let [_, _, _, src, dst] = packet.ip.0;
    let ends = match outward {
        true => [src as u32, dst as u32],
        false => [(addresses >> 32) as u32, src as u32],
    };
    Some(Forwarded { action, uplink, outward, bytes, segment, ends })
}

impl Packet {
    /// Reads TCP, UDP and ICMP.
    #[inline(always)]
    fn read<const L3: usize>(ctx: &XdpContext) -> Option<Self> {
        let room = (ctx.data_end() - ctx.data() - L3) as u64;
        let ip = words::at::<28>(ctx, L3)?;
        // SAFETY: 28 bytes are there.
        let (words, first, second) = unsafe {
            let words = [
                load32::<0>(ip),
                load32::<4>(ip),
                load32::<8>(ip),
                load32::<12>(ip),
                load32::<16>(ip),
            ];
            (words, load32::<20>(ip), load32::<24>(ip))
        };
        let ip = Ip4(words);
        let (third, fourth) = match ip.proto() {
            tcp::PROTOCOL => {
                let rest = words::at::<8>(ctx, L3 + 28)?;
                // SAFETY: 8 bytes are there.
                unsafe { (load32::<0>(rest), load32::<4>(rest)) }
            }
            udp::PROTOCOL | icmp::PROTOCOL => (0, 0),
            _ => return None,
        };
        Some(Self { ip, transport: [first, second, third, fourth], room })
    }

    #[inline(always)]
    fn key(&self) -> [u64; 2] {
        let [first, second, ..] = self.transport;
        plain::key(&self.ip, plain::ports(self.ip.proto(), first, second))
    }

    /// Is it for the kernel tier?
    #[inline(always)]
    fn is_plain(&self) -> bool {
        let [first, second, _, fourth] = self.transport;
        let len = u64::from(self.ip.total()).wrapping_sub(20);
        self.ip.is_plain(self.room) && plain::is_plain(self.ip.proto(), first, second, fourth, len)
    }
}

/// Where the frame comes from; `None`: by no port of ours, or it is not for us.
#[inline(always)]
fn arrival<const L3: usize>(ctx: &XdpContext, published: Published) -> Option<Arrival> {
    let (head, vlan) = if L3 == TAGGED {
        let head = words::at::<TAGGED>(ctx, 0)?;
        // SAFETY: the bytes are there.
        (head, u16::from_be(unsafe { load16::<14>(head) } as u16) & ethernet::VLAN_ID)
    } else {
        (words::at::<UNTAGGED>(ctx, 0)?, 0)
    };
    // SAFETY: the context is the kernel's.
    let index = published.port_of(unsafe { (*ctx.ctx).ingress_ifindex }, vlan)?;
    let port = published.port(index);
    // SAFETY: the bytes are there, and it is a port of the half.
    let (destination, source, own, role) = unsafe {
        (load64::<0>(head) & MAC, load64::<4>(head) >> 16, (*port).mac.word(), (*port).role)
    };
    // SAFETY: a port of the half.
    let virtual_macs = unsafe { &(*port).virtual_macs };
    let ours = destination == own || virtual_macs.iter().any(|mac| destination == mac.word());
    let arrival = Arrival { heading: flag::heading(role), sender: neighbour::word(source, index) };
    ours.then_some(arrival)
}

/// Writes the headers of the frame, whose IP header is now at `L3`.
#[inline(always)]
fn depart<const L3: usize>(ctx: &XdpContext, packet: &Packet, new: &Departure) -> Option<()> {
    let frame = if L3 == TAGGED {
        words::at::<{ TAGGED + 28 }>(ctx, 0)?
    } else {
        words::at::<{ UNTAGGED + 28 }>(ctx, 0)?
    };
    let proto = packet.ip.proto();
    let (l3_delta, l4_delta) = ((new.rewrite >> 32) as u16, (new.rewrite >> 48) as u16);
    // SAFETY: 28 more bytes are there.
    let ip = unsafe { frame.add(L3) };
    // SAFETY: all of it is in the bytes that are there.
    unsafe {
        store64::<0>(frame, new.destination | new.source << 48);
        store32::<8>(frame, new.source >> 16);
        if L3 == TAGGED {
            store16::<12>(frame, ethernet::VLAN.to_be().into());
            store16::<14>(frame, new.vlan.to_be().into());
            store16::<16>(frame, ethernet::IPV4.to_be().into());
        } else {
            store16::<12>(frame, ethernet::IPV4.to_be().into());
        }
        store32::<8>(ip, packet.ip.next_ttl_word(l3_delta));
        store64::<12>(ip, new.addresses);
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
        let field = plain::next_checksum(proto, load16::<0>(checksum) as u16, l4_delta);
        store16::<0>(checksum, field.into());
        if proto == icmp::PROTOCOL {
            store16::<{ 20 + icmp::field::IDENT as i16 }>(ip, new.rewrite);
        } else {
            store32::<20>(ip, new.rewrite);
        }
    }
    Some(())
}

/// Counts the packet on its entry, and says that the flow lives.
#[inline(always)]
fn count(entry: *mut FlowEntry4, now: u32, bytes: u64) {
    // SAFETY: the entry is of the table, and these fields are the forwarding tier's.
    unsafe {
        (&raw mut (*entry).last_seen).write_volatile(now);
        (*entry).packets = (*entry).packets.wrapping_add(1);
        (*entry).bytes = (*entry).bytes.wrapping_add(bytes);
    }
}

/// Follows the sequence numbers of a TCP direction; of a segment with data, what it is to that.
#[inline(always)]
fn follow(entry: *mut FlowEntry4, peer: u32, packet: &Packet) -> Option<tcp::Place> {
    if packet.ip.proto() != tcp::PROTOCOL {
        return None;
    }
    let [_, second, third, fourth] = packet.transport;
    let segment = plain::segment(&packet.ip, second, fourth);
    // SAFETY: the entry is of the table.
    let next = unsafe { &raw mut (*entry).next_seq };
    // SAFETY: as above.
    let known = unsafe { next.read_volatile() };
    let mut place = segment.place(known);
    if place == tcp::Place::Beyond {
        // The other direction's entry is another cache line, so only such segments are held
        // against it.
        let credible = match (plain::acknowledged(third, fourth), flows::next_seq(peer)) {
            (Some(ack), Some(peer)) => segment.is_credible(known, ack, peer),
            _ => false,
        };
        place = if credible { tcp::Place::New } else { tcp::Place::Outside };
    }
    if place == tcp::Place::New {
        // SAFETY: this field is the forwarding tier's.
        unsafe { next.write_volatile(segment.end) };
    }
    segment.has_data.then_some(place)
}
