//! A site in simulated time: links that queue, probes through them, and new flows that go where the
//! buckets say and stay for a while.

use weir_layout::Family;
use weir_site::Site;

use super::*;
use crate::buckets::Buckets;
use crate::window::Window;

const STEP_MS: u64 = 100;

/// A link as the provider made it.
#[derive(Clone, Copy)]
pub struct Link {
    /// What it carries, bits per second, by direction.
    pub capacity: [f64; 2],
    /// Round-trip time without a queue, milliseconds.
    pub base_ms: f64,
    /// Longest queue, milliseconds.
    pub buffer_ms: f64,
    /// Round-trip times are up to so much longer by chance, milliseconds.
    pub noise_ms: u64,
    /// It carries up to so much less from one moment to the next, percent.
    pub wobble: u64,
}

/// What new flows are like.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Which way the data goes; the other way go acknowledgements.
    pub direction: Direction,
    /// What a flow would send, bits per second.
    pub bits: f64,
    /// How long it lasts at most, milliseconds; half of it on average.
    pub ms: u64,
    /// New flows per minute.
    pub per_minute: u64,
}

struct Flow {
    uplink: usize,
    kind: Kind,
    end: u64,
}

pub struct Sim {
    site: Site,
    pub links: Vec<Link>,
    pub load: Load,
    /// Uplinks that health lets take flows.
    pub well: u64,
    buckets: Buckets,
    probes: Vec<Window>,
    counts: Vec<[Counts; 2]>,
    queue: Vec<[f64; 2]>,
    flows: Vec<Flow>,
    random: Random,
    pub now: u64,
    /// What became full or roomy, and when.
    pub changes: Vec<(u64, Change)>,
    /// Flows placed so far, by uplink.
    pub placed: Vec<u64>,
    /// Buckets that changed hands so far.
    pub moved: usize,
    pub placement: Placement,
}

impl Sim {
    /// A site of one policy. `uplinks` has for each uplink more lines of its table, and its link.
    pub fn new(uplinks: &[(&str, Link)], policy: &str, seed: u64) -> Self {
        let mut text = String::from("[[lan]]\ninterface = \"lan0\"\n");
        for (index, (lines, _)) in uplinks.iter().enumerate() {
            text +=
                &format!("[[uplink]]\nname = \"u{index}\"\ninterface = \"wan{index}\"\n{lines}\n");
        }
        text += &format!("[[policy]]\nname = \"all\"\n{policy}\n");
        let site = weir_site::parse("weir.toml", &text).unwrap();
        let count = uplinks.len();
        let mut sim = Self {
            load: Load::new(&site),
            links: uplinks.iter().map(|(_, link)| *link).collect(),
            well: (1 << count) - 1,
            site,
            buckets: Buckets::default(),
            probes: vec![Window::new(30); count],
            counts: vec![[Counts::default(); 2]; count],
            queue: vec![[0.0; 2]; count],
            flows: Vec::new(),
            random: Random::new(seed),
            now: 0,
            changes: Vec::new(),
            placed: vec![0; count],
            moved: 0,
            placement: Placement::default(),
        };
        sim.place();
        sim.moved = 0;
        sim
    }

    /// Lets time pass with new flows of these kinds.
    pub fn run(&mut self, seconds: u64, kinds: &[Kind]) {
        for _ in 0..seconds * 1000 / STEP_MS {
            self.now += STEP_MS;
            for kind in kinds {
                let chance = kind.per_minute * STEP_MS;
                let certain = chance / 60_000;
                let extra = u64::from(self.random.below(60_000) < chance % 60_000);
                (0..certain + extra).for_each(|_| self.start(*kind));
            }
            self.flows.retain(|flow| flow.end > self.now);
            for index in 0..self.links.len() {
                self.carry(index);
            }
            let changes = self.load.step(&self.readings(), self.now);
            let due = !changes.is_empty() || self.now.is_multiple_of(500);
            self.changes.extend(changes.into_iter().map(|change| (self.now, change)));
            if due {
                self.place();
            }
        }
    }

    /// Adds a flow that lasts for ever.
    pub fn add(&mut self, uplink: usize, direction: Direction, bits: f64) {
        let kind = Kind { direction, bits, ms: 0, per_minute: 0 };
        self.flows.push(Flow { uplink, kind, end: u64::MAX });
    }

