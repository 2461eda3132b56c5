//! Flows begin: which uplink a packet without a flow takes, and with which address and port.

use weir_layout::NONE;
use weir_layout::adjacency::{Adjacency, next_hop};
use weir_layout::control::{IpAddress, OnUplinkDown, Path, Selection, Translate};
use weir_layout::counters::Counter;
use weir_layout::flow::flag;
use weir_layout::nat_log::Event;
use weir_layout::set::IndexSet;
use weir_shm::flows::{Action, FlowTable, Stored};
use weir_wire::family::Family;
use weir_wire::npt::Untranslatable;
use weir_wire::protocol;
use weir_wire::tcp;

use super::DropReason;
use super::batch::Work;
use super::context::{Context, sender};
use super::sessions::{Sessions, translated};
use super::slow_path::{opens, traffic_of};
use crate::answer;
use crate::flows::{self, End, NewFlow};
use crate::mappings::{Hashed, Mapping};
use crate::nat::{Endpoint, External, PortSlice};
use crate::packet::{Buffer, Output, Received};
use crate::purpose::Purpose;
use crate::steering::{self, Refusal, Step, Trace, Traffic};
use weir_wire::key::FlowKey;

/// Where a flow goes whose uplink is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Elsewhere {
    /// Nowhere better: it stays.
    Nowhere,
    /// To another uplink, as it is: its far end takes no notice.
    Unchanged,
    /// To another uplink, with another address: a connection ends.
    Readdressed,
    /// Nowhere: there are others, and none may carry its source.
    Barred,
}

/// Where a new flow goes.
#[derive(Clone, Copy)]
pub(super) struct EgressChoice<F: Family> {
    pub(super) uplink: u8,
    pub(super) source: Source<F>,
}

/// What the source of a new flow becomes.
#[derive(Clone, Copy)]
pub(super) enum Source<F: Family> {
    /// It stays.
    Same,
    /// That of its endpoint's mapping.
    Mapped(Hashed<External<F>>),
    /// That of a service which leads to its endpoint.
    Service(Hashed<External<F>>),
    /// Another address and port: the external port to try first, of those that it may have.
    Port(Hashed<External<F>>, PortSlice),
    /// Another address.
    Address(F::Address),
    /// An address of the pool, where that leaves the flow its own answers: the one to try first.
    Pool(F::Address),
    /// This address of the pool and no other: its host and server have agreed on the flow by it.
    Agreed(F::Address),
    /// Nothing that the provider would take.
    None(Untranslatable),
}

/// What a new flow looks like on its uplink.
pub(super) struct Outside<F: Family> {
    pub(super) key: FlowKey<F>,
    /// Hash of the packets that answer.
    pub(super) answers: u64,
    pub(super) external: Option<Hashed<External<F>>>,
}

impl<F: Stored> Outside<F> {
    /// Untranslated.
    fn same(secret: [u64; 2], key: &FlowKey<F>) -> Self {
        Self { key: *key, answers: key.reversed().hash(secret), external: None }
    }

    /// From this address.
    fn from(secret: [u64; 2], key: &FlowKey<F>, source: F::Address) -> Self {
        let key = FlowKey::new(source, key.dst(), key.sport(), key.dport(), key.proto());
        Self::same(secret, &key)
    }

    /// As `external`; `None`: another flow's answers would look the same.
    pub(super) fn new(
        table: &FlowTable<F>,
        secret: [u64; 2],
        key: &FlowKey<F>,
        external: Hashed<External<F>>,
    ) -> Option<Self> {
        let key = translated(key, &external.of);
        let answer = key.reversed();
        let answers = answer.hash(secret);
        let free = table.find(answers, &answer).is_none();
        free.then_some(Self { key, answers, external: Some(external) })
    }
}

impl Context {
    /// Why the packet, which has no flow, begins none; `None`: it does.
    pub(super) fn begins_none<F: Family>(
        &self,
        work: &Work<F>,
        frame: &[u8],
    ) -> Option<DropReason> {
        let p = &work.parsed;
        if self.is_uplink(work.port) {
            return Some(Counter::DropNoFlow);
        }
        // A connection may be picked up in its midst, after a restart without its table; a segment
        // that only ends one may not.
        let ends = tcp::flag::RST | tcp::flag::FIN;
        if p.proto == tcp::PROTOCOL && p.tcp_flags & ends != 0 {
            return Some(Counter::DropNotSyn);
        }
        let reply = p.proto == F::ICMP && frame.get(usize::from(p.l4)) == Some(&F::ECHO_REPLY);
        reply.then_some(Counter::DropNoFlow)
    }

