//! Hosts of LANs that ask for a published service by the address that it has outside: hairpinning (RFC
//! 4787 REQ-9, RFC 5382 REQ-8, RFC 6296 §4.3).
//!
//! The flow stays inside: it has no uplink, and works while all of them are down. The service's host
//! sees its client by an address and port outside, as the world would (REQ-9a). So what it answers comes
//! back here wherever the two are, be they one host. The client looks as it would to the world: by its
//! endpoint's mapping, or else by the uplink that its policy names. If that leaves it the address that
//! it has inside, it gets one of the uplink whose address it asks.

use weir_layout::control::{ControlHalf, IpAddress, PathId, Policy, Translate};
use weir_layout::counters::Counter;
use weir_layout::flow::flag;
use weir_layout::{Family as Ip, NONE};
use weir_shm::flows::Stored;
use weir_wire::entry::Entry;
use weir_wire::family::Family;
use weir_wire::{protocol, tcp};

use super::DropReason;
use super::admit::{EgressChoice, Source};
use super::batch::Work;
use super::context::Context;
use super::published::Asked;
use super::sessions::Sessions;
use super::slow_path::{opens, traffic_of};
use crate::flows::{self, End, NewFlow};
use crate::mappings::{Hashed, Mapping};
use crate::nat::Endpoint;
use crate::packet::{Buffer, Output, Received};
use crate::steering::{Refusal, Traffic};

/// Does the flow stay inside, given one of its entries?
pub(super) fn is_inside<F: Family>(entry: &Entry<F>) -> bool {
    entry.uplink == NONE && entry.flags & flag::INSIDE != 0
}

/// The port that the client of a flow which stays inside has outside, as a mapping has it.
pub(super) enum Port {
    /// It has none of its own: TCP may share them, and a prefix leaves hosts theirs.
    None,
    /// It is of an address of this path.
    Of(PathId),
    /// No path has its address any more.
    Lost,
}

/// That of a flow, given its forward entry.
pub(super) fn port_of<F: Family>(half: &ControlHalf, forward: &Entry<F>) -> Port {
    let is_shared = forward.key.proto() == tcp::PROTOCOL && !forward.state_owner.is_mapped();
    if !is_inside(forward) || is_shared {
        return Port::None;
    }
    let address = forward.rewrite.src.to_address();
    let mut uplinks = (0..).zip(&half.uplinks).map(|(number, uplink)| (F::path(number), uplink));
    let home = uplinks.find(|(_, uplink)| {
        let path = uplink.path(F::FAMILY);
        path.translation() == Translate::Napt && path.held().contains(&address)
    });
    let by_prefix = || half.path_prefixes().iter().any(|of| of.is_outside_of_hosts(address.0));
    match home {
        Some((path, _)) => Port::Of(path),
        None if F::FAMILY == Ip::V6 && by_prefix() => Port::None,
        None => Port::Lost,
    }
}

/// Which addresses hosts have outside, or may have: a bit of 1024 for each, so that nearly every other is
/// told from them by one look. A new flow asks, whatever is published.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outsides {
    bits: [u64; 16],
    /// And those of prefixes.
    has_prefixes: bool,
}

impl Outsides {
    /// Those of a family.
    pub(super) fn of<F: Family>(half: &ControlHalf) -> Self {
        let has_prefixes = F::FAMILY == Ip::V6 && half.path_prefix_count > 0;
        let mut outsides = Self { bits: [0; 16], has_prefixes };
        for address in half.uplinks.iter().flat_map(|uplink| uplink.path(F::FAMILY).held()) {
            let (word, bit) = Self::place::<F>(&F::Address::from_address(*address));
            outsides.bits[word] |= 1 << bit;
        }
        outsides
    }

    /// May it be one of them?
    #[inline]
    fn may_have<F: Family>(&self, address: &F::Address) -> bool {
        let (word, bit) = Self::place::<F>(address);
        self.bits[word] >> bit & 1 != 0 || self.has_prefixes
    }

    #[inline]
    fn place<F: Family>(address: &F::Address) -> (usize, u32) {
        // 2^32 divided by the golden ratio: all bits reach the upper ones.
        let place = F::fold(address).wrapping_mul(0x9e37_79b9) >> 22;
        ((place >> 6) as usize, place & 63)
    }
}

