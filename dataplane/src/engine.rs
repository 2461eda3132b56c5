//! The user tier of one worker: batches of packets in, packets and drops out. No clock, no system
//! call, no device: time and frames are handed in.
//!
//! A batch goes through in stages, so that the memory of one packet is on its way while the next is
//! parsed: *classify* (parse, hash, ask for its tags), ask for its slot, *look up*, *act*. Acting on
//! the next packet of an established flow is [`established`](crate::established)'s; every other
//! is parsed in full.

use weir_shm::control::{ControlRegion, Snapshot};
use weir_shm::counters::{Counters, LaneWriter, UplinkCounter};
use weir_shm::flows::{Action4, FlowTable4};
use weir_shm::neighbours::Neighbours;
use weir_wire::hash::{flow4, hash2};
use weir_wire::layout::MAX_DEVICES;
use weir_wire::layout::control::{Mac, PortRole, Translate};
use weir_wire::layout::counters::Counter;
use weir_wire::layout::flow::{FlowKey4, flag};
use weir_wire::layout::neighbour::{FIRST_LAN_L2, Neighbour};
use weir_wire::parse::{Kind, Parsed, Reject, parse};
use weir_wire::{icmp, ipv4, rewrite, tcp};

use crate::answer::{self, Answer, RateLimit};
use crate::established::Plain;
use crate::flows::{self, NewFlow, Side, key_of, reversed};
use crate::fragments::{FragmentKey, Fragments};
use crate::icmp_error::{self, Toward};
use crate::link::{self, LinkHeader};
use crate::mappings::Mappings;
use crate::nat::{Endpoint, External, PortSlice, Random};
use crate::packet::{Buffer, Output, Received};
use crate::steering::{self, Traffic};

/// Most packets that go through the stages together.
pub const BATCH: usize = 64;

/// ICMP errors and resets a worker makes per second.
const ANSWERS_PER_SECOND: u32 = 1000;

/// The regions a worker works on.
#[derive(Clone, Debug)]
pub struct Regions {
    /// Control page and buckets.
    pub control: ControlRegion,
    /// Flow table.
    pub flows: FlowTable4,
    /// LAN hardware addresses.
    pub neighbours: Neighbours,
    /// Counters.
    pub counters: Counters,
    /// Key of the flow hash.
    pub hash_key: [u64; 2],
}

impl Regions {
    /// Regions of this process alone, with a flow table of `slots` slots.
    pub fn anonymous(slots: u32, hash_key: [u64; 2]) -> std::io::Result<Self> {
        Ok(Self {
            control: ControlRegion::anonymous()?,
            flows: FlowTable4::anonymous(slots)?,
            neighbours: Neighbours::anonymous()?,
            counters: Counters::anonymous()?,
            hash_key,
        })
    }
}

/// One worker's part of the dataplane.
#[derive(Debug)]
pub struct Engine {
    id: u8,
    workers: u8,
    control: ControlRegion,
    snapshot: Box<Snapshot>,
    /// Devices whose untagged frames are a port's.
    untagged: [bool; MAX_DEVICES],
    table: FlowTable4,
    neighbours: Neighbours,
    lane: LaneWriter,
    key: [u64; 2],
    mappings: Mappings,
    fragments: Fragments,
    random: Random,
    answers: RateLimit,
    cursor: u32,
    flows: u64,
}

/// A packet between the stages.
#[derive(Clone, Copy)]
enum Stage {
    /// Perhaps the next of an established flow.
    Plain { plain: Plain, hash: u64, slot: Option<u32> },
    /// Any other.
    Parsed(Work),
    /// It ends here.
    Dropped(Dropped),
}

/// How a packet of an established flow leaves.
struct Way {
    slot: u32,
    action: Action4,
    device: u8,
    link: LinkHeader,
}

/// What the first stages found out about a packet that goes the long way.
#[derive(Clone, Copy)]
struct Work {
    parsed: Parsed,
    port: u8,
    hash: u64,
    slot: Option<u32>,
}

