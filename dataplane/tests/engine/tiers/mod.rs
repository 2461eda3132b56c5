//! Long sequences at two gateways that differ in their tier alone: at one XDP forwards what it can,
//! and its worker gets the rest; at the other the worker forwards everything. Nobody outside, and
//! nobody who reads their tables and counters, can tell them apart.
//!
//! The program is the real one, run frame by frame (`BPF_PROG_TEST_RUN`) on regions that are pinned
//! as those of a gateway are. Needs root. What leaves is what is answered, sent again, broken and
//! told of, so that steps need no model of what translations do.

pub mod frames;
pub mod site;
mod tier;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use rustix::time::{ClockId, clock_gettime};
use weir_layout::Family;
use weir_layout::control::{BUCKETS, PathId, RuleAction, Tier as Published, path_state};
use weir_layout::counters::Counter;
use weir_shm::flows::{FlowTable, Stored};
use weir_wire::parse::{Parsed, parse, parse6, vlan_of};
use weir_wire::tcp::flag::{ACK, FIN, RST, SYN};

use self::frames::{Said, fragments, told};
use self::site::*;
use self::tier::{DROP, REDIRECT, Ran, SLOTS, Tier};
use crate::gateway::*;
use crate::robustness::Seeded;
use crate::sequences::{Sequence, run, steps};

/// Between two looks at all that is in both.
const LOOK: usize = 500;
/// Frames that are remembered.
const LATELY: usize = 64;
/// Frames and events that a failure shows.
const SHOWN: usize = 16;
/// The one whose XDP forwards, and the other.
const A: usize = 0;
const B: usize = 1;

#[test]
fn whichever_tier_forwards_the_same_leaves_and_the_same_is_known() {
    enter_network();
    let ifindexes = [0, 1, 2, 3].map(ifindex);
    let tiers = Cell::new(Some(["kernel", "user"].map(|tier| Tier::new(tier, &ifindexes))));
    let mut seen = BTreeMap::new();
    run(
        |seed| World::new(seed, tiers.take().unwrap()),
        |world| {
            for (what, number) in world.seen {
                *seen.entry(what).or_insert(0) += number;
            }
            tiers.set(Some(world.tiers));
        },
    );
    println!("{seen:#?}");
    for what in EVERYTHING {
        let number = seen.get(what).copied().unwrap_or(0);
        assert!(number > steps() / 2000, "{what}: {number}");
    }
}

/// What sequences must have come by.
const EVERYTHING: [&str; 12] = [
    "IPv4 TCP out by XDP",
    "IPv4 TCP in by XDP",
    "IPv4 UDP out by XDP",
    "IPv4 UDP in by XDP",
    "IPv4 echo out by XDP",
    "IPv4 echo in by XDP",
    "IPv6 TCP out by XDP",
    "IPv6 TCP in by XDP",
    "IPv6 UDP out by XDP",
    "IPv6 UDP in by XDP",
    "IPv6 echo out by XDP",
    "IPv6 echo in by XDP",
];

struct World {
    site: Site,
    tiers: [Tier; 2],
    gateways: [Gateway; 2],
    random: Seeded,
    /// What left, and the port that it left by.
    left: Lately,
    /// What came in, likewise.
    came: Lately,
    /// What was tried lately, the last one last.
    tried: VecDeque<Tried>,
    /// The device that XDP may not send by.
    deaf: Option<u8>,
    steps: usize,
    seen: BTreeMap<&'static str, usize>,
}

/// Frames of lately, and the port of each.
#[derive(Default)]
struct Lately(Vec<(u8, Vec<u8>)>);

impl Lately {
    /// Keeps one, in the place of another when there are enough.
    fn keep(&mut self, port: u8, frame: Vec<u8>, random: &mut Seeded) {
        if self.0.len() < LATELY {
            self.0.push((port, frame));
        } else {
            self.0[random.below(LATELY)] = (port, frame);
        }
    }

    fn one(&self, random: &mut Seeded) -> Option<(u8, Vec<u8>)> {
        (!self.0.is_empty()).then(|| self.0[random.below(self.0.len())].clone())
    }
}

enum Tried {
    /// By this port, and what became of it in XDP.
    Frame(u8, Vec<u8>, Option<Counter>),
    Event(String),
}

