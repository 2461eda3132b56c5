//! What the connections of users say: new ones that nobody answers, and data sent again.
//!
//! Counts come as often as the caller likes and are summed over a sliding window. They are of
//! services that have answered lately by some uplink: what never answers, such as peers that are
//! gone or addresses that somebody scans, is not in them. A link is not condemned by few
//! connections, nor by one server, nor by one user: the hosts that do not answer must be several,
//! and as large a part of all hosts as their connections are, and so must the users who are left
//! without an answer. Nor is it condemned for what fails by the other uplinks alike.
//! Of data sent again, what one user or one remote has most of does not count: that of the others
//! must reach the limit alone.

use std::collections::VecDeque;

use weir_layout::counters::PLACES;

use super::signal::Reason;
use weir_site::health::{Limits, Passive};

/// Parts that the window slides by.
const PARTS: u64 = 8;

/// New flows of one protocol, each counted once: when it was answered, or when it has waited so
/// long that it should have been (a second for SYN, RFC 6298 §2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NewFlows {
    /// All of them.
    pub flows: u32,
    /// Those without an answer.
    pub unanswered: u32,
    /// Remote addresses of all of them.
    pub remotes: Remotes,
    /// Remote addresses that gave at least one flow no answer.
    pub silent: Remotes,
    /// Local hosts of all of them.
    pub users: Remotes,
    /// Those that were left without an answer at least once.
    pub askers: Remotes,
    /// Flows of the same time by the other uplinks.
    pub elsewhere: Share,
}

/// Flows, and those of them without an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// All of them.
    pub flows: u32,
    /// Those without an answer.
    pub unanswered: u32,
}

impl Share {
    /// Adds others.
    pub fn add(&mut self, other: Self) {
        self.flows = self.flows.saturating_add(other.flows);
        self.unanswered = self.unanswered.saturating_add(other.unanswered);
    }

    /// The rest, without a part of them.
    pub fn without(self, part: Self) -> Self {
        Self {
            flows: self.flows.saturating_sub(part.flows),
            unanswered: self.unanswered.saturating_sub(part.unanswered),
        }
    }

    /// Of the flows that would have been answered elsewhere, at least `percent` were not here
    /// (Abbott, "A method of computing the effectiveness of an insecticide", 1925: what died, less
    /// what would have died anyway).
    fn exceeds(self, elsewhere: Self, percent: u32) -> bool {
        let wide = i128::from;
        let excess = wide(self.unanswered) * wide(elsewhere.flows.max(1))
            - wide(elsewhere.unanswered) * wide(self.flows);
        let answered = wide(elsewhere.flows.max(1)) - wide(elsewhere.unanswered);
        excess > 0 && excess * 100 >= wide(percent) * wide(self.flows) * answered
    }
}

/// What happened on an uplink since the last counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassiveCounts {
    /// TCP: SYN sent, SYN-ACK awaited.
    pub tcp: NewFlows,
    /// UDP: sent, anything awaited.
    pub udp: NewFlows,
    /// TCP segments with data, sent to the uplink.
    pub segments: u32,
    /// Those of them that were sent again.
    pub retransmitted: u32,
    /// Of these, by LAN host.
    pub by_user: ByHost,
    /// Of these, by remote host.
    pub by_remote: ByHost,
}

/// Counts by a hash of hosts.
pub type ByHost = [u32; PLACES];

/// How many different addresses there were, in 32 bytes: linear counting (Whang,
/// Vander-Zanden and Taylor, "A linear-time probabilistic counting algorithm", 1990).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remotes([u64; 4]);

impl From<[u64; 4]> for Remotes {
    /// Bit *h* is set for an address of hash *h*.
    fn from(bits: [u64; 4]) -> Self {
        Self(bits)
    }
}

impl Remotes {
    /// Adds an address by its hash, whose eight low bits must be well mixed.
    pub fn add(&mut self, hash: u64) {
        self.0[(hash >> 6 & 3) as usize] |= 1 << (hash & 63);
    }

    /// Adds those of another set.
    pub fn merge(&mut self, other: Self) {
        for (mine, other) in self.0.iter_mut().zip(other.0) {
            *mine |= other;
        }
    }

    /// About how many there are; exact for a few, and at most 1 420.
    pub fn count(self) -> u32 {
        let zero = self.0.iter().map(|word| word.count_zeros()).sum::<u32>().max(1);
        (256.0 * (256.0 / f64::from(zero)).ln()).round() as u32
    }
}

impl NewFlows {
    /// Adds those of another place or time.
    pub fn merge(&mut self, other: Self) {
        self.flows = self.flows.saturating_add(other.flows);
        self.unanswered = self.unanswered.saturating_add(other.unanswered);
        self.remotes.merge(other.remotes);
        self.silent.merge(other.silent);
        self.users.merge(other.users);
        self.askers.merge(other.askers);
        self.elsewhere.add(other.elsewhere);
    }