    /// The port of an uplink.
    pub(super) fn port_of(&self, uplink: u8) -> u8 {
        self.snapshot.half.uplinks.get(usize::from(uplink)).map_or(NONE, |uplink| uplink.port)
    }

    /// Where a flow goes whose uplink is down, and which is translated there or not.
    pub(super) fn elsewhere<F: Family>(
        &self,
        (uplink, translated): (u8, bool),
        policy: u8,
        traffic: &Traffic<F>,
    ) -> Elsewhere {
        let half = &self.snapshot.half;
        match steering::uplink(half, &self.control, self.key, policy, traffic) {
            Ok(other) if other == uplink => Elsewhere::Nowhere,
            Ok(other) => {
                let keeps = !half.readdresses(F::path(other), traffic.src);
                if !translated && keeps { Elsewhere::Unchanged } else { Elsewhere::Readdressed }
            }
            Err(Refusal::Source) => Elsewhere::Barred,
            Err(Refusal::Unreachable | Refusal::Unsettled) => Elsewhere::Nowhere,
        }
    }

    /// The policy of a packet whose flow's uplink is down, and where that leads.
    pub(super) fn leads<F: Family>(&self, work: &Work<F>, action: &Action<F>) -> (u8, Elsewhere) {
        let traffic = traffic_of(work);
        let policy = steering::policy(&self.snapshot.half, &self.control, &traffic);
        let from = (action.uplink, action.flags & flag::NAT != 0);
        (policy, self.elsewhere(from, policy, &traffic))
    }

    /// Would what answers a flow without ports be the gateway's own, given what the flow looks like
    /// outside?
    pub(super) fn is_own<F: Family>(&self, outside: &FlowKey<F>) -> bool {
        let [local, remote] = outside.addresses().map(|address| address.to_address());
        self.snapshot.half.speaks(F::FAMILY, local, remote, outside.proto())
    }

    /// The outside address of a host's flows by an uplink that translates: always the same one
    /// (RFC 4787 REQ-2). `None`: it does not translate, or has none.
    pub(super) fn address_for<F: Family>(
        &self,
        path: &Path,
        host: &F::Address,
    ) -> Option<F::Address> {
        let pool = path.addresses();
        if path.translation() != Translate::Napt || pool.is_empty() {
            return None;
        }
        let host = Purpose::Pool.hash(self.key, F::digest(self.key, host).into());
        Some(F::Address::from_address(pool[host as usize % pool.len()]))
    }
}

