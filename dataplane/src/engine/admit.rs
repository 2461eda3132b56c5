//! Flows begin: which uplink a packet without a flow takes, and with which address and port.

use weir_wire::layout::NONE;
use weir_wire::layout::control::{OnUplinkDown, Uplink};
use weir_wire::layout::neighbour::mark;

use super::*;

impl Engine {
    /// Makes a flow for a packet that has none; its slot.
    pub(super) fn admit(
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
        self.begin(work, key, frame, now)
    }

    /// Makes a flow for a packet from the LAN; its slot.
    pub(super) fn begin(
        &mut self,
        work: &Work,
        key: &FlowKey4,
        frame: &[u8],
        now: u32,
    ) -> Result<u32, Dropped> {
        let p = &work.parsed;
        if !self.snapshot.half.lan_prefixes().iter().any(|prefix| prefix.contains4(p.src)) {
            return Err(Counter::DropSource);
        }
        let traffic = traffic_of(p, work.port);
        let endpoint = match work.new {
            Some(new) => new.endpoint,
            None => self.endpoint(&traffic),
        };
        let mapped = self.mappings.get(&endpoint).filter(|mapping| {
            self.is_in_force(mapping) || self.is_resort(mapping, endpoint.policy, &traffic)
        });
        let uplink = match mapped {
            Some(mapping) => mapping.uplink,
            None => self.choose(endpoint.policy, &traffic, now).ok_or(Counter::DropNoUplink)?,
        };
        let (outside, external) = match mapped {
            Some(mapping) => {
                let outside = translated(key, &mapping.external);
                let answer = reversed(&outside);
                if self.table.find(flow4(self.key, &answer), &answer).is_some() {
                    return Err(Counter::DropNoPort);
                }
                (outside, Some(mapping.external))
            }
            None => {
                while let Some(old) = self.mappings.get(&endpoint) {
                    self.mappings.detach(&old.external);
                }
                self.translate(uplink, key, work.new.and_then(|new| new.external))?
            }
        };
        let mac = link::source(frame);
        let neighbour = Neighbour { mac: mac.bytes(), port: work.port };
        let host = self.neighbours.learn(neighbour).ok_or(Counter::DropNeighbourFull)?;
        let port = self.snapshot.half.uplinks[usize::from(uplink)].port;
        let new = NewFlow {
            inside: *key,
            outside,
            uplink,
            lan: Side { port: work.port, host },
            wan: Side { port, host: mark(mac.word()) },
            worker: self.id,
            now,
        };
        let slot = flows::create(&self.table, self.key, &new).ok_or(Counter::DropTableFull)?;
        if let Some(external) = external {
            self.mappings.hold(endpoint, uplink, external);
        }
        self.witness.see(&self.table, slot, now);
        self.flows += 1;
        self.lane.add(Counter::FlowsCreated, 1);
        self.lane.add_uplink(uplink, UplinkCounter::FlowsCreated, 1);
        self.lane.add_uplink(uplink, UplinkCounter::FlowsActive, 1);
        Ok(slot)
    }

    /// May new flows use the mapping?
    pub(super) fn is_in_force(&self, mapping: &Mapping) -> bool {
        steering::usable(&self.control, mapping.uplink)
            && self.has_address(mapping.uplink, mapping.external.address)
    }

    /// Is the mapping of an uplink that is the last resort of the policy?
    fn is_resort(&self, mapping: &Mapping, policy: u8, traffic: &Traffic) -> bool {
        steering::spared(&self.control, mapping.uplink)
            && self.has_address(mapping.uplink, mapping.external.address)
            && self.is_best(mapping.uplink, policy, traffic)
    }

    /// Has a flow on this uplink, which is down, nowhere better to go?
    pub(super) fn is_best(&self, uplink: u8, policy: u8, traffic: &Traffic) -> bool {
        let other = steering::uplink(&self.snapshot, &self.control, self.key, policy, traffic);
        other.is_none_or(|other| other == uplink)
    }

