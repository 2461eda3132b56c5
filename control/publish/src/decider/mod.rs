//! All that is known of a gateway, and what follows from it.
//!
//! Events go in, [`Effects`] come out, and nothing happens in between: no clock, no socket, no
//! shared memory that is written. Who calls brings the news and the time, and carries the effects
//! out.
//!
//! | module | what it is |
//! |---|---|
//! | this one | what is known, and the news of it |
//! | `paths` | what of it is one family's |
//! | `decide` | what follows for the dataplane |
//! | `tiers` | which policies have another tier |
//! | `asks` | what follows for the kernel: neighbours to ask for, rules and routes |

mod asks;
mod decide;
mod paths;
#[cfg(test)]
mod tests;
mod tiers;

use std::net::IpAddr;

use ipnet::{Ipv4Net, Ipv6Net};
use weir_health::load::{Counts, Load, Reading};
use weir_health::{Entry, Event, History, Monitor, Signal};
use weir_layout::Family;
use weir_layout::control::{ControlHalf, PathId};
use weir_ports::{Mapping, Situation};
use weir_shm::control::ControlRegion;
use weir_shm::counters::Traffic;
use weir_site::Site;
use weir_view::Kernel;

use crate::advertised::{Advertised, advertised};
use crate::delegations::Delegations;
use crate::derive::{Derived, derive};
use crate::hosts;
use crate::implied;
use crate::lans::Lans;
use crate::mapped;
use crate::overrides::Overrides;
use crate::tables::Tables;
use paths::Paths;

pub use decide::{Effects, Judged, Now};

/// Events kept for `weir history`.
pub const HISTORY: usize = 1000;

/// What is known of a gateway, and what was decided of it last.
pub struct Decider {
    site: Site,
    kernel: Kernel,
    /// Interfaces that lost their carrier since the kernel was last asked something.
    cut: Vec<u32>,
    /// Kernel indices of the devices that the kernel refuses to the dataplane.
    refused: Vec<u32>,
    overrides: Overrides,
    /// What the site's uplinks were given of it is in `site`.
    delegations: Delegations,
    /// The ports that hosts have. What they are as services is in `site`.
    mappings: Vec<Mapping>,
    /// By [`Family`].
    paths: [Paths; Family::COUNT],
    load: Load,
    lans: Lans,
    history: History,
    /// As it was decided last, but for what publishing fills in.
    half: Option<Box<ControlHalf>>,
    /// What the destinations that stay on the gateway were last decided by; none: to be decided.
    hosts: Option<hosts::Sources<Ipv4Net>>,
    /// The same of IPv6; none within: it has none.
    hosts6: Option<Option<hosts::Sources<Ipv6Net>>>,
    /// There is no map for those of IPv6.
    lacks_ipv6: bool,
    /// The name of the guard's tables.
    guard_table: String,
    /// The commands that make them, as they were decided last; none: to be decided.
    guard: Option<[Option<String>; Family::COUNT]>,
    /// Next hops whose hardware address is to be asked for.
    unresolved: Vec<(u32, IpAddr)>,
    /// When hosts of LANs were last to be confirmed.
    confirmed: u64,
    /// What rules and routes follow from has changed since they were made.
    unrouted: bool,
}

impl Decider {
    /// Adopts what an earlier process published in this region. `guard` is the name of the guard's
    /// table, `now` is in milliseconds.
    pub fn new(
        mut site: Site,
        kernel: Kernel,
        region: &ControlRegion,
        guard: &str,
        now: u64,
    ) -> Self {
        implied::imply(&mut site, &kernel);
        let snapshot = region.snapshot();
        let paths =
            Family::ALL.map(|family| Paths::adopt(family, &site, region, snapshot.as_deref(), now));
        let mut decider = Self {
            cut: Vec::new(),
            refused: Vec::new(),
            overrides: Overrides::default(),
            delegations: Delegations::default(),
            mappings: Vec::new(),
            paths,
            load: Load::new(&site),
            lans: Lans::default(),
            history: History::new(HISTORY),
            half: None,
            hosts: None,
            hosts6: None,
            lacks_ipv6: false,
            guard_table: guard.to_owned(),
            guard: None,
            unresolved: Vec::new(),
            confirmed: 0,
            unrouted: true,
            site,
            kernel,
        };
        if let Some(snapshot) = snapshot {
            decider.overrides = Overrides::adopt(&decider.site, region, &snapshot);
            decider.half = Some(snapshot.half);
        }
        decider
    }

