//! Another file, made to a copy as the control process makes it to the gateway at a reload.

use std::fmt;

use anyhow::Result;
use weir_layout::Family;
use weir_layout::control::{ControlHalf, path_state};
use weir_layout::prefix_sets::Ranges;

use crate::change::{as_if_well, uplinks};
use crate::replica::Replica;

/// What the file and the kernel say of a path, of all bits of its state word; the rest is its
/// health.
const TOLD: u32 =
    path_state::ADMIN_DOWN | path_state::DRAINING | path_state::NOT_CONFIGURED | FAULTS;
/// Those that keep a path from use until they are gone and its targets answer.
const FAULTS: u32 = path_state::NO_CARRIER
    | path_state::NO_ADDRESS
    | path_state::NO_NEXT_HOP
    | path_state::NO_DEVICE;

/// What the control process derives of a file, given what is published, set by hand, and in the
/// kernel. Its first uplinks are those that there are.
pub struct Reload<'a> {
    /// What the file is called.
    pub file: String,
    /// What would be published.
    pub half: Box<ControlHalf>,
    /// By [`Family`] and uplink, what the file and the kernel say of each path, as bits of its
    /// state word.
    pub problems: [Vec<u32>; Family::COUNT],
    /// The file's sets of prefixes.
    pub sets: Ranges<'a>,
    /// The dataplane would start its workers anew.
    pub restarts: bool,
    /// What is to be said with it.
    pub notes: Vec<String>,
}

impl fmt::Display for Reload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "reload with {}", self.file)
    }
}

impl Replica {
    /// Publishes what was derived, and starts other workers where the dataplane would; what is to
    /// be said with it.
    pub(crate) fn reload(&mut self, reload: Reload<'_>) -> Result<Vec<String>> {
        let Reload { half, problems, sets, restarts, mut notes, .. } = reload;
        let names: Vec<String> = uplinks(&half).map(str::to_owned).collect();
        let words = Family::ALL.map(|family| {
            let before = self.words(family);
            let told = names.iter().zip(&problems[family.index()]).enumerate();
            let word = |(number, (name, problems)): (usize, (&String, &u32))| {
                let (word, is_new) = word(before.get(number).copied(), *problems);
                if is_new {
                    notes.push(as_if_well(name));
                }
                word
            };
            told.map(word).collect()
        });
        let mut writer = self.writer();
        writer.enter_sets(&sets);
        self.publish(&mut writer, half, words, &mut notes);
        if restarts {
            self.start_workers();
        }
        notes.dedup();
        Ok(notes)
    }
}

/// What is known of a path then, by its word now and what would be told of it; and whether that is
/// for its targets to say, which nobody has asked: they are taken to answer.
fn word(before: Option<u32>, told: u32) -> (u32, bool) {
    const KEPT_FROM_USE: u32 = FAULTS | path_state::NOT_CONFIGURED | path_state::ADMIN_DOWN;
    let was_kept = before.is_none_or(|word| word & KEPT_FROM_USE != 0);
    match (told & KEPT_FROM_USE, was_kept) {
        (0, true) => (told | path_state::USABLE, true),
        _ => (before.unwrap_or(0) & !TOLD | told, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_keeps_its_health_and_gets_the_rest_told() {
        use path_state as state;
        let degraded = state::USABLE | state::DEGRADED;
        assert_eq!(word(Some(degraded), 0), (degraded, false));
        let cut = word(Some(degraded), state::NO_CARRIER);
        assert_eq!(cut, (degraded | state::NO_CARRIER, false), "roles take the use from it");
        assert_eq!(word(Some(state::UNHEALTHY), 0), (state::UNHEALTHY, false));
        let drained = state::USABLE | state::DRAINING;
        assert_eq!(word(Some(drained), state::DRAINING), (drained, false));
    }

    #[test]
    fn a_path_that_nobody_has_asked_is_taken_to_be_well() {
        use path_state as state;
        for before in [None, Some(state::NOT_CONFIGURED), Some(state::NO_CARRIER)] {
            assert_eq!(word(before, 0), (state::USABLE, true));
        }
        assert_eq!(word(None, state::NO_ADDRESS), (state::NO_ADDRESS, false));
    }
}
