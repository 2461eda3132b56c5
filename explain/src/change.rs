//! A change that somebody considers: read from words, and made to a copy as the control process
//! makes it to the gateway.
//!
//! State words follow from what is known of each path and what the change says of one, the last
//! resort by [`Roles`]; bucket tables from members and takers by [`Buckets`], from
//! the home tables that are kept for the next control process. Load is left out: what spillover and
//! `balance` make of weights only the control process knows.

use std::fmt;

use anyhow::{Result, anyhow, bail};
use weir_health::buckets::Buckets;
use weir_health::{Roles, Standing};
use weir_layout::control::{
    BucketTable, ControlHalf, HOME_BANK, Member, PathId, Policy, Selection, path_state,
};
use weir_layout::{Family, NONE};
use weir_shm::control::ControlWriter;

use crate::replica::Replica;

/// The bits of a state word that say what a path is good for, given the rest.
const USE: u32 = path_state::USABLE | path_state::LAST_RESORT | path_state::SPARED;
/// Those that the operator sets.
const BY_HAND: u32 = path_state::ADMIN_DOWN | path_state::DRAINING;

/// What is changed: see `weir down`, `up`, `drain` and `weight`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// An uplink goes out of use.
    Down(String),
    /// It comes back.
    Up(String),
    /// It is emptied.
    Drain(String),
    /// It has another weight.
    Weight {
        /// Which uplink.
        uplink: String,
        /// Its weight.
        weight: u16,
        /// In this policy alone.
        policy: Option<String>,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Down(uplink) => write!(f, "down {uplink}"),
            Self::Up(uplink) => write!(f, "up {uplink}"),
            Self::Drain(uplink) => write!(f, "drain {uplink}"),
            Self::Weight { uplink, weight, policy: None } => write!(f, "weight {uplink} {weight}"),
            Self::Weight { uplink, weight, policy: Some(policy) } => {
                write!(f, "weight {uplink} {weight} policy {policy}")
            }
        }
    }
}

impl Change {
    /// Reads `down fiber`, `up fiber`, `drain fiber`, `weight fiber 5` and `weight fiber 5 policy
    /// all`.
    ///
    /// # Errors
    /// When it is none of these, or the weight is no weight.
    pub fn read(text: &str) -> Result<Self> {
        let words: Vec<_> = text.split_whitespace().collect();
        let weight = |weight: &str| {
            let most = Member::MAX_WEIGHT;
            let read = weight.parse().ok().filter(|weight| *weight <= most);
            read.ok_or_else(|| anyhow!("\"{weight}\" is no weight: they go from 0 to {most}"))
        };
        Ok(match words[..] {
            ["down", uplink] => Self::Down(uplink.to_owned()),
            ["up", uplink] => Self::Up(uplink.to_owned()),
            ["drain", uplink] => Self::Drain(uplink.to_owned()),
            ["weight", uplink, new] => {
                Self::Weight { uplink: uplink.to_owned(), weight: weight(new)?, policy: None }
            }
            ["weight", uplink, new, "policy" | "--policy", policy] => Self::Weight {
                uplink: uplink.to_owned(),
                weight: weight(new)?,
                policy: Some(policy.to_owned()),
            },
            _ => bail!(
                "\"{text}\" is no change: write \"down UPLINK\", \"up UPLINK\", \"drain UPLINK\" or \
                 \"weight UPLINK N\", or the last with \"policy NAME\", or name a file that is there"
            ),
        })
    }

    fn uplink(&self) -> &str {
        match self {
            Self::Down(uplink) | Self::Up(uplink) | Self::Drain(uplink) => uplink,
            Self::Weight { uplink, .. } => uplink,
        }
    }

    /// What the operator's bits of a path's word are then.
    const fn by_hand(&self, word: u32) -> u32 {
        match self {
            Self::Down(_) => path_state::ADMIN_DOWN,
            Self::Up(_) => 0,
            Self::Drain(_) => path_state::DRAINING,
            Self::Weight { .. } => word & BY_HAND,
        }
    }
}

