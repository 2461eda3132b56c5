//! What a change does to flows and to the shares of new ones.
//!
//! The copy makes the change, sweeps, and then gets the next packet of every flow from inside. A
//! flow that has its uplink still stays; one that has another moved; one whose connection was
//! reset, or whose packet goes nowhere, breaks.

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Result;
use serde::Serialize;
use weir_layout::control::{BUCKETS, ControlHalf, PathId, path_state};
use weir_layout::flow::{FlowState, flag};
use weir_layout::protocol::{ICMP, ICMPV6};
use weir_layout::{Family as Ip, NONE};
use weir_wire::entry::Entry;
use weir_wire::family::{V4, V6};
use weir_wire::key::FlowKey;

use crate::change::Change;
use crate::question::{Link, Question, Segment};
use crate::reload::Reload;
use crate::replica::{Replica, Tables};

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// What was changed.
    pub change: String,
    /// New flows of each policy, before and after.
    pub shares: Vec<Share>,
    /// Flows that there are, by the uplink that they have now.
    pub flows: Vec<Flows>,
    /// What is not known, or was taken for granted.
    pub notes: Vec<String>,
    /// Each flow, in the order of the tables.
    #[serde(skip)]
    pub each: Vec<Each>,
}

/// An uplink's share of a policy's new flows.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// The policy.
    pub policy: String,
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// The uplink.
    pub uplink: String,
    /// Percent now.
    pub before: f64,
    /// Percent then.
    pub after: f64,
}

/// The flows of an uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flows {
    /// The uplink.
    pub uplink: String,
    /// How many of them it has.
    pub flows: u64,
    /// These stay.
    pub stay: u64,
    /// These go on by another, by its name.
    pub moves: BTreeMap<String, u64>,
    /// These end.
    pub breaks: u64,
}

/// A flow, by the slot of the direction that began it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Each {
    /// Which table.
    pub family: Ip,
    /// Which slot, before the change.
    pub slot: u32,
    /// Its uplink, before the change.
    pub uplink: u8,
    /// What becomes of it.
    pub becomes: Becomes,
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Becomes {
    /// It stays.
    Stays,
    /// It goes on by this uplink.
    Moves(u8),
    /// It ends.
    Breaks,
}

/// A flow before the change.
struct Before<F: Tables> {
    slot: u32,
    entry: Entry<F>,
    back: Entry<F>,
}

impl Replica {
    /// What a change would do. Afterwards the copy is a gateway where it was made.
    ///
    /// # Errors
    /// When there is no such uplink or policy, or the change would be refused.
    pub fn what_if(&mut self, change: &Change) -> Result<Forecast> {
        let mut forecast = self.forecast(change.to_string(), |copy| copy.make(change))?;
        if matches!(change, Change::Drain(_)) {
            let note = "flows that can move do so when they are idle: here they stay";
            forecast.notes.push(note.to_owned());
        }
        Ok(forecast)
    }

    /// What another file would do, likewise.
    ///
    /// # Errors
    /// When the copy cannot run with it.
    pub fn what_if_reloaded(&mut self, reload: Reload<'_>) -> Result<Forecast> {
        self.forecast(reload.to_string(), |copy| copy.reload(reload))
    }

    /// What something does to the copy, which is called so and has something to be said with it.
    fn forecast(
        &mut self,
        change: String,
        make: impl FnOnce(&mut Self) -> Result<Vec<String>>,
    ) -> Result<Forecast> {
        // What a worker would do anyway is not the change's doing.
        self.sweep();
        let (four, six) = (self.flows::<V4>(), self.flows::<V6>());
        let (policies, before) = (policies(&self.half), self.shares());
        let notes = make(self)?;
        self.sweep();
        let mut each = self.fates(four)?;
        each.extend(self.fates(six)?);
        let (policies, names) = (merged(self::policies(&self.half), policies), names(&self.half));
        let shares = compared(&policies, &names, &before, &self.shares());
        Ok(Forecast { change, shares, flows: counted(&names, &each), notes, each })
    }

    /// The flows that there are, but for those that are closing or stay inside.
    fn flows<F: Tables>(&self) -> Vec<Before<F>> {
        let table = F::table(&self.regions);
        let whole = |slot: u32| {
            let entry = table.slot(slot).read()?;
            let begins = entry.flags & flag::INITIATED != 0 && entry.uplink != NONE;
            let ends = entry.state_owner.state() == FlowState::Closing;
            let back = table.slot(entry.peer).read().filter(|_| begins && !ends)?;
            (back.peer == slot).then_some(Before { slot, entry, back })
        };
        (0..table.capacity()).filter_map(whole).collect()
    }

    fn fates<F: Tables>(&mut self, flows: Vec<Before<F>>) -> Result<Vec<Each>> {
        flows.into_iter().map(|flow| self.fate_of(&flow)).collect()
    }

    fn fate_of<F: Tables>(&mut self, flow: &Before<F>) -> Result<Each> {
        let Before { slot, entry, back } = *flow;
        let each = |becomes| Each { family: F::FAMILY, slot, uplink: entry.uplink, becomes };
        let is_open = |entry: &Entry<F>| entry.state_owner.state() != FlowState::Closing;
        let now = |replica: &Self| {
            let found = replica.find(F::table(&replica.regions), &entry.key);
            found.map(|(_, entry)| entry).filter(is_open)
        };
        if now(self).is_none() {
            return Ok(each(Becomes::Breaks));
        }
        let (out, host) = match entry.flags & flag::INSIDE {
            0 => (&back, &entry),
            _ => (&entry, &back),
        };
        let Some((device, frame)) = self.next_packet(out, host) else {
            let state = self.regions.control.path_state(PathId::new(entry.uplink, F::FAMILY));
            let stays = match state & path_state::USABLE {
                0 => Becomes::Breaks,
                _ => Becomes::Stays,
            };
            return Ok(each(stays));
        };
        let ran = self.send(device, &frame)?;
        Ok(each(match now(self) {
            Some(then) if !ran.sent.is_empty() && then.uplink == entry.uplink => Becomes::Stays,
            Some(then) if !ran.sent.is_empty() => Becomes::Moves(then.uplink),
            _ => Becomes::Breaks,
        }))
    }

