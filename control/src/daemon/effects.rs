//! What was decided is carried out here: state words first, then all else.

use std::collections::HashMap;
use std::sync::Arc;

use tracing::field;
use weir_api::words;
use weir_health::{Entry, Event, Part, State, TierChange, Transition};
use weir_kernel::guard::Guard;
use weir_layout::Family;
use weir_layout::control::{PathId, path_state};
use weir_publish::{Change, Decider, Effects};
use weir_service::Complaint;
use weir_shm::control::ControlWriter;
use weir_shm::hosts::{HostPrefixes, HostPrefixes6, Hosts4, Hosts6};
use weir_site::Site;

use crate::advertise::Advertisers;
use crate::history::Chronicle;
use crate::hooks::{self, Hooks};
use crate::urgent::PathWords;

/// The maps of destinations that stay on the gateway. That of IPv6 may be missing, and its paths
/// with it.
pub(super) type Maps = (Hosts4, Option<Hosts6>);

/// The means.
pub(super) struct Executor {
    pub writer: ControlWriter,
    pub words: Arc<PathWords>,
    pub guard: Guard,
    pub advertisers: Advertisers,
    /// None: nothing is entered, in tests without a kernel's maps.
    hosts: Option<Maps>,
    hooks: Hooks,
    chronicle: Chronicle,
    /// What hooks were not told of yet.
    untold: Vec<Entry>,
    /// An uplink became usable, or is no more, and not all of it is done yet.
    flipped: bool,
    /// By [`Family`], of destinations that stay on the gateway.
    crowded: [Complaint; Family::COUNT],
    /// Of devices with too few channels, by kernel index.
    short: HashMap<u32, Complaint>,
}

impl Executor {
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    pub fn new(
        writer: ControlWriter,
        guard: Guard,
        advertisers: Advertisers,
        hooks: Hooks,
        chronicle: Chronicle,
        hosts: Option<Maps>,
    ) -> Self {
        Self {
            words: Arc::new(PathWords::new(writer.words())),
            writer,
            guard,
            advertisers,
            hosts,
            hooks,
            chronicle,
            untold: Vec::new(),
            flipped: false,
            crowded: Default::default(),
            short: HashMap::new(),
        }
    }

    /// Stores the state words that were judged to be others: existing flows obey at once, new ones
    /// with the buckets that follow.
    pub fn store_words(&self, decider: &Decider) {
        for family in Family::ALL {
            for (uplink, word) in (0u8..).zip(decider.words(family)) {
                let path = PathId::new(uplink, family);
                if self.writer.region().path_state(path) != *word {
                    self.words.set(path, *word);
                }
            }
        }
    }

    /// Carries out what follows from what was judged; the epoch in force. Hooks run later, by
    /// [`Self::run_hooks`].
    pub fn carry_out(&mut self, effects: Effects, decider: &mut Decider) -> u64 {
        self.flipped |= effects.flip();
        // Before what may take long.
        self.words.know(decider.site(), decider.kernel());
        self.write_down(&effects.entries);
        self.untold.extend(effects.entries);
        effects.changes.iter().for_each(|change| tell_state(change, decider.site()));
        // Before the half: what stays on the gateway stays from a new port's first packet on.
        if let Some(commands) = effects.guard {
            self.guard.follow(commands);
        }
        self.enter(effects.hosts, effects.hosts6).for_each(|family| decider.hosts_failed(family));
        if let Some(mut half) = effects.half {
            self.writer.enter_sets(&decider.site().sets.ranges());
            let live = Family::ALL.map(|family| decider.tables(family).live());
            let epoch = self.writer.publish(&mut half, live.each_ref().map(Vec::as_slice));
            for family in Family::ALL {
                for (policy, table) in decider.tables(family).homes() {
                    self.writer.save_home(family, policy, table);
                }
            }
            tracing::debug!(epoch, "published");
        }
        for (device, trouble) in effects.shortages {
            self.short.entry(device).or_default().say(trouble);
        }
        self.writer.region().epoch()
    }

    /// Writes entries of the history into the log, and has them kept.
    pub fn write_down(&self, entries: &[Entry]) {
        entries.iter().for_each(tell_entry);
        self.chronicle.keep(entries);
    }

    /// Whether an uplink became usable, or is no more, since this was last asked.
    pub fn take_flipped(&mut self) -> bool {
        std::mem::take(&mut self.flipped)
    }

    /// Tells hooks what changed.
    pub fn run_hooks(&mut self, site: &Site) {
        for entry in self.untold.drain(..) {
            if let (Some(directory), Some(event)) = (&site.hooks, for_hooks(entry, site)) {
                self.hooks.tell(directory, event);
            }
        }
    }

