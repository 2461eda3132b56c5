//! ICMP errors: others' about packets of flows, and the gateway's own.
//!
//! An error says what became of a packet, and its receiver believes it: a forged one ends
//! connections, slows them down or leads them astray (RFC 5927). So it passes only from where it can
//! have come. A redirect is for the link it is sent on (RFC 792), a source quench for nobody any
//! more (RFC 6633): neither passes. From an uplink no error comes in the name of a LAN host, of the
//! gateway, or of an address that nobody has. From the LAN one comes from the hardware address that
//! the flow's packets come from: the host's, or that of the router it is behind, which also sends
//! on what routers further inside report.
//!
//! The gateway's own are about packets that it cannot forward, and go back to their sender. How many
//! a second is limited for each host and kind, and for each side and kind over all hosts (RFC 1812
//! §4.3.2.8): whoever makes the gateway send one kind leaves the others' alone. Hosts of a LAN that
//! the kernel knows (`engine/known_hosts.rs`) share their limits with no others: a station that makes up
//! hardware addresses takes nothing from them. The kernel is asked about each that is told something: it
//! may be a host of which no uplink takes a flow.

use weir_layout::control::{IpAddress, Path};
use weir_layout::counters::Counter;
use weir_layout::{Family as Ip, NONE};
use weir_shm::flows::Stored;
use weir_wire::family::Family;
use weir_wire::hash::hash2;
use weir_wire::parse::Kind;

use super::DropReason;
use super::batch::Work;
use super::context::{Context, host_moved, sender};
use super::sessions::Sessions;
use super::split::is_splittable;
use crate::answer::{self, RateLimit};
use crate::icmp_error::{self, Toward};
use crate::packet::{Buffer, Output, Received};
use crate::steering::Refusal;

/// Kinds of errors: time exceeded, too big, and all others.
const KINDS: usize = 3;
/// Errors of one kind to one host, a second.
const PER_HOST: u32 = 100;
/// Errors of one kind to all of a [`Side`], a second.
const PER_SIDE: u32 = 1000;
/// Hosts of a side share so many limits of a kind, by a keyed hash.
const HOSTS: usize = 512;

/// Who share limits.
#[derive(Clone, Copy, Debug)]
enum Side {
    /// Hosts beyond uplinks.
    Outside,
    /// Hosts of LANs that the kernel knows.
    Known,
    /// Others who send by a LAN.
    Unknown,
}

/// What of its own errors a worker may send.
#[derive(Debug)]
pub(super) struct ErrorLimits {
    key: [u64; 2],
    sides: [Limits; 3],
}

/// The limits of a side.
#[derive(Clone, Debug)]
struct Limits {
    hosts: Box<[RateLimit; HOSTS]>,
    all: [RateLimit; KINDS],
}

impl ErrorLimits {
    pub(super) fn new(key: [u64; 2]) -> Self {
        let side = || Limits {
            hosts: Box::new([RateLimit::new(PER_HOST); HOSTS]),
            all: [RateLimit::new(PER_SIDE); KINDS],
        };
        Self { key, sides: std::array::from_fn(|_| side()) }
    }

    /// May an error of this type and code go to the host of a side?
    fn allow<F: Family>(&mut self, host: u64, side: Side, kind: [u8; 2], now: u32) -> bool {
        let kind = match kind {
            kind if kind == F::TIME_EXCEEDED => 0,
            kind if kind == F::TOO_BIG => 1,
            _ => 2,
        };
        let place = hash2(self.key, host, kind as u64) as usize % HOSTS;
        let Limits { hosts, all } = &mut self.sides[side as usize];
        hosts[place].allows(now) && all[kind].allows(now)
    }
}