impl Context {
    /// The published service that a packet from a LAN asks for by an address outside; `None`: it asks
    /// for none of those addresses.
    #[inline]
    pub(super) fn asked_inside<F: Family>(
        &self,
        work: &Work<F>,
    ) -> Option<Result<Asked<F>, DropReason>> {
        let may = self.outsides[F::FAMILY.index()].may_have::<F>(&work.parsed.dst);
        if may { self.asked_outside(work) } else { None }
    }

    /// The same of one that may be one of those.
    #[cold]
    fn asked_outside<F: Family>(&self, work: &Work<F>) -> Option<Result<Asked<F>, DropReason>> {
        let p = &work.parsed;
        if self.is_uplink(work.port) {
            return None;
        }
        let uplink = self.snapshot.half.uplink_at(F::FAMILY, p.dst.to_address())?;
        // By a protocol without ports hosts are asked from outside alone.
        let service = if protocol::is_portless(p.proto) { None } else { self.asked_at(uplink, p) };
        let Some((asked, is_open)) = service else {
            // Within a prefix of hosts there may be the uplink's own link, with the provider's router:
            // XDP hands over what is for that, and of the rest what is for an open port.
            let (path, port) = (F::path(uplink), u16::from_be_bytes(p.dport));
            let is_hosts = self.has_address::<F>(uplink, p.dst)
                || self.snapshot.half.is_published(path, p.proto, port);
            return is_hosts.then_some(Err(Counter::DropNoFlow));
        };
        // Anybody could go on with a connection that is over.
        let begins = p.proto != tcp::PROTOCOL || opens(p);
        Some(match (is_open, begins) {
            (false, _) => Err(Counter::DropPublishSource),
            (true, false) => Err(Counter::DropNotSyn),
            (true, true) => Ok(asked),
        })
    }

    /// Is a mapping by this uplink one that an endpoint has for all its flows, given its policy and where
    /// that leads? While that leads nowhere, by any of the policy's. One by another uplink would take
    /// its other flows there.
    fn is_its_own(&self, policy: u8, steered: Result<u8, Refusal>, uplink: u8) -> bool {
        let policy = self.snapshot.half.policies.get(usize::from(policy));
        let is_member = |policy: &Policy| policy.members().iter().any(|of| of.uplink == uplink);
        steered.map_or_else(|_| policy.is_some_and(is_member), |steered| steered == uplink)
    }

    /// Would a flow that stays inside begin now as it is, given its forward entry? Its service is
    /// published where it was asked for, and its client has that address outside.
    pub(super) fn is_still_inside<F: Family>(&self, entry: &Entry<F>) -> bool {
        let asks =
            |uplink| self.is_still_outside(uplink, entry) && self.is_still_published(uplink, entry);
        let gives = |uplink| {
            self.has_address::<F>(uplink, entry.rewrite.src)
                || self.outward::<F>(uplink, entry.key.src()) == Ok(entry.rewrite.src)
        };
        (0..self.uplinks).any(asks) && (0..self.uplinks).any(gives)
    }
}

/// How the client of a flow that stays inside looks.
struct Guise<F: Family> {
    choice: EgressChoice<F>,
    /// As it would to the world, by its mapping or that which it gets.
    is_its_own: bool,
}