    /// How many there are.
    pub fn share(&self) -> Share {
        Share { flows: self.flows, unanswered: self.unanswered }
    }

    /// At least `percent` of the flows, of the hosts and of the users, and enough of each, are
    /// without an answer; and of the flows so many more than elsewhere, where there are enough.
    fn at_least(&self, percent: u32, passive: &Passive) -> bool {
        let (silent, askers) = (self.silent.count(), self.askers.count());
        let enough = self.elsewhere.flows >= passive.min_flows.max(1);
        let elsewhere = if enough { self.elsewhere } else { Share::default() };
        self.flows >= passive.min_flows.max(1)
            && silent >= passive.min_remotes
            && askers >= passive.min_users
            && self.share().exceeds(elsewhere, percent)
            && reaches(silent, self.remotes.count(), percent)
            && reaches(askers, self.users.count(), percent)
    }
}

impl PassiveCounts {
    fn merge(&mut self, other: &Self) {
        self.tcp.merge(other.tcp);
        self.udp.merge(other.udp);
        self.segments = self.segments.saturating_add(other.segments);
        self.retransmitted = self.retransmitted.saturating_add(other.retransmitted);
        for (mine, other) in
            [(&mut self.by_user, &other.by_user), (&mut self.by_remote, &other.by_remote)]
        {
            mine.iter_mut().zip(other).for_each(|(sum, count)| *sum = sum.saturating_add(*count));
        }
    }

    /// Segments sent again by others than the LAN host, or the remote, that had most of them: one of
    /// either may be bad by itself, or only say so.
    fn retransmitted_by_others(&self) -> u32 {
        let others = |by: &ByHost| {
            self.retransmitted.saturating_sub(by.iter().copied().max().unwrap_or_default())
        };
        others(&self.by_user).min(others(&self.by_remote))
    }

    /// The first of its figures that is at the limit which `of` picks.
    fn beyond(&self, passive: &Passive, of: impl Fn(Limits) -> u32) -> Option<Reason> {
        if passive.enabled == Some(false) {
            return None;
        }
        let hit = |limits: Option<Limits>, new: &NewFlows| {
            limits.is_some_and(|limits| new.at_least(of(limits), passive))
        };
        if hit(passive.syn_percent, &self.tcp) {
            return Some(Reason::PassiveSyn {
                unanswered: self.tcp.unanswered,
                of: self.tcp.flows,
            });
        }
        if hit(passive.udp_percent, &self.udp) {
            return Some(Reason::PassiveUdp {
                unanswered: self.udp.unanswered,
                of: self.udp.flows,
            });
        }
        let again = passive.retransmit_percent.is_some_and(|limits| {
            self.segments >= passive.min_segments.max(1)
                && reaches(self.retransmitted_by_others(), self.segments, of(limits))
        });
        again.then_some(Reason::PassiveRetransmits {
            retransmitted: self.retransmitted,
            of: self.segments,
        })
    }
}

fn reaches(part: u32, of: u32, percent: u32) -> bool {
    u64::from(part) * 100 >= u64::from(of) * u64::from(percent)
}

/// The counts of late.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    parts: VecDeque<(u64, PassiveCounts)>,
}

impl Recent {
    /// Adds counts; those of one part of the window are one entry, so there are `PARTS` + 1.
    pub(super) fn push(&mut self, passive: &Passive, counts: &PassiveCounts, now: u64) {
        let part = u64::from(passive.window_ms) / PARTS;
        match self.parts.back_mut() {
            Some((begin, sum)) if now < *begin + part => sum.merge(counts),
            _ => self.parts.push_back((now, *counts)),
        }
        self.expire(passive, now);
    }

    pub(super) fn expire(&mut self, passive: &Passive, now: u64) {
        while self.deadline(passive).is_some_and(|at| now >= at) {
            self.parts.pop_front();
        }
    }

    pub(super) fn deadline(&self, passive: &Passive) -> Option<u64> {
        self.parts.front().map(|(begin, _)| begin + u64::from(passive.window_ms) + 1)
    }

    /// What fails, if anything.
    pub(super) fn failing(&self, passive: &Passive) -> Option<Reason> {
        self.sum().beyond(passive, |limits| limits.fail)
    }

    /// What is not well yet, if anything. Too few connections to tell are well: an uplink that is
    /// spared has none.
    pub(super) fn unwell(&self, passive: &Passive) -> Option<Reason> {
        self.sum().beyond(passive, |limits| limits.recover + 1)
    }

    fn sum(&self) -> PassiveCounts {
        let mut sum = PassiveCounts::default();
        self.parts.iter().for_each(|(_, counts)| sum.merge(counts));
        sum
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.parts.len()
    }
}