    /// The next packet of a direction from inside, whose host the other direction leads to; `None`:
    /// the host is not known, or it only answers echo.
    fn next_packet<F: Tables>(&self, out: &Entry<F>, host: &Entry<F>) -> Option<(u8, Vec<u8>)> {
        let from = self.regions.adjacencies.get(host.adjacency)?;
        let port = self.half.ports.get(usize::from(from.port)).filter(|port| port.is_lan())?;
        let key: &FlowKey<F> = &out.key;
        let protocol = key.proto();
        if matches!(protocol, ICMP | ICMPV6) && out.flags & flag::INITIATED == 0 {
            return None;
        }
        let [source, destination] = key.addresses().map(Into::into);
        let ports = [key.sport(), key.dport()].map(u16::from_be_bytes);
        let mac = Some(from.mac);
        let question = Question { protocol, source, destination, ports, from: None, mac, dscp: 0 };
        let link = Link { from: from.mac, to: port.mac.bytes(), vlan: port.vlan };
        let segment = Segment::Later { seq: out.next_seq, ack: host.next_seq };
        Some((port.device, question.frame(&link, segment)))
    }
}

fn names(half: &ControlHalf) -> Vec<String> {
    let names = half.uplinks.iter().map(|uplink| uplink.name.as_str().to_owned());
    names.take_while(|name| !name.is_empty()).collect()
}

fn policies(half: &ControlHalf) -> Vec<String> {
    let policies = half.policies.iter().take_while(|policy| policy.member_count != 0);
    policies.map(|policy| policy.name.as_str().to_owned()).collect()
}

/// Those that there are, then those that there were.
fn merged(mut now: Vec<String>, before: Vec<String>) -> Vec<String> {
    let gone: Vec<_> = before.into_iter().filter(|name| !now.contains(name)).collect();
    now.extend(gone);
    now
}

/// By family, policy and uplink: how many buckets it has.
type Buckets = BTreeMap<(usize, String, u8), usize>;

impl Replica {
    fn shares(&self) -> Buckets {
        let (half, region) = (&self.half, &self.regions.control);
        let mut shares = Buckets::new();
        for family in Ip::ALL {
            for (number, policy) in half.policies.iter().enumerate() {
                if policy.steering(family).has_table == 0 {
                    continue;
                }
                let name = policy.name.as_str();
                for owner in region.bank((half.epoch & 1) as usize, family, number).iter() {
                    *shares.entry((family.index(), name.to_owned(), *owner)).or_insert(0) += 1;
                }
            }
        }
        shares
    }
}

fn compared(
    policies: &[String],
    names: &[String],
    before: &Buckets,
    after: &Buckets,
) -> Vec<Share> {
    let mut all: Vec<_> = before.keys().chain(after.keys()).collect();
    all.sort_by_key(|(family, policy, uplink)| {
        (*family, policies.iter().position(|name| name == policy), *uplink)
    });
    all.dedup();
    let percent = |of: &Buckets, key| {
        let owned = of.get(key).copied().unwrap_or(0);
        (owned as f64 * 1000.0 / BUCKETS as f64).round() / 10.0
    };
    all.into_iter()
        .map(|key @ (family, policy, uplink)| Share {
            policy: policy.clone(),
            family: if *family == Ip::V4.index() { "ipv4" } else { "ipv6" },
            uplink: names.get(usize::from(*uplink)).map_or("-", String::as_str).to_owned(),
            before: percent(before, key),
            after: percent(after, key),
        })
        .collect()
}

fn counted(names: &[String], each: &[Each]) -> Vec<Flows> {
    let mut flows: Vec<_> =
        names.iter().map(|name| Flows { uplink: name.clone(), ..Flows::default() }).collect();
    for Each { uplink, becomes, .. } in each {
        let Some(of) = flows.get_mut(usize::from(*uplink)) else { continue };
        of.flows += 1;
        match becomes {
            Becomes::Stays => of.stay += 1,
            Becomes::Breaks => of.breaks += 1,
            Becomes::Moves(to) => {
                let to = names.get(usize::from(*to)).map_or("-", String::as_str).to_owned();
                *of.moves.entry(to).or_insert(0) += 1;
            }
        }
    }
    flows
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "if {}:", self.change)?;
        for flows in self.flows.iter().filter(|flows| flows.flows != 0) {
            let Flows { uplink, flows, stay, moves, breaks } = flows;
            let moves: Vec<_> = moves.iter().map(|(to, n)| format!("{n} move to {to}")).collect();
            let moves = moves.iter().map(|text| format!(", {text}")).collect::<String>();
            writeln!(f, "{uplink}: of {flows} flows {stay} stay{moves}, {breaks} break")?;
        }
        if self.flows.iter().all(|flows| flows.flows == 0) {
            writeln!(f, "there are no flows")?;
        }
        for Share { policy, family, uplink, before, after } in &self.shares {
            writeln!(f, "new flows of {policy}, {family}, by {uplink}: {before} % → {after} %")?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}
