//! What the sessions of a worker have in common: the published state, adjacencies, counters and
//! limits, and the time of the batch.

use weir_layout::adjacency::Adjacency;
use weir_layout::control::{Mac, PathId, Port, PortBlocks};
use weir_layout::counters::Counter;
use weir_layout::flow::flag;
use weir_layout::set::IndexSet;
use weir_layout::{Family as Ip, MAX_DEVICES, MAX_POLICIES, NONE};
use weir_shm::adjacencies::Adjacencies;
use weir_shm::control::{ControlRegion, Current};
use weir_shm::counters::{Counters, LaneWriter, PathCounter};
use weir_shm::flows::Action;
use weir_wire::family::{Family, V4, V6};
use weir_wire::forward::Egress;
use weir_wire::parse::{Kind, Parsed};
use weir_wire::rewrite::{LinkHeader, TAGGED, UNTAGGED};
use weir_wire::{protocol, tcp};
use zerocopy::FromZeros;

use super::DropReason;
use super::Regions;
use super::asked_hosts::AskedHosts;
use super::batch::Work;
use super::errors::ErrorLimits;
use super::hairpin::Outsides;
use super::inside_hosts::InsideHosts;
use super::known_hosts::KnownHosts;
use super::nat_log::NatLog;
use super::split::is_splittable;
use super::unknown_hosts::UnknownHosts;
use crate::answer::RateLimit;
use crate::link;
use crate::nat::Random;
use crate::packet::{Buffer, Output, Received};
use crate::purpose::decider;
use crate::steering;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) id: u8,
    pub(super) workers: u8,
    /// Key of the flow hash.
    pub(super) key: [u64; 2],
    pub(super) control: ControlRegion,
    pub(super) snapshot: Current,
    /// Number of uplinks.
    pub(super) uplinks: u8,
    /// Addresses that hosts have outside, by family.
    pub(super) outsides: [Outsides; Ip::COUNT],
    /// Ports that hosts have services at.
    pub(super) service_ports: PortBlocks,
    /// Devices whose untagged frames are a port's.
    pub(super) untagged: [Option<Untagged>; MAX_DEVICES],
    pub(super) adjacencies: Adjacencies,
    pub(super) known_hosts: KnownHosts,
    pub(super) unknown_hosts: UnknownHosts,
    pub(super) counters: Counters,
    pub(super) inside_hosts: InsideHosts,
    pub(super) asked_hosts: AskedHosts,
    pub(super) lane: LaneWriter,
    pub(super) nat_log: NatLog,
    pub(super) errors: ErrorLimits,
    /// Flows that may move back to a better tier, by policy.
    pub(super) failback: [RateLimit; MAX_POLICIES],
    pub(super) random: Random,
    /// Milliseconds, wrapping.
    pub(super) now: u32,
    /// Was the batch handed off by other workers?
    pub(super) handed_off: bool,
}

/// Where a device's untagged frames come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Untagged {
    pub(super) port: u8,
    /// The side it is on, see [`flag::side`].
    pub(super) side: u8,
}

impl Context {
    /// Of worker `id` of `workers`. `entropy` is a secret of this process.
    pub(super) fn new(id: u8, workers: u8, regions: &Regions, entropy: [u64; 2]) -> Self {
        Self {
            id,
            workers,
            key: regions.hash_key,
            control: regions.control.clone(),
            snapshot: Current::default(),
            uplinks: 0,
            outsides: [Outsides::default(); Ip::COUNT],
            service_ports: PortBlocks::new_zeroed(),
            untagged: [None; MAX_DEVICES],
            adjacencies: regions.adjacencies.clone(),
            known_hosts: KnownHosts::new(entropy),
            unknown_hosts: UnknownHosts::default(),
            counters: regions.counters.clone(),
            inside_hosts: InsideHosts::default(),
            asked_hosts: AskedHosts::default(),
            lane: regions.counters.worker(id),
            nat_log: NatLog::new(regions.nat_log.as_ref().map(|log| log.ring(id))),
            errors: ErrorLimits::new(entropy),
            failback: [RateLimit::new(0); MAX_POLICIES],
            random: Random::new([entropy[0] ^ u64::from(id), entropy[1]]),
            now: 0,
            handed_off: false,
        }
    }

