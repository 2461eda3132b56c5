//! Asks a replica what becomes of a packet.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, anyhow, bail};
use weir_dataplane::engine::Steered;
use weir_layout::adjacency::next_hop;
use weir_layout::control::{ControlHalf, IpAddress, PathId, Port, RuleAction, Selection};
use weir_layout::counters::Counter;
use weir_layout::flow::{FlowState, flag};
use weir_layout::protocol::{ICMP, ICMPV6, TCP, is_portless};
use weir_layout::{Family as Ip, NONE};
use weir_shm::flows::{Stored, ago_ms};
use weir_wire::entry::Entry;
use weir_wire::ethernet;
use weir_wire::family::{Family, V4, V6};
use weir_wire::key::FlowKey;
use weir_wire::parse::{Parsed, vlan_of};

use crate::explanation::{Explanation, Fate, Flow, Packet, Policy, Tier};
use crate::question::{Link, Question, Segment, protocol_name};
use crate::reasons::reason;
use crate::replica::{Ran, Replica, Tables};
use crate::uplinks::{By, Of, buckets};

/// Of a host that nobody knows. Where policies select by host, it matters.
const SOMEBODY: [u8; 6] = [2, 0, 0, 0, 0, 1];

impl Replica {
    /// What becomes of a packet, and why.
    ///
    /// # Errors
    /// When it is not clear where the packet comes in, and how to say that; or the kernel does not
    /// run the XDP program.
    pub fn explain(&mut self, question: &Question) -> Result<Explanation> {
        match question.source {
            IpAddr::V4(_) => self.explain_as::<V4>(question),
            IpAddr::V6(_) => self.explain_as::<V6>(question),
        }
    }

    /// The same of a frame that comes in by a device.
    ///
    /// # Errors
    /// When it is no frame of a port of the gateway's; or the kernel does not run the XDP program.
    pub fn explain_frame(&mut self, device: u8, frame: &[u8]) -> Result<Explanation> {
        match ethernet::Frame::new_unchecked(frame).ethertype() {
            ethernet::IPV6 => self.explain_frame_as::<V6>(device, frame, Vec::new()),
            _ => self.explain_frame_as::<V4>(device, frame, Vec::new()),
        }
    }

    fn explain_as<F: Tables>(&mut self, question: &Question) -> Result<Explanation> {
        let (port, index) = self.port_of(question)?;
        let mut notes = Vec::new();
        let link = Link { from: SOMEBODY, to: port.mac.bytes(), vlan: port.vlan };
        let first = question.frame(&link, Segment::First);
        let key = F::parse(&first).map_err(|_| anyhow!("there is no such packet"))?.key();
        let known = self.find(F::table(&self.regions), &key);
        let from = match (question.mac, &known) {
            (Some(mac), _) => mac,
            (None, Some((_, entry))) => self.sender::<F>(entry).unwrap_or(SOMEBODY),
            (None, None) => self.neighbour(&port, index, question.source, &mut notes),
        };
        let goes_on = known.filter(|(_, entry)| entry.state_owner.state() != FlowState::Closing);
        let segment = match goes_on {
            Some((_, entry)) => {
                let peer = F::table(&self.regions).slot(entry.peer);
                Segment::Later { seq: entry.next_seq, ack: peer.next_seq() }
            }
            None => Segment::First,
        };
        let frame = question.frame(&Link { from, ..link }, segment);
        self.explain_frame_as::<F>(port.device, &frame, notes)
    }