/// Why a packet ends here.
type Dropped = Counter;

impl Engine {
    /// Worker `id` of `workers`. `entropy` is a secret of this process.
    pub fn new(id: u8, workers: u8, regions: &Regions, entropy: [u64; 2]) -> Self {
        // The worker's share of the flows that fit in the table: an index that grew under load
        // would hold up a batch while it moves.
        let mappings = regions.flows.capacity() as usize / 2 / usize::from(workers.max(1));
        Self {
            id,
            workers: workers.max(1),
            control: regions.control.clone(),
            snapshot: Snapshot::new(),
            untagged: [false; MAX_DEVICES],
            table: regions.flows.clone(),
            neighbours: regions.neighbours.clone(),
            lane: regions.counters.worker(id),
            key: regions.hash_key,
            mappings: Mappings::new(entropy, mappings),
            fragments: Fragments::new(entropy),
            random: Random::new([entropy[0] ^ u64::from(id), entropy[1]]),
            answers: RateLimit::new(ANSWERS_PER_SECOND),
            cursor: 0,
            flows: 0,
        }
    }

    /// Takes over the published state if there is a newer one; says whether it did.
    pub fn refresh(&mut self) -> bool {
        let newer = self.control.epoch() != self.snapshot.half.epoch;
        if !newer || !self.snapshot.refresh(&self.control) {
            return false;
        }
        let half = &self.snapshot.half;
        for (untagged, device) in self.untagged.iter_mut().zip(&half.devices) {
            *untagged = half.port_of(device.ifindex, 0).is_some();
        }
        true
    }

    /// The published state the engine works by.
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Flows the worker owns.
    pub fn flows(&self) -> u64 {
        self.flows
    }

    /// Endpoint-independent mappings the worker holds.
    pub fn mappings(&self) -> usize {
        self.mappings.len()
    }

    /// Takes a batch of received frames through; leaves `batch` empty.
    pub fn process<B: Buffer>(
        &mut self,
        batch: &mut Vec<Received<B>>,
        now: u32,
        out: &mut impl Output<B>,
    ) {
        self.lane.add(Counter::UserRx, batch.len() as u64);
        self.take(batch, now, out);
    }

    /// As [`Self::process`], for frames that another worker handed over, of which `lost` more
    /// found no frame here.
    pub fn process_handed_over<B: Buffer>(
        &mut self,
        batch: &mut Vec<Received<B>>,
        lost: usize,
        now: u32,
        out: &mut impl Output<B>,
    ) {
        self.lane.add(Counter::UserHandoverIn, (batch.len() + lost) as u64);
        self.lane.add(Counter::DropNoFrame, lost as u64);
        self.take(batch, now, out);
    }

    fn take<B: Buffer>(
        &mut self,
        batch: &mut Vec<Received<B>>,
        now: u32,
        out: &mut impl Output<B>,
    ) {
        self.refresh();
        while !batch.is_empty() {
            let mut stages = [Stage::Dropped(Counter::DropNotIp); BATCH];
            let count = batch.len().min(BATCH);
            for (stage, received) in stages.iter_mut().zip(batch.iter()) {
                *stage = self.classify(received.frame.data(), received.device);
            }
            for stage in &stages[..count] {
                if let Stage::Plain { hash, .. } | Stage::Parsed(Work { hash, .. }) = stage {
                    self.table.prefetch_slot(*hash);
                }
            }
            for stage in &mut stages[..count] {
                match stage {
                    Stage::Plain { plain, hash, slot } => {
                        *slot = self.table.find(*hash, &plain.key());
                    }
                    Stage::Parsed(work) => {
                        work.slot = self.table.find(work.hash, &key_of(&work.parsed));
                    }
                    Stage::Dropped(_) => {}
                }
            }
            for (stage, received) in stages.into_iter().zip(batch.drain(..count)) {
                if let Err(reason) = self.act(stage, received, now, out) {
                    self.lane.add(reason, 1);
                }
            }
        }
    }

