//! What a change or a reload is said to do is what it then does, flow by flow.

use std::collections::BTreeMap;

use weir_dataplane::engine::Regions;
use weir_explain::forecast::{Becomes, Each};
use weir_explain::{Change, Forecast, Reload, Replica};
use weir_health::buckets::Buckets;
use weir_layout::control::{
    BucketTable, ControlHalf, Member, Name, OnUplinkDown, PathId, Translate, path_state,
};
use weir_layout::flow::FlowState;
use weir_layout::prefix_sets::Ranges;
use weir_layout::{Family, NONE};
use weir_shm::flows::FlowTable;
use weir_wire::family::{V4, V6};
use weir_wire::tcp::flag::ACK;

use crate::explained::OfRegions;
use crate::gateway::*;
use crate::robustness::Seeded;
use crate::tiers::frames::Said;
use crate::tiers::site::*;

const CHANGES: usize = 1_000;
const RELOADS: u64 = 200;
/// Flows that a gateway is given before each change, at most.
const FLOWS: usize = 40;
const SLOTS: u32 = 2048;

/// A gateway whose tables are those that a control process makes, and the host of each flow.
struct World {
    gateway: Gateway,
    tables: [Buckets; Family::COUNT],
    random: Seeded,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Seeded(0x666f_7265 + seed);
        let mut site = Site::new(&mut random);
        // Ports drawn by lot are others at the copy.
        (site.workers, site.nat_ports) = (1, 40_000);
        if site.mode == Mode::Bare {
            site.mode = Mode::By([Translate::Napt, Translate::Npt, Translate::None]);
            site.bare4 = false;
        }
        let mut regions = Regions::anonymous(SLOTS, KEY).unwrap();
        regions.flows6 = FlowTable::anonymous(SLOTS).unwrap();
        let mut gateway = site.gateway(&regions);
        site.publish(&mut gateway, weir_layout::control::Tier::User);
        let policy = &mut gateway.half.policies[0];
        policy.name = Name::new("all");
        for member in &mut policy.members[..3] {
            member.tier = 1 + u8::from(random.below(4) == 0);
            member.weight = 1 + random.below(5) as u16;
        }
        policy.on_uplink_down =
            [OnUplinkDown::Reset, OnUplinkDown::Keep, OnUplinkDown::Drop][random.below(3)] as u8;
        // The other policy is left alone.
        gateway.half.rule_count = 0;
        gateway.half.policies[1].member_count = 0;
        let mut world = Self { gateway, tables: Default::default(), random };
        world.publish();
        world
    }

    /// As the control process does it: members and who takes new flows in, tables out.
    fn publish(&mut self) {
        let Self { gateway, tables, .. } = self;
        for (family, buckets) in Family::ALL.into_iter().zip(tables.iter_mut()) {
            let members: Vec<Member> = gateway.half.policies[0].members().to_vec();
            let region = gateway.writer.region();
            let all = members.iter().filter(|member| member.weight != 0);
            let with = |bits: u32, wanted: u32| {
                all.clone()
                    .filter(|member| {
                        let path = PathId::new(member.uplink, family);
                        region.path_state(path) & bits == wanted
                    })
                    .fold(0u64, |set, member| set | 1 << member.uplink)
            };
            let well = with(path_state::USABLE | path_state::DRAINING, path_state::USABLE);
            let draining = path_state::USABLE | path_state::DRAINING;
            let takers = if well != 0 { well } else { with(draining, draining) };
            buckets.update(&members, takers);
            let steering = gateway.half.policies[0].steering_mut(family);
            steering.active_tier = buckets.active_tier().unwrap_or(0);
            steering.heavy = NONE;
            if let Some(home) = buckets.home() {
                gateway.writer.save_home(family, 0, home);
            }
        }
        let [four, six]: [&BucketTable; 2] = [tables[0].live(), tables[1].live()];
        gateway.writer.publish(&mut gateway.half, [&[four], &[six]]);
    }

    /// Flows begin, and some of the connections are answered.
    fn begin(&mut self) {
        for _ in 0..FLOWS {
            let random = &mut self.random;
            let (host, which) = (random.below(HOSTS.into()) as u8, random.below(5));
            let (src, dst) = match random.below(2) {
                0 => (v4(host)[random.below(2)], [198, 51, 100, 1].into()),
                _ => (v6(host, which), [0x2606, 0x4700, 0, 0, 0, 0, 0, 1].into()),
            };
            let proto = [TCP, UDP, Said::echo(src)][random.below(3)];
            let is_echo = !matches!(proto, TCP | UDP);
            let port = 20_000 + 1000 * u16::from(host) + 100 * which as u16;
            let ports = [port + random.below(90) as u16, if is_echo { 1 } else { 443 }];
            let said = Said::of_host(host, [src, dst], proto, ports);
            let (device, answered) = (link(port_of_host(host)).0, random.below(4) != 0);
            let sent = self.gateway.send(device, &said.frame());
            let Some((device, left)) = sent.first() else { continue };
            let Some(left) = Said::of(left).filter(|_| answered && proto == TCP) else { continue };
            let inward = self.gateway.send(*device, &left.answered().frame());
            if let Some((_, came)) = inward.first()
                && let Some(came) = Said::of(came)
            {
                self.gateway.send(link(port_of_host(host)).0, &came.answered().frame());
            }
        }
    }

    fn change(&mut self) -> Change {
        let uplink = UPLINKS[self.random.below(3)];
        let name = format!("uplink{uplink}");
        match self.random.below(8) {
            0..3 => Change::Down(name),
            3 => Change::Up(name),
            4 => Change::Drain(name),
            5 | 6 => {
                let weight = self.random.below(6) as u16;
                Change::Weight { uplink: name, weight, policy: None }
            }
            _ => {
                let weight = self.random.below(6) as u16;
                Change::Weight { uplink: name, weight, policy: Some("all".to_owned()) }
            }
        }
    }

    /// The operator makes it.
    fn make(&mut self, change: &Change) {
        let number = |name: &str| name.trim_start_matches("uplink").parse::<u8>().unwrap();
        let set = |world: &Self, name: &str, state: u32| {
            for family in Family::ALL {
                world.gateway.writer.set_path_state(PathId::new(number(name), family), state);
            }
        };
        match change {
            Change::Down(name) => set(self, name, path_state::ADMIN_DOWN),
            Change::Up(name) => set(self, name, path_state::USABLE),
            Change::Drain(name) => set(self, name, path_state::USABLE | path_state::DRAINING),
            Change::Weight { uplink, weight, .. } => {
                let of = number(uplink);
                let members = &mut self.gateway.half.policies[0].members[..3];
                members.iter_mut().find(|m| m.uplink == of).unwrap().weight = *weight;
            }
        }
        self.obey();
    }

    /// Another file: members with other weights and tiers, and uplinks that are set down or drain.
    fn file(&mut self) -> File {
        let Self { gateway, random, .. } = self;
        let mut half = gateway.half.clone();
        let policy = &mut half.policies[0];
        for member in &mut policy.members[..3] {
            member.tier = 1 + u8::from(random.below(4) == 0);
            member.weight = 1 + random.below(5) as u16;
        }
        policy.on_uplink_down =
            [OnUplinkDown::Reset, OnUplinkDown::Keep, OnUplinkDown::Drop][random.below(3)] as u8;
        let told = Family::ALL.map(|family| {
            let path = |uplink| gateway.writer.region().path_state(PathId::new(uplink, family));
            let mut told = |uplink| match path(uplink) & path_state::NOT_CONFIGURED {
                0 => [0, 0, path_state::ADMIN_DOWN, path_state::DRAINING][random.below(4)],
                none => none,
            };
            (0..half.uplinks.len() as u8).map(&mut told).collect()
        });
        File { half, told }
    }

    /// The control process takes it over.
    fn load(&mut self, file: &File) {
        self.gateway.half = file.half.clone();
        for (family, told) in Family::ALL.into_iter().zip(&file.told) {
            for (uplink, told) in (0..).zip(told) {
                let path = PathId::new(uplink, family);
                let unused = path_state::ADMIN_DOWN | path_state::NOT_CONFIGURED;
                let use_ = if told & unused == 0 { path_state::USABLE } else { 0 };
                self.gateway.writer.set_path_state(path, told | use_);
            }
        }
        self.obey();
    }

    /// What was set is published, and workers do what follows.
    fn obey(&mut self) {
        self.publish();
        let Gateway { engines, wire, .. } = &mut self.gateway;
        for engine in engines {
            engine.refresh();
            while engine.sweep(wire) {}
        }
        wire.sent.clear();
    }

    /// Has something done of which this was foretold, and sees what becomes of each flow.
    fn compare(&mut self, forecast: &Forecast, seen: &mut Seen, make: impl FnOnce(&mut Self)) {
        let with_next = |each: &Each| match each.family {
            Family::V4 => (*each, next::<V4>(&self.gateway, each)),
            Family::V6 => (*each, next::<V6>(&self.gateway, each)),
        };
        let flows: Vec<(Each, Before)> = forecast.each.iter().map(with_next).collect();
        make(self);
        for (each, before) in &flows {
            let uplink = match each.family {
                Family::V4 => self.goes_on::<V4>(before),
                Family::V6 => self.goes_on::<V6>(before),
            };
            let (wanted, what) = match each.becomes {
                Becomes::Stays => (Some(each.uplink), "stay"),
                Becomes::Moves(to) => (Some(to), "move"),
                Becomes::Breaks => (None, "break"),
            };
            assert_eq!(uplink, wanted, "{each:?}\n{forecast}");
            *seen.entry(what).or_insert(0) += 1;
        }
        self.gateway.now += 1000;
    }

    /// What becomes of a flow whose host sends the next packet: the uplink that it has then.
    fn goes_on<F: OfRegions>(&mut self, of: &Before) -> Option<u8> {
        let key = F::parse(&of.frame).unwrap().key();
        let now = |world: &Self| {
            let table = F::table(&world.gateway.regions);
            let slot = table.find(key.hash(KEY), &key)?;
            let entry = table.slot(slot).read()?;
            (entry.state_owner.state() != FlowState::Closing).then_some(entry.uplink)
        };
        now(self)?;
        let sent = self.gateway.send(of.device, &of.frame);
        let left = |(device, _): &(u8, Vec<u8>)| !matches!(device, 0 | 4);
        if sent.iter().any(left) { now(self) } else { None }
    }
}