    /// Enters the destinations that stay on the gateway; the families that this failed for.
    fn enter(
        &mut self,
        hosts: Option<HostPrefixes>,
        hosts6: Option<HostPrefixes6>,
    ) -> impl Iterator<Item = Family> {
        let (map, map6) = match &mut self.hosts {
            Some((map, map6)) => (Some(map), map6.as_mut()),
            None => (None, None),
        };
        let entered = map.zip(hosts).map(|(map, new)| (map.sync(&new), map.room(), new.len()));
        let entered6 = map6.zip(hosts6).map(|(map, new)| (map.sync(&new), map.room(), new.len()));
        let mut failed = Vec::new();
        for (family, entered) in Family::ALL.into_iter().zip([entered, entered6]) {
            let Some((left_out, room, count)) = entered else { continue };
            if left_out.is_err() {
                failed.push(family);
            }
            self.crowded[family.index()].say(crowding(family, left_out, room, count));
        }
        failed.into_iter()
    }
}

/// What hooks are told of an entry of the history, if anything.
fn for_hooks(entry: Entry, site: &Site) -> Option<hooks::Event> {
    match &entry.event {
        Event::State { part, .. } => {
            let name = part.uplink()?;
            let uplink = site.uplinks.iter().find(|uplink| uplink.name == name)?;
            Some(hooks::Event::Uplink { interface: uplink.interface.clone(), entry })
        }
        Event::Tier(_) => Some(hooks::Event::Policy { entry }),
        Event::Command(_) => None,
    }
}

/// What is wrong where so many destinations of a family were to be entered.
fn crowding(
    family: Family,
    left_out: Result<usize, weir_shm::Error>,
    room: usize,
    count: usize,
) -> Option<String> {
    let prefixes = match family {
        Family::V4 => "prefixes",
        Family::V6 => "IPv6 prefixes",
    };
    match left_out {
        Ok(0) if count <= room / 10 * 9 => None,
        Ok(0) => Some(format!(
            "there is room for {room} {prefixes} that are not routed by an uplink, and more than \
             nine tenths are taken"
        )),
        Ok(_) => Some(format!(
            "there is room for {room} {prefixes} that are not routed by an uplink, and there are \
             more: packets from a LAN to some of them leave by uplinks"
        )),
        Err(error) if family == Family::V4 => {
            Some(format!("not all destinations stay on the gateway: {error}"))
        }
        Err(error) => Some(format!("not all IPv6 destinations stay on the gateway: {error}")),
    }
}

fn tell_state(change: &Change, site: &Site) {
    if !change.flips() && change.to & path_state::NOT_CONFIGURED != 0 {
        return;
    }
    let name = &site.uplinks[usize::from(change.path.uplink)].name;
    // Said only where there may be another.
    let family = (change.path.family == Family::V6).then_some("ipv6");
    let (before, state) = (words::state(change.from), words::state(change.to));
    if change.takes_out() {
        tracing::warn!(uplink = name, family, before, state, "out of use");
    } else {
        tracing::info!(uplink = name, family, before, state, "uplink state");
    }
}

fn tell_entry(entry: &Entry) {
    match &entry.event {
        Event::State { part, transition } => tell_transition(part, transition),
        Event::Tier(change) => tell_tier(change),
        Event::Command(done) => {
            let by = done.by.as_ref();
            let process = by.map(|by| by.process.as_str());
            tracing::info!(command = done.command, by = by.map(field::display), process, "done");
        }
    }
}

/// Only names of the file are in it.
fn tell_tier(change: &TierChange) {
    let uplinks = change.uplinks.join(", ");
    match change.to {
        Some(tier) => tracing::warn!("{change}: now on tier {tier} ({uplinks})"),
        None => tracing::warn!("{change}: no uplink is usable"),
    }
}

fn tell_transition(part: &Part, transition: &Transition) {
    let Transition { from, to, reason, .. } = *transition;
    let worse = matches!(to, State::Down | State::Degraded) && from != to;
    let family = matches!(part, Part::Ipv6(_)).then_some("ipv6");
    match part {
        Part::Uplink(uplink) | Part::Ipv6(uplink) if worse => {
            tracing::warn!(uplink, family, %from, %to, %reason, "worse");
        }
        Part::Uplink(uplink) | Part::Ipv6(uplink) => {
            tracing::info!(uplink, family, %from, %to, %reason, "uplink");
        }
        Part::Lan(lan) if worse => tracing::warn!(lan, %from, %to, %reason, "worse"),
        Part::Lan(lan) => tracing::info!(lan, %from, %to, %reason, "LAN"),
    }
}
