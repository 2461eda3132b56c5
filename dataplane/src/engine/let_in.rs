//! Datagrams that no flow asked for and that a mapping lets in (RFC 4787 §5): the uplink says whom.
//!
//! The flow is made as if the host inside had asked. So it moves, ends and is adopted like all
//! others; only that its host has not been heard yet, and until it is, what comes in keeps nothing
//! alive.

use weir_layout::Family as Ip;
use weir_layout::adjacency::{Adjacency, next_hop};
use weir_layout::control::{Filtering, Path, RuleFrom, Translate, Uplink};
use weir_layout::flow::{FlowState, flag};
use weir_shm::flows::{Action, Stored};
use weir_wire::family::Family;
use weir_wire::key::FlowKey;
use weir_wire::parse::Kind;
use weir_wire::udp;

use super::batch::Work;
use super::context::{Context, began_inside};
use super::sessions::{Sessions, has_mapping};
use crate::flows::{self, End, NewFlow};
use crate::nat::{Endpoint, External, PortSlice};
use crate::steering::{self, Ruling, Traffic};

/// How long such a flow lives that its host has not answered, milliseconds: as long as the kernel's
/// connection tracking keeps what is not replied to (`nf_conntrack_udp_timeout`).
pub(super) const UNANSWERED_MS: u32 = 30_000;

/// Where the flow of such a datagram is.
pub(super) enum LetIn {
    /// Here, and this slot is that of its direction.
    Here(u32),
    /// With the worker that would have the mapping.
    With(u8),
    /// Nowhere: a rule denies it.
    Denied(Ruling),
}

impl Context {
    /// The uplink, if its mappings let in more than flows. XDP hands over what is for those of IPv4.
    fn open_uplink<F: Family>(&self, uplink: u8) -> Option<&Uplink> {
        let uplink = self.snapshot.half.uplinks.get(usize::from(uplink))?;
        let open = F::FAMILY == Ip::V4
            && uplink.filtering() != Filtering::AddressAndPort
            && uplink.path(F::FAMILY).translation() == Translate::Napt;
        open.then_some(uplink)
    }

    /// The uplink that a packet came by, and its number, if a mapping of it may let the packet in.
    fn opened_by<F: Family>(&self, work: &Work<F>) -> Option<(u8, &Uplink)> {
        let p = &work.parsed;
        let whole = p.kind == Kind::Flow;
        let port = self.snapshot.half.ports.get(usize::from(work.port))?;
        if !whole || p.proto != udp::PROTOCOL || p.ttl <= 1 || !port.is_uplink() {
            return None;
        }
        let uplink = self.open_uplink::<F>(port.uplink)?;
        let takes_new = steering::takes_new(&self.control, F::path(port.uplink));
        takes_new.then_some((port.uplink, uplink))
    }
}

/// The worker whose ports of a path a port is of.
fn owner(path: &Path, port: u16, workers: u8) -> Option<u8> {
    PortSlice::owner(path.nat_lo, path.nat_hi, port, workers)
}

/// Whom a mapping lets in of those who have this address; `None`: anybody else too.
fn remote<F: Family>(uplink: &Uplink, address: F::Address) -> Option<F::Address> {
    (uplink.filtering() == Filtering::Address).then_some(address)
}

impl<F: Stored> Sessions<F> {
    /// The flow in this forward slot, which lived at this time, permits others to come in by its
    /// mapping, if its host was heard.
    pub(super) fn permit(&mut self, cx: &Context, slot: u32, now: u32) {
        let uplink = self.table.slot(slot).meta().uplink;
        let Some(uplink) = cx.open_uplink::<F>(uplink) else { return };
        let Some(forward) = self.table.slot(slot).read() else { return };
        let heard = forward.key.proto() == udp::PROTOCOL && forward.flags & flag::SEEN != 0;
        if !heard || !has_mapping(&cx.snapshot.half, &forward) {
            return;
        }
        let remote = remote::<F>(uplink, forward.key.dst());
        let host = cx.adjacencies.get(self.table.slot(forward.peer).action().adjacency);
        let external = self.external_of(&forward);
        if let (Some(host), Some(endpoint)) = (host, self.mappings.inside(&external)) {
            self.permits.permit(&external.of, remote, endpoint.of, host.to_word(), now);
        }
    }