impl<F: Stored> Sessions<F> {
    /// Makes a flow for a packet from a LAN that asks for a service; its slot.
    #[cold]
    pub(super) fn begin_inside<B: Buffer>(
        &mut self,
        cx: &mut Context,
        work: &Work<F>,
        asked: &Asked<F>,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<u32, DropReason> {
        let traffic = traffic_of(work);
        let (rule, endpoint) = self.admit(cx, work, &traffic, received, out)?;
        let at = cx.host_asked(asked)?;
        cx.check_mtu(work, at.port, true, received, out)?;
        let (host, adjacency) = self.initiator(cx, work, received)?;
        let to = cx.adjacencies.learn_known(at).ok_or(Counter::DropNeighbourFull)?;
        let steered = (endpoint.of.policy, &traffic);
        let mut guise = self.guise(cx, asked, &endpoint, &traffic)?;
        let mut placed = self.place(cx, &asked.inside, &guise.choice, steered, adjacency);
        if let (Err(Counter::DropNoPort), Source::Mapped(_)) = (&placed, guise.choice.source) {
            // So its endpoint asks for the service already, by another address.
            let choice = self.egress_by(cx, guise.choice.uplink, &asked.inside)?;
            guise = Guise { choice, is_its_own: false };
            placed = self.place(cx, &asked.inside, &choice, steered, adjacency);
        }
        let (Guise { choice, is_its_own }, (uplink, outside)) = (guise, placed?);
        if outside.key.src() == work.parsed.src {
            // Of other uplinks with ports left, the first translates nothing.
            return Err(Counter::DropNoPort);
        }
        // Where hosts keep their ports, one may ask the same service by two addresses from the same.
        let (translated, answers) = match outside.external {
            Some(_) => (outside.key, outside.answers),
            None => self.apart(cx, &outside.key).ok_or(Counter::DropNoPort)?,
        };
        let maps = cx.snapshot.half.maps(F::path(uplink), work.parsed.proto);
        let external = outside.external.filter(|_| maps);
        let new = NewFlow {
            first: work.parsed.key(),
            translated,
            hashes: [work.hash, answers],
            uplink: NONE,
            initiator: End { adjacency, inside: Some(host) },
            responder: End { adjacency: to, inside: Some(at) },
            worker: cx.id,
            is_mapped: external.is_some(),
            now: cx.now,
        };
        let slot = flows::create(&self.table, &new).ok_or(Counter::DropTableFull)?;
        if let Some(external) = external {
            if is_its_own && !matches!(choice.source, Source::Mapped(_)) {
                self.detach_mappings(&endpoint);
            }
            let is_made = self.hold(cx, &endpoint, uplink, &external);
            if is_made && cx.nat_log.is_on() {
                self.tell_of_mapping(cx, &endpoint.of, uplink, external.of);
            }
            if !is_its_own {
                self.mappings.detach(&external);
            }
        }
        self.count_new(cx, NONE, adjacency);
        cx.count_asked(asked);
        rule.into_iter().for_each(|rule| cx.lane.add_rule(rule));
        Ok(slot)
    }

    /// How the client looks, which asks.
    fn guise(
        &self,
        cx: &mut Context,
        asked: &Asked<F>,
        endpoint: &Hashed<Endpoint<F>>,
        traffic: &Traffic<F>,
    ) -> Result<Guise<F>, DropReason> {
        let policy = endpoint.of.policy;
        let steered = self.choose_uplink(cx, policy, traffic);
        // From its own port both directions would look the same.
        let to_itself = asked.inside.reversed() == asked.inside;
        let holds = |mapping: &Mapping<F>| {
            !to_itself
                && (self.may_use(cx, &endpoint.of, mapping, traffic)
                    || steered.is_err() && self.keeps(cx, &endpoint.of, mapping))
        };
        let mapped = self.mapping_of(endpoint).filter(holds);
        if let Some(Mapping { uplink, external }) = mapped {
            let source = Source::Mapped(self.mappings.external(external));
            return Ok(Guise { choice: EgressChoice { uplink, source }, is_its_own: true });
        }
        let own = steered.ok().and_then(|uplink| self.egress_by(cx, uplink, &asked.inside).ok());
        let is_another = |choice: &EgressChoice<F>| {
            matches!(choice.source, Source::Port(..) | Source::Service(_) | Source::Address(_))
        };
        if let Some(choice) = own.filter(is_another) {
            return Ok(Guise { choice, is_its_own: !to_itself });
        }
        let choice = self.egress_by(cx, asked.uplink, &asked.inside)?;
        let is_its_own = !to_itself && cx.is_its_own(policy, steered, asked.uplink);
        let guise = Guise { choice, is_its_own };
        is_another(&choice).then_some(guise).ok_or(Counter::DropUntranslatable)
    }

    /// Holds the port of such a flow that an earlier process left, given its forward entry. It is its
    /// endpoint's mapping if that has none, and would get one there now.
    pub(super) fn hold_inside(&mut self, cx: &Context, forward: &Entry<F>) {
        let Port::Of(PathId { uplink, .. }) = port_of(&cx.snapshot.half, forward) else { return };
        let (endpoint, external) = (self.endpoint_of(cx, forward), self.external_of(forward));
        let is_held = !self.mappings.is_free(&external);
        let traffic = self.traffic_in(cx, forward);
        let policy = endpoint.of.policy;
        let steered = self.choose_uplink(cx, policy, &traffic);
        let is_its_own =
            self.mapping_of(&endpoint).is_none() && cx.is_its_own(policy, steered, uplink);
        self.hold(cx, &endpoint, uplink, &external);
        if !is_held && !is_its_own {
            self.mappings.detach(&external);
        }
    }
}
