//! What is read at one moment, as plain values.

use weir_api::TargetView;
use weir_health::load::LoadView;
use weir_layout::Family;

use super::walk::Walked;

/// A moment.
#[derive(Debug, Default)]
pub struct Sample {
    /// CLOCK_MONOTONIC, milliseconds.
    pub at_ms: u64,
    /// The time of day, for people.
    pub clock: String,
    /// What is wrong with weir's own processes.
    pub processes: Vec<String>,
    /// What is not known, and why.
    pub notes: Vec<String>,
    /// The paths of all uplinks, in the order of the file.
    pub paths: Vec<PathSample>,
    /// The policies: each with its tier, and what its uplinks get.
    pub policies: Vec<String>,
    /// Packets dropped since the start, by the reason's label.
    pub drops: Vec<(&'static str, u64)>,
    /// The flows.
    pub flows: Walked,
}

/// An uplink in one family.
#[derive(Clone, Debug)]
pub struct PathSample {
    /// The uplink's name.
    pub uplink: String,
    /// The path's: of IPv6 it says so.
    pub label: String,
    /// In which family.
    pub family: Family,
    /// One word.
    pub state: String,
    /// Why it is not up, or what else is to be said of it; empty: nothing.
    pub why: String,
    /// For how long, if that is known.
    pub lasts: Option<String>,
    /// Somebody has set it down or drains it.
    pub by_hand: bool,
    /// Its weight.
    pub weight: u32,
    /// Its share of new flows, percent.
    pub share: f64,
    /// Flows that began by it.
    pub created: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// The uplink's load, if the control process told.
    pub load: Option<LoadView>,
    /// Its targets, likewise.
    pub targets: Vec<TargetView>,
}

/// How badly somebody is needed; the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It does not do what it is for.
    Sick,
    /// It is as somebody wanted it.
    ByHand,
    /// It is well.
    Well,
}

impl PathSample {
    /// How badly somebody is needed.
    pub fn standing(&self) -> Standing {
        match self.state.as_str() {
            _ if self.by_hand => Standing::ByHand,
            "up" => Standing::Well,
            _ => Standing::Sick,
        }
    }

    /// What is wrong with it, in a sentence.
    fn trouble(&self) -> String {
        let Self { label, state, why, lasts, .. } = self;
        let lasts = lasts.as_ref().map(|time| format!(" for {time}")).unwrap_or_default();
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        format!("{label} is {state}{lasts}{why}")
    }

    /// The fuller direction's load in percent of its capacity, if one is known.
    pub fn load_percent(&self) -> Option<u64> {
        let load = self.load?;
        let percent = |of: weir_health::load::DirectionView| {
            let capacity = of.capacity.filter(|capacity| *capacity != 0)?;
            Some((u128::from(of.load) * 100 / u128::from(capacity)) as u64)
        };
        percent(load.down).max(percent(load.up))
    }
}

impl Sample {
    /// The paths, those that need somebody first.
    pub fn ordered(&self) -> Vec<&PathSample> {
        let mut paths: Vec<_> = self.paths.iter().collect();
        paths.sort_by_key(|path| path.standing());
        paths
    }

    /// What is to be seen first, each with the word that it begins with.
    pub fn troubles(&self) -> Vec<(Standing, &'static str, String)> {
        let mut troubles = Vec::new();
        for process in &self.processes {
            troubles.push((Standing::Sick, "SICK", process.clone()));
        }
        for path in self.ordered() {
            match path.standing() {
                Standing::Sick => troubles.push((Standing::Sick, "SICK", path.trouble())),
                Standing::ByHand => troubles.push((Standing::ByHand, "HAND", path.trouble())),
                Standing::Well => {}
            }
        }
        for note in &self.notes {
            troubles.push((Standing::Well, "NOTE", note.clone()));
        }
        if troubles.is_empty() {
            let all = match self.paths.len() {
                0 => "there are no uplinks".to_owned(),
                _ => "all uplinks are up".to_owned(),
            };
            troubles.push((Standing::Well, "WELL", all));
        }
        troubles
    }
}