    #[inline(always)]
    fn classify(&self, frame: &[u8], device: u8) -> Stage {
        if self.untagged.get(usize::from(device)).is_some_and(|known| *known)
            && let Some(plain) = Plain::read(frame)
        {
            let hash = flow4(self.key, &plain.key());
            self.table.prefetch_tags(hash);
            return Stage::Plain { plain, hash, slot: None };
        }
        self.parse(frame, device).map_or_else(Stage::Dropped, Stage::Parsed)
    }

    fn parse(&self, frame: &[u8], device: u8) -> Result<Work, Dropped> {
        let parsed = parse(frame).map_err(|reject| match reject {
            Reject::NotIp | Reject::Ipv4 | Reject::Ipv6 | Reject::StackedVlan => Counter::DropNotIp,
            _ => Counter::DropMalformed,
        })?;
        let half = &self.snapshot.half;
        let device = half.devices.get(usize::from(device)).ok_or(Counter::DropPort)?;
        let port = half.port_of(device.ifindex, parsed.vlan).ok_or(Counter::DropPort)?;
        let hash = flow4(self.key, &key_of(&parsed));
        self.table.prefetch_tags(hash);
        Ok(Work { parsed, port, hash, slot: None })
    }

    fn act<B: Buffer>(
        &mut self,
        stage: Stage,
        received: Received<B>,
        now: u32,
        out: &mut impl Output<B>,
    ) -> Result<(), Dropped> {
        let work = match stage {
            Stage::Plain { plain, slot, .. } => {
                if let Some(way) = slot.and_then(|slot| self.established(&plain, slot)) {
                    return self.forward(&plain, &way, received.frame, now, out);
                }
                self.parse(received.frame.data(), received.device)?
            }
            Stage::Parsed(work) => work,
            Stage::Dropped(reason) => return Err(reason),
        };
        self.act_on(&work, received, now, out)
    }

    /// How the packet leaves, if that is the worker's to say and its flow is where it should be. An
    /// earlier packet of the batch may have ended the flow.
    #[inline(always)]
    fn established(&self, plain: &Plain, slot: u32) -> Option<Way> {
        let entry = self.table.slot(slot);
        let action = entry.action();
        let ours = action.flags & flag::OFFLOAD != 0
            && action.worker == self.id
            && entry.holds(plain.key().words())
            && steering::usable(&self.control, action.uplink);
        let port = self.snapshot.half.ports.get(usize::from(action.port))?;
        if !ours || plain.total() > port.mtu || port.vlan != 0 {
            return None;
        }
        let (device, link) = self.link_header(&action)?;
        Some(Way { slot, action, device, link })
    }

    #[inline(always)]
    fn forward<B: Buffer>(
        &mut self,
        plain: &Plain,
        way: &Way,
        mut frame: B,
        now: u32,
        out: &mut impl Output<B>,
    ) -> Result<(), Dropped> {
        let bytes = u64::from(plain.total());
        plain.rewrite(frame.data_mut(), &way.action, &way.link);
        if let Some(segment) = plain.segment() {
            self.follow_sequence(way.slot, way.action.uplink, segment);
        }
        self.table.slot(way.slot).count(bytes, now);
        self.transmit(way.device, frame, &way.action, bytes, out)
    }

    fn act_on<B: Buffer>(
        &mut self,
        work: &Work,
        received: Received<B>,
        now: u32,
        out: &mut impl Output<B>,
    ) -> Result<(), Dropped> {
        match work.parsed.kind {
            Kind::Flow | Kind::Fragment { first: true } => self.flow(work, received, now, out),
            Kind::Fragment { first: false } => self.later_fragment(work, received, now, out),
            Kind::IcmpError => self.icmp_error(work, received, out),
            Kind::Options => Err(Counter::DropOptions),
            Kind::OtherProtocol => Err(Counter::DropProtocol),
        }
    }