/// How many flows had which fate.
type Seen = BTreeMap<&'static str, usize>;

/// What the control process would derive of another file.
struct File {
    half: Box<ControlHalf>,
    /// By family and uplink, what would be told of its path.
    told: [Vec<u32>; Family::COUNT],
}

/// A flow before the change: its host's next packet.
struct Before {
    device: u8,
    frame: Vec<u8>,
}

/// The next packet of a flow that its slot is of.
fn next<F: OfRegions>(gateway: &Gateway, each: &Each) -> Before {
    let table = F::table(&gateway.regions);
    let entry = table.slot(each.slot).read().unwrap();
    let back = table.slot(entry.peer).read().unwrap();
    let host = gateway.regions.adjacencies.get(back.adjacency).unwrap();
    let [src, dst] = entry.key.addresses().map(Into::into);
    let [from, to] = [entry.key.sport(), entry.key.dport()].map(u16::from_be_bytes);
    let is_echo = !matches!(entry.key.proto(), TCP | UDP);
    let said = Said {
        from: host.mac,
        to: device_mac(host.port),
        vlan: link(host.port).1,
        src,
        dst,
        proto: entry.key.proto(),
        ports: [from, if is_echo { 1 } else { to }],
        flags: ACK,
        seq: entry.next_seq,
        ack: back.next_seq,
        ttl: 64,
        len: 0,
    };
    Before { device: link(host.port).0, frame: said.frame() }
}

