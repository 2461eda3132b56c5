//! Reads a moment: from shared memory, and from the control process if it answers.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::Value;
use weir_api::{PathView, UplinkView, time};
use weir_health::Part;
use weir_layout::Family;
use weir_layout::control::{PathId, path_state};
use weir_layout::counters::Counter;
use weir_shm::Pins;
use weir_shm::process::Process;
use weir_shm::published::Published;

use super::sample::{PathSample, Sample};
use super::walk::{Walked, Walker};
use crate::figures;
use crate::flows::FlowFilter;
use crate::output::is_unpublished;
use crate::policies::policy_values;
use crate::processes;
use crate::state::published;
use crate::uplinks::uplink_values;

/// Of the time that a look at all flows takes, so many times is waited before the next: where there
/// are millions, no processor is kept busy with them.
const REST: u32 = 20;

/// Reads one moment after the other.
pub struct Reader {
    pins: Pins,
    socket: PathBuf,
    walker: Walker,
    walked: Walked,
    /// When flows are due to be looked at.
    due: Instant,
}

impl Reader {
    /// Of a gateway's shared memory and control process.
    pub fn new(pins: Pins, socket: PathBuf) -> Self {
        let (walker, walked) = (Walker::new(), Walked::default());
        Self { pins, socket, walker, walked, due: Instant::now() }
    }

    /// Another filter is to be obeyed at once.
    pub fn hurry(&mut self) {
        self.due = Instant::now();
    }

    /// Reads a moment.
    ///
    /// # Errors
    /// When shared memory cannot be read, or nothing is in it.
    pub fn read(&mut self, filter: &FlowFilter) -> Result<Sample> {
        // First: a process that is stopped is silent for as long as it is waited for.
        let health = figures::health(&self.socket);
        let state = published(&self.pins)?;
        let processes = self.processes(&state)?;
        let mut notes = Vec::new();
        if let Err(error) = &health {
            notes.push(format!("no reasons, targets and loads: {error:#}"));
        }
        self.walk(&state, filter)?;
        let counters = state.counters.all().into_iter().filter(|(counter, _)| counter.is_drop());
        Ok(Sample {
            at_ms: time::monotonic_ms(),
            clock: time::of_day(time::now_s()),
            processes,
            notes,
            paths: paths(&state, &health.unwrap_or_default()),
            policies: policies(&policy_values(&state)),
            drops: counters.map(|(counter, n): (Counter, u64)| (counter.label(), n)).collect(),
            flows: self.walked.clone(),
        })
    }

    /// What is wrong with weir's processes.
    fn processes(&self, state: &Published) -> Result<Vec<String>> {
        let now_ms = time::monotonic_ms();
        let control = Process::control(&self.pins, &state.region, now_ms)?;
        let dataplane = processes::trouble_of_dataplane(&self.pins, now_ms)?;
        Ok(processes::trouble(&control).into_iter().chain(dataplane).collect())
    }

    fn walk(&mut self, state: &Published, filter: &FlowFilter) -> Result<()> {
        let begun = Instant::now();
        if begun < self.due {
            return Ok(());
        }
        match self.walker.walk(&self.pins, state, filter) {
            Ok(walked) => self.walked = walked,
            // The dataplane makes the table when it first starts.
            Err(error) if is_unpublished(&error) => self.walked = Walked::default(),
            Err(error) => return Err(error),
        }
        self.due = begun + begun.elapsed().max(Duration::from_millis(1)) * REST;
        Ok(())
    }
}

/// The paths of all uplinks, as shared memory and the control process have them.
fn paths(state: &Published, health: &[UplinkView]) -> Vec<PathSample> {
    let mut paths = Vec::new();
    for (index, value) in (0u8..).zip(uplink_values(state)) {
        let name = value["name"].as_str().unwrap_or_default().to_owned();
        let known = health.iter().find(|view| view.uplink == name);
        for family in Family::ALL {
            let (of, view) = match family {
                Family::V4 => (&value, known.map(|view| &view.ipv4)),
                Family::V6 => (&value["ipv6"], known.and_then(|view| view.ipv6.as_ref())),
            };
            if !of["state"].is_string() {
                continue;
            }
            let word = state.region.path_state(PathId::new(index, family));
            let (current, why, lasts) = standing(of, word, view);
            let number = |key: &str| of[key].as_u64().unwrap_or_default();
            paths.push(PathSample {
                uplink: name.clone(),
                label: Part::path(name.clone(), family).to_string(),
                family,
                state: current,
                why,
                lasts,
                by_hand: word & (path_state::ADMIN_DOWN | path_state::DRAINING) != 0,
                weight: value["weight"].as_u64().unwrap_or_default() as u32,
                share: of["share"].as_f64().unwrap_or_default(),
                created: number("new_flows"),
                tx_bytes: number("tx_bytes"),
                rx_bytes: number("rx_bytes"),
                load: known.and_then(|view| view.load),
                targets: view.map(|view| view.targets.clone()).unwrap_or_default(),
            });
        }
    }
    paths
}