impl Replica {
    /// Makes the change and publishes what follows; what is to be said with it.
    pub(crate) fn make(&mut self, change: &Change) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        let mut half = self.half.clone();
        let uplink = named(change.uplink(), "uplink", uplinks(&half))?;
        if let Change::Weight { weight, policy, .. } = change {
            set_weight(&mut half, uplink, *weight, policy.as_deref(), change.uplink())?;
        }
        let mut words =
            Family::ALL.map(|family| match self.half.policies[0].steering(family).has_table {
                0 => Vec::new(),
                _ => self.words(family),
            });
        for word in words.iter_mut().filter_map(|words| words.get_mut(usize::from(uplink))) {
            if *word & path_state::NOT_CONFIGURED != 0 {
                continue;
            }
            if matches!(change, Change::Drain(_)) && *word & path_state::ADMIN_DOWN != 0 {
                bail!("{} is down by hand: set it up first", change.uplink());
            }
            if matches!(change, Change::Up(_)) && *word & path_state::ADMIN_DOWN != 0 {
                // What its targets say is not known while nobody asks them.
                *word = path_state::USABLE;
                notes.push(as_if_well(change.uplink()));
            }
            *word = *word & !BY_HAND | change.by_hand(*word);
        }
        let mut writer = self.writer();
        self.publish(&mut writer, half, words, &mut notes);
        notes.dedup();
        Ok(notes)
    }

    /// The state words of a family's paths.
    pub(crate) fn words(&self, family: Family) -> Vec<u32> {
        let paths = (0..).zip(uplinks(&self.half)).map(|(uplink, _)| PathId::new(uplink, family));
        paths.map(|path| self.regions.control.path_state(path)).collect()
    }

    /// What publishes to the copy.
    pub(crate) fn writer(&self) -> ControlWriter {
        ControlWriter::new(self.regions.control.clone(), self.regions.adjacencies.next_hops())
    }

    /// Publishes a half, with the state words and bucket tables that follow where `words` has by
    /// [`Family`] what is known of each path; of none: the family has none.
    pub(crate) fn publish(
        &mut self,
        writer: &mut ControlWriter,
        mut half: Box<ControlHalf>,
        words: [Vec<u32>; Family::COUNT],
        notes: &mut Vec<String>,
    ) {
        let mut tables: [Vec<Buckets>; Family::COUNT] = Default::default();
        for (family, after) in Family::ALL.into_iter().zip(&words) {
            let before = self.words(family);
            let [old, new] =
                [(&self.half, &before), (&half, after)].map(|(half, words)| roles(half, words));
            for (number, after) in after.iter().enumerate() {
                let before = before.get(number).copied().unwrap_or(0);
                let used = (before & USE) ^ old.bits(number) ^ new.bits(number);
                writer.set_path_state(PathId::new(number as u8, family), after & !USE | used);
            }
            if after.iter().any(|word| word & path_state::NOT_CONFIGURED == 0) {
                let [first, _] = &tables;
                let made = self.tables(&mut half, family, (&old, &new), first, notes);
                tables[family.index()] = made;
            }
        }
        let live = tables
            .each_ref()
            .map(|tables| tables.iter().map(Buckets::live).collect::<Vec<&BucketTable>>());
        writer.publish(&mut half, [&live[0], &live[1]]);
        self.half = half;
    }

    /// The tables of a family's policies after the change. `first` are those of IPv4, which hosts
    /// with both go by.
    fn tables(
        &self,
        half: &mut ControlHalf,
        family: Family,
        (old, new): (&Roles, &Roles),
        first: &[Buckets],
        notes: &mut Vec<String>,
    ) -> Vec<Buckets> {
        let region = &self.regions.control;
        let bank = (self.half.epoch & 1) as usize;
        let policies = half.policies.iter_mut().zip(&self.half.policies).enumerate();
        let used = policies.take_while(|(_, (policy, _))| policy.member_count != 0);
        used.map(|(number, (policy, before))| {
            let takers = |roles: &Roles| roles.takers.get(number).copied().unwrap_or(0);
            let mut buckets = Buckets::default();
            if before.steering(family).has_table != 0 {
                if let tier @ 1.. = before.steering(family).active_tier {
                    buckets = Buckets::adopt(tier, region.bank(HOME_BANK, family, number));
                }
                buckets.update(&members(before), takers(old));
                if *buckets.live() != *region.bank(bank, family, number) {
                    notes.push(format!(
                        "new flows of {} go by load now (spillover or balance), which is left out \
                         here",
                        before.name.as_str()
                    ));
                }
            }
            if let Some(first) = first.get(number)
                && policy.selection() == Selection::Host
                && family == Family::V6
            {
                buckets.follow(first);
            }
            buckets.update(&members(policy), takers(new));
            let steering = policy.steering_mut(family);
            steering.active_tier = buckets.active_tier().unwrap_or(0);
            if steering.heavy != NONE && takers(new) >> (steering.heavy & 63) & 1 == 0 {
                steering.heavy = NONE;
            }
            buckets
        })
        .collect()
    }
}