impl std::fmt::Display for Tried {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Self::Frame(port, frame, became) => {
                write!(f, "{} bytes by port {port}, {became:?}: {}", frame.len(), hex(frame))
            }
            Self::Event(what) => f.write_str(what),
        }
    }
}

impl World {
    fn new(seed: u64, tiers: [Tier; 2]) -> Self {
        let mut random = Seeded(0x7469_6572 + seed);
        let site = Site::new(&mut random);
        let gateways = [A, B].map(|side| site.gateway(&tiers[side].regions));
        let mut world = Self {
            site,
            tiers,
            gateways,
            random,
            left: Lately::default(),
            came: Lately::default(),
            tried: VecDeque::new(),
            deaf: None,
            steps: 0,
            seen: BTreeMap::new(),
        };
        let site = format!("{:?}", world.site);
        world.note(Tried::Event(site));
        world.publish();
        world.pass(0);
        world
    }
}

impl Sequence for World {
    fn step(&mut self) {
        match self.random.below(1000) {
            0..80 => self.host_begins(),
            80..700 => self.somebody_answers(),
            700..840 => self.comes_again(),
            840..870 => self.comes_broken(),
            870..895 => self.client_asks(),
            895..915 => self.host_asks(),
            915..945 => self.router_tells(),
            945..955 => self.comes_in_parts(),
            955..975 => self.time_passes(),
            975..990 => self.path_changes(),
            990..995 => self.device_changes(),
            _ => self.site_changes(),
        }
        self.steps += 1;
        if self.steps.is_multiple_of(LOOK) {
            self.look();
        }
    }

    /// Nothing is left at either when all has been idle for long.
    fn end(&mut self) {
        self.note(Tried::Event("everything ends".to_owned()));
        self.look();
        self.pass(24 * 3_600_000);
        self.pass(1000);
        for gateway in &self.gateways {
            assert!(gateway.engines.iter().all(|e| (e.flows(), e.mappings()) == (0, 0)));
        }
        self.look();
        self.hear();
    }

    fn tried(&self) -> String {
        self.tried.iter().map(|tried| format!("\n{tried}")).collect()
    }
}

/// Frames.
impl World {
    fn remote(&mut self, family: Family) -> IpAddr {
        let last = 1 + self.random.below(3) as u8;
        match family {
            Family::V4 => [198, 51, 100, last].into(),
            Family::V6 => [0x2606, 0x4700, 0, 0, 0, 0, 0, last.into()].into(),
        }
    }

    fn proto(&mut self, src: IpAddr) -> u8 {
        [TCP, TCP, UDP, UDP, Said::echo(src)][self.random.below(5)]
    }

    fn len(&mut self) -> usize {
        [0, 1, 7, 64, 300, 1372, 1380, 1400, 1440, 1452, 1460, 1472][self.random.below(11)]
    }

    /// A host's packet to an address, as its first.
    fn of_host(&mut self, host: u8, src: IpAddr, dst: IpAddr) -> Said {
        let proto = self.proto(src);
        let (port, far) = (20_000 + self.random.below(4) as u16, [53, 443, 5000]);
        let is_echo = !matches!(proto, TCP | UDP);
        let ports = [port, if is_echo { 1 } else { far[self.random.below(3)] }];
        Said {
            flags: if self.random.below(8) == 0 { ACK } else { SYN },
            len: if proto == TCP { 0 } else { self.len() },
            ..Said::of_host(host, [src, dst], proto, ports)
        }
    }

    fn host_begins(&mut self) {
        let host = self.random.below(HOSTS.into()) as u8;
        let which = self.random.below(5);
        let (src, family) = match self.random.below(2) {
            0 => (v4(host)[usize::from(which == 0)], Family::V4),
            _ => (v6(host, which), Family::V6),
        };
        let dst = self.remote(family);
        let said = self.of_host(host, src, dst);
        self.comes(port_of_host(host), said.frame());
    }

    /// A host asks by an address outside for what is published, or for nothing.
    fn host_asks(&mut self) {
        let (host, which) = (self.random.below(HOSTS.into()) as u8, self.random.below(5));
        let (family, uplink) = (Family::ALL[self.random.below(2)], self.random.below(4) as u8);
        let src = if family == Family::V4 { v4(host)[0] } else { v6(host, which) };
        let dst = self.site.address(family, uplink);
        let mut said = self.of_host(host, src, dst);
        if !said.is_echo() && self.random.below(4) != 0 {
            said.ports[1] = SERVICE[0];
        }
        self.comes(port_of_host(host), said.frame());
    }

