//! Packets that leave without a flow, where the published state says that none needs to be known
//! ([`Stateless`]): each by its own headers, so that one flow costs what ten million do.
//!
//! From a LAN: the origin of the source says which uplinks may carry it, and the bucket which of them
//! does. From an uplink: what is for a LAN leaves as the kernel's routes and neighbours say. Nothing
//! is changed before it is certain that the packet can leave; what cannot goes the way of all packets.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT};
use aya_ebpf::programs::XdpContext;
use weir_layout::adjacency::next_hop;
use weir_layout::control::{
    MAX_ORIGINS, Mac, Origin, Port, PortRole, Selection, Stateless, host_class, path_state,
    table_index,
};
use weir_layout::counters::{Counter, Lane};
use weir_layout::{MAX_UPLINKS, NONE};
use weir_wire::bucket::{self, Fields, TRIES};
use weir_wire::ethernet;
use weir_wire::family::{Family, V4, V6};
use weir_wire::forward::Egress;
use weir_wire::parse::Parsed;
use weir_wire::plain::{Header, Ip4, Ip6};
use weir_wire::rewrite::{TAGGED, UNTAGGED};
use weir_wire::stateless::Bare;
use weir_wire::words::Words as _;
use weir_wire::{ipv4, ipv6, rewrite, tcp, udp};

use crate::crowd::Sender;
use crate::fib::{self, Asked, Toward};
use crate::flows::{self, Table};
use crate::forward::{self, Forwarded};
use crate::known;
use crate::maps::{self, Published};
use crate::words::{self, XdpFrame};
use crate::{Outcome, from_crowd};

/// Forwards the frame if it can leave at once.
#[inline(always)]
pub fn carried<F: Bears>(
    ctx: &XdpContext,
    published: Published,
    lane: *mut Lane,
) -> Option<Forwarded> {
    match forward::ethertype(ctx)? {
        ethernet::VLAN if forward::inner_type(ctx)? == F::ETHERTYPE => {
            carry::<F, TAGGED>(ctx, published, lane)
        }
        kind if kind == F::ETHERTYPE => carry::<F, UNTAGGED>(ctx, published, lane),
        _ => None,
    }
}

/// Does the frame, whose IP header is at `L3`.
#[inline(always)]
fn carry<F: Bears, const L3: usize>(
    ctx: &XdpContext,
    published: Published,
    lane: *mut Lane,
) -> Option<Forwarded> {
    let room = (ctx.data_end() - ctx.data() - L3) as u64;
    let packet = F::read::<L3>(ctx)?;
    let ports = packet.ports(room)?;
    let (index, _) = forward::arrival::<L3>(ctx, published)?;
    // SAFETY: a port of the half.
    let port = unsafe { &*published.port(index) };
    if !F::serves(port) {
        return None;
    }
    let ip = &packet.ip;
    let outward = port.role == PortRole::Lan as u8;
    let (adjacency, path) = if outward {
        let path = F::path(outward_by::<F>(published, index, ip, ports)?);
        (maps::adjacency(next_hop(path))?, path)
    } else {
        (inward::<F>(ctx, published, lane, port, ip)?, F::path(port.uplink))
    };
    // The user tier changes what it says, where there is one.
    if packet.names_sizes() && published.clamps(path.uplink) && is_heard(ctx, port) {
        return None;
    }
    let Egress { device, mtu, link, .. } = forward::toward(published, adjacency, path);
    if link.destination.word() == Mac::NONE.word() || ip.total() > mtu {
        return None;
    }
    maps::DEVICES.redirect(u32::from(device), 0).ok()?;
    let tagged = link.vlan != 0;
    forward::retag(ctx, L3 == TAGGED, tagged)?;
    let frame = &mut XdpFrame(ctx);
    let sent = match tagged {
        true => rewrite::routed::<F, TAGGED>(frame, ip, &link),
        false => rewrite::routed::<F, UNTAGGED>(frame, ip, &link),
    };
    let action = if sent.is_some() { XDP_REDIRECT } else { XDP_DROP };
    let bytes = u64::from(ip.total());
    Some(Forwarded { action, path, outward, bytes, segment: None, ends: [0; 2] })
}

/// Has the queue that the frame came by a socket?
#[inline(always)]
fn is_heard(ctx: &XdpContext, port: &Port) -> bool {
    // SAFETY: the context is the kernel's.
    let queue = unsafe { (*ctx.ctx).rx_queue_index };
    crate::socket(port, queue).is_some_and(|socket| maps::XSKS.get(socket).is_some())
}