    fn explain_frame_as<F: Tables>(
        &mut self,
        device: u8,
        frame: &[u8],
        mut notes: Vec<String>,
    ) -> Result<Explanation> {
        let parsed = F::parse(frame).map_err(|reject| anyhow!("not to be read: {reject:?}"))?;
        let key = parsed.key();
        let half = self.half.clone();
        let ifindex = half.devices.get(usize::from(device)).map_or(0, |device| device.ifindex);
        let index = half.port_of(ifindex, parsed.vlan);
        let index = index.ok_or_else(|| anyhow!("the file does not name its interface or VLAN"))?;
        let port = half.ports[usize::from(index)];
        let before = self.find(F::table(&self.regions), &key);
        let steered = self.steered(device, frame);
        let mut ran = self.send(device, frame)?;
        if ran.counter == Some(Counter::DropPublishHost) {
            // Somebody asks for a host: the kernel is asked where that is, and then comes the next.
            self.settle();
            ran = self.send(device, frame)?;
        }
        let after = self.find(F::table(&self.regions), &key);
        self.note(&half, &port, &ran, &mut notes);
        let flow = self.flow(before.map(|(_, entry)| entry), after.map(|(_, entry)| entry));
        let stays = flow.as_ref().is_some_and(|flow| !flow.new && flow.left.is_none());
        let is_steered = !stays && ran.worker.is_some() && port.is_lan();
        let steered = steered.filter(|_| is_steered);
        let denied = steered.as_ref().is_some_and(|steered| steered.ruling.action.denies());
        let taken = match (&ran.counter, after) {
            (_, Some((_, entry))) => Some(entry.uplink).filter(|uplink| *uplink != NONE),
            (Some(Counter::UserTx), None) => self.uplink_of(&half, &ran),
            _ => None,
        };
        let policy = steered.as_ref().map(|steered| steered.ruling.policy).filter(|_| !denied);
        let of =
            Of { half: &half, region: &self.regions.control, family: F::FAMILY, source: key.src() };
        let steering =
            policy.map(|policy| &half.policies[usize::from(policy) % half.policies.len()]);
        let uplinks = match (&steered, steering) {
            (Some(steered), Some(policy)) => of.uplinks(policy, taken, By::Steered(steered)),
            _ if stays && taken.is_some() => {
                let policy = &half.policies[usize::from(half.default_policy) % half.policies.len()];
                of.uplinks(policy, taken, By::Flow)
                    .into_iter()
                    .filter(|uplink| uplink.takes)
                    .collect()
            }
            _ => Vec::new(),
        };
        let rule = steered.as_ref().and_then(|steered| steered.ruling.rule).or(ran.rule);
        Ok(Explanation {
            packet: packet_of(&half, &parsed, &port, frame),
            fate: self.fate(&half, &ran),
            counter: ran.counter.map_or("", Counter::label),
            because: ran.counter.map_or("it waits for others", reason),
            tier: ran.worker.map_or(Tier::Kernel, |worker| Tier::User { worker }),
            rule: rule.map(|rule| rule_name(&half, rule)),
            policy: steering.map(|policy| Policy {
                name: policy.name.as_str().to_owned(),
                selection: selection(policy.selection()),
                buckets: steered.as_ref().map(buckets).unwrap_or_default(),
            }),
            uplinks,
            flow,
            notes,
        })
    }

    /// How the packet is steered, if it begins a flow: as the worker says that has its endpoint's
    /// mapping, where one has.
    fn steered(&mut self, device: u8, frame: &[u8]) -> Option<Steered> {
        let now = self.now;
        let said: Vec<_> = self
            .engines()
            .iter_mut()
            .filter_map(|engine| engine.steered(frame, device, now))
            .collect();
        let mapped = said.iter().find(|steered| steered.mapping.is_some());
        mapped.or(said.first()).cloned()
    }

    /// The port that a packet comes in by: as is said, or as its addresses say.
    fn port_of(&self, question: &Question) -> Result<(Port, u8)> {
        let half = &self.half;
        let names = || {
            let ports = half.ports.iter().filter(|port| port.role().is_some());
            ports.map(|port| port_name(half, port)).collect::<Vec<_>>().join(", ")
        };
        let index = match &question.from {
            Some(name) => {
                let is_it = |port: &Port| port.role().is_some() && port_name(half, port) == *name;
                let found = (0..).zip(&half.ports).find(|(_, port)| is_it(port));
                let (index, _) = found.ok_or_else(|| {
                    anyhow!("there is no uplink or LAN \"{name}\"; known: {}", names())
                })?;
                index
            }
            None => {
                let (behind, asked) = match (question.source, question.destination) {
                    (IpAddr::V4(source), IpAddr::V4(to)) => (
                        half.port_behind(source.octets()),
                        half.uplink_at(Ip::V4, to.octets().to_address()),
                    ),
                    (IpAddr::V6(source), IpAddr::V6(to)) => (
                        half.port_behind(source.octets()),
                        half.uplink_at(Ip::V6, to.octets().to_address()),
                    ),
                    _ => (None, None),
                };
                let asked = asked.map(|uplink| half.uplinks[usize::from(uplink)].port);
                let found = behind.or(asked.filter(|port| *port != NONE));
                found.ok_or_else(|| {
                    anyhow!(
                        "{} is behind no LAN and {} is no address of an uplink: say by which the \
                         packet comes in, --from one of {}",
                        question.source,
                        question.destination,
                        names()
                    )
                })?
            }
        };
        let port = half.ports[usize::from(index)];
        if port.ifindex == 0 {
            bail!("{} has no interface for now", port_name(half, &port));
        }
        Ok((port, index))
    }