    /// The same by a provider.
    fn client_asks(&mut self) {
        let family = Family::ALL[self.random.below(2)];
        let by = [0, 1, 3][self.random.below(3)];
        let asked = if self.random.below(8) == 0 { self.random.below(4) as u8 } else { by };
        let (src, which) = (self.remote(family), self.random.below(5));
        let dst = match (self.random.below(8), family) {
            (0, Family::V4) => v4(0)[which % 2],
            (0..4, Family::V6) => v6(0, which),
            _ => self.site.address(family, asked),
        };
        let said = self.of_host(0, src, dst);
        let port = port_of(by);
        let ports = if said.is_echo() { said.ports } else { [said.ports[0], SERVICE[0]] };
        let (from, to, vlan) = (next_hop_mac(by), device_mac(port), link(port).1);
        self.comes(port, Said { from, to, vlan, ports, ..said }.frame());
    }

    fn some_left(&mut self) -> Option<(u8, Said)> {
        let (port, frame) = self.left.one(&mut self.random)?;
        Some((port, Said::of(&frame)?))
    }

    /// Who got what left says something back.
    fn somebody_answers(&mut self) {
        let Some((port, heard)) = self.some_left() else { return };
        let mut said = heard.answered();
        if self.random.below(10) == 0 {
            said.flags = [SYN, SYN | ACK, FIN | ACK, RST, RST | ACK, FIN][self.random.below(6)];
        }
        if self.random.below(16) == 0 {
            let far = [1, 5000, 1 << 20, 1 << 31][self.random.below(4)];
            said.seq = said.seq.wrapping_add(far);
        }
        if said.flags & SYN == 0 {
            said.len = self.len();
        }
        said.ttl = [64, 64, 64, 64, 64, 64, 2, 1][self.random.below(8)];
        self.comes(port, said.frame());
    }

    /// A frame comes once more, or one much like it.
    fn comes_again(&mut self) {
        let Some((mut port, frame)) = self.came.one(&mut self.random) else { return };
        let Some(mut said) = Said::of(&frame) else { return self.comes(port, frame) };
        match self.random.below(12) {
            0 => said.ports[1] ^= u16::from(!said.is_echo()),
            1 => said.ports[0] ^= 1,
            2 => said.from[5] ^= 1,
            3 => {
                // By another of the ports on its side, whoever sends it.
                port = [4, 2, 3, 5, 0, 1][usize::from(port)];
                (said.to, said.vlan) = (device_mac(port), link(port).1);
            }
            4 => (said.len, said.flags) = (self.len(), said.flags & !SYN),
            5 => (said.seq, said.flags) = (said.seq.wrapping_add(said.len as u32), ACK),
            6 => said.dst = self.remote(Family::ALL[usize::from(said.dst.is_ipv6())]),
            7 => said.ttl = 1,
            8 => said.vlan ^= 1,
            9 => said.to[5] ^= 1,
            _ => {}
        }
        self.comes(port, said.frame());
    }

    /// A frame comes with some bytes changed, or cut, or with bytes behind it.
    fn comes_broken(&mut self) {
        let Some((port, mut frame)) = self.came.one(&mut self.random) else { return };
        for _ in 0..self.random.below(3) {
            let at = self.random.below(frame.len().min(80));
            frame[at] ^= 1 << self.random.below(8);
        }
        match self.random.below(4) {
            0 => frame.truncate(14 + self.random.below(frame.len() - 13)),
            1 => frame.resize((frame.len() + self.random.below(60)).min(1518), 0xaa),
            _ => {}
        }
        self.comes(port, frame);
    }

    /// Somebody on the way, or who got it, tells of what left.
    fn router_tells(&mut self) {
        let Some((port, about)) = self.some_left() else { return };
        let (router, kinds): (IpAddr, _) = match about.src {
            IpAddr::V4(_) => ([100, 64, 0, 1].into(), [[3, 1], [3, 4], [11, 0], [5, 0]]),
            IpAddr::V6(_) => {
                ([0x2606, 0x4700, 0, 0, 0, 0, 0, 99].into(), [[1, 4], [2, 0], [3, 0], [137, 0]])
            }
        };
        let router = if self.random.below(4) == 0 { about.dst } else { router };
        let frame = told(&about, router, kinds[self.random.below(4)], 1300);
        self.comes(port, frame);
    }