    fn flow<B: Buffer>(
        &mut self,
        work: &Work,
        received: Received<B>,
        now: u32,
        out: &mut impl Output<B>,
    ) -> Result<(), Dropped> {
        let p = &work.parsed;
        let key = key_of(p);
        if !matches!(p.proto, tcp::PROTOCOL | weir_wire::udp::PROTOCOL | icmp::PROTOCOL) {
            return Err(Counter::DropProtocol);
        }
        // An earlier packet of the batch may have made or ended the flow.
        let found = work.slot.filter(|slot| self.table.slot(*slot).holds(key.words()));
        let mut slot = match found.or_else(|| self.table.find(work.hash, &key)) {
            Some(slot) => slot,
            None => {
                if let Some(worker) = self.decider(work) {
                    return self.give(worker, received, out);
                }
                self.admit(work, &key, received.frame.data(), now)?
            }
        };
        let mut action = self.table.slot(slot).action();
        if action.worker != self.id {
            return self.give(action.worker, received, out);
        }
        if !steering::usable(&self.control, action.uplink) && action.flags & flag::FORWARD != 0 {
            slot = self.leave_uplink(work, &key, slot, &action, &received, now, out)?;
            action = self.table.slot(slot).action();
        }
        if p.ttl <= 1 {
            self.answer(work, &received, now, out, |frame, from| {
                answer::icmp_error(frame, p, from, icmp::TIME_EXCEEDED, 0, 0)
            });
            return Err(Counter::DropTtl);
        }
        let len = p.end - p.l3;
        let mtu = self.snapshot.half.ports.get(usize::from(action.port)).map_or(0, |port| port.mtu);
        if len > mtu {
            let kind = icmp::UNREACHABLE;
            self.answer(work, &received, now, out, |frame, from| {
                answer::icmp_error(frame, p, from, kind, icmp::FRAGMENTATION_NEEDED, mtu.into())
            });
            return Err(Counter::DropTooBig);
        }
        flows::follow(&self.table, slot, &action, p.proto, p.tcp_flags);
        if p.kind != Kind::Flow {
            self.fragments.remember(fragment_key(p, received.frame.data()), action, now);
        }
        if p.proto == tcp::PROTOCOL && p.tcp_flags & tcp::flag::RST == 0 {
            let segment = segment_of(p, received.frame.data());
            self.follow_sequence(slot, action.uplink, segment);
        }
        let Received { mut frame, .. } = received;
        let (l3, l4) = (usize::from(p.l3), usize::from(p.l4));
        rewrite::apply4(frame.data_mut(), l3, Some(l4), p.proto, &action.rewrite);
        self.table.slot(slot).count(len.into(), now);
        self.send(frame, p, &action, out)
    }

    #[inline]
    fn follow_sequence(&self, slot: u32, uplink: u8, segment: tcp::Segment) {
        let new = self.table.slot(slot).sequence(segment);
        if segment.has_data {
            self.lane.add_uplink(uplink, UplinkCounter::Segments, 1);
            self.lane.add_uplink(uplink, UplinkCounter::Retransmitted, u64::from(!new));
        }
    }

    fn later_fragment<B: Buffer>(
        &mut self,
        work: &Work,
        received: Received<B>,
        now: u32,
        out: &mut impl Output<B>,
    ) -> Result<(), Dropped> {
        let p = &work.parsed;
        let key = fragment_key(p, received.frame.data());
        let action = self.fragments.recall(&key, now).ok_or(Counter::DropFragment)?;
        if p.ttl <= 1 {
            return Err(Counter::DropTtl);
        }
        let Received { mut frame, .. } = received;
        rewrite::apply4(frame.data_mut(), p.l3.into(), None, p.proto, &action.rewrite);
        self.send(frame, p, &action, out)
    }

