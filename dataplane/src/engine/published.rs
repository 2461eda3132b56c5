//! Flows that begin outside: of published services, and of hosts that rules let uplinks ask for.
//!
//! The first packet comes by an uplink: `outside` says whether it may. From then on the flow is one
//! as any other, whose first direction comes from outside and whose answers come from inside: they
//! leave by the uplink that the question came by, whatever weights and policies say, with the
//! address and port that it went to. So the flow never moves. What came for a host that keeps its
//! address outside follows its sender to another uplink; all others end with theirs.
//!
//! The host sees its client's address and port, unless another flow has the same ends inside: by
//! another uplink, or to another port that leads to the same. Then it sees another port of the
//! client. By a protocol without ports there is none: who has the ends keeps them, once its host
//! has answered, while its uplink works.

use weir_layout::adjacency::{Adjacency, next_hop};
use weir_layout::control::{IpAddress, Path, PortForward, Translate};
use weir_layout::counters::Counter;
use weir_layout::flow::{FlowState, flag};
use weir_shm::flows::{Action, Stored};
use weir_wire::entry::Entry;
use weir_wire::family::Family;
use weir_wire::key::FlowKey;
use weir_wire::parse::Parsed;
use weir_wire::protocol;
use weir_wire::{tcp, udp};

use super::DropReason;
use super::batch::Work;
use super::context::Context;
use super::sessions::Sessions;
use crate::flows::{self, End, NewFlow};
use crate::nat::PortSlice;
use crate::steering;

/// How long a flow that began outside may be idle before its client has shown that it hears its
/// host, or after its end, milliseconds: as long as the kernel's connection tracking keeps what is
/// not replied to (`nf_conntrack_udp_timeout`). Anybody may begin one, and in anybody's name.
const UNPROVEN_MS: u32 = 30_000;
/// The ports that a client may be given in place of its own, for its host inside.
const CLIENT_PORTS: [u16; 2] = [1024, u16::MAX];

/// Why a packet may ask for a host.
#[derive(Clone, Copy)]
pub(super) enum Entrance {
    /// It asks for the published service of this number.
    Service(usize),
    /// It asks the host itself: a rule accepts that, or the uplink lets in what none denies.
    Host,
}

/// A packet without a flow that asks for a host from outside, or by an address outside.
pub(super) struct Asked<F: Family> {
    /// Why it may.
    pub(super) by: Entrance,
    /// The rule that lets it, if one does.
    pub(super) rule: Option<u8>,
    /// The uplink whose address it asks.
    pub(super) uplink: u8,
    /// What it becomes.
    pub(super) inside: FlowKey<F>,
}

/// Where such a packet's flow finds its ends.
pub(super) struct Place {
    host: Adjacency,
    adjacency: u16,
}

impl Context {
    /// The published service that a packet asks for by an address outside of this uplink, and
    /// whether that is open to it; `None`: it asks for none.
    pub(super) fn asked_at<F: Family>(
        &self,
        uplink: u8,
        p: &Parsed<F>,
    ) -> Option<(Asked<F>, bool)> {
        if !self.is_publishable(p) {
            return None;
        }
        let dport = u16::from_be_bytes(p.dport);
        let (number, forward) = self.service::<F>(uplink, p.proto, dport, |host| {
            self.is_outside::<F>(uplink, host, p.dst)
        })?;
        let dport = forward.port_inside(dport).to_be_bytes();
        let host = F::Address::from_address(forward.inside);
        let inside = FlowKey::new(p.src, host, p.sport, dport, p.proto);
        let asked = Asked { by: Entrance::Service(number), rule: None, uplink, inside };
        Some((asked, self.is_open_to(forward, p.src) == Some(true)))
    }

    /// May a packet ask for a published service? By a protocol without ports not what the gateway
    /// itself is told.
    fn is_publishable<F: Family>(&self, p: &Parsed<F>) -> bool {
        match p.proto {
            tcp::PROTOCOL | udp::PROTOCOL => true,
            other => protocol::is_portless(other) && !self.is_own(&p.key().reversed()),
        }
    }

    /// Where the host is that a packet asks for. If that is not known it will be asked for.
    pub(super) fn host_asked<F: Family>(
        &mut self,
        asked: &Asked<F>,
    ) -> Result<Adjacency, DropReason> {
        let host = match asked.by {
            Entrance::Service(number) => self.inside_hosts.find(number),
            Entrance::Host => self.find_asked_host::<F>(asked.inside.dst()),
        };
        host.ok_or(Counter::DropPublishHost)
    }

    /// Counts a flow that such a packet begins, for what let it.
    pub(super) fn count_asked<F: Family>(&self, asked: &Asked<F>) {
        if let Entrance::Service(number) = asked.by {
            self.lane.add_forwarded(number);
        }
        asked.rule.into_iter().for_each(|rule| self.lane.add_rule(rule));
    }

