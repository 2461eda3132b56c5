//! What follows for the dataplane.

use weir_health::{Entry, Event, Part};
use weir_layout::Family;
use weir_layout::control::{ControlHalf, PathId, Tier, path_state};
use weir_shm::hosts::{HostPrefixes, HostPrefixes6};
use zerocopy::IntoBytes;

use super::Decider;
use super::tiers;
use crate::derive::Derived;
use crate::guard::{Seen, rulesets};
use crate::hosts::Sources;
use crate::lans;
use crate::states::Change;

/// What time it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Now {
    /// CLOCK_MONOTONIC, milliseconds.
    pub ms: u64,
    /// CLOCK_BOOTTIME, seconds: drains end by it.
    pub boot_s: u64,
    /// CLOCK_REALTIME, milliseconds since the Unix epoch: for people.
    pub unix_ms: u64,
}

/// What is judged of the paths. Their state words come before all that follows: those that differ
/// from [`Decider::words`] are to be stored whether they changed or not.
pub struct Judged {
    now: Now,
    published: Derived,
    changes: Vec<Change>,
    entries: Vec<Entry>,
}

/// What is to be done, in the order in which it is to be.
#[derive(Default)]
pub struct Effects {
    /// Words that were decided anew.
    pub changes: Vec<Change>,
    /// What changed with uplinks, LANs and policies: for the log, and for hooks.
    pub entries: Vec<Entry>,
    /// By [`Family`], the commands that make the guard's table, if they are others; none within: it
    /// is to have none.
    pub guard: Option<[Option<String>; Family::COUNT]>,
    /// All destinations that stay on the gateway, if they may be others. Where they cannot be
    /// entered, [`Decider::hosts_failed`] is to be told.
    pub hosts: Option<HostPrefixes>,
    /// The same of IPv6.
    pub hosts6: Option<HostPrefixes6>,
    /// The half, to be published with [`Decider::tables`] if it or one of these is another.
    pub half: Option<Box<ControlHalf>>,
    /// What keeps XDP from transmitting by each device that is used, by its kernel index.
    pub shortages: Vec<(u32, Option<String>)>,
}

impl Effects {
    /// Does an uplink become usable, or is one no more?
    pub fn flip(&self) -> bool {
        self.changes.iter().any(Change::flips)
    }
}

impl Decider {
    /// Judges anew by all that is known at `now`. What it makes for new flows [`Self::place`] says.
    pub fn judge(&mut self, now: Now) -> Judged {
        self.overrides.expire(now.boot_s);
        let mut published = self.derive(&self.overrides);
        published.refuse(&self.refused);
        if self.lacks_ipv6 {
            let words = published.problems[Family::V6.index()].iter_mut();
            let configured = words.filter(|word| **word & path_state::NOT_CONFIGURED == 0);
            configured.for_each(|word| *word |= path_state::NO_DEVICE);
        }
        for paths in &mut self.paths {
            paths.observe(&published, now.ms);
        }
        let joint = self.paths.each_ref().map(|paths| paths.monitor.joint(&self.site));
        for (paths, other) in self.paths.iter_mut().zip(joint.iter().rev()) {
            paths.monitor.join(other, now.ms);
        }
        let entries = self.write_down(now);
        let mut changes = Vec::new();
        for paths in &mut self.paths {
            changes.extend(paths.judge(&self.site, &self.load, &mut published.half, now));
        }
        Judged { now, published, changes, entries }
    }

    /// Places new flows by what was judged, and says what is to be done. `flows` counts those on a
    /// path.
    pub fn place(&mut self, judged: Judged, flows: impl Fn(PathId) -> u64) -> Effects {
        let Judged { now, published, changes, mut entries } = judged;
        let Derived { mut half, hosts, hosts6, unresolved, .. } = published;
        let mut moved = false;
        let mut first = None;
        for paths in &mut self.paths {
            moved |= paths.place(&mut self.load, &mut half, first, now.ms);
            paths.bring_home(&self.site, &mut half, &flows, now.ms);
            first = Some(&paths.tables);
        }
        let shortages = self.shortages(&half);
        self.unresolved = unresolved;
        let same = !moved && self.half.as_ref().is_some_and(|old| same(old, &half));
        self.unrouted |= !same || !changes.is_empty();
        if !same && let Some(old) = &self.half {
            let others = tiers::changes(&self.site, &self.paths, old, &half).into_iter();
            entries.extend(others.map(|other| self.history.push(Event::Tier(other), now.unix_ms)));
        }
        // What is compared with must not see what publishing fills in.
        let half = (!same).then(|| self.half.insert(half).clone());
        let hosts_differ = self.hosts.as_ref() != Some(&hosts);
        let hosts6_differ = self.hosts6.as_ref() != Some(&hosts6);
        let differ = hosts_differ || hosts6_differ || self.guard.is_none();
        let guard = if differ { self.guard() } else { None };
        let hosts = hosts_differ.then(|| self.hosts.insert(hosts).prefixes());
        let hosts6 = hosts6_differ.then(|| {
            let sources = self.hosts6.insert(hosts6).as_ref();
            sources.map_or_else(HostPrefixes6::new, Sources::prefixes)
        });
        Effects { changes, entries, guard, hosts, hosts6, half, shortages }
    }

    /// Not all destinations of a family were entered: they are to be decided again with what comes
    /// next.
    pub fn hosts_failed(&mut self, family: Family) {
        match family {
            Family::V4 => self.hosts = None,
            Family::V6 => self.hosts6 = None,
        }
    }

    /// Its destinations have nowhere to be entered: IPv6 has no paths from now on.
    pub const fn go_without_ipv6(&mut self) {
        self.lacks_ipv6 = true;
    }

    /// Enters in the history what changed with uplinks, and which LANs went out of use or are back.
    fn write_down(&mut self, now: Now) -> Vec<Entry> {
        let refused = |device| self.refused.contains(&device);
        let trouble = |name: &str| lans::trouble(name, &self.kernel, refused);
        let lans = self.lans.observe(&self.site, trouble, now.ms).into_iter();
        let lans = lans.map(|(lan, change)| (Part::Lan(lan), change));
        let changes = self.paths.iter_mut().flat_map(|paths| paths.monitor.take_transitions());
        let changes = changes.chain(lans);
        let events = changes.map(|(part, transition)| Event::State { part, transition });
        events.map(|event| self.history.push(event, now.unix_ms)).collect()
    }

    /// The commands that make the guard's tables, if they are others than before.
    fn guard(&mut self) -> Option<[Option<String>; Family::COUNT]> {
        let seen = Seen::of(&self.site, &self.kernel);
        let commands = rulesets(&self.guard_table, &self.site, &seen);
        let differ = self.guard.as_ref() != Some(&commands);
        differ.then(|| self.guard.insert(commands).clone())
    }

    fn shortages(&self, half: &ControlHalf) -> Vec<(u32, Option<String>)> {
        if half.tier != Tier::Kernel as u8 {
            return Vec::new();
        }
        let used = half.devices.iter().filter(|device| device.ifindex != 0);
        let links = used.filter_map(|device| self.kernel.link_at(device.ifindex));
        links.map(|link| (link.index, link.shortage.as_ref().map(ToString::to_string))).collect()
    }
}

/// Equal but for what publishing fills in.
fn same(old: &ControlHalf, new: &ControlHalf) -> bool {
    old.as_bytes() == new.as_bytes()
}