    fn comes_in_parts(&mut self) {
        let Some((port, heard)) = self.some_left() else { return };
        let mut said = heard.answered();
        (said.len, said.flags) = (200, ACK);
        if said.src.is_ipv4() {
            for frame in fragments(&said, 8, self.random.below(256) as u8) {
                self.comes(port, frame);
            }
        }
    }
}

/// What happens to a frame.
impl World {
    /// A frame comes in by a port, at both.
    fn comes(&mut self, port: u8, frame: Vec<u8>) {
        self.note(Tried::Frame(port, frame.clone(), None));
        let device = link(port).0;
        let ran = [A, B].map(|side| self.tiers[side].run(ifindex(device), &frame));
        let worker = self.random.below(self.gateways[A].engines.len()) as u8;
        if let Some(Tried::Frame(_, _, became)) = self.tried.back_mut() {
            *became = Some(ran[A].counter);
        }
        let [a, b] = &ran;
        if a.counter == Counter::XdpForwarded {
            self.is_forwarded(worker, device, &frame, ran);
        } else {
            assert_eq!(a, b, "what is not forwarded");
            if a.counter == Counter::XdpToUser {
                assert_eq!(a.action, REDIRECT);
                self.is_handed(worker, device, &a.frame);
            } else {
                let kept = if a.action == DROP { "dropped by XDP" } else { "the kernel's" };
                *self.seen.entry(kept).or_insert(0) += 1;
            }
        }
        self.came.keep(port, frame, &mut self.random);
        self.hear();
    }

    /// XDP forwarded it at one; so does the worker at the other.
    fn is_forwarded(&mut self, worker: u8, device: u8, frame: &[u8], [a, b]: [Ran; 2]) {
        assert_eq!(a.action, REDIRECT);
        assert_eq!((b.action, b.counter), (REDIRECT, Counter::XdpToUser));
        let sent = self.gateways[B].send_to(worker, device, &b.frame);
        let port = a.frame[11];
        assert_eq!(a.frame[6..11], device_mac(0)[..5], "from a port's address");
        let (by, vlan) = link(port);
        assert_eq!(vlan_of(&a.frame), vlan);
        assert_ne!(Some(by), self.deaf, "it cannot send by that");
        let forwarded = [(by, a.frame.clone())];
        assert!(
            sent == forwarded,
            "XDP: {:#?}, the worker: {:#?}",
            heard(&forwarded),
            heard(&sent)
        );
        self.is_counted(frame);
        if let Some(said) = Said::of(frame) {
            let inward = usize::from(matches!(port, 0 | 4));
            let proto = match said.proto {
                TCP => 0,
                UDP => 1,
                _ => 2,
            };
            let what = usize::from(said.src.is_ipv6()) * 6 + proto * 2 + inward;
            *self.seen.entry(EVERYTHING[what]).or_insert(0) += 1;
        }
        self.left.keep(port, a.frame, &mut self.random);
    }

    /// The worker gets it at both.
    fn is_handed(&mut self, worker: u8, device: u8, frame: &[u8]) {
        let sent = self.gateways.each_mut().map(|g| g.send_to(worker, device, frame));
        assert!(sent[A] == sent[B], "{:#?} or {:#?}", heard(&sent[A]), heard(&sent[B]));
        *self.seen.entry("handed to a worker").or_insert(0) += 1;
        let [sent, _] = sent;
        for (_, frame) in sent {
            self.left.keep(frame[11], frame, &mut self.random);
        }
    }

    /// What workers do between batches, and what of it is heard outside.
    fn hear(&mut self) {
        for gateway in &mut self.gateways {
            let Gateway { engines, wire, .. } = gateway;
            for engine in engines {
                engine.refresh();
                while engine.sweep(wire) {}
            }
        }
        let said = self.gateways.each_mut().map(|gateway| std::mem::take(&mut gateway.wire.sent));
        assert_eq!(said[A], said[B], "what the gateway says of itself");
    }