    /// Who sends the packets of a direction, by what its flow says.
    fn sender<F: Stored + Tables>(&self, entry: &Entry<F>) -> Option<[u8; 6]> {
        let back = F::table(&self.regions).slot(entry.peer).read()?;
        Some(self.regions.adjacencies.get(back.adjacency)?.mac)
    }

    /// Who sends a packet that has no flow.
    fn neighbour(
        &self,
        port: &Port,
        index: u8,
        source: IpAddr,
        notes: &mut Vec<String>,
    ) -> [u8; 6] {
        let known = match port.is_uplink() {
            true => {
                let family = if source.is_ipv4() { Ip::V4 } else { Ip::V6 };
                let hop = next_hop(PathId::new(port.uplink, family));
                self.regions.adjacencies.get(hop).map(|hop| hop.mac)
            }
            false => self.owner(port.ifindex, source),
        };
        let by_host = |policy: &weir_layout::control::Policy| {
            policy.member_count != 0 && policy.selection() == Selection::Host
        };
        if known.is_none() && port.is_lan() && self.half.policies.iter().any(by_host) {
            notes.push(format!(
                "the kernel does not know the hardware address of {source} at {}, which policies \
                 by host go by: --mac says it",
                port_name(&self.half, &self.half.ports[usize::from(index)])
            ));
        }
        known.unwrap_or(SOMEBODY)
    }

    fn note(&self, half: &ControlHalf, port: &Port, ran: &Ran, notes: &mut Vec<String>) {
        if !self.has_xdp() {
            notes.push("without XDP: what it leaves to the kernel is not told apart".to_owned());
        }
        let begins = port.is_lan() && ran.counter == Some(Counter::UserTx);
        if begins && self.workers() > 1 {
            notes.push(format!(
                "{} workers: which of them gets the first packet of a TCP connection, its queue \
                 says, and each has ports of its own",
                self.workers()
            ));
        }
        if half.flows_per_host != 0 || half.new_flows_per_host != 0 {
            notes.push("how fast its host has begun flows of late is not known here".to_owned());
        }
    }

    /// The flow that a packet has now, and what the packet did to it.
    fn flow<F: Family>(&self, before: Option<Entry<F>>, after: Option<Entry<F>>) -> Option<Flow> {
        let entry = after?;
        let name = |uplink: u8| {
            (uplink != NONE)
                .then(|| self.half.uplinks[usize::from(uplink)].name.as_str().to_owned())
        };
        let moved = before.filter(|before| before.uplink != entry.uplink);
        let idle = before.map(|before| f64::from(ago_ms(self.now, before.last_seen)) / 1000.0);
        let flags = entry.flags;
        Some(Flow {
            new: before.is_none(),
            uplink: name(entry.uplink),
            left: moved.and_then(|before| name(before.uplink)),
            state: match before.as_ref().unwrap_or(&entry).state_owner.state() {
                FlowState::Stateless => "stateless",
                FlowState::Opening => "opening",
                FlowState::Established => "established",
                FlowState::Closing => "closing",
            },
            rewritten: ends(&entry.translated()),
            offered: flags & flag::OFFLOAD != 0 && flags & flag::NO_OFFLOAD == 0,
            worker: entry.state_owner.worker(),
            idle_s: idle,
            bytes: before.map_or(0, |before| before.bytes),
        })
    }