impl Context {
    /// Sends an ICMP error about the packet, whose flow is translated or not, back to where it came
    /// from, if the limits allow it; `kind` is type and code.
    pub(super) fn send_icmp_error<F: Family, B: Buffer>(
        &mut self,
        work: &Work<F>,
        translated: bool,
        received: &Received<B>,
        out: &mut impl Output<B>,
        kind: [u8; 2],
        rest: u32,
    ) {
        let (p, frame) = (&work.parsed, received.frame.data());
        // Nobody is told about an error, or two could go on telling each other; nor, of IPv4, about a
        // later fragment (RFC 1122 §3.2.2, RFC 1812 §4.3.2.7, RFC 4443 §2.4 e).
        let is_later = F::FAMILY == Ip::V4 && p.kind == Kind::Fragment { first: false };
        if p.kind == Kind::IcmpError || is_later {
            return;
        }
        // Outside, a translated flow is the gateway's own.
        let from = match self.is_uplink(work.port) && translated {
            true => p.dst,
            false => F::Address::from_address(self.snapshot.half.own_address(work.port, F::FAMILY)),
        };
        // Where the gateway has no address it has nobody to speak for.
        if !F::is_unicast(&from) || !self.may_tell(work, received, kind) {
            return;
        }
        if let Some(error) = answer::icmp_error::<F>(frame, p, from, kind, rest) {
            self.originate(received.device, error.data(), out);
        }
    }

    /// Resets the connection of a segment at who sent it, if the limits allow it.
    pub(super) fn send_reset<F: Family, B: Buffer>(
        &mut self,
        work: &Work<F>,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) {
        if self.may_tell(work, received, F::PROHIBITED)
            && let Some(reset) = answer::tcp_reset::<F>(received.frame.data(), &work.parsed)
        {
            self.originate(received.device, reset.data(), out);
        }
    }

    /// May who sent the packet be told something of this type and code? Not who is nobody, and as often
    /// as the limits allow.
    pub(super) fn may_tell<F: Family, B: Buffer>(
        &mut self,
        work: &Work<F>,
        received: &Received<B>,
        kind: [u8; 2],
    ) -> bool {
        let (p, frame) = (&work.parsed, received.frame.data());
        let outside = self.is_uplink(work.port);
        let host = sender(frame, work.port);
        if !outside && !self.known_hosts.knows(host) {
            let has_flows = self.adjacencies.is_learned(host);
            self.known_hosts.ask_about(work.port, p.src.into(), has_flows);
        }
        let (host, side) = match outside {
            // All of them come from the next hop's hardware address.
            true => (F::digest(self.key, &p.src).into(), Side::Outside),
            false if self.known_hosts.knows(host) => (host.to_word(), Side::Known),
            false => (host.to_word(), Side::Unknown),
        };
        let known = F::is_unicast(&p.src) && frame.first().is_some_and(|first| first & 1 == 0);
        known && self.errors.allow::<F>(host, side, kind, self.now)
    }

    /// Answers a packet without a flow whose time to live ends here, if somebody asks to go out.
    pub(super) fn answer_expired<F: Family, B: Buffer>(
        &mut self,
        work: &Work<F>,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) -> DropReason {
        if self.is_uplink(work.port) {
            return Counter::DropNoFlow;
        }
        if !self.snapshot.half.is_behind(work.port, work.parsed.src) {
            return Counter::DropSource;
        }
        self.send_icmp_error(work, false, received, out, F::TIME_EXCEEDED, 0);
        Counter::DropTtl
    }

    /// Tells the sender of a packet that would begin a flow that no uplink takes it, where it is not
    /// for a moment.
    pub(super) fn refuse<F: Family, B: Buffer>(
        &mut self,
        work: &Work<F>,
        refusal: Refusal,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) -> DropReason {
        let (kind, reason) = match refusal {
            Refusal::Unsettled => return Counter::DropNoUplink,
            Refusal::Unreachable => (F::NO_ROUTE, Counter::DropNoUplink),
            // The host has another address to try (RFC 7084 L-14).
            Refusal::Source => (F::FOREIGN_SOURCE, Counter::DropForeignSource),
        };
        self.send_icmp_error(work, false, received, out, kind, 0);
        reason
    }

