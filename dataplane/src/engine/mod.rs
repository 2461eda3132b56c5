//! The user tier of one worker: batches of packets in, packets and drops out. No clock, no system
//! call, no device: time and frames are handed in.
//!
//! A batch goes through in stages, so that the memory of one packet is on its way while the next is
//! parsed: *classify* (parse, hash, ask for its tags), ask for its slot, *look up*, *act*. Acting on
//! the next packet of an established flow is [`established`](crate::established)'s; every other
//! takes the slow path.
//!
//! | module | what it is |
//! |---|---|
//! | `admit` | a flow begins, or leaves an uplink that is down with a packet of its own |
//! | `stateless` | packets that are sent on without a flow |
//! | `claims` | a flow's packets come from another hardware address: whose its answers are |
//! | `errors` | ICMP errors |
//! | `known_hosts` | hosts that the kernel knows, whose new flows are evidence |
//! | `prefetch` | what a new flow will need is prefetched |
//! | `unknown_hosts` | hosts that the neighbour table has no room for |
//! | `aging` | flows end and move without a packet: the steady walk over the table |
//! | `sweep` | connections of an uplink that went down end at once |
//! | `complete` | checksums that a sender left to its device |
//! | `prepare` | flows that an earlier process left: whose each is now |
//! | `adopt` | its owner takes it over |

mod admit;
mod adopt;
mod aging;
mod claims;
mod complete;
mod errors;
mod known_hosts;
mod prefetch;
mod prepare;
mod stateless;
mod sweep;
mod unknown_hosts;

use weir_shm::control::{ControlRegion, Snapshot};
use weir_shm::counters::{Counters, LaneWriter, UplinkCounter};
use weir_shm::flows::{Action4, FlowTable4};
use weir_shm::neighbours::Neighbours;
use weir_shm::observations::Observations;
use weir_wire::forward::{Egress, Ingress, may_leave};
use weir_wire::hash::{flow4, flow4_words, hash2};
use weir_wire::layout::control::{Mac, PortRole, Translate, Uplink};
use weir_wire::layout::counters::Counter;
use weir_wire::layout::flow::{FlowEntry4, FlowKey4, FlowState, flag, flows_for};
use weir_wire::layout::neighbour::{Neighbour, mark};
use weir_wire::layout::set::IndexSet;
use weir_wire::layout::{MAX_DEVICES, MAX_POLICIES, NONE};
use weir_wire::parse::{Kind, Parsed, Reject, parse};
use weir_wire::plain::Packet;
use weir_wire::rewrite::LinkHeader;
use weir_wire::tcp::Place;
use weir_wire::{checksum, icmp, ipv4, rewrite, tcp, udp};

use crate::answer::{self, Answer, RateLimit};
use crate::established;
use crate::flows::{self, Header, NewFlow};
use crate::fragments::{FragmentKey, Fragments, Verdict};
use crate::heavy::Heavy;
use crate::icmp_error::{self, Toward};
use crate::link;
use crate::mappings::{Hashed, Mapping, Mappings};
use crate::nat::{Endpoint, External, PortSlice, Random};
use crate::observer::Observer;
use crate::packet::{Buffer, Output, Received};
use crate::purpose::Purpose;
use crate::steering::{self, Traffic};
use admit::EgressChoice;
use aging::Passes;
use claims::Claims;
pub use claims::{Owner, SILENT_MS};
use errors::ErrorLimits;
use known_hosts::KnownHosts;
use prefetch::Prefetched;
use sweep::Sweep;
use unknown_hosts::UnknownHosts;

/// Most packets that go through the stages together.
pub const BATCH: usize = 64;

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
    /// What is seen of new connections.
    pub observations: Observations,
    /// Key of the flow hash.
    pub hash_key: [u64; 2],
}