    /// Its flow's entry says the same at both, whichever tier counted on it.
    fn is_counted(&mut self, frame: &[u8]) {
        let now = self.gateways[A].now;
        let [a, b] = self.tiers.each_ref();
        let (slot, bare) = match (parse(frame), parse6(frame)) {
            (Ok(parsed), _) => {
                let tables = [&a.regions.flows, &b.regions.flows];
                let seen = |slot| a.seen(Family::V4, slot, now);
                (counted(&parsed, tables, seen), self.site.bare4)
            }
            (_, Ok(parsed)) => {
                let tables = [&a.regions.flows6, &b.regions.flows6];
                let seen = |slot| a.seen(Family::V6, slot, now);
                (counted(&parsed, tables, seen), self.site.mode == Mode::Bare)
            }
            _ => panic!("XDP forwards packets"),
        };
        assert_eq!(slot.is_none(), bare, "a flow is there unless none is needed");
    }
}

/// A frame's headers.
fn hex(frame: &[u8]) -> String {
    frame.iter().take(80).map(|byte| format!("{byte:02x}")).collect()
}

/// What left, to read.
fn heard(sent: &[(u8, Vec<u8>)]) -> Vec<String> {
    sent.iter().map(|(device, frame)| format!("by {device}: {}", hex(frame))).collect()
}

/// Compares the entries of a packet; `seen` sets the clock of the one that XDP counted on.
fn counted<F: Stored>(
    parsed: &Parsed<F>,
    tables: [&FlowTable<F>; 2],
    seen: impl FnOnce(u32) -> u32,
) -> Option<u32> {
    let key = parsed.key();
    let [a, b] = tables.map(|table| table.find(key.hash(KEY), &key));
    assert_eq!(a, b);
    let slot = a?;
    let time = clock_gettime(ClockId::Monotonic);
    let real = (time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000) as u32;
    let ago = real.wrapping_sub(seen(slot));
    assert!(ago < 60_000, "seen {ago} ms ago");
    let [a, b] = tables.map(|table| table.slot(slot).read());
    assert_eq!(a, b);
    Some(slot)
}

/// What happens otherwise.
impl World {
    fn note(&mut self, tried: Tried) {
        if self.tried.len() == SHOWN {
            self.tried.pop_front();
        }
        self.tried.push_back(tried);
    }

    fn publish(&mut self) {
        let destinations = self.site.destinations();
        let kernel = if self.site.in_kernel { Published::Kernel } else { Published::User };
        for (side, tier) in [(A, kernel), (B, Published::User)] {
            self.tiers[side].sync(&destinations.0, &destinations.1);
            self.site.publish(&mut self.gateways[side], tier);
        }
        self.hear();
    }

    fn time_passes(&mut self) {
        let ms = [1, 1, 50, 1000, 1000, 4000, 4000, 20_000, 20_000, 130_000, 400_000]
            [self.random.below(11)];
        self.note(Tried::Event(format!("{ms} ms pass")));
        self.pass(ms);
    }

    fn pass(&mut self, ms: u32) {
        for gateway in &mut self.gateways {
            gateway.now += ms;
            let Gateway { engines, wire, now, .. } = gateway;
            for engine in engines {
                engine.settle_claims(|_, address| owner(address));
                engine.ask_about_hosts(|_, address| owner(address));
                engine.age(SLOTS, *now, wire);
            }
        }
        self.hear();
    }

    /// A path's state word changes, before anything else is published.
    fn path_changes(&mut self) {
        let (family, uplink) = (Family::ALL[self.random.below(2)], self.random.below(4) as u8);
        let states = [path_state::NO_CARRIER, path_state::USABLE | path_state::DRAINING];
        let state = states[self.random.below(2)];
        // All work again, or one does not.
        let heals = self.random.below(2) == 0;
        for family in Family::ALL.into_iter().filter(|of| heals || *of == family) {
            let changed = if heals { 0..4 } else { uplink..uplink + 1 };
            for uplink in changed.filter(|uplink| family == Family::V4 || *uplink != 2) {
                let state = if heals { path_state::USABLE } else { state };
                self.note(Tried::Event(format!("{family:?} of uplink {uplink} is {state:#x}")));
                for gateway in &self.gateways {
                    gateway.writer.set_path_state(PathId::new(uplink, family), state);
                }
            }
        }
        self.hear();
    }