    /// The configuration.
    pub const fn site(&self) -> &Site {
        &self.site
    }

    /// What the kernel has.
    pub const fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// The health of a family's paths.
    pub const fn monitor(&self, family: Family) -> &Monitor {
        &self.paths[family.index()].monitor
    }

    /// When [`tick`](Self::tick) has something to do if nothing happens before.
    pub fn deadline(&self) -> Option<u64> {
        self.paths.iter().filter_map(|paths| paths.monitor.deadline()).min()
    }

    /// By [`Family`], the uplinks whose targets are silent, and those whose are quiet.
    pub fn silent(&self) -> [[u64; 2]; Family::COUNT] {
        self.paths.each_ref().map(|paths| paths.monitor.silent())
    }

    /// Does what hosts of a LAN send reach weir? The LAN is given by its interface.
    pub fn lan_is_up(&self, interface: &str) -> bool {
        self.lans.is_up(interface)
    }

    /// The uplinks' load.
    pub const fn load(&self) -> &Load {
        &self.load
    }

    /// Goes on with the events that an earlier process told of.
    pub fn remember(&mut self, entries: Vec<Entry>) {
        self.history = History::resume(HISTORY, entries);
    }

    /// What happened of late.
    pub const fn history(&self) -> &History {
        &self.history
    }

    /// Enters in the history what was not decided here; `unix_ms` is the time of day.
    pub fn record(&mut self, event: Event, unix_ms: u64) -> Entry {
        self.history.push(event, unix_ms)
    }

    /// What is set by hand.
    pub const fn overrides(&self) -> &Overrides {
        &self.overrides
    }

    /// As [`overrides`](Self::overrides), to be changed.
    pub const fn overrides_mut(&mut self) -> &mut Overrides {
        &mut self.overrides
    }

    /// The prefixes that providers delegate.
    pub const fn delegations(&self) -> &Delegations {
        &self.delegations
    }

    /// Takes others from `now` on.
    pub fn delegate(&mut self, delegations: Delegations, now: u64) {
        self.delegations = delegations;
        if self.fill(now) {
            self.paths.iter_mut().for_each(Paths::expect_change);
        }
    }

    /// Ends the prefixes whose time is over at `now`; those that ended, each with its uplink.
    pub fn expire_prefixes(&mut self, now: u64) -> Vec<(String, Ipv6Net)> {
        let ended = self.delegations.expire(now);
        self.fill(now);
        ended
    }

    /// Takes the ports that hosts have now, in place of those of before.
    pub fn map(&mut self, mappings: Vec<Mapping>) {
        self.site.mapped = mapped::services(&self.site, &mappings);
        self.mappings = mappings;
    }

    /// What hosts may have that ask for ports, by what was judged last.
    pub fn situation(&self) -> Situation {
        let Some(half) = self.half() else { return Situation::default() };
        let takers = self.paths.each_ref().map(|paths| paths.takers.as_slice());
        mapped::situation(&self.site, &self.kernel, half, takers)
    }

    fn fill(&mut self, now: u64) -> bool {
        let changed = self.delegations.fill(&mut self.site, now);
        if changed {
            self.guard = None;
            self.unrouted = true;
        }
        changed
    }

    /// What was decided last, but for what publishing fills in; none: nothing yet.
    pub fn half(&self) -> Option<&ControlHalf> {
        self.half.as_deref()
    }

    /// A family's bucket tables, as they were decided last.
    pub const fn tables(&self, family: Family) -> &Tables {
        &self.paths[family.index()].tables
    }

    /// What the hosts of each LAN are to be told, by what was judged last.
    pub fn advertised(&self) -> Vec<Advertised> {
        let Some(half) = self.half() else { return Vec::new() };
        let takers = &self.paths[Family::V6.index()].takers;
        advertised(&self.site, &self.kernel, half, takers, &self.delegations)
    }