    fn icmp_error<B: Buffer>(
        &mut self,
        work: &Work,
        mut received: Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), Dropped> {
        let p = &work.parsed;
        if p.ttl <= 1 {
            return Err(Counter::DropTtl);
        }
        let quoted = icmp_error::quoted_key(received.frame.data(), p);
        let key = reversed(&quoted.ok_or(Counter::DropIcmpUnrelated)?);
        let slot = self.table.find(flow4(self.key, &key), &key);
        let action = self.table.slot(slot.ok_or(Counter::DropIcmpUnrelated)?).action();
        let toward = if action.flags & flag::TO_UPLINK != 0 { Toward::Uplink } else { Toward::Lan };
        // From the LAN only about packets that went there, and the reverse.
        let from_uplink = self.is_uplink(work.port);
        if from_uplink != (toward == Toward::Lan) {
            return Err(Counter::DropIcmpUnrelated);
        }
        icmp_error::translate(received.frame.data_mut(), p, &action.rewrite, toward)
            .ok_or(Counter::DropIcmpUnrelated)?;
        self.send(received.frame, p, &action, out)
    }

    /// Puts the layer-2 header on and queues the frame.
    fn send<B: Buffer>(
        &mut self,
        mut frame: B,
        p: &Parsed,
        action: &Action4,
        out: &mut impl Output<B>,
    ) -> Result<(), Dropped> {
        let (device, header) = self.link_header(action).ok_or(Counter::DropUplinkDown)?;
        if !link::set_header(&mut frame, p.l3 != 14, &header) {
            return Err(Counter::DropNoFrame);
        }
        self.transmit(device, frame, action, u64::from(p.end - p.l3), out)
    }

    /// Queues a frame and counts it.
    #[inline(always)]
    fn transmit<B: Buffer>(
        &self,
        device: u8,
        frame: B,
        action: &Action4,
        len: u64,
        out: &mut impl Output<B>,
    ) -> Result<(), Dropped> {
        out.transmit(device, frame).map_err(|_| Counter::DropTxFull)?;
        self.lane.add(Counter::UserTx, 1);
        let (packets, bytes) = match action.flags & flag::TO_UPLINK != 0 {
            true => (UplinkCounter::TxPackets, UplinkCounter::TxBytes),
            false => (UplinkCounter::RxPackets, UplinkCounter::RxBytes),
        };
        self.lane.add_uplink(action.uplink, packets, 1);
        self.lane.add_uplink(action.uplink, bytes, len);
        Ok(())
    }

    #[inline]
    fn link_header(&self, action: &Action4) -> Option<(u8, LinkHeader)> {
        let half = &self.snapshot.half;
        let port = half.ports.get(usize::from(action.port))?;
        let destination = match action.l2 {
            uplink if uplink < FIRST_LAN_L2 => half.uplinks[usize::from(uplink)].next_hop_mac,
            lan => Mac::new(self.neighbours.get(lan)?.mac),
        };
        if destination == Mac::NONE {
            return None;
        }
        Some((port.device, LinkHeader { destination, source: port.mac, vlan: port.vlan }))
    }

    fn is_uplink(&self, port: u8) -> bool {
        let port = self.snapshot.half.ports.get(usize::from(port));
        port.is_some_and(|port| port.role == PortRole::Uplink as u8)
    }

    /// The worker that must decide about a packet without a flow, if it is another one: a UDP or
    /// ICMP endpoint has one mapping, so one worker.
    fn decider(&self, work: &Work) -> Option<u8> {
        let p = &work.parsed;
        if self.workers == 1 || p.proto == tcp::PROTOCOL || self.is_uplink(work.port) {
            return None;
        }
        let endpoint =
            u64::from(u32::from_be_bytes(p.src)) << 16 | u64::from(u16::from_be_bytes(p.sport));
        let worker =
            (hash2(self.key, endpoint, u64::from(p.proto)) % u64::from(self.workers)) as u8;
        (worker != self.id).then_some(worker)
    }

    fn give<B: Buffer>(
        &mut self,
        worker: u8,
        received: Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), Dropped> {
        if worker < self.workers && out.hand_over(worker, received.device, received.frame.data()) {
            self.lane.add(Counter::UserHandoverOut, 1);
            return Ok(());
        }
        Err(Counter::DropHandoverFull)
    }

