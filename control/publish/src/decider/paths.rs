//! What is known and decided of the paths of one family. Neither family's depend on the other's.

use std::net::IpAddr;

use weir_health::load::Load;
use weir_health::{Monitor, Verdict};
use weir_layout::Family;
use weir_layout::control::{ControlHalf, Member, PathId, path_state};
use weir_shm::control::{ControlRegion, Snapshot};
use weir_site::Site;
use weir_view::Kernel;

use super::Now;
use crate::derive::Derived;
use crate::home::Homing;
use crate::states::{Change, States};
use crate::tables::Tables;

/// How often the next hop of a path whose targets stay silent is checked, milliseconds: it is
/// answered for within three seconds, or lost.
const NEXT_HOP_CHECK_MS: u64 = 5000;

pub(super) struct Paths {
    family: Family,
    pub monitor: Monitor,
    pub states: States,
    pub tables: Tables,
    /// By policy, the uplinks that may take new flows, as they were judged last.
    pub takers: Vec<u64>,
    /// By policy.
    homing: Vec<Homing>,
    /// By uplink: when its next hop was last checked since the path's targets fell silent.
    doubted: Vec<Option<u64>>,
}

impl Paths {
    /// Adopts what an earlier process published in this region.
    pub fn adopt(
        family: Family,
        site: &Site,
        region: &ControlRegion,
        snapshot: Option<&Snapshot>,
        now: u64,
    ) -> Self {
        let published = || snapshot.iter().flat_map(|snapshot| &snapshot.half.uplinks);
        let path = |uplink| PathId::new(uplink, family);
        let words = |uplinks: usize| (0u8..).take(uplinks).map(|u| region.path_state(path(u)));
        let known = published().take_while(|uplink| !uplink.name.as_str().is_empty()).count();
        let earlier: Vec<u32> = words(known).collect();
        let uplinks = site.uplinks.len();
        let since = published().take(uplinks).map(|uplink| uplink.path(family).since);
        let mut paths = Self {
            family,
            monitor: Monitor::new(family, site, &earlier, now),
            states: States::new(family, words(uplinks).collect(), since.collect()),
            tables: Tables::new(family),
            takers: Vec::new(),
            homing: vec![Homing::default(); site.policies.len()],
            doubted: Vec::new(),
        };
        if let Some(snapshot) = snapshot {
            paths.tables = Tables::adopt(family, site, region, snapshot);
            paths.homing = Homing::of_all(family, site, &snapshot.half, now);
        }
        paths
    }

    /// Takes another site, whose file is another or not.
    pub fn reconfigure(&mut self, site: &Site, is_other: bool, now: u64) {
        if is_other {
            self.homing = vec![Homing::default(); site.policies.len()];
            self.states.resize(site.uplinks.len());
        }
        self.monitor.reconfigure(site, now);
    }

    /// Somebody here has changed what the site is.
    pub const fn expect_change(&mut self) {
        self.monitor.expect_change();
    }

    /// Takes what the kernel and the operator say, and lets time pass.
    pub fn observe(&mut self, published: &Derived, now: u64) {
        self.monitor.observe(&published.problems[self.family.index()], now);
        self.monitor.tick(now);
    }

    /// Judges the paths: who takes new flows of each policy, and the state words that change.
    pub fn judge(
        &mut self,
        site: &Site,
        load: &Load,
        half: &mut ControlHalf,
        now: Now,
    ) -> Vec<Change> {
        let weighty = |policy: usize| {
            let members = half.policies[policy].members().iter();
            let weighty = members.filter(|member| member.weight & Member::MAX_WEIGHT != 0);
            weighty.fold(0, |set, member| set | 1 << (member.uplink & 63))
        };
        let Verdict { states, takers } = self.monitor.verdict(site, weighty, self.states.words());
        let is_full = |index| load.saturated(index) && self.monitor.path(index).is_some();
        let bit = |index| if is_full(index) { path_state::SATURATED } else { 0 };
        let words = states.iter().enumerate().map(|(index, state)| state | bit(index));
        let changes = self.states.decide(words, now.unix_ms / 1000);
        for (uplink, since) in half.uplinks.iter_mut().zip(self.states.since()) {
            uplink.path_mut(self.family).since = *since;
        }
        self.takers = takers;
        changes
    }

    /// Places new flows; says whether a live table changed. `first` are the tables of another family
    /// that hosts with both go by.
    pub fn place(
        &mut self,
        load: &mut Load,
        half: &mut ControlHalf,
        first: Option<&Tables>,
        now: u64,
    ) -> bool {
        let Self { family, ref takers, ref mut tables, .. } = *self;
        let place =
            |policy: usize, members: &[_], takers| load.place(family, policy, members, takers, now);
        tables.update(half, takers, first, place)
    }

    /// Says of each policy which of its flows come home.
    pub fn bring_home(
        &mut self,
        site: &Site,
        half: &mut ControlHalf,
        flows: impl Fn(PathId) -> u64,
        now: u64,
    ) {
        if !self.monitor.has_paths() {
            return;
        }
        let policies = site.policies.iter().zip(&mut self.homing).zip(&mut half.policies);
        for ((policy, homing), published) in policies {
            let steering = published.steering_mut(self.family);
            let active = steering.active_tier;
            let worse = policy.members.iter().filter(|member| member.tier > active);
            let worse = worse.map(|member| PathId::new(member.uplink, self.family));
            // Flows that come and go while they are counted may make it less than none.
            let away = worse.map(&flows).fold(0, u64::saturating_add);
            let come_home = homing.come_home(policy.failback, active, away, now);
            steering.come_home = come_home as u8;
        }
    }

    /// Next hops that are to be checked at `now`, with the hardware address they are known by.
    pub fn doubts(
        &mut self,
        site: &Site,
        kernel: &Kernel,
        now: u64,
    ) -> Vec<(u32, IpAddr, [u8; 6])> {
        let Self { family, monitor, doubted, .. } = self;
        doubted.resize(site.uplinks.len(), None);
        let mut doubts = Vec::new();
        for (index, (uplink, last)) in site.uplinks.iter().zip(doubted).enumerate() {
            if !monitor.is_silent(index) {
                *last = None;
            } else if last.is_none_or(|last| now.saturating_sub(last) >= NEXT_HOP_CHECK_MS)
                && let Some(link) = kernel.link(&uplink.interface)
                && let Some(next_hop) = uplink.next_hop_by(*family, link.index, kernel)
                && let Some(known) = kernel.neighbours.get(&(link.index, next_hop))
                && known.trusted
            {
                *last = Some(now);
                doubts.push((link.index, next_hop, known.mac));
            }
        }
        doubts
    }

    /// The operator wants the flows of a policy home that are away now; none: of all policies.
    pub fn ask_home(&mut self, policy: Option<usize>) {
        let asked = self.homing.iter_mut().enumerate();
        let asked = asked.filter(|(index, _)| policy.is_none_or(|policy| policy == *index));
        asked.for_each(|(_, homing)| homing.ask());
    }
}