    /// XDP may send by a device no more, or by all again.
    fn device_changes(&mut self) {
        if let Some(device) = self.deaf.take() {
            self.tiers[A].send_by(device, ifindex(device));
        } else if self.random.below(3) == 0 {
            let device = self.random.below(4) as u8;
            self.tiers[A].send_by(device, 0);
            self.deaf = Some(device);
        }
        self.note(Tried::Event(format!("XDP cannot send by {:?}", self.deaf)));
    }

    /// Something else is published.
    fn site_changes(&mut self) {
        let site = &mut self.site;
        let uplink = self.random.below(4);
        match self.random.below(14) {
            0 => {
                site.cuts = [0, 0].map(|_| self.random.below(BUCKETS + 1));
                site.cuts.sort_unstable();
            }
            1 => {
                let choice = [None, Some(RuleAction::Drop), Some(RuleAction::Reject)];
                site.denies = choice[self.random.below(3)];
            }
            2 => site.publishes ^= true,
            3 => site.has_next_hop[uplink] ^= true,
            4 => {
                let port = self.random.below(PORTS.into());
                site.mtus[port] = [1500, 1500, 1420, 1280][self.random.below(4)];
            }
            5 => site.addresses[uplink] ^= 0x40,
            6 => site.in_kernel = false,
            _ => site.heal(),
        }
        let text = format!("{site:?}");
        self.note(Tried::Event(text));
        self.publish();
    }
}

/// What is compared now and then.
impl World {
    /// Whoever reads all that is shared finds the same at both, and every frame counted once.
    fn look(&mut self) {
        // A fragment that waits for its first is counted when it ends.
        for engine in self.gateways.iter_mut().flat_map(|gateway| &mut gateway.engines) {
            engine.drop_waiting(|_| true);
        }
        let [a, b] = self.tiers.each_ref();
        same_table([&a.regions.flows, &b.regions.flows]);
        same_table([&a.regions.flows6, &b.regions.flows6]);
        for uplink in 0..4 {
            for family in Family::ALL {
                let path = PathId::new(uplink, family);
                let [of_a, of_b] = [a, b].map(|tier| tier.regions.counters.path(path));
                assert_eq!(format!("{of_a:?}"), format!("{of_b:?}"), "{path:?}");
                let [of_a, of_b] = [a, b].map(|tier| tier.regions.counters.resent(path));
                assert_eq!((of_a.users, of_a.remotes), (of_b.users, of_b.remotes), "{path:?}");
            }
        }
        let forwarded = a.of_xdp(Counter::XdpForwarded);
        assert_eq!(b.of_xdp(Counter::XdpForwarded), 0);
        for ((counter, of_a), (_, of_b)) in a.of_workers().into_iter().zip(b.of_workers()) {
            match counter {
                Counter::UserTx | Counter::UserRx => assert_eq!(of_a + forwarded, of_b),
                // Whom a frame came to, and whose flow it is.
                Counter::UserHandoffIn | Counter::UserHandoffOut => {}
                _ => assert_eq!(of_a, of_b, "{counter:?}"),
            }
        }
        for tier in [a, b] {
            let of = |which: fn(Counter) -> bool| -> u64 {
                let all = Counter::ALL.iter().filter(|counter| which(**counter));
                all.map(|counter| tier.of_xdp(*counter)).sum()
            };
            let ended = of(Counter::is_pass) + of(Counter::is_xdp_drop);
            let went = ended + of(|c| matches!(c, Counter::XdpForwarded | Counter::XdpToUser));
            assert_eq!(tier.of_xdp(Counter::XdpRx), went);
        }
        for (tier, gateway) in self.tiers.iter().zip(&self.gateways) {
            assert_eq!(tier.of_xdp(Counter::XdpToUser), gateway.count(Counter::UserRx));
            gateway.assert_conserved();
        }
    }
}

fn same_table<F: Stored>([a, b]: [&FlowTable<F>; 2]) {
    for slot in 0..SLOTS {
        let [of_a, of_b] = [a, b].map(|table| table.slot(slot).read());
        assert_eq!(of_a, of_b, "slot {slot}");
    }
}