    /// Takes over the published state if there is a newer one; says whether it did.
    pub(super) fn refresh(&mut self) -> bool {
        let newer = self.control.epoch() != self.snapshot.half.epoch;
        if !newer {
            return false;
        }
        let rules = self.snapshot.half.rules.each_ref().map(|rule| rule.name);
        let services = self.snapshot.half.port_forwards().to_vec();
        if !self.snapshot.refresh(&self.control) {
            return false;
        }
        self.renumber_rules(&rules);
        self.renumber_services(&services);
        let half = &self.snapshot.half;
        self.outsides = [Outsides::of::<V4>(half), Outsides::of::<V6>(half)];
        self.service_ports.zero();
        let services = half.port_forwards().iter().filter(|service| !service.is_to_gateway());
        services.for_each(|service| self.service_ports.enter(service.ports_inside()));
        self.uplinks = half.uplinks.iter().take_while(|uplink| uplink.name.0[0] != 0).count() as u8;
        for (untagged, device) in self.untagged.iter_mut().zip(&half.devices) {
            let side = |port: u8| flag::side(half.ports[usize::from(port)].role);
            let port = half.port_of(device.ifindex, 0);
            *untagged = port.map(|port| Untagged { port, side: side(port) });
        }
        for (limit, policy) in self.failback.iter_mut().zip(&half.policies) {
            limit.set(policy.home_per_second);
        }
        self.inside_hosts.refresh(half);
        self.asked_hosts.refresh(half);
        self.nat_log.follow(&self.snapshot.half);
        true
    }

    /// Uplinks that flows of the family may use.
    pub(super) fn usable_uplinks<F: Family>(&self) -> IndexSet {
        let usable = |uplink: &u8| steering::usable(&self.control, F::path(*uplink));
        (0..self.uplinks).filter(usable).collect()
    }

    /// Does the flow leave its uplink, which is down, with a packet of this direction? It is the
    /// worker's, and began inside, where it can begin anew.
    #[inline]
    pub(super) fn leaves<F: Family>(&self, action: &Action<F>) -> bool {
        action.worker == self.id
            && began_inside(action)
            && action.uplink != NONE
            && !steering::usable(&self.control, F::path(action.uplink))
    }

    /// Makes the segment size that a SYN, or the answer to one, names one that its uplink's packets
    /// have room for.
    pub(super) fn clamp_mss<F: Family>(&self, frame: &mut [u8], p: &Parsed<F>, uplink: u8) {
        let syn = p.proto == tcp::PROTOCOL && p.tcp_flags & tcp::flag::SYN != 0;
        let uplink = self.snapshot.half.uplinks.get(usize::from(uplink));
        if p.kind == Kind::Flow
            && syn
            && let Some(most) = uplink.and_then(|uplink| uplink.most_mss(F::FAMILY))
            && let Some(segment) = frame.get_mut(p.l4.into()..p.end.into())
        {
            tcp::clamp_mss(segment, most);
        }
    }

    pub(super) fn is_uplink(&self, port: u8) -> bool {
        let port = self.snapshot.half.ports.get(usize::from(port));
        port.is_some_and(Port::is_uplink)
    }

    /// Refuses a packet that has a flow's key and comes from where that cannot come from: the wrong
    /// side, or a LAN port that its source is not behind. Any uplink may carry what is for the LAN.
    #[inline]
    pub(super) fn check_side<F: Family>(
        &self,
        work: &Work<F>,
        action: &Action<F>,
        host: Adjacency,
    ) -> Result<(), DropReason> {
        let elsewhere = || {
            host_moved(action, host) && !self.snapshot.half.is_behind(work.port, work.parsed.src)
        };
        match (self.is_uplink(work.port), action.direction().is_from_inside()) {
            (true, true) => Err(Counter::DropNoFlow),
            (false, false) => Err(Counter::DropSource),
            (false, true) if elsewhere() => Err(Counter::DropSource),
            _ => Ok(()),
        }
    }

    /// The worker that must decide about a packet without a flow, if it is another one: a UDP or
    /// ICMP endpoint has one mapping, so one worker, and one of TCP where an uplink maps those. What has
    /// no ports is decided by whom it is for: no two workers give the same address outside to two hosts
    /// that speak with one remote.
    pub(super) fn decider<F: Family>(&self, work: &Work<F>) -> Option<u8> {
        let p = &work.parsed;
        let is_anybodys = p.proto == tcp::PROTOCOL && self.snapshot.half.maps_tcp == 0;
        if is_anybodys || self.is_uplink(work.port) {
            return None;
        }
        match protocol::is_portless(p.proto) {
            true => self.decider_of::<F>(p.proto, &p.dst, 0),
            false => self.decider_of::<F>(p.proto, &p.src, u16::from_be_bytes(p.sport)),
        }
    }

    /// The same of one that came by an uplink and asks for a host: what has no ports is decided by
    /// who sent it, so by the worker that decides about what is sent there.
    pub(super) fn decider_outside<F: Family>(&self, p: &Parsed<F>) -> Option<u8> {
        let is_portless = protocol::is_portless(p.proto);
        if is_portless { self.decider_of::<F>(p.proto, &p.src, 0) } else { None }
    }