    /// Where the flow begins of a datagram that a mapping lets in, or may, by another worker;
    /// `None`: nowhere.
    pub(super) fn let_in(&mut self, cx: &mut Context, work: &Work<F>) -> Option<LetIn> {
        let p = &work.parsed;
        let (number, uplink) = cx.opened_by(work)?;
        let port = u16::from_be_bytes(p.dport);
        let worker = owner(uplink.path(F::FAMILY), port, cx.workers)?;
        if worker != cx.id {
            return Some(LetIn::With(worker));
        }
        let external = External { proto: p.proto, address: p.dst, port };
        let remote = remote::<F>(uplink, p.src);
        let permit = self.permits.find(&external, remote, cx.now)?;
        let host = Adjacency::from_word(permit.host)?;
        let external = self.mappings.external(external);
        let endpoint = self.mappings.inside(&external)?;
        if permit.endpoint != endpoint.of
            || self.mappings.get(&endpoint)?.uplink != number
            || !may_answer(cx, &endpoint.of, host, work)
        {
            return None;
        }
        let Endpoint { address, port, .. } = endpoint.of;
        let first = FlowKey::new(address, p.src, port.to_be_bytes(), p.sport, p.proto);
        let hash = first.hash(cx.key);
        let ruling =
            cx.ruling_outside(work, &FlowKey::new(p.src, address, p.sport, first.sport(), p.proto));
        if ruling.action.denies() {
            return Some(LetIn::Denied(ruling));
        }
        let adjacency = cx.adjacencies.learn(host)?;
        // Strangers get no more of the table than they leave, and of what the host may have.
        let crowded = self.unheard >= self.room() / u64::from(cx.workers)
            || !self.is_within_limit(cx, adjacency, 2);
        if crowded || self.table.find(hash, &first).is_some() {
            return None;
        }
        let path = F::path(number);
        let new = NewFlow {
            first,
            translated: p.key().reversed(),
            hashes: [hash, work.hash],
            uplink: number,
            initiator: End { adjacency, inside: Some(host) },
            responder: End { adjacency: next_hop(path), inside: None },
            worker: cx.id,
            is_mapped: true,
            now: cx.now,
        };
        let forward = self.table.slot(flows::create(&self.table, &new)?);
        let action = forward.action();
        forward.set_meta(action.flags & !flag::SEEN, action.flow_state);
        self.mappings.hold(&endpoint, number, &external);
        self.count_new(cx, number, adjacency);
        self.unheard += 1;
        ruling.rule.into_iter().for_each(|rule| cx.lane.add_rule(rule));
        Some(LetIn::Here(action.peer))
    }

    /// Does the direction come in, and was nothing heard of the host inside?
    pub(super) fn is_unanswered(&self, action: &Action<F>) -> bool {
        let other = || self.table.slot(action.peer).meta().flags;
        !action.direction().is_from_inside()
            && action.flow_state == FlowState::Stateless
            && other() & (flag::SEEN | flag::INITIATED) == flag::INITIATED
    }

    /// A packet of the direction comes, which is the first of its host's, perhaps.
    pub(super) fn hear(&mut self, action: &Action<F>) {
        if began_inside(action) && is_unheard(action.flags, action.flow_state) {
            self.unheard = self.unheard.saturating_sub(1);
        }
    }
}

/// Was nothing heard of the host of a flow, given the flags of its forward entry, and its state?
pub(super) fn is_unheard(flags: u8, state: FlowState) -> bool {
    flags & flag::SEEN == 0 && state == FlowState::Stateless
}

/// Could the host have asked for the packet by its mapping? What rules deny it does not come in,
/// nor what they steer by another mapping.
fn may_answer<F: Family>(
    cx: &Context,
    endpoint: &Endpoint<F>,
    host: Adjacency,
    work: &Work<F>,
) -> bool {
    let p = &work.parsed;
    if !cx.snapshot.half.is_behind(host.port, endpoint.address) {
        return false;
    }
    let traffic = Traffic::<F> {
        from: RuleFrom::Lan,
        in_port: host.port,
        host: host.to_word(),
        src: endpoint.address,
        dst: p.src,
        sport: endpoint.port,
        dport: u16::from_be_bytes(p.sport),
        proto: p.proto,
        dscp: 0,
        label: 0,
    };
    // With the code point that most have.
    let ruling = steering::ruling(&cx.snapshot.half, &cx.control, &traffic);
    !ruling.action.denies() && ruling.policy == endpoint.policy
}
