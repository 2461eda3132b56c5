//! What is said of a packet is what becomes of it: packets that are made up as they go, at sites
//! that are too, are explained on a copy first and sent then.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use weir_dataplane::engine::Regions;
use weir_explain::explanation::{Explanation, Fate, Tier, Why};
use weir_explain::{Change, Question, Replica};
use weir_layout::control::{BUCKETS, Name, PathId, RuleAction, path_state};
use weir_layout::counters::Counter;
use weir_layout::{Family, NONE};
use weir_shm::flows::{FlowTable, Stored};
use weir_wire::family::{V4, V6};
use weir_wire::parse::vlan_of;
use weir_wire::tcp::flag::{ACK, FIN, RST, SYN};

use crate::gateway::*;
use crate::robustness::Seeded;
use crate::tiers::frames::Said;
use crate::tiers::site::*;

/// What is said where something is wrong.
type Context<'a> = &'a dyn Fn() -> String;

/// Packets at one site.
const PACKETS: usize = 5_000;
/// Packets that one copy explains, one after another, as the gateway gets them; fewer where a port
/// was drawn by lot, which is another at the copy.
const OF_A_COPY: usize = 250;
const ALL: usize = 100_000;
const FLOWS: u32 = 4096;

struct World {
    site: Site,
    gateway: Gateway,
    random: Seeded,
    /// What left lately, and by which port.
    left: Vec<(u8, Said)>,
    seen: BTreeMap<&'static str, usize>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Seeded(0x6578_706c + seed);
        let mut site = Site::new(&mut random);
        // Few ports are drawn by lot, at most sites.
        if !seed.is_multiple_of(5) {
            (site.workers, site.nat_ports) = (1, 40_000);
        }
        let mut regions = Regions::anonymous(FLOWS, KEY).unwrap();
        regions.flows6 = FlowTable::anonymous(FLOWS).unwrap();
        let gateway = site.gateway(&regions);
        let mut world = Self { site, gateway, random, left: Vec::new(), seen: BTreeMap::new() };
        world.publish();
        world
    }

    /// Another state of the site: what is denied, who has which buckets, tiers and weights.
    fn publish(&mut self) {
        let (site, random) = (&mut self.site, &mut self.random);
        site.heal();
        site.denies = [None, Some(RuleAction::Drop), Some(RuleAction::Reject)][random.below(3)];
        site.cuts = [0, 0].map(|_| random.below(BUCKETS + 1));
        site.cuts.sort_unstable();
        site.has_next_hop[random.below(4)] = random.below(4) != 0;
        site.mtus[random.below(PORTS.into())] = [1500, 1280][random.below(2)];
        let policy = &mut self.gateway.half.policies[0];
        for member in &mut policy.members {
            (member.tier, member.weight) = (1 + random.below(2) as u8, random.below(4) as u16);
        }
        for family in Family::ALL {
            policy.steering_mut(family).active_tier = 1 + random.below(2) as u8;
            policy.steering_mut(family).heavy = NONE;
        }
        self.site.publish(&mut self.gateway, weir_layout::control::Tier::User);
        let bits = [0, 0, path_state::DRAINING, path_state::DEGRADED];
        for path in UPLINKS.iter().flat_map(|uplink| Family::ALL.map(|of| PathId::new(*uplink, of)))
        {
            let state = match self.random.below(6) {
                0 => [path_state::ADMIN_DOWN, path_state::SPARED][self.random.below(2)],
                _ => path_state::USABLE | bits[self.random.below(4)],
            };
            self.gateway.writer.set_path_state(path, state);
        }
    }

    fn frame(&mut self) -> (u8, Said) {
        let random = &mut self.random;
        if random.below(2) == 0 && !self.left.is_empty() {
            let (port, left) = self.left[random.below(self.left.len())];
            let mut said = left.answered();
            match random.below(8) {
                0 => said.flags = [SYN, FIN | ACK, RST][random.below(3)],
                1 => said.ttl = 1,
                2 => said.ports[0] ^= 1,
                _ => {}
            }
            return (port, said);
        }
        let (host, which) = (random.below(HOSTS.into()) as u8, random.below(5));
        let family = Family::ALL[random.below(2)];
        let (mut src, last) = match family {
            Family::V4 => (v4(host)[random.below(2)], 1 + random.below(3) as u8),
            Family::V6 => (v6(host, which), 1 + random.below(3) as u8),
        };
        let mut dst: IpAddr = match family {
            Family::V4 => [198, 51, 100, last].into(),
            Family::V6 => [0x2606, 0x4700, 0, 0, 0, 0, 0, last.into()].into(),
        };
        let mut port = port_of_host(host);
        let uplink = UPLINKS[random.below(3)];
        match random.below(8) {
            // By an uplink, for what is published there, or nothing.
            0 => {
                (src, dst) = (dst, self.site.address(family, uplink));
                port = port_of(uplink);
            }
            // By an uplink, for a host itself.
            1 => {
                (src, dst) = (dst, src);
                port = port_of(uplink);
            }
            2 => dst = self.site.address(family, uplink),
            // In the name of another LAN's.
            3 if family == Family::V4 => src = [10, 9, 9, 9].into(),
            _ => {}
        }
        let proto = [TCP, UDP, Said::echo(src)][random.below(3)];
        let is_echo = !matches!(proto, TCP | UDP);
        let far = [53, 443, 5000][random.below(3)];
        let from = match port {
            0 | 4 => mac_of_host(host),
            _ => next_hop_mac(uplink),
        };
        let said = Said {
            from,
            to: device_mac(port),
            vlan: link(port).1,
            src,
            dst,
            proto,
            // Of each host others, so that each keeps its own outside.
            ports: [
                20_000 + 1000 * u16::from(host) + 100 * which as u16 + random.below(12) as u16,
                if is_echo { 1 } else { far },
            ],
            flags: if random.below(8) == 0 { ACK } else { SYN },
            seq: 1000,
            ack: 0,
            ttl: if random.below(20) == 0 { 1 } else { 64 },
            len: if proto == TCP { 0 } else { [8, 64, 1400][random.below(3)] },
        };
        (port, said)
    }

    /// One packet, explained on the copy, and sent; was a port drawn by lot?
    fn step(&mut self, copy: &mut Replica) -> bool {
        let (port, said) = self.frame();
        let (device, frame) = (link(port).0, said.frame());
        let said_of_it = copy.explain_frame(device, &frame).unwrap();
        let before = self.counts();
        let hits = self.hits();
        let sent = self.gateway.send(device, &frame);
        let drops = self.counts().into_iter().zip(&before).find(|(now, then)| now.1 != then.1);
        let drop = drops.map(|((counter, _), _)| counter);
        let site = self.site.clone();
        let context = || format!("{site:?}\n{said:?} by {port}\n{said_of_it:#?}\n{sent:02x?}");
        let drawn = self.agrees(&said, &said_of_it, &sent, drop, &context);
        let hit = self.hits().into_iter().zip(hits).position(|(now, then)| now != then);
        if let Some(hit) = hit {
            let rule = said_of_it.rule.as_deref().unwrap_or("none");
            assert!(rule.starts_with(&format!("{}", hit + 1)), "rule {hit}: {}", context());
        }
        match said.src {
            IpAddr::V4(_) => self.has_flow::<V4>(&frame, &said_of_it, &context),
            IpAddr::V6(_) => self.has_flow::<V6>(&frame, &said_of_it, &context),
        }
        for (device, frame) in sent {
            let by = (0..PORTS).find(|port| link(*port) == (device, vlan_of(&frame))).unwrap();
            if let Some(left) = Said::of(&frame) {
                self.left.push((by, left));
            }
        }
        if self.left.len() > 200 {
            self.left.drain(..100);
        }
        drawn
    }

    /// It leaves as is said, or ends as is said; from a port that was drawn by lot?
    fn agrees(
        &mut self,
        came: &Said,
        explained: &Explanation,
        sent: &[(u8, Vec<u8>)],
        drop: Option<Counter>,
        context: Context<'_>,
    ) -> bool {
        let mut drawn = false;
        let kind = match &explained.fate {
            Fate::Forwarded { source, destination, next_hop, .. } => {
                assert_eq!(drop, None, "{}", context());
                assert_eq!(explained.counter, Counter::UserTx.label(), "{}", context());
                let left = sent
                    .iter()
                    .find_map(|(_, frame)| Said::of(frame))
                    .unwrap_or_else(|| panic!("{}", context()));
                let [a, b, c, d, e, f] = left.to;
                let to = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
                assert_eq!(*next_hop, to, "{}", context());
                let to = if left.is_echo() {
                    left.dst.to_string()
                } else {
                    end(left.dst, left.ports[1])
                };
                assert_eq!(*destination, to, "{}", context());
                drawn = left.ports[0] != came.ports[0] && *source != end(left.src, left.ports[0]);
                let at =
                    source.parse::<SocketAddr>().unwrap_or_else(|_| panic!("{}", context())).ip();
                assert!(
                    drawn && at == left.src || *source == end(left.src, left.ports[0]),
                    "{}",
                    context()
                );
                if left.src.is_ipv4() { "forwarded, IPv4" } else { "forwarded, IPv6" }
            }
            Fate::Dropped { told } => {
                assert_eq!(Some(explained.counter), drop.map(Counter::label), "{}", context());
                assert_eq!(*told, !sent.is_empty(), "{}", context());
                if *told { "told" } else { "dropped" }
            }
            Fate::Kernel => panic!("a worker gives nothing to the kernel: {}", context()),
        };
        *self.seen.entry(kind).or_insert(0) += 1;
        drawn
    }

    /// The flow is where is said, for a reason that holds.
    fn has_flow<F: OfRegions>(
        &mut self,
        frame: &[u8],
        explained: &Explanation,
        context: Context<'_>,
    ) {
        let key = F::parse(frame).unwrap().key();
        let table = F::table(&self.gateway.regions);
        let entry = table.find(key.hash(KEY), &key).and_then(|slot| table.slot(slot).read());
        let name = |uplink: u8| format!("uplink{uplink}");
        let Some(flow) = &explained.flow else {
            return assert!(entry.is_none(), "there is a flow: {}", context());
        };
        let entry = entry.unwrap_or_else(|| panic!("there is none: {}", context()));
        let uplink = (entry.uplink != NONE).then(|| name(entry.uplink));
        assert_eq!(flow.uplink, uplink, "{}", context());
        if matches!(explained.fate, Fate::Forwarded { .. }) {
            let Tier::User { worker } = explained.tier else { panic!("{}", context()) };
            assert_eq!(
                (flow.worker, worker),
                (entry.state_owner.worker(), flow.worker),
                "{}",
                context()
            );
        }
        let region = &self.gateway.regions.control;
        let state = |uplink: u8| region.path_state(PathId::new(uplink, F::FAMILY));
        let half = &self.gateway.half;
        for (number, of) in (0..).zip(&explained.uplinks) {
            assert_eq!(of.takes, uplink.as_ref() == Some(&of.name), "{}", context());
            let usable = state(number) & path_state::USABLE != 0;
            let why = match &of.why {
                Why::Bucket { bucket } => {
                    let mut policies = half.policies.iter().enumerate();
                    let named = policies.any(|(policy, _)| {
                        region.bucket(half.epoch, F::FAMILY, policy, *bucket) == Some(number)
                    });
                    assert!(named, "{}", context());
                    "by its bucket"
                }
                Why::Down { .. } => {
                    assert!(!usable, "{}", context());
                    "down"
                }
                Why::Draining => {
                    assert!(state(number) & path_state::DRAINING != 0, "{}", context());
                    "draining"
                }
                Why::Mapping => "by its mapping",
                Why::Weight => "by weight",
                Why::LastResort => "the last resort",
                Why::NoPort => "no port",
                Why::NoPortBefore => "no port before",
                Why::WorseTier { .. } => "of a worse tier",
                Why::NoWeight => "without weight",
                Why::ForeignSource => "a foreign source",
                Why::Other { .. } => "another has it",
                _ => "else",
            };
            *self.seen.entry(why).or_insert(0) += 1;
        }
    }

    fn counts(&self) -> Vec<(Counter, u64)> {
        let all = Counter::ALL.iter().filter(|counter| counter.is_drop());
        all.map(|counter| (*counter, self.gateway.count(*counter))).collect()
    }

    fn hits(&self) -> Vec<u64> {
        let half = &self.gateway.half;
        self.gateway.regions.counters.rule_hits(half.rules().len(), half.workers)
    }
}