    /// The worker that decides about an end, if it is another one.
    fn decider_of<F: Family>(&self, proto: u8, end: &F::Address, port: u16) -> Option<u8> {
        if self.workers == 1 {
            return None;
        }
        let worker = decider::<F>(self.key, self.workers, proto, end, port);
        (worker != self.id).then_some(worker)
    }

    /// The port that a direction leaves by; [`NONE`]: by none now.
    #[inline]
    pub(super) fn port_toward(&self, adjacency: u16) -> u8 {
        self.adjacencies.get(adjacency).map_or(NONE, |adjacency| adjacency.port)
    }

    /// Where a direction leads; `None` while its next hop is unknown.
    #[inline]
    pub(super) fn egress<F: Family>(&self, action: &Action<F>) -> Option<Egress> {
        self.egress_to(self.adjacencies.get(action.adjacency)?, F::path(action.uplink))
    }

    /// Where an adjacency leads; by the path, if that is of an uplink.
    #[inline]
    pub(super) fn egress_to(&self, adjacency: Adjacency, path: PathId) -> Option<Egress> {
        let Adjacency { mac, port } = adjacency;
        let port = self.snapshot.half.ports.get(usize::from(port))?;
        let destination = Mac::new(mac);
        if destination == Mac::NONE {
            return None;
        }
        Some(Egress {
            path_state: self.control.path_state(path),
            outward: port.is_uplink(),
            device: port.device,
            mtu: port.mtu,
            link: LinkHeader { destination, source: port.mac, vlan: port.vlan },
        })
    }

    /// Puts the layer-2 header on and queues the frame.
    pub(super) fn send<F: Family, B: Buffer>(
        &self,
        frame: B,
        p: &Parsed<F>,
        action: &Action<F>,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let egress = self.egress(action).ok_or(Counter::DropUplinkDown)?;
        self.leave(frame, p, &egress, F::path(action.uplink), out)
    }

    /// The same of one that leaves so, and is counted on the path. One that is larger than its way out
    /// takes leaves in fragments, if it may.
    pub(super) fn leave<F: Family, B: Buffer>(
        &self,
        mut frame: B,
        p: &Parsed<F>,
        egress: &Egress,
        path: PathId,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let len = p.end - p.l3;
        let split = len > egress.mtu;
        if split && !is_splittable(frame.data(), p) {
            return Err(Counter::DropTooBig);
        }
        if !link::set_header(&mut frame, p.l3 != 14, &egress.link) {
            return Err(Counter::DropNoFrame);
        }
        if split {
            let l3 = if egress.link.vlan == 0 { UNTAGGED } else { TAGGED };
            return self.send_split(frame, (l3, l3 + usize::from(len)), egress, path, out);
        }
        self.transmit(egress, frame, path, len.into(), out)
    }

    /// Queues a frame and counts it.
    #[inline(always)]
    pub(super) fn transmit<B: Buffer>(
        &self,
        egress: &Egress,
        frame: B,
        path: PathId,
        len: u64,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        out.transmit(egress.device, frame).map_err(|_| Counter::DropTxFull)?;
        self.lane.add(Counter::UserTx, 1);
        let (packets, bytes) = match egress.outward {
            true => (PathCounter::TxPackets, PathCounter::TxBytes),
            false => (PathCounter::RxPackets, PathCounter::RxBytes),
        };
        self.lane.add_path(path, packets, 1);
        self.lane.add_path(path, bytes, len);
        Ok(())
    }

    pub(super) fn hand_off<B: Buffer>(
        &self,
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
    pub(super) fn originate<B: Buffer>(
        &self,
        device: u8,
        answer: &[u8],
        out: &mut impl Output<B>,
    ) -> bool {
        let Some(mut frame) = out.allocate() else { return false };
        if !frame.set_data(answer) || out.originate(device, frame).is_err() {
            return false;
        }
        self.lane.add(Counter::UserOriginated, 1);
        self.lane.add(Counter::UserTx, 1);
        true
    }
}

/// Is it the direction in which the flow began, and from inside?
#[inline]
pub(super) fn began_inside<F: Family>(action: &Action<F>) -> bool {
    const BOTH: u8 = flag::INITIATED | flag::INSIDE;
    action.flags & BOTH == BOTH
}

/// Who sent a frame that came in by a port.
#[inline(always)]
pub(super) fn sender(frame: &[u8], port: u8) -> Adjacency {
    Adjacency { mac: link::source(frame).bytes(), port }
}

/// Does the packet come from another hardware address, or port, than its flow's host does?
#[inline(always)]
pub(super) fn host_moved<F: Family>(action: &Action<F>, host: Adjacency) -> bool {
    action.direction().has_moved(host.to_word())
}