    /// Tells the sender of a packet that would begin a flow that there is no room for it: no place, no
    /// port, others' share of them, or no more flows for its host, or not so soon. That is no reason
    /// to give up (RFC 6888 REQ-11b, RFC 5461); that no uplink can translate its protocol is one.
    pub(super) fn tell_of_no_room<F: Family, B: Buffer>(
        &mut self,
        work: &Work<F>,
        reason: DropReason,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) {
        let kind = match reason {
            Counter::DropTableFull
            | Counter::DropNoPort
            | Counter::DropHostLimit
            | Counter::DropHostRate => F::NO_ROOM,
            Counter::DropProtocol => F::NO_PROTOCOL,
            _ => return,
        };
        self.send_icmp_error(work, false, received, out, kind, 0);
    }

    /// Answers a packet that is larger than the port it would leave by takes, unless it may be split.
    #[inline]
    pub(super) fn check_mtu<F: Family, B: Buffer>(
        &mut self,
        work: &Work<F>,
        port: u8,
        translated: bool,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let p = &work.parsed;
        let port = self.snapshot.half.ports.get(usize::from(port));
        // One that is gone has no MTU to tell of.
        let mtu = port.filter(|port| port.role().is_some()).ok_or(Counter::DropUplinkDown)?.mtu;
        if p.end - p.l3 <= mtu || is_splittable(received.frame.data(), p) {
            return Ok(());
        }
        self.send_icmp_error(work, translated, received, out, F::TOO_BIG, mtu.into());
        Err(Counter::DropTooBig)
    }

    /// Could somebody out there have this address? Routers of providers have private ones, or some of
    /// a prefix that the provider delegates here (RFC 6603); what nobody has of that, XDP knows.
    fn may_be_outside<F: Family>(&self, address: F::Address) -> bool {
        let half = &self.snapshot.half;
        let (own, family) = (address.to_address(), F::FAMILY);
        let of_lan = half.lan_prefixes().iter().any(|prefix| address.is_in(prefix));
        let of_port = half.addresses.iter().any(|addresses| addresses[family.index()] == own);
        let paths = half.uplinks.iter().map(|uplink| uplink.path(family));
        let of_uplink = paths.flat_map(Path::held).any(|of_path| *of_path == own);
        F::is_unicast(&address) && !of_lan && !of_port && !of_uplink
    }
}

impl<F: Stored> Sessions<F> {
    pub(super) fn icmp_error<B: Buffer>(
        &mut self,
        cx: &mut Context,
        work: &Work<F>,
        mut received: Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let p = &work.parsed;
        let kind = received.frame.data().get(usize::from(p.l4)).copied();
        if kind.is_some_and(F::is_advice) {
            return Err(Counter::DropIcmpRedirect);
        }
        if cx.is_uplink(work.port) && !cx.may_be_outside::<F>(p.src) {
            return Err(Counter::DropSource);
        }
        if p.ttl <= 1 {
            return Err(Counter::DropTtl);
        }
        let quoted = icmp_error::quoted::<F>(received.frame.data(), p);
        let quoted = quoted.ok_or(Counter::DropIcmpUnrelated)?;
        let key = quoted.key.reversed();
        let Some(slot) = self.table.find(key.hash(cx.key), &key) else {
            if cx.is_uplink(work.port) || !cx.snapshot.half.is_behind(work.port, quoted.key.dst()) {
                return Err(Counter::DropIcmpUnrelated);
            }
            return self.forward_stateless(cx, work, Counter::DropIcmpUnrelated, received, out);
        };
        let action = self.table.slot(slot).action();
        let toward = match action.direction().is_from_inside() {
            true if action.uplink == NONE => Toward::Inside,
            true => Toward::Uplink,
            false => Toward::Lan,
        };
        // From the LAN only about packets that went there, and the reverse.
        let host = sender(received.frame.data(), work.port);
        if cx.check_side(work, &action, host).is_err() || host_moved(&action, host) {
            return Err(Counter::DropIcmpUnrelated);
        }
        icmp_error::translate(received.frame.data_mut(), p, &quoted, &action.rewrite, toward)
            .ok_or(Counter::DropIcmpUnrelated)?;
        cx.send(received.frame, p, &action, out)
    }
}