    /// The uplink of a new flow: by its bucket, or that with most room if it promises to be heavy.
    pub(super) fn choose(&self, policy: u8, traffic: &Traffic, now: u32) -> Option<u8> {
        let heavy = self.snapshot.half.policies.get(usize::from(policy))?.heavy;
        if heavy != NONE
            && self.heavy.expects(traffic.src, traffic.dst, now)
            && steering::usable(&self.control, heavy)
        {
            return Some(heavy);
        }
        steering::uplink(&self.snapshot, &self.control, self.key, policy, traffic)
    }

    /// What the flow looks like on the uplink, and the mapping it needs if it is not TCP. The port
    /// foreseen for it is tried first, else its own.
    fn translate(
        &mut self,
        uplink: u8,
        key: &FlowKey4,
        foreseen: Option<(External, PortSlice)>,
    ) -> Result<(FlowKey4, Option<External>), Dropped> {
        let up =
            self.snapshot.half.uplinks.get(usize::from(uplink)).ok_or(Counter::DropNoUplink)?;
        if up.translate != Translate::Nat44 as u8 {
            return Ok((*key, None));
        }
        let address = self.address_for(up, key).ok_or(Counter::DropNoPort)?;
        let slice = PortSlice::of(up.nat_lo, up.nat_hi, self.id, self.workers)
            .ok_or(Counter::DropNoPort)?;
        let proto = key.proto;
        let external = |port| External { proto, address, port };
        let (table, secret, mappings) = (&self.table, self.key, &self.mappings);
        let free = |port: u16| {
            let answer = reversed(&translated(key, &external(port)));
            (proto == tcp::PROTOCOL || mappings.is_free(&external(port)))
                && table.find(flow4(secret, &answer), &answer).is_none()
        };
        let foreseen = foreseen.filter(|(external, _)| external.address == address);
        let wanted =
            foreseen.map_or_else(|| u16::from_be_bytes(key.sport), |(external, _)| external.port);
        let port = slice.pick(wanted, &mut self.random, free).ok_or(Counter::DropNoPort)?;
        let held = (proto != tcp::PROTOCOL).then(|| external(port));
        Ok((translated(key, &external(port)), held))
    }

    /// The outside address of a host's flows by an uplink that translates: always the same one
    /// (RFC 4787 REQ-2). `None`: it does not translate, or has none.
    pub(super) fn address_for(&self, up: &Uplink, key: &FlowKey4) -> Option<[u8; 4]> {
        let pool = up.addresses();
        if up.translate != Translate::Nat44 as u8 || pool.is_empty() {
            return None;
        }
        let host = hash2(self.key, u64::from(u32::from_be_bytes(key.src)), 2);
        Some(pool[host as usize % pool.len()])
    }

    /// A flow whose uplink is down meets its next packet: it moves, or its sender gets a reset. It
    /// stays as it is when there is nowhere else to go.
    #[expect(clippy::too_many_arguments, reason = "the packet and its flow, once, on a cold path")]
    pub(super) fn leave_uplink<B: Buffer>(
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
        if self.is_best(action.uplink, policy, &traffic) {
            return Ok(slot);
        }
        if p.proto == tcp::PROTOCOL && action.flags & flag::NAT != 0 && !opens(p) {
            match self.on_uplink_down(policy) {
                OnUplinkDown::Keep => return Ok(slot),
                OnUplinkDown::Drop => return Err(Counter::DropUplinkDown),
                OnUplinkDown::Reset => {}
            }
            self.remove(slot);
            if let Some(reset) = answer::tcp_reset(received.frame.data(), p) {
                self.originate(received.device, &reset, out);
            }
            return Err(Counter::DropAnswered);
        }
        self.remove(slot);
        self.lane.add(Counter::FlowsMoved, 1);
        self.begin(work, key, received.frame.data(), now)
    }
}