    /// Makes a flow for a packet from the LAN; its slot.
    fn admit(
        &mut self,
        work: &Work,
        key: &FlowKey4,
        frame: &[u8],
        now: u32,
    ) -> Result<u32, Dropped> {
        let p = &work.parsed;
        if self.is_uplink(work.port) {
            return Err(Counter::DropNoFlow);
        }
        let half = &self.snapshot.half;
        let own = (half.lan_prefix_count as usize).min(half.lan_prefixes.len());
        if !half.lan_prefixes[..own].iter().any(|prefix| prefix.contains4(p.src)) {
            return Err(Counter::DropSource);
        }
        // A connection may be picked up in its midst, after a restart without its table; a segment
        // that only ends one may not.
        let ends = tcp::flag::RST | tcp::flag::FIN;
        if p.proto == tcp::PROTOCOL && p.tcp_flags & ends != 0 {
            return Err(Counter::DropNotSyn);
        }
        let reply =
            p.proto == icmp::PROTOCOL && frame.get(usize::from(p.l4)) == Some(&icmp::ECHO_REPLY);
        if reply {
            return Err(Counter::DropNoFlow);
        }
        let traffic = traffic_of(p, work.port);
        let policy = steering::policy(half, &traffic);
        let endpoint = Endpoint { proto: p.proto, policy, address: p.src, port: traffic.sport };
        let mapped =
            self.mappings.get(&endpoint).filter(|m| steering::usable(&self.control, m.uplink));
        let uplink = match mapped {
            Some(mapping) => mapping.uplink,
            None => steering::uplink(&self.snapshot, &self.control, self.key, policy, &traffic)
                .ok_or(Counter::DropNoUplink)?,
        };
        let (outside, external) = match mapped {
            Some(mapping) => (translated(key, &mapping.external), Some(mapping.external)),
            None => {
                self.mappings.detach(&endpoint);
                self.translate(uplink, key)?
            }
        };
        let mac = frame.get(6..12).and_then(|mac| mac.try_into().ok()).unwrap_or([0; 6]);
        let neighbour = Neighbour { mac, port: work.port };
        let l2 = self.neighbours.learn(neighbour).ok_or(Counter::DropNeighbourFull)?;
        let port = self.snapshot.half.uplinks[usize::from(uplink)].port;
        let new = NewFlow {
            inside: *key,
            outside,
            uplink,
            lan: Side { port: work.port, l2 },
            wan: Side { port, l2: u16::from(uplink) },
            worker: self.id,
            now,
        };
        let slot = flows::create(&self.table, self.key, &new).ok_or(Counter::DropTableFull)?;
        if let Some(external) = external {
            self.mappings.hold(endpoint, uplink, external);
        }
        self.flows += 1;
        self.lane.add(Counter::FlowsCreated, 1);
        self.lane.add_uplink(uplink, UplinkCounter::FlowsCreated, 1);
        self.lane.add_uplink(uplink, UplinkCounter::FlowsActive, 1);
        Ok(slot)
    }

    /// What the flow looks like on the uplink, and the mapping it needs if it is not TCP.
    fn translate(
        &mut self,
        uplink: u8,
        key: &FlowKey4,
    ) -> Result<(FlowKey4, Option<External>), Dropped> {
        let up =
            self.snapshot.half.uplinks.get(usize::from(uplink)).ok_or(Counter::DropNoUplink)?;
        if up.translate != Translate::Nat44 as u8 {
            return Ok((*key, None));
        }
        let pool = usize::from(up.pool_len).min(up.pool.len());
        if pool == 0 {
            return Err(Counter::DropNoPort);
        }
        let slice = PortSlice::of(up.nat_lo, up.nat_hi, self.id, self.workers)
            .ok_or(Counter::DropNoPort)?;
        // One inside host keeps one outside address (RFC 4787 REQ-2).
        let host = hash2(self.key, u64::from(u32::from_be_bytes(key.src)), 2);
        let address = up.pool[host as usize % pool];
        let proto = key.proto;
        let external = |port| External { proto, address, port };
        let (table, secret, mappings) = (&self.table, self.key, &self.mappings);
        let free = |port: u16| {
            let answer = reversed(&translated(key, &external(port)));
            (proto == tcp::PROTOCOL || mappings.is_free(&external(port)))
                && table.find(flow4(secret, &answer), &answer).is_none()
        };
        let wanted = u16::from_be_bytes(key.sport);
        let port = slice.pick(wanted, &mut self.random, free).ok_or(Counter::DropNoPort)?;
        let held = (proto != tcp::PROTOCOL).then(|| external(port));
        Ok((translated(key, &external(port)), held))
    }