impl Regions {
    /// Regions of this process alone, with a flow table of `slots` slots.
    pub fn anonymous(slots: u32, hash_key: [u64; 2]) -> std::io::Result<Self> {
        Ok(Self {
            control: ControlRegion::anonymous()?,
            flows: FlowTable4::anonymous(slots)?,
            neighbours: Neighbours::anonymous(hash_key)?,
            counters: Counters::anonymous()?,
            observations: Observations::anonymous()?,
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
    /// Number of uplinks.
    uplinks: u8,
    /// Devices whose untagged frames are a port's.
    untagged: [Option<Untagged>; MAX_DEVICES],
    table: FlowTable4,
    neighbours: Neighbours,
    lane: LaneWriter,
    key: [u64; 2],
    mappings: Mappings,
    fragments: Fragments,
    random: Random,
    claims: Claims,
    unknown_hosts: UnknownHosts,
    known_hosts: KnownHosts,
    errors: ErrorLimits,
    cursor: u32,
    passes: Passes,
    failback: [RateLimit; MAX_POLICIES],
    sweep: Sweep,
    heavy: Heavy,
    observer: Observer,
    flows: u64,
}

/// Where a device's untagged frames come from.
#[derive(Clone, Copy, Debug)]
struct Untagged {
    port: u8,
    /// Where they go, see [`flag::heading`].
    heading: u8,
}

/// A packet between the stages.
#[derive(Clone, Copy)]
enum Stage {
    /// Perhaps the next of an established flow.
    Plain { plain: Packet, hash: u64, slot: Option<u32> },
    /// Any other.
    Parsed(Work),
    /// It ends here.
    Dropped(DropReason),
}

/// How a packet of an established flow leaves.
struct Departure {
    slot: u32,
    action: Action4,
    egress: Egress,
}

/// What the first stages found out about a packet that takes the slow path.
#[derive(Clone, Copy)]
struct Work {
    parsed: Parsed,
    port: u8,
    hash: u64,
    slot: Option<u32>,
    /// The flow leaves its uplink, which is down.
    leaves: bool,
    /// The flow it may begin.
    new: Option<Prefetched>,
}

/// Why a packet ends here.
type DropReason = Counter;

impl Engine {
    /// Worker `id` of `workers`. `entropy` is a secret of this process.
    pub fn new(id: u8, workers: u8, regions: &Regions, entropy: [u64; 2]) -> Self {
        // The worker's share of the flows that the table is made for: an index that grew under load
        // would hold up a batch while it moves.
        let mappings = flows_for(regions.flows.capacity()) as usize / usize::from(workers.max(1));
        Self {
            id,
            workers: workers.max(1),
            control: regions.control.clone(),
            snapshot: Snapshot::new(),
            uplinks: 0,
            untagged: [None; MAX_DEVICES],
            table: regions.flows.clone(),
            neighbours: regions.neighbours.clone(),
            lane: regions.counters.worker(id),
            key: regions.hash_key,
            mappings: Mappings::new(entropy, mappings),
            fragments: Fragments::new(entropy),
            random: Random::new([entropy[0] ^ u64::from(id), entropy[1]]),
            claims: Claims::default(),
            unknown_hosts: UnknownHosts::default(),
            known_hosts: KnownHosts::new(entropy),
            errors: ErrorLimits::new(entropy),
            cursor: 0,
            passes: Passes::default(),
            failback: [RateLimit::new(0); MAX_POLICIES],
            sweep: Sweep::default(),
            heavy: Heavy::new(regions.hash_key),
            observer: Observer::new(id, regions),
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
        self.uplinks = half.uplinks.iter().take_while(|uplink| uplink.name.0[0] != 0).count() as u8;
        for (untagged, device) in self.untagged.iter_mut().zip(&half.devices) {
            let heading = |port: u8| flag::heading(half.ports[usize::from(port)].role);
            let port = half.port_of(device.ifindex, 0);
            *untagged = port.map(|port| Untagged { port, heading: heading(port) });
        }
        for (limit, policy) in self.failback.iter_mut().zip(&half.policies) {
            limit.set(policy.home_per_second);
        }
        self.sweep.again(&half.uplinks);
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

    /// As [`Self::process`], for frames that another worker handed off, of which `lost` more
    /// found no frame here.
    pub fn process_handed_off<B: Buffer>(
        &mut self,
        batch: &mut Vec<Received<B>>,
        lost: usize,
        now: u32,
        out: &mut impl Output<B>,
    ) {
        self.lane.add(Counter::UserHandoffIn, (batch.len() + lost) as u64);
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
            let all_up = self.usable_uplinks().len() == u32::from(self.uplinks);
            let mut begin = false;
            for stage in &mut stages[..count] {
                let slot = match stage {
                    Stage::Plain { plain, hash, slot } => {
                        *slot = self.table.find(*hash, &FlowKey4::from_words(plain.key()));
                        *slot
                    }
                    Stage::Parsed(work) => {
                        work.slot = self.table.find(work.hash, &work.parsed.key());
                        work.slot
                    }
                    Stage::Dropped(_) => continue,
                };
                begin |=
                    slot.is_none_or(|slot| !all_up && self.leaves(&self.table.slot(slot).action()));
            }
            if begin {
                self.prefetch_new(&mut stages[..count], batch, now);
            }
            for (stage, received) in stages.iter().zip(batch.drain(..count)) {
                if let Err(reason) = self.act(stage, received, now, out) {
                    self.lane.add(reason, 1);
                }
            }
        }
    }

    /// Uplinks that flows may use.
    fn usable_uplinks(&self) -> IndexSet {
        (0..self.uplinks).filter(|uplink| steering::usable(&self.control, *uplink)).collect()
    }

    /// Is the flow the worker's, and on an uplink that is down?
    fn leaves(&self, action: &Action4) -> bool {
        action.worker == self.id
            && action.flags & flag::FORWARD != 0
            && !steering::usable(&self.control, action.uplink)
    }

    #[inline(always)]
    fn classify(&self, frame: &[u8], device: u8) -> Stage {
        if self.untagged.get(usize::from(device)).is_some_and(Option::is_some)
            && let Some(plain) = established::read(frame)
        {
            let hash = flow4_words(self.key, plain.key());
            self.table.prefetch_tags(hash);
            return Stage::Plain { plain, hash, slot: None };
        }
        self.parse(frame, device).map_or_else(Stage::Dropped, Stage::Parsed)
    }

    fn parse(&self, frame: &[u8], device: u8) -> Result<Work, DropReason> {
        let parsed = parse(frame).map_err(|reject| match reject {
            Reject::NotIp | Reject::Ipv4 | Reject::Ipv6 | Reject::StackedVlan => Counter::DropNotIp,
            _ => Counter::DropMalformed,
        })?;
        let half = &self.snapshot.half;
        let device = half.devices.get(usize::from(device)).ok_or(Counter::DropPort)?;
        let port = half.port_of(device.ifindex, parsed.vlan).ok_or(Counter::DropPort)?;
        let hash = flow4(self.key, &parsed.key());
        self.table.prefetch_tags(hash);
        Ok(Work { parsed, port, hash, slot: None, leaves: false, new: None })
    }

    /// What takes the slow path after all.
    fn slow_path(
        &self,
        plain: &Packet,
        hash: u64,
        slot: Option<u32>,
        device: u8,
    ) -> Result<Work, DropReason> {
        let untagged = self.untagged.get(usize::from(device)).copied().flatten();
        let Untagged { port, .. } = untagged.ok_or(Counter::DropPort)?;
        Ok(Work { parsed: established::parsed(plain), port, hash, slot, leaves: false, new: None })
    }

    fn act<B: Buffer>(
        &mut self,
        stage: &Stage,
        received: Received<B>,
        now: u32,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        match stage {
            Stage::Plain { plain, hash, slot } => {
                let leaves = slot.and_then(|slot| self.established(plain, &received, slot));
                if let Some(departure) = leaves {
                    return self.forward(plain, &departure, received.frame, now, out);
                }
                let work = self.slow_path(plain, *hash, *slot, received.device)?;
                self.act_on(&work, received, now, out)
            }
            Stage::Parsed(work) => self.act_on(work, received, now, out),
            Stage::Dropped(reason) => Err(*reason),
        }
    }

    /// How the packet leaves, if that is the worker's to say and its flow is where it should be. An
    /// earlier packet of the batch may have ended the flow.
    #[inline(always)]
    fn established<B: Buffer>(
        &self,
        plain: &Packet,
        received: &Received<B>,
        slot: u32,
    ) -> Option<Departure> {
        let Untagged { port, heading } = (*self.untagged.get(usize::from(received.device))?)?;
        let ingress = Ingress { heading, sender: sender(received.frame.data(), port).to_word() };
        let entry = self.table.slot(slot);
        let action = entry.action();
        let egress = self.egress(&action)?;
        let leaves = action.worker == self.id
            && entry.holds(plain.key())
            && egress.link.vlan == 0
            && may_leave(plain.ip.total(), &ingress, &action.direction(), &egress);
        leaves.then_some(Departure { slot, action, egress })
    }

    #[inline(always)]
    fn forward<B: Buffer>(
        &mut self,
        plain: &Packet,
        departure: &Departure,
        mut frame: B,
        now: u32,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let Departure { slot, action, egress } = departure;
        let bytes = u64::from(plain.ip.total());
        let rewrite = action.rewrite.words();
        rewrite::frame4::<{ established::L3 }>(frame.data_mut(), plain, rewrite, &egress.link)
            .ok_or(Counter::DropMalformed)?;
        if let Some(segment) = plain.segment() {
            let FlowKey4 { src, dst, .. } = FlowKey4::from_words(plain.key());
            self.track_sequence(*slot, action, segment, plain.acknowledged(), [src, dst]);
        }
        self.table.slot(*slot).count(bytes, now);
        self.transmit(egress.device, frame, action, bytes, out)
    }

    fn act_on<B: Buffer>(
        &mut self,
        work: &Work,
        received: Received<B>,
        now: u32,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        match work.parsed.kind {
            Kind::Flow | Kind::Fragment { first: true } => self.flow(work, received, now, out),
            Kind::Fragment { first: false } => self.later_fragment(work, received, now, out),
            Kind::IcmpError => self.icmp_error(work, received, now, out),
            Kind::Options => Err(Counter::DropOptions),
            Kind::OtherProtocol => Err(Counter::DropProtocol),
        }
    }

    fn flow<B: Buffer>(
        &mut self,
        work: &Work,
        mut received: Received<B>,
        now: u32,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let p = &work.parsed;
        let key = p.key();
        if !matches!(p.proto, tcp::PROTOCOL | udp::PROTOCOL | icmp::PROTOCOL) {
            return Err(Counter::DropProtocol);
        }
        // A fragment may be of any kind of message; only echo has an identifier to go by.
        if p.proto == icmp::PROTOCOL && !is_echo(p, received.frame.data()) {
            return Err(Counter::DropProtocol);
        }
        // An earlier packet of the batch may have made or ended the flow.
        let found = work.slot.filter(|slot| self.table.slot(*slot).holds(key.words()));
        let mut slot = match found.or_else(|| self.table.find(work.hash, &key)) {
            Some(slot) => slot,
            None => {
                if let Some(worker) = self.decider(work) {
                    return self.hand_off_first(worker, p, received, now, out);
                }
                // No flow begins for a packet that goes no further.
                if p.ttl <= 1 {
                    return Err(self.answer_expired(work, &received, now, out));
                }
                if let Some(reason) = self.begins_none(work, received.frame.data()) {
                    return self.forward_stateless(work, reason, received, now, out);
                }
                self.begin(work, &key, &received, now, out)?
            }
        };
        let mut action = self.table.slot(slot).action();
        let host = sender(received.frame.data(), work.port);
        self.check_side(work, &action, host)?;
        if action.worker != self.id {
            return self.hand_off_first(action.worker, p, received, now, out);
        }
        let translated = action.flags & flag::NAT != 0;
        if p.ttl <= 1 {
            let kind = [icmp::TIME_EXCEEDED, 0];
            self.send_icmp_error(work, translated, &received, now, out, kind, 0);
            return Err(Counter::DropTtl);
        }
        let ended = opens(p) && flows::has_ended(&action);
        if ended && self.is_uplink(work.port) && !self.lets_in(work.port) {
            return Err(Counter::DropNoFlow);
        }
        if ended && action.flags & flag::FORWARD != 0 {
            self.remove(slot);
            slot = self.begin(work, &key, &received, now, out)?;
            action = self.table.slot(slot).action();
        } else if self.leaves(&action) {
            slot = self.leave_uplink(work, &key, slot, &action, &received, now, out)?;
            action = self.table.slot(slot).action();
        }
        let unconfirmed = host_moved(&action, host) && !self.claim(slot, &action, host, now);
        let len = p.end - p.l3;
        self.check_mtu(work, action.port, translated, &received, now, out)?;
        self.complete(slot, &mut action, p, received.frame.data_mut());
        let header = (p.proto == tcp::PROTOCOL).then(|| header_of(p, received.frame.data()));
        flows::track(&self.table, slot, &action, header.as_ref());
        if p.kind != Kind::Flow {
            let key = fragment_key(p, received.frame.data());
            self.fragments.remember(key, Verdict::Forwarded(action), now);
        }
        if let Some(Header { segment, flags, seq, ack }) = header
            && flags & tcp::flag::RST == 0
        {
            let entry = self.table.slot(slot);
            if flags & tcp::flag::SYN != 0 && entry.meta().flow_state == FlowState::Opening as u8 {
                entry.set_next_seq(seq);
            }
            self.track_sequence(slot, &action, segment, ack, [p.src, p.dst]);
        }
        let Received { mut frame, .. } = received;
        rewrite::apply4(frame.data_mut(), p.l3.into(), Some(p.proto), &action.rewrite);
        let entry = self.table.slot(slot);
        // Of the flow's own host: whether that is silent counts.
        let seen = if unconfirmed { entry.last_seen() } else { now };
        entry.count(len.into(), seen);
        self.send(frame, p, &action, out)
    }

    /// Follows the sequence numbers of a TCP direction by a segment, from and to these addresses.
    #[inline]
    fn track_sequence(
        &self,
        slot: u32,
        action: &Action4,
        segment: tcp::Segment,
        ack: Option<u32>,
        [src, dst]: [[u8; 4]; 2],
    ) {
        let place =
            self.table.slot(slot).track_sequence(segment, ack, self.table.slot(action.peer));
        if !segment.has_data || place == Place::Outside {
            return;
        }
        self.lane.add_uplink(action.uplink, UplinkCounter::Segments, 1);
        if place == Place::Again {
            let (user, remote) = match action.flags & flag::TO_UPLINK != 0 {
                true => (src, dst),
                false => (action.rewrite.dst, src),
            };
            self.lane.add_resent(action.uplink, user, remote);
        }
    }

    fn later_fragment<B: Buffer>(
        &mut self,
        work: &Work,
        received: Received<B>,
        now: u32,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let p = &work.parsed;
        let key = fragment_key(p, received.frame.data());
        let action = match self.fragments.recall(&key, now).ok_or(Counter::DropFragment)? {
            Verdict::Forwarded(action) => action,
            Verdict::HandedOff(worker) => return self.hand_off(worker, received, out),
        };
        self.check_side(work, &action, sender(received.frame.data(), work.port))?;
        if p.ttl <= 1 {
            return Err(Counter::DropTtl);
        }
        let Received { mut frame, .. } = received;
        rewrite::apply4(frame.data_mut(), p.l3.into(), None, &action.rewrite);
        self.send(frame, p, &action, out)
    }

    /// Puts the layer-2 header on and queues the frame.
    fn send<B: Buffer>(
        &mut self,
        mut frame: B,
        p: &Parsed,
        action: &Action4,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let egress = self.egress(action).ok_or(Counter::DropUplinkDown)?;
        if !link::set_header(&mut frame, p.l3 != 14, &egress.link) {
            return Err(Counter::DropNoFrame);
        }
        self.transmit(egress.device, frame, action, u64::from(p.end - p.l3), out)
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
    ) -> Result<(), DropReason> {
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

    /// Where a direction leads; `None` while its next hop is unknown.
    #[inline]
    fn egress(&self, action: &Action4) -> Option<Egress> {
        let half = &self.snapshot.half;
        let port = half.ports.get(usize::from(action.port))?;
        let destination = match action.flags & flag::TO_UPLINK != 0 {
            true => half.uplinks.get(usize::from(action.uplink))?.next_hop_mac,
            false => Mac::new(self.neighbours.get(action.host)?.mac),
        };
        if destination == Mac::NONE {
            return None;
        }
        Some(Egress {
            uplink_state: self.control.uplink_state(action.uplink),
            device: port.device,
            mtu: port.mtu,
            link: LinkHeader { destination, source: port.mac, vlan: port.vlan },
        })
    }

    fn is_uplink(&self, port: u8) -> bool {
        let port = self.snapshot.half.ports.get(usize::from(port));
        port.is_some_and(|port| port.role == PortRole::Uplink as u8)
    }

    /// Refuses a packet that has a flow's key and comes from where that cannot come from: the wrong
    /// side, or a LAN port that its source is not behind. Any uplink may carry what is for the LAN.
    fn check_side(&self, work: &Work, action: &Action4, host: Neighbour) -> Result<(), DropReason> {
        let elsewhere = || {
            host_moved(action, host) && !self.snapshot.half.is_behind(work.port, work.parsed.src)
        };
        match (self.is_uplink(work.port), action.flags & flag::TO_UPLINK != 0) {
            (true, true) => Err(Counter::DropNoFlow),
            (false, false) => Err(Counter::DropSource),
            (false, true) if elsewhere() => Err(Counter::DropSource),
            _ => Ok(()),
        }
    }

    /// The worker that must decide about a packet without a flow, if it is another one: a UDP or
    /// ICMP endpoint has one mapping, so one worker.
    fn decider(&self, work: &Work) -> Option<u8> {
        let p = &work.parsed;
        if self.workers == 1 || p.proto == tcp::PROTOCOL || self.is_uplink(work.port) {
            return None;
        }
        let port = u16::from_be_bytes(p.sport);
        let worker = decider(self.key, self.workers, p.proto, p.src, port);
        (worker != self.id).then_some(worker)
    }

    /// Hands over a packet with ports; if it is a first fragment, the later ones will follow it.
    fn hand_off_first<B: Buffer>(
        &mut self,
        worker: u8,
        p: &Parsed,
        received: Received<B>,
        now: u32,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        if p.kind != Kind::Flow {
            let key = fragment_key(p, received.frame.data());
            self.fragments.remember(key, Verdict::HandedOff(worker), now);
        }
        self.hand_off(worker, received, out)
    }

    fn hand_off<B: Buffer>(
        &mut self,
        worker: u8,
        received: Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        if worker < self.workers && out.hand_off(worker, received.device, received.frame.data()) {
            self.lane.add(Counter::UserHandoffOut, 1);
            return Ok(());
        }
        Err(Counter::DropHandoffFull)
    }

    /// Sends a frame of the gateway's own; `false` when there is no room.
    fn originate<B: Buffer>(&self, device: u8, answer: &Answer, out: &mut impl Output<B>) -> bool {
        let Some(mut frame) = out.allocate() else { return false };
        if !frame.set_data(answer.data()) || out.originate(device, frame).is_err() {
            return false;
        }
        self.lane.add(Counter::UserOriginated, 1);
        self.lane.add(Counter::UserTx, 1);
        true
    }

    /// What steering knows of a flow by its entry, which does not keep the code point of its
    /// packets.
    fn traffic_in(&self, forward: &FlowEntry4) -> Traffic {
        Traffic {
            in_port: self.table.slot(forward.peer).action().port,
            src: forward.src,
            dst: forward.dst,
            sport: u16::from_be_bytes(forward.sport),
            dport: u16::from_be_bytes(forward.dport),
            proto: forward.proto,
            dscp: 0,
        }
    }

    /// The endpoint whose mapping the flow uses, if it uses one.
    fn endpoint_of(&self, forward: &FlowEntry4) -> Hashed<Endpoint> {
        self.endpoint(&self.traffic_in(forward))
    }

    /// The endpoint that sends it.
    fn endpoint(&self, traffic: &Traffic) -> Hashed<Endpoint> {
        let policy = steering::policy(&self.snapshot.half, traffic);
        let Traffic { proto, src: address, sport: port, .. } = *traffic;
        self.mappings.endpoint(Endpoint { proto, policy, address, port })
    }

    /// The external port that the flow uses.
    fn external_of(&self, forward: &FlowEntry4) -> Hashed<External> {
        self.mappings.external(external_of(forward))
    }

    /// Judges the new flows of late; `now_ms` is CLOCK_MONOTONIC. Call a few times a second.
    pub fn judge(&mut self, now_ms: u64) {
        self.observer.judge(&self.table, now_ms);
    }

    /// Slots of the flow table.
    pub fn capacity(&self) -> u32 {
        self.table.capacity()
    }
}

/// Who sent a frame that came in by a port.
#[inline(always)]
fn sender(frame: &[u8], port: u8) -> Neighbour {
    Neighbour { mac: link::source(frame).bytes(), port }
}

/// Does the packet come from another hardware address, or port, than its flow's host does?
#[inline(always)]
fn host_moved(action: &Action4, host: Neighbour) -> bool {
    action.direction().has_moved(host.to_word())
}

/// The worker that decides about the flows of a UDP or ICMP endpoint.
fn decider(key: [u64; 2], workers: u8, proto: u8, address: [u8; 4], port: u16) -> u8 {
    let ([a, b, c, d], [hi, lo]) = (address, port.to_be_bytes());
    let endpoint = u64::from_be_bytes([0, proto, a, b, c, d, hi, lo]);
    (Purpose::Decider.hash(key, endpoint) % u64::from(workers)) as u8
}

/// Does the flow use its endpoint's mapping?
fn has_mapping(forward: &FlowEntry4) -> bool {
    forward.flags & flag::NAT != 0 && forward.proto != tcp::PROTOCOL
}

fn external_of(forward: &FlowEntry4) -> External {
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

/// Is it the first segment of a TCP connection?
fn opens(p: &Parsed) -> bool {
    const OTHERS: u8 = tcp::flag::ACK | tcp::flag::FIN | tcp::flag::RST;
    p.proto == tcp::PROTOCOL && p.tcp_flags & (tcp::flag::SYN | OTHERS) == tcp::flag::SYN
}

/// Is the ICMP message a request or reply of echo?
fn is_echo(p: &Parsed, frame: &[u8]) -> bool {
    let kind = frame.get(usize::from(p.l4));
    kind.is_some_and(|kind| matches!(*kind, icmp::ECHO_REQUEST | icmp::ECHO_REPLY))
}

fn header_of(p: &Parsed, frame: &[u8]) -> Header {
    let header = tcp::Packet::new_unchecked(frame.get(usize::from(p.l4)..).unwrap_or(&[]));
    let len = usize::from(p.end - p.l4).saturating_sub(header.header_len());
    let (seq, flags) = (header.seq(), p.tcp_flags);
    let ack = (flags & tcp::flag::ACK != 0).then(|| header.ack());
    Header { flags, seq, ack, segment: tcp::Segment::new(seq, len as u32, flags) }
}

fn fragment_key(p: &Parsed, frame: &[u8]) -> FragmentKey {
    let header = frame.get(usize::from(p.l3)..).unwrap_or(&[]);
    let ident = ipv4::Packet::new_header(header).map_or(0, |ip| ip.ident());
    FragmentKey { src: p.src, dst: p.dst, ident, proto: p.proto }
}