    /// Is a service open to this source? As
    /// [`is_open_to`](weir_layout::control::ControlHalf::is_open_to).
    fn is_open_to(&self, forward: &PortForward, source: impl IpAddress) -> Option<bool> {
        let half = &self.snapshot.half;
        half.is_open_to(forward, source, || self.control.sets_of(&half.sets, source))
    }

    /// The service of a host of which this holds that an uplink is open for at a port, and its
    /// number.
    fn service<F: Family>(
        &self,
        uplink: u8,
        proto: u8,
        port: u16,
        holds: impl Fn(F::Address) -> bool,
    ) -> Option<(usize, &PortForward)> {
        let mut services = self.snapshot.half.services(F::path(uplink), proto, port);
        services.find(|(_, forward)| {
            !forward.is_to_gateway() && holds(F::Address::from_address(forward.inside))
        })
    }

    /// Is `address` one that a host has outside, by an uplink?
    pub(super) fn is_outside<F: Family>(
        &self,
        uplink: u8,
        host: F::Address,
        address: F::Address,
    ) -> bool {
        let Some(path) = self.snapshot.half.path(F::path(uplink)) else { return false };
        match path.translation() {
            Translate::Napt => path.addresses().contains(&address.to_address()),
            _ if !self.snapshot.half.readdresses(F::path(uplink), host) => {
                address == host && self.snapshot.half.carries(F::path(uplink), host)
            }
            _ => self.outward::<F>(uplink, host) == Ok(address),
        }
    }

    /// Has the host of a flow that asked for a service at this uplink still the address outside
    /// that it was asked for, given the entry of what asks?
    pub(super) fn is_still_outside<F: Family>(&self, uplink: u8, entry: &Entry<F>) -> bool {
        let (host, address) = (entry.rewrite.dst, entry.key.dst());
        self.is_outside::<F>(uplink, host, address) || self.has_address::<F>(uplink, address)
    }

    /// Is the service of such a flow still published, and open to its client?
    pub(super) fn is_still_published<F: Family>(&self, uplink: u8, entry: &Entry<F>) -> bool {
        let (key, to) = (&entry.key, &entry.rewrite);
        let dport = u16::from_be_bytes(key.dport());
        let service = self.service::<F>(uplink, key.proto(), dport, |host| host == to.dst);
        service.is_some_and(|(_, forward)| {
            forward.port_inside(dport).to_be_bytes() == to.dport
                && self.is_open_to(forward, key.src()) != Some(false)
        })
    }

    /// Is it of a connection with a published service, of which nothing is known any more? By the
    /// uplink and from the port that it would get now, its client does not know it.
    pub(super) fn is_lost<F: Family>(&self, p: &Parsed<F>) -> bool {
        let half = &self.snapshot.half;
        let (host, port) = (p.src.to_address(), u16::from_be_bytes(p.sport));
        let readdresses = |service: &PortForward| {
            let mut open = (0..self.uplinks).filter(|uplink| service.uplinks().contains(*uplink));
            open.any(|uplink| half.readdresses(F::path(uplink), p.src))
        };
        p.proto == tcp::PROTOCOL
            && p.tcp_flags & tcp::flag::SYN == 0
            && half.services_of(F::FAMILY, p.proto, host, port).any(readdresses)
    }

    /// The services have changed: what each counted goes with it.
    pub(super) fn renumber_services(&self, before: &[PortForward]) {
        let was = self.snapshot.half.port_forwards().iter().map(|service| {
            let same = before.iter().position(|known| known.is_same(service))?;
            u8::try_from(same).ok()
        });
        self.lane.renumber_forwarded(was);
    }
}

impl<F: Stored> Sessions<F> {
    /// Where the flow of a packet that asks for a host would find its ends, if there is room for
    /// it.
    pub(super) fn place_asked(
        &self,
        cx: &mut Context,
        asked: &Asked<F>,
    ) -> Result<Place, DropReason> {
        let host = cx.host_asked(asked)?;
        let adjacency = cx.adjacencies.learn_known(host).ok_or(Counter::DropNeighbourFull)?;
        // All that uplinks bring gets no more of the table than it leaves.
        let brought = |uplink| u64::from(self.shares.of(next_hop(F::path(uplink))));
        if (0..cx.uplinks).map(brought).sum::<u64>() >= self.room() / u64::from(cx.workers) {
            return Err(Counter::DropTableFull);
        }
        Ok(Place { host, adjacency })
    }