    /// The share of the buckets that an uplink has, percent.
    pub fn share(&self, uplink: u8) -> f64 {
        let live = self.buckets.live();
        live.iter().filter(|owner| **owner == uplink).count() as f64 * 100.0 / live.len() as f64
    }

    /// The load of an uplink's downlink, percent of what it can carry.
    pub fn percent(&self, uplink: usize) -> f64 {
        let load = self.load.view(uplink).unwrap().down.load_weighted as f64;
        load * 100.0 / self.links[uplink].capacity[0]
    }

    /// How far a learned capacity is from the truth, percent of it; none: nothing is learned.
    pub fn error(&self, uplink: usize, direction: Direction) -> Option<f64> {
        let view = self.load.view(uplink).unwrap();
        let learned = [view.down, view.up][direction as usize].capacity? as f64;
        let truth = self.links[uplink].capacity[direction as usize];
        Some((learned - truth) * 100.0 / truth)
    }

    fn start(&mut self, kind: Kind) {
        let live = self.buckets.live();
        let uplink = usize::from(live[self.random.below(live.len() as u64) as usize]);
        if uplink < self.links.len() {
            self.placed[uplink] += 1;
            let end = self.now + 1 + self.random.below(kind.ms);
            self.flows.push(Flow { uplink, kind, end });
        }
    }

    /// Carries a step's worth of one link, and probes it once a second.
    fn carry(&mut self, index: usize) {
        let link = self.links[index];
        let seconds = STEP_MS as f64 / 1000.0;
        let mut data = [0.0; 2];
        for flow in self.flows.iter().filter(|flow| flow.uplink == index) {
            data[flow.kind.direction as usize] += flow.kind.bits * seconds;
        }
        let weather = 1.0 - self.random.below(link.wobble + 1) as f64 / 100.0;
        let mut delay = 0.0;
        for at in [0, 1] {
            let (data, acknowledged) = (data[at], data[1 - at] * 0.02);
            let offered = data + acknowledged + self.queue[index][at];
            let carried = offered.min(link.capacity[at] * weather * seconds);
            let buffer = link.buffer_ms / 1000.0 * link.capacity[at];
            self.queue[index][at] = (offered - carried).min(buffer);
            delay += self.queue[index][at] / link.capacity[at] * 1000.0;
            let data = if offered > 0.0 { data / (data + acknowledged).max(1.0) } else { 0.0 };
            let counts = &mut self.counts[index][at];
            counts.bytes += (carried / 8.0) as u64;
            counts.packets += (carried / 8.0 * (data / 1400.0 + (1.0 - data) / 52.0)).ceil() as u64;
        }
        if self.now.is_multiple_of(1000) {
            let noise = self.random.below(link.noise_ms + 1) as f64;
            let lost = self.random.below(100) < 2;
            let rtt = ((link.base_ms + delay + noise) * 1000.0) as u32;
            self.probes[index].push((!lost).then_some(rtt));
        }
    }

    fn readings(&self) -> Vec<Reading> {
        let reading = |(counts, probes): (&[Counts; 2], &Window)| {
            let figures = probes.figures();
            let (ms, jitter_ms) = (figures.rtt_ms.weighted, figures.jitter_ms.weighted);
            let rtt = (ms > 0.0).then_some(Rtt { ms, jitter_ms });
            Reading { counts: *counts, rtt }
        };
        self.counts.iter().zip(&self.probes).map(reading).collect()
    }

    fn place(&mut self) {
        let site = &self.site;
        let member = |m: &weir_site::MemberConfig| Member {
            uplink: m.uplink,
            tier: m.tier,
            weight: m.weight.unwrap_or(site.uplinks[usize::from(m.uplink)].weight),
        };
        let mut members: Vec<Member> = site.policies[0].members.iter().map(member).collect();
        self.placement = self.load.place(Family::V4, 0, &members, self.well, self.now);
        for (member, weight) in members.iter_mut().zip(&self.placement.weights) {
            member.weight = *weight;
        }
        let before = Box::new(*self.buckets.live());
        self.buckets.update(&members, self.placement.takers);
        self.moved += crate::buckets::moved(&before, self.buckets.live());
    }
}