/// How a path is, why, and for how long: in the words of the control process where it answers and
/// there is trouble, else in those of its state word.
fn standing(value: &Value, word: u32, view: Option<&PathView>) -> (String, String, Option<String>) {
    let why = value["why"].as_str().unwrap_or_default().to_owned();
    let current = match word {
        word if word & path_state::DRAINING != 0 => "draining",
        word if word & path_state::DEGRADED != 0 => "degraded",
        word if word & path_state::HELD_DOWN != 0 => "held down",
        _ => value["state"].as_str().unwrap_or_default(),
    };
    let Some(view) = view else { return (current.to_owned(), why, None) };
    let state = view.state.to_string();
    let lasts = Some(time::duration(view.for_ms / 1000));
    let why = match state.as_str() {
        "up" => why,
        _ => view.reason.to_string(),
    };
    (state, why, lasts)
}

/// A line for each policy and family: the tier in use, and what its uplinks get.
fn policies(members: &[Value]) -> Vec<String> {
    let mut names: Vec<&str> =
        members.iter().filter_map(|member| member["policy"].as_str()).collect();
    // Members of one policy follow each other.
    names.dedup();
    let lines =
        names.iter().flat_map(|name| Family::ALL.map(|family| policy(name, family, members)));
    lines.flatten().collect()
}

/// The line of a policy in a family; none where none of its uplinks has a path.
fn policy(name: &str, family: Family, members: &[Value]) -> Option<String> {
    let of_policy = members.iter().filter(|member| member["policy"] == name);
    let of_family = of_policy.filter_map(|member| match family {
        Family::V4 => Some((member, member)),
        Family::V6 => member.get("ipv6").map(|of| (member, of)),
    });
    let mut of_family = of_family.peekable();
    of_family.peek()?;
    let active: Vec<_> = of_family.filter(|(_, of)| of["active"] == true).collect();
    let label = match family {
        Family::V4 => name.to_owned(),
        Family::V6 => Part::Ipv6(name.to_owned()).to_string(),
    };
    let Some((first, _)) = active.first() else {
        return Some(format!("{label}: no uplink takes new flows"));
    };
    let gets = active.iter().map(|(member, of)| {
        format!("{} {} %", member["uplink"].as_str().unwrap_or_default(), of["share"])
    });
    let gets: Vec<_> = gets.collect();
    Some(format!("{label}: tier {}, {}", first["tier"], gets.join(", ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_policy_is_told_with_its_tier_and_what_its_uplinks_get() {
        let member = |policy: &str, uplink: &str, tier: u64, active: bool, share: f64| {
            json!({ "policy": policy, "uplink": uplink, "tier": tier, "active": active,
                "share": share })
        };
        let mut both = member("all", "cable", 2, true, 100.0);
        both["ipv6"] = json!({ "active": false, "share": 0.0 });
        let members =
            [member("all", "fiber", 1, false, 0.0), both, member("web", "fiber", 1, false, 0.0)];
        assert_eq!(
            policies(&members),
            [
                "all: tier 2, cable 100.0 %",
                "all (IPv6): no uplink takes new flows",
                "web: no uplink takes new flows",
            ]
        );
    }

    #[test]
    fn without_the_control_process_the_state_word_says_how_a_path_is() {
        let told = |word: u32, state: &str, why: &str| {
            let (state, why, lasts) = standing(&json!({ "state": state, "why": why }), word, None);
            assert_eq!(lasts, None);
            [state, why]
        };
        assert_eq!(told(path_state::NO_CARRIER, "down", "no carrier"), ["down", "no carrier"]);
        let usable = path_state::USABLE;
        assert_eq!(told(usable | path_state::DEGRADED, "up", "degraded")[0], "degraded");
        assert_eq!(told(usable | path_state::DRAINING, "up", "draining")[0], "draining");
        assert_eq!(told(path_state::HELD_DOWN, "down", "held down")[0], "held down");
        assert_eq!(told(usable, "up", "saturated"), ["up", "saturated"]);
    }
}