    /// Begins the flow of such a packet; its slot.
    pub(super) fn begin_asked(
        &mut self,
        cx: &mut Context,
        work: &Work<F>,
        asked: &Asked<F>,
        place: &Place,
    ) -> Result<u32, DropReason> {
        let Asked { uplink, inside, .. } = asked;
        let path = F::path(*uplink);
        let is_readdressed = work.parsed.dst != inside.dst();
        let translate = cx.snapshot.half.path(path).map(Path::translation).unwrap_or_default();
        if is_readdressed && !translate.keeps_right(inside.proto()) {
            return Err(Counter::DropProtocol);
        }
        let (translated, answers) = self.apart(cx, inside).ok_or(Counter::DropNoPort)?;
        let from = next_hop(path);
        let new = NewFlow {
            first: work.parsed.key(),
            translated,
            hashes: [work.hash, answers],
            uplink: *uplink,
            initiator: End { adjacency: from, inside: None },
            responder: End { adjacency: place.adjacency, inside: Some(place.host) },
            worker: cx.id,
            is_mapped: false,
            now: cx.now,
        };
        let slot = flows::create(&self.table, &new).ok_or(Counter::DropTableFull)?;
        self.count_new(cx, *uplink, from);
        cx.count_asked(asked);
        Ok(slot)
    }

    /// The ends inside, with another port of the client's if some flow has these, and the hash of
    /// what the host will answer. `None`: it has them with all ports that were tried.
    pub(super) fn apart(
        &mut self,
        cx: &mut Context,
        inside: &FlowKey<F>,
    ) -> Option<(FlowKey<F>, u64)> {
        if protocol::is_portless(inside.proto()) {
            return self.alone(cx, inside);
        }
        let slice = PortSlice::of(CLIENT_PORTS[0], CLIENT_PORTS[1], 0, 1)?;
        let (secret, mut found) = (cx.key, None);
        let mut free = |port: u16| {
            let ends = FlowKey::new(
                inside.src(),
                inside.dst(),
                port.to_be_bytes(),
                inside.dport(),
                inside.proto(),
            );
            let answer = ends.reversed();
            let answers = answer.hash(secret);
            let is_free = self.table.find(answers, &answer).is_none();
            found = is_free.then_some((ends, answers));
            is_free
        };
        let own = u16::from_be_bytes(inside.sport());
        if !free(own) {
            slice.pick(own, &mut cx.random, free);
        }
        found
    }

    /// The same without ports: where some flow has these ends, none, unless the uplink of that is
    /// down, or its host has said nothing yet. Who asked by it may ask by another, and who asked in
    /// another's name keeps that one out no longer than until its host answers it.
    fn alone(&mut self, cx: &Context, inside: &FlowKey<F>) -> Option<(FlowKey<F>, u64)> {
        let answer = inside.reversed();
        let answers = answer.hash(cx.key);
        if let Some(slot) = self.table.find(answers, &answer) {
            let action = self.table.slot(slot).action();
            let is_over = action.flags & flag::SEEN == 0
                || !steering::usable(&cx.control, F::path(action.uplink));
            if !is_over || !began_outside(&action) || action.worker != cx.id {
                return None;
            }
            self.remove(cx, action.peer);
        }
        Some((*inside, answers))
    }

    /// Gives such a flow, by its entry of what comes in, to the hardware address that its host has
    /// now. Its host may have nothing to say before it hears something.
    pub(super) fn find_host(&mut self, cx: &mut Context, entry: &Entry<F>) {
        let host = entry.rewrite.dst;
        let known = cx.inside_hosts.of::<F>(&host);
        let Some(at) = known.or_else(|| cx.find_asked_host::<F>(host)) else { return };
        if cx.adjacencies.get(entry.adjacency) != Some(at) {
            self.move_host(cx, entry.peer, &self.table.slot(entry.peer).action(), at);
        }
    }

    /// Does the flow, given the entry of a packet that came in, follow its sender to another
    /// uplink? Its own is down, and its host has the same address by both.
    pub(super) fn follows_sender(&self, cx: &Context, action: &Action<F>, work: &Work<F>) -> bool {
        began_outside(action)
            && action.rewrite.dst == work.parsed.dst
            && cx.is_uplink(work.port)
            && cx.port_of(action.uplink) != work.port
            && !steering::usable(&cx.control, F::path(action.uplink))
    }
}

/// Is it an entry of a flow that began outside?
#[inline]
pub(super) fn began_outside<F: Family>(action: &Action<F>) -> bool {
    is_asked(action.flags)
}

/// The same by an entry's flags. So has, of a flow that stays inside, the entry of what answers.
#[inline]
pub(super) const fn is_asked(flags: u8) -> bool {
    (flags & flag::INITIATED != 0) != (flags & flag::INSIDE != 0)
}

/// The end outside of a flow that leaves by an uplink, given its forward entry.
pub(super) fn far_end<F: Family>(forward: &Entry<F>) -> F::Address {
    if is_asked(forward.flags) { forward.key.src() } else { forward.key.dst() }
}

/// How long a flow that began outside may be idle, given how long others of its kind may, and the
/// flags of the direction that began it.
pub(super) fn patience_ms(others: u32, state: FlowState, flags: u8) -> u32 {
    let proven = match state {
        FlowState::Established => true,
        FlowState::Stateless => flags & flag::GOES_ON != 0,
        FlowState::Opening | FlowState::Closing => false,
    };
    if proven { others } else { others.min(UNPROVEN_MS) }
}