    /// A flow whose uplink is down meets its next packet: it moves, or its sender gets a reset. It
    /// stays as it is when there is nowhere else to go.
    #[expect(clippy::too_many_arguments, reason = "the packet and its flow, once, on a cold path")]
    fn leave_uplink<B: Buffer>(
        &mut self,
        work: &Work,
        key: &FlowKey4,
        slot: u32,
        action: &Action4,
        received: &Received<B>,
        now: u32,
        out: &mut impl Output<B>,
    ) -> Result<u32, Dropped> {
        let p = &work.parsed;
        let traffic = traffic_of(p, work.port);
        let policy = steering::policy(&self.snapshot.half, &traffic);
        if steering::uplink(&self.snapshot, &self.control, self.key, policy, &traffic).is_none() {
            return Ok(slot);
        }
        self.remove(slot);
        if p.proto == tcp::PROTOCOL && action.flags & flag::NAT != 0 {
            self.answer(work, received, now, out, |frame, _| answer::tcp_reset(frame, p));
            return Err(Counter::DropAnswered);
        }
        self.lane.add(Counter::FlowsMoved, 1);
        self.admit(work, key, received.frame.data(), now)
    }

    /// Sends an answer back to where the packet came from, if the rate allows it.
    fn answer<B: Buffer>(
        &mut self,
        work: &Work,
        received: &Received<B>,
        now: u32,
        out: &mut impl Output<B>,
        make: impl FnOnce(&[u8], [u8; 4]) -> Option<Answer>,
    ) {
        if self.is_uplink(work.port) || !self.answers.allows(now) {
            return;
        }
        let from = self.snapshot.half.ports[usize::from(work.port)].address;
        let Some(answer) = make(received.frame.data(), from) else { return };
        let Some(mut frame) = out.allocate() else { return };
        if frame.set_data(answer.data()) && out.transmit(received.device, frame).is_ok() {
            self.lane.add(Counter::UserOriginated, 1);
            self.lane.add(Counter::UserTx, 1);
        }
    }

    /// Ends flows that were idle too long, looking at `slots` slots of the table from where the
    /// last call stopped.
    pub fn expire(&mut self, slots: u32, now: u32) {
        let timeouts = self.snapshot.half.timeouts;
        if self.snapshot.half.epoch == 0 {
            return;
        }
        for _ in 0..slots.min(self.table.capacity()) {
            let index = self.cursor;
            self.cursor = (self.cursor + 1) % self.table.capacity();
            let slot = self.table.slot(index);
            if !slot.is_valid() {
                continue;
            }
            let Some(entry) = slot.read() else { continue };
            let ours = entry.worker == self.id && entry.flags & flag::FORWARD != 0;
            if ours && flows::is_expired(&self.table, &entry, &timeouts, now) {
                self.remove(index);
                self.lane.add(Counter::FlowsExpired, 1);
            }
        }
    }

    /// Slots of the flow table.
    pub fn capacity(&self) -> u32 {
        self.table.capacity()
    }

    /// Ends a flow, given its forward slot.
    fn remove(&mut self, forward: u32) {
        let Some(entry) = self.table.slot(forward).read() else { return };
        self.table.retire(forward);
        self.table.retire(entry.peer);
        if entry.flags & flag::NAT != 0 && entry.proto != tcp::PROTOCOL {
            self.mappings.release(&external_of(&entry));
        }
        self.flows -= 1;
        self.lane.add_uplink(entry.uplink, UplinkCounter::FlowsActive, 1u64.wrapping_neg());
    }