/// The uplink that takes a packet from a LAN port; `None`: the user tier says what becomes of it.
#[inline(always)]
fn outward_by<F: Bears>(published: Published, port: u8, ip: &F::Header, ports: u32) -> Option<u8> {
    // SAFETY: a field of the half.
    let stateless = unsafe { &raw const (*published.half).stateless[F::FAMILY.index()] };
    let [src, dst] = ip.addresses();
    let (carriers, only) = origin(stateless, port, src)?;
    if carriers == 0 || !F::is_beyond(dst) {
        return None;
    }
    let usable = |uplink| published.path_state(F::path(uplink)) & path_state::USABLE != 0;
    if only != NONE {
        return usable(only).then_some(only);
    }
    // SAFETY: fields of the half.
    let (policy, selection, epoch) =
        unsafe { ((*stateless).policy, (*stateless).selection, (*published.half).epoch) };
    let buckets = maps::buckets(table_index((epoch & 1) as usize, F::FAMILY, policy.into()))?;
    let key = flows::secret();
    let addresses = [F::digest_words(key, src), F::digest_words(key, dst)];
    // By host nothing is stateless.
    let fields = Fields { addresses, proto: ip.proto(), ports, label: ip.label(), host: 0 };
    let mut hash = bucket::hash(key, Selection::from_byte(selection), &fields);
    for _ in 0..TRIES {
        // SAFETY: a table has a byte for each number of 16 bits.
        let uplink = unsafe { buckets.add(bucket::of(hash).into()).read_volatile() };
        if usize::from(uplink) < MAX_UPLINKS && carriers >> uplink & 1 != 0 && usable(uplink) {
            return Some(uplink);
        }
        hash = bucket::next(key, hash);
    }
    None
}

/// Which uplinks may carry a source that came by a port, and which if it is one alone.
#[inline(always)]
fn origin(stateless: *const Stateless, port: u8, src: [u64; 2]) -> Option<(u64, u8)> {
    // SAFETY: the structure is part of the half, and so are as many origins.
    unsafe {
        let count = usize::from((*stateless).count);
        let origins = (&raw const (*stateless).origins).cast::<Origin>();
        for at in 0..MAX_ORIGINS {
            if at >= count {
                break;
            }
            let origin = origins.add(at);
            if (*origin).is_of(port, src) {
                return Some(((*origin).carriers, (*origin).only));
            }
        }
    }
    None
}

/// Where a packet from an uplink's port leaves to, if it is for a LAN.
#[inline(always)]
fn inward<F: Bears>(
    ctx: &XdpContext,
    published: Published,
    lane: *mut Lane,
    port: &Port,
    ip: &F::Header,
) -> Option<u64> {
    let [src, dst] = ip.addresses();
    if !F::is_unicast(&F::address(src)) || !F::is_unicast(&F::address(dst)) || !is_beyond::<F>(src)
    {
        return None;
    }
    let now = maps::milliseconds(lane);
    let asked = Asked { proto: ip.proto(), len: ip.total(), addresses: [src, dst], now };
    match fib::toward_lan::<F>(ctx, published, port, &asked) {
        Toward::Lan(word) => Some(word),
        Toward::Unknown | Toward::Kernel => None,
    }
}

/// May the source be beyond an uplink? Nobody there has an address of this side (RFC 3704 §2), and of
/// one that the kernel routes elsewhere, by a VPN say, it has to judge: the look-up does not ask where
/// a source belongs, nor what has to come encrypted.
#[inline(always)]
fn is_beyond<F: Bears>(src: [u64; 2]) -> bool {
    !matches!(
        maps::host_class::<F>(F::address(src)),
        host_class::LOCAL | host_class::LAN | host_class::POOL | host_class::KERNEL
    )
}

/// Hands what an uplink brought for a LAN, and what does not leave at once, to the user tier. Where it
/// leaves to stands in its first eight bytes, see [`weir_layout::adjacency`]. What the kernel would
/// not forward, or does not know the host of, is left to it; of hosts that it does not know, so many
/// as it can ask for, and one that it knew before at once.
#[inline(always)]
pub fn hand_over<F: Bears>(
    ctx: &XdpContext,
    published: Published,
    port: &Port,
    p: &Parsed<F>,
) -> Outcome {
    let kernels = (XDP_PASS, Counter::XdpPassKernelRoute);
    let Some(lane) = maps::lane() else { return kernels };
    if p.ttl <= 1 || maps::host_class::<F>(p.src) == host_class::KERNEL {
        return kernels;
    }
    let (now, dst) = (maps::milliseconds(lane), F::words_of(p.dst));
    let addresses = [F::words_of(p.src), dst];
    let asked = Asked { proto: p.proto, len: p.end - p.l3, addresses, now };
    let word = match fib::toward_lan::<F>(ctx, published, port, &asked) {
        Toward::Lan(word) => word,
        Toward::Kernel => return kernels,
        Toward::Unknown => {
            let known = published.wanted(F::FAMILY, port, dst).forget();
            return match known || known::may_ask(F::FAMILY, now) {
                true => kernels,
                false => (XDP_DROP, Counter::XdpDropUnknownHost),
            };
        }
    };
    let Some(mut head) = words::at::<8>(ctx, 0) else { return kernels };
    // SAFETY: the context is the kernel's.
    let queue = unsafe { (*ctx.ctx).rx_queue_index };
    let outcome = from_crowd(published, port, queue, Sender::Uplink(port.uplink), p);
    if matches!(outcome.1, Counter::XdpDropCrowded) {
        return outcome;
    }
    if outcome.0 != XDP_REDIRECT {
        return kernels;
    }
    head.store64::<0>(word);
    outcome
}