    fn fate(&self, half: &ControlHalf, ran: &Ran) -> Fate {
        let kernel = |counter: Counter| counter.label().starts_with("xdp.pass");
        if ran.counter.is_some_and(kernel) {
            return Fate::Kernel;
        }
        let Some((device, frame)) = ran.sent.first() else {
            return Fate::Dropped { told: !ran.told.is_empty() };
        };
        let [source, destination] = frame_ends(frame);
        let port = left_by(half, *device, frame);
        Fate::Forwarded {
            uplink: port.filter(|port| port.is_uplink()).and_then(|port| {
                let uplink = half.uplinks.get(usize::from(port.uplink))?;
                Some(uplink.name.as_str().to_owned())
            }),
            interface: port.map_or_else(String::new, |port| interface(half, port)),
            next_hop: mac(ethernet::Frame::new_unchecked(&frame[..]).dst()),
            source,
            destination,
        }
    }

    /// The uplink that a frame left by.
    fn uplink_of(&self, half: &ControlHalf, ran: &Ran) -> Option<u8> {
        let (device, frame) = ran.sent.first()?;
        let port = left_by(half, *device, frame)?;
        port.is_uplink().then_some(port.uplink)
    }
}

/// The port that a frame left by.
fn left_by<'h>(half: &'h ControlHalf, device: u8, frame: &[u8]) -> Option<&'h Port> {
    let ifindex = half.devices.get(usize::from(device))?.ifindex;
    half.ports.get(usize::from(half.port_of(ifindex, vlan_of(frame))?))
}

fn packet_of<F: Family>(half: &ControlHalf, p: &Parsed<F>, port: &Port, frame: &[u8]) -> Packet {
    let [source, destination] = ends(&p.key());
    Packet {
        protocol: protocol_name(p.proto),
        source,
        destination,
        from: port_name(half, port),
        mac: mac(ethernet::Frame::new_unchecked(frame).src()),
        segment: (p.proto == TCP).then_some(match p.tcp_flags & weir_wire::tcp::flag::SYN {
            0 => "ACK",
            _ => "SYN",
        }),
    }
}

/// Addresses, with the ports that they have.
fn ends<F: Family>(key: &FlowKey<F>) -> [String; 2] {
    let ports = [key.sport(), key.dport()].map(u16::from_be_bytes);
    let [source, destination]: [IpAddr; 2] = key.addresses().map(Into::into);
    let end = |address: IpAddr, port: u16| match key.proto() {
        proto if is_portless(proto) => address.to_string(),
        _ => SocketAddr::new(address, port).to_string(),
    };
    match key.proto() {
        ICMP | ICMPV6 => [end(source, ports[0]), destination.to_string()],
        _ => [end(source, ports[0]), end(destination, ports[1])],
    }
}

fn frame_ends(frame: &[u8]) -> [String; 2] {
    match ethernet::Frame::new_unchecked(frame).ethertype() {
        ethernet::IPV6 => V6::parse(frame).map(|p| ends(&p.key())),
        _ => V4::parse(frame).map(|p| ends(&p.key())),
    }
    .unwrap_or_default()
}

/// The name of a port's uplink, or of its interface.
fn port_name(half: &ControlHalf, port: &Port) -> String {
    match half.uplinks.get(usize::from(port.uplink)).filter(|_| port.is_uplink()) {
        Some(uplink) => uplink.name.as_str().to_owned(),
        None => interface(half, port),
    }
}

/// The name of a port's device, and its VLAN if it has one.
fn interface(half: &ControlHalf, port: &Port) -> String {
    let device = half.devices.get(usize::from(port.device));
    let device = device.map_or("?", |device| device.name.as_str());
    if port.vlan == 0 { device.to_owned() } else { format!("{device}.{}", port.vlan) }
}

fn rule_name(half: &ControlHalf, number: u8) -> String {
    let Some(rule) = half.rules().get(usize::from(number)) else { return "?".to_owned() };
    let does = match rule.action() {
        RuleAction::Policy => "",
        RuleAction::Drop => " (drop)",
        RuleAction::Reject => " (reject)",
        RuleAction::Accept => " (accept)",
    };
    match rule.name.as_str() {
        "" => format!("{}{does}", number + 1),
        name => format!("{} {name}{does}", number + 1),
    }
}

const fn selection(selection: Selection) -> &'static str {
    match selection {
        Selection::SourceDestination => "source-destination",
        Selection::Flow => "flow",
        Selection::Source => "source",
        Selection::Host => "host",
        Selection::FlowLabel => "flow-label",
    }
}

fn mac([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}