fn end(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

pub trait OfRegions: Stored {
    fn table(regions: &Regions) -> &FlowTable<Self>;
}

impl OfRegions for V4 {
    fn table(regions: &Regions) -> &FlowTable<Self> {
        &regions.flows
    }
}

impl OfRegions for V6 {
    fn table(regions: &Regions) -> &FlowTable<Self> {
        &regions.flows6
    }
}

#[test]
fn what_is_explained_is_what_becomes_of_a_packet() {
    let mut seen = BTreeMap::new();
    for seed in 0..(ALL / PACKETS) as u64 {
        let mut world = World::new(seed);
        for _ in 0..PACKETS / OF_A_COPY {
            world.gateway.now += 20_000;
            let now = world.gateway.now;
            for engine in &mut world.gateway.engines {
                engine.refresh();
                engine.age(FLOWS, now, &mut world.gateway.wire);
                while engine.sweep(&mut world.gateway.wire) {}
            }
            world.gateway.wire = Wire::default();
            let mut copy = Replica::of(&world.gateway.regions, now).unwrap();
            for _ in 0..OF_A_COPY {
                if world.step(&mut copy) {
                    *world.seen.entry("drawn by lot").or_insert(0) += 1;
                    copy = Replica::of(&world.gateway.regions, now).unwrap();
                }
            }
            world.publish();
        }
        for (what, number) in world.seen {
            *seen.entry(what).or_insert(0) += number;
        }
    }
    println!("{seen:#?}");
    for what in [
        "forwarded, IPv4",
        "forwarded, IPv6",
        "dropped",
        "told",
        "by its bucket",
        "by its mapping",
        "down",
        "draining",
        "of a worse tier",
        "without weight",
        "a foreign source",
        "another has it",
    ] {
        assert!(seen.get(what).copied().unwrap_or(0) > ALL / 1000, "{what}: {seen:?}");
    }
}

/// A copy of a gateway that has one flow, and the question about that.
fn with_a_flow() -> (Gateway, Replica, Question) {
    let mut gateway = Gateway::new();
    for (number, uplink) in gateway.half.uplinks.iter_mut().enumerate().take(3) {
        uplink.name = Name::new(["fiber", "cable", "lte"][number]);
    }
    for (device, name) in gateway.half.devices.iter_mut().zip(["lan0", "wan0", "wan1", "wan2"]) {
        device.name = Name::new(name);
    }
    gateway.publish(BUCKETS / 2);
    connection(&mut gateway, 40_000);
    let copy = Replica::of(&gateway.regions, gateway.now).unwrap();
    let source = SocketAddr::new(HOST.into(), 40_000).to_string();
    let question = Question::read("tcp", &source, &end(SERVER.into(), 443)).unwrap();
    (gateway, copy, question)
}

#[test]
fn a_live_flow_is_explained_as_it_stands_and_what_is_asked_changes_nothing() {
    let (gateway, mut copy, question) = with_a_flow();
    let before = (gateway.count(Counter::UserTx), flows(&gateway));
    let explained = copy.explain(&question).unwrap();
    let flow = explained.flow.as_ref().unwrap();
    assert_eq!((flow.new, flow.state), (false, "established"));
    assert_eq!(explained.packet.segment, Some("ACK"));
    assert_eq!(explained.packet.from, "lan0");
    assert_eq!(flow.left, None);
    assert!(explained.uplinks.iter().all(|uplink| uplink.why == Why::Flow));
    for port in 41_000..41_100 {
        let source = end(HOST.into(), port);
        let another = Question::read("udp", &source, &end(SERVER.into(), 53)).unwrap();
        let explained = copy.explain(&another).unwrap();
        assert!(explained.flow.unwrap().new);
    }
    assert_eq!((gateway.count(Counter::UserTx), flows(&gateway)), before);
    assert!(explained.to_string().contains("tcp 10.77.0.2:40000 → 198.51.100.1:443, ACK"));
}

#[test]
fn a_flow_whose_uplink_is_down_is_explained_with_the_one_that_it_leaves() {
    let (gateway, _, _) = with_a_flow();
    let mut gateway = gateway;
    let (device, _) = gateway.send(LAN, &udp_out(50_000, 53)).remove(0);
    gateway.set_state(device - 1, path_state::NO_CARRIER);
    let mut copy = Replica::of(&gateway.regions, gateway.now).unwrap();
    let question =
        Question::read("udp", &end(HOST.into(), 50_000), &end(SERVER.into(), 53)).unwrap();
    let explained = copy.explain(&question).unwrap();
    let names = ["fiber", "cable"];
    let (left, takes) = (names[usize::from(device) - 1], names[2 - usize::from(device)]);
    let flow = explained.flow.unwrap();
    assert_eq!((flow.left.as_deref(), flow.uplink.as_deref()), (Some(left), Some(takes)));
    let why = explained.uplinks.iter().find(|uplink| uplink.name == left).map(|of| of.why.clone());
    assert_eq!(why, Some(Why::Down { state: vec!["no carrier"] }));
}

#[test]
fn where_it_is_not_clear_where_a_packet_comes_in_it_is_said_how_to_say_it() {
    let (_, mut copy, _) = with_a_flow();
    let asked = Question::read("tcp", "192.168.9.9:1", "1.1.1.1:2").unwrap();
    let error = copy.explain(&asked).unwrap_err().to_string();
    assert!(error.contains("--from one of lan0, fiber, cable, lte"), "{error}");
    let asked = Question { from: Some("wifi".into()), ..asked };
    let error = copy.explain(&asked).unwrap_err().to_string();
    assert!(error.contains("no uplink or LAN \"wifi\"; known: lan0, fiber"), "{error}");
    let asked = Question { from: Some("lan0".into()), ..asked };
    let explained = copy.explain(&asked).unwrap();
    assert_eq!(explained.counter, Counter::DropSource.label());
    let to = end(external(0).into(), 443);
    let asked = Question::read("tcp", "198.51.100.9:5", &to).unwrap();
    assert_eq!(copy.explain(&asked).unwrap().packet.from, "fiber");
}

#[test]
fn where_nothing_is_published_there_is_nothing_to_explain() {
    let regions = Regions::anonymous(FLOWS, KEY).unwrap();
    let error = Replica::of(&regions, 0).unwrap_err().to_string();
    assert!(error.contains("start weir-control"), "{error}");
}

#[test]
fn a_change_of_what_there_is_not_is_refused_with_what_there_is() {
    let said = |change: &str| {
        let (_, mut copy, _) = with_a_flow();
        copy.what_if(&Change::read(change).unwrap()).unwrap_err().to_string()
    };
    assert_eq!(said("down dsl"), "there is no uplink \"dsl\"; known: fiber, cable, lte");
    assert!(said("weight fiber 3 policy none").starts_with("there is no policy \"none\""));
    let (gateway, ..) = with_a_flow();
    gateway.set_state(0, path_state::ADMIN_DOWN);
    let mut copy = Replica::of(&gateway.regions, gateway.now).unwrap();
    let error = copy.what_if(&Change::read("drain fiber").unwrap()).unwrap_err().to_string();
    assert!(error.contains("fiber is down by hand"), "{error}");
}