/// The note for a path that nobody asks the targets of yet.
pub(crate) fn as_if_well(uplink: &str) -> String {
    format!("as if the targets of {uplink} answered")
}

/// What the paths of a family are for, by their words.
fn roles(half: &ControlHalf, words: &[u32]) -> Roles {
    let standings: Vec<_> = words.iter().map(|word| standing(*word)).collect();
    let weighty = |policy: &Policy| {
        let weighty = members(policy).into_iter().filter(|member| member.weight != 0);
        weighty.fold(0, |set, member| set | 1u64 << (member.uplink & 63))
    };
    let policies = half.policies.iter().take_while(|policy| policy.member_count != 0);
    Roles::of(&standings, policies.map(weighty), |_, _| 0)
}

/// How good a choice a path is, by its word; `None`: there is none.
fn standing(word: u32) -> Option<Standing> {
    use path_state as state;
    let has = |bits: u32| word & bits != 0;
    Some(if has(state::NOT_CONFIGURED) {
        return None;
    } else if has(state::ADMIN_DOWN) {
        Standing::Admin
    } else if has(state::NO_CARRIER | state::NO_DEVICE) {
        Standing::NoCarrier
    } else if has(state::NO_ADDRESS) {
        Standing::NoAddress
    } else if has(state::NO_NEXT_HOP) {
        Standing::NoNextHop
    } else if has(state::UNHEALTHY) {
        Standing::Silent
    } else if has(state::HELD_DOWN) {
        Standing::Recovering
    } else if has(state::DRAINING) {
        Standing::Draining
    } else if has(state::DEGRADED) {
        Standing::Degraded
    } else if has(state::USABLE) {
        Standing::Up
    } else {
        Standing::Unproven
    })
}

/// The members of a policy, their weights without marks.
fn members(policy: &Policy) -> Vec<Member> {
    let unmarked = |m: &Member| Member { weight: m.weight & Member::MAX_WEIGHT, ..*m };
    policy.members().iter().map(unmarked).collect()
}

pub(crate) fn uplinks(half: &ControlHalf) -> impl Iterator<Item = &str> {
    half.uplinks.iter().map(|uplink| uplink.name.as_str()).take_while(|name| !name.is_empty())
}

/// The number of a name.
fn named<'a>(name: &str, what: &str, known: impl Iterator<Item = &'a str>) -> Result<u8> {
    let known: Vec<_> = known.collect();
    let found = known.iter().position(|known| *known == name);
    let found = found.and_then(|number| u8::try_from(number).ok());
    found.ok_or_else(|| anyhow!("there is no {what} \"{name}\"; known: {}", known.join(", ")))
}

/// As `weir weight` sets it: in one policy, or in all where none was set by hand.
fn set_weight(
    half: &mut ControlHalf,
    uplink: u8,
    weight: u16,
    policy: Option<&str>,
    name: &str,
) -> Result<()> {
    let policies = || half.policies.iter().take_while(|policy| policy.member_count != 0);
    let only = match policy {
        Some(policy) => Some(named(policy, "policy", policies().map(|p| p.name.as_str()))?),
        None => None,
    };
    let mut found = false;
    for (number, policy) in (0..).zip(&mut half.policies) {
        if only.is_some_and(|only| only != number) {
            continue;
        }
        let count = usize::from(policy.member_count).min(policy.members.len());
        let mut members = policy.members[..count].iter_mut();
        if let Some(member) = members.find(|member| member.uplink == uplink) {
            found = true;
            let mark = member.weight & Member::OVERRIDDEN;
            if only.is_some() || mark == 0 {
                member.weight = weight | mark;
            }
        }
    }
    if !found {
        bail!("{name} is no member of {}", policy.unwrap_or("any policy"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_read_as_it_is_written() {
        for text in
            ["down fiber", "up fiber", "drain fiber", "weight fiber 5", "weight fiber 0 policy all"]
        {
            assert_eq!(Change::read(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_change_is_refused_with_what_is() {
        for text in ["", "down", "down a b", "weight fiber", "weight fiber 5 policy", "reload"] {
            assert!(Change::read(text).unwrap_err().to_string().contains("write \"down UPLINK\""));
        }
        for weight in ["-1", "32768", "many"] {
            let error = Change::read(&format!("weight fiber {weight}")).unwrap_err();
            assert!(error.to_string().contains("from 0 to 32767"), "{error}");
        }
    }
}