    /// Takes over the flows that an earlier process left in the table: those whose owner this
    /// worker would be. Ends the ones that are not whole. Call once, before the first packet.
    pub fn adopt(&mut self) -> u64 {
        self.refresh();
        let mut active = [0u64; weir_wire::layout::MAX_UPLINKS];
        for index in 0..self.table.capacity() {
            let Some(entry) = self.table.slot(index).read() else { continue };
            let owner = if entry.worker < self.workers { entry.worker } else { 0 };
            if owner != self.id {
                continue;
            }
            let peer = self.table.slot(entry.peer).read();
            let whole = peer.is_some_and(|peer| {
                peer.peer == index && (peer.flags ^ entry.flags) & flag::FORWARD != 0
            });
            let known = usize::from(entry.uplink) < active.len() && entry.worker < self.workers;
            if !whole || !known {
                self.table.retire(index);
                continue;
            }
            if entry.flags & flag::FORWARD == 0 {
                continue;
            }
            self.flows += 1;
            active[usize::from(entry.uplink)] += 1;
            if entry.flags & flag::NAT != 0 && entry.proto != tcp::PROTOCOL {
                let traffic = Traffic {
                    in_port: peer.map_or(0, |peer| peer.port),
                    src: entry.src,
                    dst: entry.dst,
                    sport: u16::from_be_bytes(entry.sport),
                    dport: u16::from_be_bytes(entry.dport),
                    proto: entry.proto,
                    dscp: 0,
                };
                let policy = steering::policy(&self.snapshot.half, &traffic);
                let endpoint = Endpoint {
                    proto: entry.proto,
                    policy,
                    address: entry.src,
                    port: traffic.sport,
                };
                self.mappings.hold(endpoint, entry.uplink, external_of(&entry));
            }
        }
        for (uplink, count) in active.into_iter().enumerate() {
            self.lane.set_uplink(uplink as u8, UplinkCounter::FlowsActive, count);
        }
        self.lane.add(Counter::FlowsAdopted, self.flows);
        self.flows
    }
}

fn external_of(forward: &weir_wire::layout::flow::FlowEntry4) -> External {
    let rewrite = &forward.rewrite;
    External { proto: forward.proto, address: rewrite.src, port: u16::from_be_bytes(rewrite.sport) }
}

/// The key after source translation; an ICMP query has its identifier in both ports.
fn translated(key: &FlowKey4, external: &External) -> FlowKey4 {
    let port = external.port.to_be_bytes();
    let dport = if key.proto == icmp::PROTOCOL { port } else { key.dport };
    FlowKey4::new(external.address, key.dst, port, dport, key.proto)
}

fn traffic_of(p: &Parsed, in_port: u8) -> Traffic {
    Traffic {
        in_port,
        src: p.src,
        dst: p.dst,
        sport: u16::from_be_bytes(p.sport),
        dport: u16::from_be_bytes(p.dport),
        proto: p.proto,
        dscp: p.dscp,
    }
}

fn segment_of(p: &Parsed, frame: &[u8]) -> tcp::Segment {
    let segment = frame.get(usize::from(p.l4)..).unwrap_or(&[]);
    let header = tcp::Packet::new_unchecked(segment);
    let len = usize::from(p.end - p.l4).saturating_sub(header.header_len());
    tcp::Segment::new(header.seq(), len as u32, p.tcp_flags)
}

fn fragment_key(p: &Parsed, frame: &[u8]) -> FragmentKey {
    let header = frame.get(usize::from(p.l3)..).unwrap_or(&[]);
    let ident = ipv4::Packet::new_header(header).map_or(0, |ip| ip.ident());
    FragmentKey { src: p.src, dst: p.dst, ident, proto: p.proto }
}