    /// The state words of a family's paths, as they were decided last.
    pub fn words(&self, family: Family) -> &[u32] {
        self.paths[family.index()].states.words()
    }

    /// What would be published with these overrides.
    pub fn derive(&self, overrides: &Overrides) -> Derived {
        let since = self.paths.each_ref().map(|paths| paths.states.since());
        derive(&self.site, &self.kernel, overrides, since, self.half())
    }

    /// Takes another site, which has the same uplinks and perhaps more behind them, and what stays
    /// of the overrides with it.
    pub fn reconfigure(&mut self, mut site: Site, overrides: Overrides, now: u64) {
        implied::imply(&mut site, &self.kernel);
        self.delegations.fill(&mut site, now);
        site.mapped = mapped::services(&site, &self.mappings);
        let is_other = site.hash != self.site.hash;
        self.overrides = overrides;
        for paths in &mut self.paths {
            paths.reconfigure(&site, is_other, now);
            paths.expect_change();
        }
        self.load.reconfigure(&site);
        self.site = site;
        self.guard = None;
        self.unrouted = true;
    }

    /// Has the next hops probed that the kernel names now, where no targets are configured.
    pub fn imply(&mut self, now: u64) {
        if implied::imply(&mut self.site, &self.kernel) {
            for paths in &mut self.paths {
                paths.reconfigure(&self.site, false, now);
            }
        }
    }

    /// The kernel is asked something now.
    pub fn expect_view(&mut self) {
        self.cut.clear();
    }

    /// An interface has lost its carrier; says whether that is news.
    pub fn lose_carrier(&mut self, interface: u32) -> bool {
        self.cut.push(interface);
        self.kernel.lose_carrier(interface)
    }

    /// Takes a view that was asked for when it was [expected](Self::expect_view). A carrier that
    /// was lost since may have been there when its link was read; if it is there again, that is in
    /// the next view.
    pub fn see(&mut self, mut kernel: Kernel, now: u64) {
        for interface in self.cut.drain(..) {
            kernel.lose_carrier(interface);
        }
        kernel.remember(&self.kernel, now);
        self.unrouted |= !kernel.differs_by_neighbours_alone(&self.kernel);
        self.kernel = kernel;
    }

    /// Takes which devices the kernel refuses to the dataplane, by their index.
    pub fn refuse(&mut self, devices: Vec<u32>) {
        self.refused = devices;
    }

    /// Takes a signal that came at `now`; says whether the path's state changed.
    pub fn signal(&mut self, path: PathId, signal: Signal, now: u64) -> bool {
        self.paths[path.family.index()].monitor.signal(path.uplink.into(), signal, now)
    }

    /// Lets time pass; says whether a path's state changed.
    pub fn tick(&mut self, now: u64) -> bool {
        self.paths.each_mut().map(|paths| paths.monitor.tick(now)).contains(&true)
    }

    /// Takes what went by the uplinks until `now`; says whether one became too full or has room
    /// again.
    pub fn measure(&mut self, traffic: &[Traffic], now: u64) -> bool {
        let reading = |(index, traffic): (usize, &Traffic)| {
            let down = Counts { bytes: traffic.rx_bytes, packets: traffic.rx_packets };
            let up = Counts { bytes: traffic.tx_bytes, packets: traffic.tx_packets };
            // Bytes are the link's, whatever the family; so is the time that it takes.
            let rtt = self.paths.iter().find_map(|paths| paths.monitor.rtt(index));
            Reading { counts: [down, up], rtt }
        };
        let readings: Vec<_> = traffic.iter().enumerate().map(reading).collect();
        let changes = self.load.step(&readings, now);
        let monitor = &mut self.paths[Family::V4.index()].monitor;
        changes.iter().for_each(|change| monitor.note_load(change, now));
        !changes.is_empty()
    }

    /// The operator wants the flows of a policy home that are away now; none: of all policies.
    pub fn ask_home(&mut self, policy: Option<usize>) {
        self.paths.iter_mut().for_each(|paths| paths.ask_home(policy));
    }
}