/// A family whose packets may need no flows.
pub trait Bears: Table {
    /// Reads the headers.
    fn read<const L3: usize>(ctx: &XdpContext) -> Option<Bare<Self>>;

    /// Does weir forward the family's packets that come by the port?
    fn serves(port: &Port) -> bool;

    /// Does a packet to this destination leave by an uplink?
    fn is_beyond(dst: [u64; 2]) -> bool;

    /// The address in these words.
    fn address(words: [u64; 2]) -> Self::Address;

    /// The words of an address.
    fn words_of(address: Self::Address) -> [u64; 2];

    /// [`Family::digest`] of the address in these words.
    #[inline(always)]
    fn digest_words(key: [u64; 2], words: [u64; 2]) -> u32 {
        Self::digest(key, &Self::address(words))
    }
}

/// The words of a transport header that begins at `at`, in a packet of such a protocol.
#[inline(always)]
fn transport(ctx: &XdpContext, proto: u8, icmp: u8, at: usize) -> Option<[u64; 4]> {
    match proto {
        tcp::PROTOCOL => {
            let tcp = words::at::<18>(ctx, at)?;
            Some([tcp.load32::<0>(), tcp.load32::<4>(), tcp.load32::<12>(), tcp.load16::<16>()])
        }
        proto if proto == udp::PROTOCOL || proto == icmp => {
            let head = words::at::<8>(ctx, at)?;
            Some([head.load32::<0>(), head.load32::<4>(), 0, 0])
        }
        _ => Some([0; 4]),
    }
}

impl Bears for V4 {
    #[inline(always)]
    fn read<const L3: usize>(ctx: &XdpContext) -> Option<Bare> {
        let head = words::at::<{ ipv4::HEADER_LEN }>(ctx, L3)?;
        let ip = Ip4([
            head.load32::<0>(),
            head.load32::<4>(),
            head.load32::<8>(),
            head.load32::<12>(),
            head.load32::<16>(),
        ]);
        let transport = transport(ctx, ip.proto(), Self::ICMP, L3 + ipv4::HEADER_LEN)?;
        Some(Bare { ip, transport })
    }

    #[inline(always)]
    fn serves(_: &Port) -> bool {
        true
    }

    #[inline(always)]
    fn is_beyond(dst: [u64; 2]) -> bool {
        let address = Self::address(dst);
        ipv4::is_unicast(address) && maps::host_class::<Self>(address) == 0
    }

    #[inline(always)]
    fn address([address, _]: [u64; 2]) -> [u8; 4] {
        (address as u32).to_le_bytes()
    }

    #[inline(always)]
    fn words_of(address: [u8; 4]) -> [u64; 2] {
        [u32::from_le_bytes(address).into(), 0]
    }
}

impl Bears for V6 {
    #[inline(always)]
    fn read<const L3: usize>(ctx: &XdpContext) -> Option<Bare<V6>> {
        let head = words::at::<{ ipv6::HEADER_LEN }>(ctx, L3)?;
        let ip = Ip6([
            head.load64::<0>(),
            head.load64::<8>(),
            head.load64::<16>(),
            head.load64::<24>(),
            head.load64::<32>(),
        ]);
        let transport = transport(ctx, ip.proto(), Self::ICMP, L3 + ipv6::HEADER_LEN)?;
        Some(Bare { ip, transport })
    }

    #[inline(always)]
    fn serves(port: &Port) -> bool {
        port.ipv6 != 0
    }

    #[inline(always)]
    fn is_beyond(dst: [u64; 2]) -> bool {
        let address = Self::address(dst);
        ipv6::is_global(address) && maps::host_class::<Self>(address) == 0
    }

    #[inline(always)]
    fn address(words: [u64; 2]) -> [u8; 16] {
        zerocopy::transmute!(words)
    }

    #[inline(always)]
    fn words_of(address: [u8; 16]) -> [u64; 2] {
        zerocopy::transmute!(address)
    }
}
