//! All uplinks and policies together.

use weir_layout::Family;
use weir_layout::control::Member;
use weir_site::Site;
use weir_site::load::{Capacity, Direction, Spill};

use super::learn::{Learner, Rtt};
use super::place::{Known, Placement, Placer};
use super::rate::{Counts, Rate};
use super::spill::{Change, Part, Spiller};
use super::view::{CapacityFrom, DirectionView, LoadView};
use crate::window::Figure;

/// How often an uplink without any load is looked at, milliseconds: all that changes with it is time.
const AT_REST_MS: u64 = 1000;

/// What is read of an uplink every 100 ms.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// Its counters, by [`Direction`].
    pub counts: [Counts; 2],
    /// What its probes say, if it has any that are answered.
    pub rtt: Option<Rtt>,
}

/// The load of all uplinks, and what the policies do with it.
#[derive(Clone, Debug)]
pub struct Load {
    uplinks: Vec<UplinkLoad>,
    /// By [`Family`], for the members that take flows may differ.
    policies: [Vec<Placer>; Family::COUNT],
}

#[derive(Clone, Debug, Default)]
struct UplinkLoad {
    configured: Capacity,
    spill: Option<Spill>,
    interval_ms: u64,
    rates: [Rate; 2],
    rtt: Option<Rtt>,
    learner: Learner,
    spiller: Spiller,
    /// When all of this was last brought up to date.
    stepped: u64,
}

impl Load {
    /// Nothing is known yet.
    pub fn new(site: &Site) -> Self {
        let mut load = Self { uplinks: Vec::new(), policies: Family::ALL.map(|_| Vec::new()) };
        load.reconfigure(site);
        load
    }

    /// Takes a changed site, which has the same uplinks and perhaps more behind them; what was
    /// learned of them stays.
    pub fn reconfigure(&mut self, site: &Site) {
        self.uplinks.resize_with(site.uplinks.len(), UplinkLoad::default);
        for (uplink, given) in self.uplinks.iter_mut().zip(&site.uplinks) {
            uplink.configured = given.capacity;
            uplink.spill = given.spill;
            uplink.interval_ms = given.health.interval_ms.into();
        }
        for placers in &mut self.policies {
            placers.resize_with(site.policies.len(), Placer::default);
            for (placer, policy) in placers.iter_mut().zip(&site.policies) {
                placer.reconfigure(policy.balance, policy.spillover);
            }
        }
    }

    /// Takes what was read of the uplinks, in their order; says which became too full for new flows
    /// or have room again.
    pub fn step(&mut self, readings: &[Reading], now: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for (index, (uplink, reading)) in (0u8..).zip(self.uplinks.iter_mut().zip(readings)) {
            if let Some(tighter) = uplink.step(reading, now) {
                let saturated = uplink.spiller.saturated();
                changes.push(Change { uplink: index, saturated, tighter });
            }
        }
        changes
    }

    /// Places the new flows of a policy in a family, see [`Placer::place`].
    pub fn place(
        &mut self,
        family: Family,
        policy: usize,
        members: &[Member],
        takers: u64,
        now: u64,
    ) -> Placement {
        let uplinks = &self.uplinks;
        let known = |uplink: u8| {
            uplinks.get(usize::from(uplink)).map_or(Known::default(), UplinkLoad::known)
        };
        match self.policies[family.index()].get_mut(policy) {
            Some(placer) => placer.place(members, takers, &known, now),
            None => Placer::default().place(members, takers, &known, now),
        }
    }

    /// Is this uplink too full for new flows?
    pub fn saturated(&self, uplink: usize) -> bool {
        self.uplinks.get(uplink).is_some_and(|u| u.spiller.saturated())
    }

    /// How the load of an uplink is told.
    pub fn view(&self, uplink: usize) -> Option<LoadView> {
        let uplink = self.uplinks.get(uplink)?;
        let [down, up] = Direction::BOTH.map(|d| uplink.direction(d));
        let base_rtt_ms = uplink.learner.base_ms();
        Some(LoadView { down, up, saturated: uplink.spiller.saturated(), base_rtt_ms })
    }
}

impl UplinkLoad {
    fn step(&mut self, reading: &Reading, now: u64) -> Option<Option<(Direction, u32, u64)>> {
        self.rtt = reading.rtt;
        let mut rates = self.rates.iter().zip(reading.counts);
        if now.saturating_sub(self.stepped) < AT_REST_MS
            && !self.spiller.saturated()
            && rates.all(|(rate, counts)| rate.is_at_rest(counts))
        {
            self.rates.iter_mut().for_each(|rate| rate.rest(now));
            return None;
        }
        self.stepped = now;
        for (rate, counts) in self.rates.iter_mut().zip(reading.counts) {
            rate.sample(counts, now);
        }
        self.learner.step(&self.rates, self.rtt, self.interval_ms, self.configured, now);
        let parts: Vec<Part> = Direction::BOTH.into_iter().filter_map(|d| self.part(d)).collect();
        self.spiller.step(self.spill, &parts, now)
    }

    /// The capacity of a direction, bits per second.
    fn capacity(&self, direction: Direction) -> Option<f64> {
        let configured = self.configured[direction as usize];
        configured.map(|bits| bits as f64).or(self.learner.learned(direction as usize))
    }

    fn part(&self, direction: Direction) -> Option<Part> {
        let capacity = self.capacity(direction)?;
        let Figure { weighted, window } = self.rates[direction as usize].figure();
        let percent = |bits: f64| bits * 100.0 / capacity;
        let percent = Figure { weighted: percent(weighted), window: percent(window) };
        Some(Part { direction, percent, capacity: capacity.round() as u64 })
    }

    fn known(&self) -> Known {
        let used = Direction::BOTH.into_iter().filter_map(|d| self.part(d));
        let used = used.map(|p| p.percent.weighted / 100.0).fold(0.0, f64::max);
        // Flows are mostly downloads, so that is what links are compared by; but a full upload
        // leaves no room for downloads either.
        let down = self.capacity(Direction::Down);
        Known {
            saturated: self.spiller.saturated(),
            room: down.map(|capacity| capacity * (1.0 - used).max(0.0)),
            rtt_ms: self.rtt.map(|rtt| rtt.ms),
        }
    }

    fn direction(&self, direction: Direction) -> DirectionView {
        let figure = self.rates[direction as usize].figure();
        let from = match self.configured[direction as usize] {
            Some(_) => CapacityFrom::Configured,
            None if self.learner.learned(direction as usize).is_some() => CapacityFrom::Learned,
            None => CapacityFrom::Unknown,
        };
        DirectionView {
            load: figure.window.round() as u64,
            load_weighted: figure.weighted.round() as u64,
            capacity: self.capacity(direction).map(|bits| bits.round() as u64),
            capacity_from: from,
        }
    }
}