/// Each fate was seen, so often at least.
fn assert_seen(seen: &Seen, least: usize) {
    println!("{seen:?}");
    for what in ["stay", "move", "break"] {
        assert!(seen.get(what).copied().unwrap_or(0) > least, "{seen:?}");
    }
}

#[test]
fn what_is_forecast_is_what_a_change_does_to_each_flow() {
    let mut seen = Seen::new();
    for seed in 0..(CHANGES / 10) as u64 {
        let mut world = World::new(seed);
        for _ in 0..10 {
            world.begin();
            let change = world.change();
            let now = world.gateway.now;
            let mut copy = Replica::of(&world.gateway.regions, now).unwrap();
            let Ok(forecast) = copy.what_if(&change) else {
                assert!(matches!(change, Change::Drain(_)), "{change}");
                continue;
            };
            world.compare(&forecast, &mut seen, |world| world.make(&change));
        }
    }
    assert_seen(&seen, 500);
}

/// Each from the beginning: which buckets a tier had that was active before only the control
/// process knows.
#[test]
fn what_is_forecast_of_a_file_is_what_its_reload_does_to_each_flow() {
    let mut seen = Seen::new();
    for seed in 0..RELOADS {
        let mut world = World::new(seed);
        world.begin();
        let file = world.file();
        let reload = Reload {
            file: format!("file {seed}"),
            half: file.half.clone(),
            problems: file.told.clone(),
            sets: Ranges::default(),
            restarts: false,
            notes: Vec::new(),
        };
        let mut copy = Replica::of(&world.gateway.regions, world.gateway.now).unwrap();
        let forecast = copy.what_if_reloaded(reload).unwrap();
        world.compare(&forecast, &mut seen, |world| world.load(&file));
    }
    assert_seen(&seen, 200);
}