impl<F: Stored> Sessions<F> {
    /// Makes a flow for a packet from the LAN; its slot. Nothing is made for one that its uplink
    /// does not carry, or that there is no room for, and its sender is told.
    pub(super) fn begin<B: Buffer>(
        &mut self,
        cx: &mut Context,
        work: &Work<F>,
        key: &FlowKey<F>,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<u32, DropReason> {
        let begun = match cx.asked_inside(work) {
            Some(asked) => {
                asked.and_then(|asked| self.begin_inside(cx, work, &asked, received, out))
            }
            None => self.make_flow(cx, work, key, received, out),
        };
        begun.inspect_err(|reason| cx.tell_of_no_room(work, *reason, received, out))
    }

    fn make_flow<B: Buffer>(
        &mut self,
        cx: &mut Context,
        work: &Work<F>,
        key: &FlowKey<F>,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<u32, DropReason> {
        let p = &work.parsed;
        let traffic = traffic_of(work);
        let (rule, endpoint) = self.admit(cx, work, &traffic, received, out)?;
        let policy = endpoint.of.policy;
        let known = self.mapping_of(&endpoint);
        let mut mapped = known.filter(|mapping| self.may_use(cx, &endpoint.of, mapping, &traffic));
        let mut choice = match (mapped, self.agreed(cx, policy, key)) {
            (Some(Mapping { uplink, external }), _) => {
                EgressChoice { uplink, source: Source::Mapped(self.mappings.external(external)) }
            }
            (None, Some((uplink, address))) => match self.egress_by(cx, uplink, key)? {
                EgressChoice { source: Source::Pool(_), .. } => {
                    EgressChoice { uplink, source: Source::Agreed(address) }
                }
                choice => choice,
            },
            (None, None) => {
                let prefetched = work.new.and_then(|new| new.choice);
                match prefetched {
                    Some(choice) if steering::usable(&cx.control, F::path(choice.uplink)) => choice,
                    _ => {
                        let uplink = self.choose_uplink(cx, policy, &traffic);
                        let uplink =
                            uplink.map_err(|refusal| cx.refuse(work, refusal, received, out))?;
                        self.egress_by(cx, uplink, key)?
                    }
                }
            }
        };
        cx.check_mtu(work, cx.port_of(choice.uplink), false, received, out)?;
        if let Source::None(why) = choice.source {
            return Err(cx.answer_untranslatable(work, why, received, out));
        }
        let (host, adjacency) = self.initiator(cx, work, received)?;
        let steered = (policy, &traffic);
        let mut placed = self.place(cx, key, &choice, steered, adjacency);
        // Besides its endpoint's mapping, which stays.
        let mut is_extra = false;
        if let Some(mapping) = mapped
            && matches!(placed, Err(Counter::DropNoPort))
        {
            // A connection without a mapping has the port for this destination, from before the
            // uplink had mappings of TCP; or who had the port before it was a service's.
            is_extra = self.is_of_service(cx, &endpoint.of, &mapping);
            if is_extra || key.proto() == tcp::PROTOCOL {
                mapped = None;
                let (first, slice) = self.port_of_pool(cx, choice.uplink, key)?;
                choice.source = Source::Port(first, slice);
                placed = self.place(cx, key, &choice, steered, adjacency);
            }
        }
        let (uplink, outside) = placed?;
        if uplink != choice.uplink {
            cx.check_mtu(work, cx.port_of(uplink), false, received, out)?;
        }
        if mapped.is_none() && known.is_some() && !is_extra {
            // Not before it is known that there is somewhere else to go.
            self.detach_mappings(&endpoint);
        }
        let maps = cx.snapshot.half.maps(F::path(uplink), key.proto());
        let new = NewFlow {
            first: *key,
            translated: outside.key,
            hashes: [work.hash, outside.answers],
            uplink,
            initiator: End { adjacency, inside: Some(host) },
            responder: End { adjacency: next_hop(F::path(uplink)), inside: None },
            worker: cx.id,
            is_mapped: maps && outside.external.is_some(),
            now: cx.now,
        };
        let slot = flows::create(&self.table, &new).ok_or(Counter::DropTableFull)?;
        self.agreements.note(cx.key, &self.table, key, slot);
        let external = outside.external.filter(|_| maps);
        let is_made = external.is_some_and(|external| self.hold(cx, &endpoint, uplink, &external));
        if let Some(external) = external.filter(|_| is_extra) {
            self.mappings.detach(&external);
        }
        if cx.nat_log.is_on() {
            match external {
                Some(external) if is_made => {
                    self.tell_of_mapping(cx, &endpoint.of, uplink, external.of);
                }
                Some(_) => {}
                None => self.tell_of_flow(cx, Event::Begin, slot),
            }
        }
        self.observe(cx, slot, (host, adjacency), p, received.frame.data());
        self.permit(cx, slot, cx.now);
        self.count_new(cx, uplink, adjacency);
        rule.into_iter().for_each(|rule| cx.lane.add_rule(rule));
        Ok(slot)
    }

    /// What the rules let a packet from a LAN begin: the rule, and the endpoint that sends it.
    #[inline(always)]
    pub(super) fn admit<B: Buffer>(
        &self,
        cx: &mut Context,
        work: &Work<F>,
        traffic: &Traffic<F>,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(Option<u8>, Hashed<Endpoint<F>>), DropReason> {
        if !cx.snapshot.half.is_behind(work.port, work.parsed.src) {
            return Err(Counter::DropSource);
        }
        if let Some(new) = work.new {
            return Ok((new.rule, new.endpoint));
        }
        let ruling = cx.admits(work, traffic, received, out)?;
        Ok((ruling.rule, self.endpoint(ruling.policy, traffic)))
    }

    /// Who sends a packet that begins a flow, and where its answers go, if the host may have one
    /// more.
    #[inline(always)]
    pub(super) fn initiator<B: Buffer>(
        &self,
        cx: &mut Context,
        work: &Work<F>,
        received: &Received<B>,
    ) -> Result<(Adjacency, u16), DropReason> {
        let host = sender(received.frame.data(), work.port);
        let Some(adjacency) = cx.adjacencies.learn(host) else {
            cx.unknown_hosts.ask_about(cx.key, work.port, work.parsed.src.into());
            return Err(Counter::DropNeighbourFull);
        };
        if !self.is_within_limit(cx, adjacency, 1) {
            return Err(Counter::DropHostLimit);
        }
        if !self.shares.allow(adjacency, self.room() / u64::from(cx.workers)) {
            return Err(Counter::DropTableFull);
        }
        let rate = cx.snapshot.half.new_flows_per_host;
        if rate != 0 && !self.shares.begins(adjacency, cx.now, rate) {
            return Err(Counter::DropHostRate);
        }
        Ok((host, adjacency))
    }

    /// The endpoint gets another mapping with its next flow, if it has one.
    pub(super) fn detach_mappings(&mut self, endpoint: &Hashed<Endpoint<F>>) {
        while let Some(Mapping { external, .. }) = self.mapping_of(endpoint) {
            self.mappings.detach(&self.mappings.external(external));
        }
    }

    /// The uplink of a new flow: by its bucket, or that with most room if it promises to be heavy
    /// and need not go by its host's.
    pub(super) fn choose_uplink(
        &self,
        cx: &Context,
        policy: u8,
        traffic: &Traffic<F>,
    ) -> Result<u8, Refusal> {
        self.choose_traced(cx, policy, traffic, &mut ())
    }

    /// The same, heard by `trace`.
    #[inline]
    pub(super) fn choose_traced(
        &self,
        cx: &Context,
        policy: u8,
        traffic: &Traffic<F>,
        trace: &mut impl Trace,
    ) -> Result<u8, Refusal> {
        let policies = &cx.snapshot.half.policies;
        let chosen = policies.get(usize::from(policy)).ok_or(Refusal::Unreachable)?;
        let heavy = chosen.steering(F::FAMILY).heavy;
        if heavy != NONE
            && chosen.selection() != Selection::Host
            && self.heavy.expects::<F>([&traffic.src, &traffic.dst], cx.now)
            && steering::usable(&cx.control, F::path(heavy))
            && cx.snapshot.half.carries(F::path(heavy), traffic.src)
        {
            trace.step(Step::Heavy(heavy));
            return Ok(heavy);
        }
        steering::traced_uplink(&cx.snapshot.half, &cx.control, cx.key, policy, traffic, trace)
    }

    /// How a flow leaves by an uplink, if its endpoint has no mapping.
    pub(super) fn egress_by(
        &self,
        cx: &mut Context,
        uplink: u8,
        key: &FlowKey<F>,
    ) -> Result<EgressChoice<F>, DropReason> {
        let path = cx.snapshot.half.path(F::path(uplink)).ok_or(Counter::DropNoUplink)?;
        let source = match path.translation() {
            Translate::None => Source::Same,
            Translate::Source if !cx.snapshot.half.readdresses(F::path(uplink), key.src()) => {
                Source::Same
            }
            Translate::Source | Translate::Npt => {
                let source = cx.outward::<F>(uplink, key.src());
                source.map_or_else(Source::None, Source::Address)
            }
            Translate::Napt if protocol::is_portless(key.proto()) => {
                Source::Pool(cx.address_for::<F>(path, &key.src()).ok_or(Counter::DropNoPort)?)
            }
            Translate::Napt => match self.by_service(cx, uplink, key) {
                Some(external) => Source::Service(external),
                None => {
                    let (first, slice) = self.port_of_pool(cx, uplink, key)?;
                    Source::Port(first, slice)
                }
            },
        };
        Ok(EgressChoice { uplink, source })
    }

    /// An address of an uplink's pool, with the port of it to try first, of those that it may have.
    fn port_of_pool(
        &self,
        cx: &mut Context,
        uplink: u8,
        key: &FlowKey<F>,
    ) -> Result<(Hashed<External<F>>, PortSlice), DropReason> {
        let path = cx.snapshot.half.path(F::path(uplink)).ok_or(Counter::DropNoUplink)?;
        let address = cx.address_for::<F>(path, &key.src()).ok_or(Counter::DropNoPort)?;
        let slice = PortSlice::of(path.nat_lo, path.nat_hi, cx.id, cx.workers)
            .ok_or(Counter::DropNoPort)?;
        let own = u16::from_be_bytes(key.sport());
        let port = if slice.contains(own) { own } else { slice.draw_like(own, &mut cx.random) };
        let first = self.mappings.external(External { proto: key.proto(), address, port });
        Ok((first, slice))
    }

    /// May the host have another flow, by `flows_per_host` divided by `part`?
    pub(super) fn is_within_limit(&self, cx: &Context, host: u16, part: u32) -> bool {
        let limit = cx.snapshot.half.flows_per_host;
        limit == 0 || self.shares.is_within(host, limit / part)
    }

    /// Flows that the table has room for.
    pub(super) fn room(&self) -> u64 {
        u64::from(self.table.capacity() / 2).saturating_sub(self.flows + self.elsewhere)
    }

    /// The uplink of the flow, and what it looks like there: the one that it was to take, or, where
    /// that has no port left for it, or changes what its protocol does not let it change, another
    /// of its policy.
    pub(super) fn place(
        &mut self,
        cx: &mut Context,
        key: &FlowKey<F>,
        choice: &EgressChoice<F>,
        (policy, traffic): (u8, &Traffic<F>),
        host: u16,
    ) -> Result<(u8, Outside<F>), DropReason> {
        let reason = match self.translate(cx, key, choice, host) {
            Err(reason @ (Counter::DropNoPort | Counter::DropProtocol))
                if !matches!(choice.source, Source::Mapped(_) | Source::Agreed(_)) =>
            {
                reason
            }
            outside => return Ok((choice.uplink, outside?)),
        };
        let mut full = IndexSet::of(choice.uplink);
        while let Some(uplink) =
            steering::another(&cx.snapshot.half, &cx.control, cx.key, policy, traffic, full)
        {
            full.set(uplink, true);
            let choice = self.egress_by(cx, uplink, key);
            if let Ok(outside) = choice.and_then(|choice| self.translate(cx, key, &choice, host)) {
                return Ok((uplink, outside));
            }
        }
        Err(reason)
    }

    /// What the flow looks like on its uplink, by the first port that is free: of its host's
    /// address, or, where that has none left, of another of the pool.
    fn translate(
        &mut self,
        cx: &mut Context,
        key: &FlowKey<F>,
        choice: &EgressChoice<F>,
        host: u16,
    ) -> Result<Outside<F>, DropReason> {
        let (first, slice) = match choice.source {
            Source::Service(external) => {
                match self.out_by_service(cx, key, choice.uplink, external) {
                    Some(outside) => return Ok(outside),
                    None => self.port_of_pool(cx, choice.uplink, key)?,
                }
            }
            Source::Same => return Ok(Outside::same(cx.key, key)),
            Source::Mapped(external) => {
                let outside = Outside::new(&self.table, cx.key, key, external);
                return outside.ok_or(Counter::DropNoPort);
            }
            Source::Address(_) if !Translate::Npt.keeps_right(key.proto()) => {
                return Err(Counter::DropProtocol);
            }
            Source::Address(source) => return Ok(Outside::from(cx.key, key, source)),
            Source::Pool(first) => {
                let path = cx.snapshot.half.path(F::path(choice.uplink));
                let pool = path.map_or(&[][..], Path::addresses).iter();
                let others = pool.map(|other| F::Address::from_address(*other));
                let others = others.filter(|other| *other != first);
                return self.take_address(cx, key, std::iter::once(first).chain(others));
            }
            Source::Agreed(address) => {
                return self.take_address(cx, key, std::iter::once(address));
            }
            Source::None(_) => return Err(Counter::DropUntranslatable),
            Source::Port(first, slice) => (first, slice),
        };
        if let Some(outside) = self.take_port(cx, key, choice.uplink, first, slice, host) {
            return Ok(outside);
        }
        let path = cx.snapshot.half.path(F::path(choice.uplink)).copied();
        let pool =
            path.iter().flat_map(Path::addresses).map(|other| F::Address::from_address(*other));
        for address in pool.filter(|other| *other != first.of.address) {
            let first = self.mappings.external(External { address, ..first.of });
            if let Some(outside) = self.take_port(cx, key, choice.uplink, first, slice, host) {
                return Ok(outside);
            }
        }
        Err(Counter::DropNoPort)
    }

    /// What a flow without ports looks like on its uplink, from the first of these addresses that
    /// leaves its answers to be told from those of others: one host has each for a remote, and none
    /// where the gateway itself speaks with it.
    fn take_address(
        &self,
        cx: &Context,
        key: &FlowKey<F>,
        mut addresses: impl Iterator<Item = F::Address>,
    ) -> Result<Outside<F>, DropReason> {
        if !Translate::Napt.keeps_right(key.proto()) {
            return Err(Counter::DropProtocol);
        }
        let free = addresses.find_map(|address| {
            let outside = Outside::from(cx.key, key, address);
            let answer = outside.key.reversed();
            let free =
                !cx.is_own(&outside.key) && self.table.find(outside.answers, &answer).is_none();
            free.then_some(outside)
        });
        free.ok_or(Counter::DropNoPort)
    }

    /// What the flow looks like from this address of its uplink, by the first port that is free.
    /// Where each is for one endpoint alone, a host has its share of them.
    fn take_port(
        &self,
        cx: &mut Context,
        key: &FlowKey<F>,
        uplink: u8,
        first: Hashed<External<F>>,
        slice: PortSlice,
        host: u16,
    ) -> Option<Outside<F>> {
        let shared = !cx.snapshot.half.maps(F::path(uplink), key.proto());
        let left = || {
            let (half, path) = (&cx.snapshot.half, F::path(uplink));
            let services = half.ports_of_services(path, key.proto(), slice.bounds());
            let Some(path) = half.path(path) else { return 0 };
            let all = slice.count().saturating_sub(services) * path.addresses().len() as u32;
            all.saturating_sub(self.mappings.taken(uplink, key.proto(), path.retired()))
        };
        if !shared && !self.shares.allow(host, left().into()) {
            return None;
        }
        let (table, secret, mappings) = (&self.table, cx.key, &self.mappings);
        // What comes back to a port that a socket of the gateway has may be for that, and to one of
        // a published service for its host.
        let (control, half, path) = (&cx.control, &cx.snapshot.half, F::path(uplink));
        let bound = |port| {
            key.proto() != F::ICMP
                && (control.is_bound(port) || half.is_published(path, key.proto(), port))
        };
        let mut outside = None;
        let free = |port: u16| {
            if bound(port) {
                return false;
            }
            let external = match port == first.of.port {
                true => first,
                false => mappings.external(External { port, ..first.of }),
            };
            let may_have = shared || mappings.is_free(&external);
            outside = if may_have { Outside::new(table, secret, key, external) } else { None };
            outside.is_some()
        };
        slice.pick(first.of.port, &mut cx.random, free);
        outside
    }

    /// The endpoint's mapping.
    pub(super) fn mapping_of(&self, endpoint: &Hashed<Endpoint<F>>) -> Option<Mapping<F>> {
        if !self.mappings.maps(endpoint.of.proto) {
            return None;
        }
        self.mappings.get(endpoint)
    }

    /// A flow whose uplink is down meets its next packet: it moves, or its sender is told that it
    /// ends. It stays as it is when there is nowhere else to go.
    #[expect(clippy::too_many_arguments, reason = "the packet and its flow, once, on a cold path")]
    pub(super) fn leave_uplink<B: Buffer>(
        &mut self,
        cx: &mut Context,
        work: &Work<F>,
        key: &FlowKey<F>,
        slot: u32,
        action: &Action<F>,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<u32, DropReason> {
        let p = &work.parsed;
        let connected = p.proto == tcp::PROTOCOL && !opens(p);
        let (policy, elsewhere) = cx.leads(work, action);
        let ends = match elsewhere {
            Elsewhere::Nowhere => return Ok(slot),
            Elsewhere::Unchanged => false,
            Elsewhere::Readdressed => connected,
            Elsewhere::Barred if !connected => {
                return Err(cx.refuse(work, Refusal::Source, received, out));
            }
            Elsewhere::Barred => true,
        };
        if ends {
            match cx.on_uplink_down(policy) {
                OnUplinkDown::Keep => return Ok(slot),
                OnUplinkDown::Drop => return Err(Counter::DropUplinkDown),
                OnUplinkDown::Reset => {}
            }
            self.remove(cx, slot);
            if let Some(reset) = answer::tcp_reset::<F>(received.frame.data(), p) {
                cx.originate(received.device, reset.data(), out);
            }
            return Err(Counter::DropAnswered);
        }
        self.remove(cx, slot);
        cx.lane.add(Counter::FlowsMoved, 1);
        self.shares.set_moving(true);
        let begun = self.begin(cx, work, key, received, out);
        self.shares.set_moving(false);
        begun
    }
}
