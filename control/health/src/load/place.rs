//! Which members of a policy take new flows, and how many of them.

use weir_layout::control::Member;
use weir_site::load::Balance;

use super::weigh;

/// Least time between two reviews of figures that change all the time, milliseconds.
pub const REVIEW_MS: u64 = 1000;

/// What is known of an uplink's load.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Known {
    /// Is it too full for new flows?
    pub saturated: bool,
    /// What is left of its capacity, bits per second.
    pub room: Option<f64>,
    /// Round-trip time, milliseconds.
    pub rtt_ms: Option<f64>,
}

/// What a policy's bucket table is made for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    /// Uplinks that may take new flows, a bit for each.
    pub takers: u64,
    /// Weights of the members, in their order.
    pub weights: Vec<u16>,
    /// Where the next heavy flow is to go.
    pub heavy: Option<u8>,
}

impl Placement {
    /// What health alone makes of a policy.
    pub fn plain(_policy: usize, members: &[Member], takers: u64) -> Self {
        Self { takers, weights: members.iter().map(|m| m.weight).collect(), heavy: None }
    }
}

/// What a policy does with the load of its members.
#[derive(Clone, Debug, Default)]
pub struct Placer {
    balance: Balance,
    spillover: bool,
    /// What was decided when, and for whom.
    reviewed: Option<(u64, Basis)>,
    weights: Vec<u16>,
    near: u64,
    heavy: Option<u8>,
}

/// What makes a review due at once when it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Basis {
    tier: Vec<Member>,
    takers: u64,
    known: bool,
}

impl Placer {
    /// For a policy of these settings.
    pub fn new(balance: Balance, spillover: bool) -> Self {
        Self { balance, spillover, ..Self::default() }
    }

    /// Takes changed settings; true if they differ.
    pub fn reconfigure(&mut self, balance: Balance, spillover: bool) {
        if (self.balance, self.spillover) != (balance, spillover) {
            *self = Self::new(balance, spillover);
        }
    }

    /// Places new flows, given the members with their configured weights, those of them that health
    /// lets take flows, and what is known by uplink. The result differs from the one before only
    /// if members, health or saturation do, or [`REVIEW_MS`] have passed.
    pub fn place(
        &mut self,
        members: &[Member],
        takers: u64,
        known: &dyn Fn(u8) -> Known,
        now: u64,
    ) -> Placement {
        let configured: Vec<u16> = members.iter().map(|m| m.weight).collect();
        let takers = self.spill(members, takers, known);
        let tier = active(members, takers);
        let has = |m: &&Member| takers >> m.uplink & 1 == 1;
        let all_known = tier.iter().all(|m| known(m.uplink).room.is_some());
        let basis = Basis { tier, takers, known: all_known };
        let due = match &self.reviewed {
            Some((then, old)) => *old != basis || now >= *then + REVIEW_MS,
            None => true,
        };
        if due {
            let taking: Vec<u8> = basis.tier.iter().filter(has).map(|m| m.uplink).collect();
            self.weigh(&basis, known);
            self.near = match self.balance {
                Balance::LowestLatency => {
                    let rtts: Vec<_> = taking.iter().map(|u| (*u, known(*u).rtt_ms)).collect();
                    weigh::nearest(&rtts, self.near)
                }
                _ => u64::MAX,
            };
            let near = taking.iter().filter(|u| self.near >> **u & 1 == 1);
            let rooms: Vec<_> = near.map(|u| (*u, known(*u).room)).collect();
            self.heavy = weigh::roomiest(&rooms, self.heavy);
            self.reviewed = Some((now, basis.clone()));
        }
        let of_tier = basis.tier.iter().fold(0u64, |set, m| set | 1 << m.uplink);
        let mut weights = configured;
        // Those of the tier are in the order of the members.
        let mut of_room = basis.tier.iter().zip(&self.weights).peekable();
        for (member, weight) in members.iter().zip(&mut weights) {
            if let Some((_, by_room)) = of_room.next_if(|(m, _)| m.uplink == member.uplink) {
                *weight = *by_room;
            }
        }
        Placement { takers: takers & (self.near | !of_tier), weights, heavy: self.heavy }
    }

    /// Without those that are too full, if any other has room; whatever its tier, for of those that
    /// are left the best tier takes all.
    fn spill(&self, members: &[Member], takers: u64, known: &dyn Fn(u8) -> Known) -> u64 {
        let bit = |set: u64, m: &Member| set | 1 << m.uplink;
        let with_room = members
            .iter()
            .filter(|m| m.weight > 0 && takers >> m.uplink & 1 == 1 && !known(m.uplink).saturated)
            .fold(0, bit);
        let full = members.iter().filter(|m| known(m.uplink).saturated).fold(0, bit);
        if self.spillover && with_room != 0 { takers & !full } else { takers }
    }

    /// Weights of the tier by room; none while the room of a member is not known. Members that take
    /// no flows now have theirs too, for the time that they do.
    fn weigh(&mut self, basis: &Basis, known: &dyn Fn(u8) -> Known) {
        let rooms = basis.tier.iter().map(|m| known(m.uplink).room);
        let rooms: Option<Vec<f64>> = rooms.collect();
        let same = self.reviewed.as_ref().is_some_and(|(_, old)| old.tier == basis.tier);
        match rooms.filter(|_| self.balance == Balance::LeastLoaded) {
            None => self.weights.clear(),
            Some(rooms) => {
                let old: &[u16] = if same { &self.weights } else { &[] };
                if let Some(weights) = weigh::by_room(&rooms, old) {
                    self.weights = weights;
                }
            }
        }
    }
}

/// The members with a weight of the best tier that has a taker among them.
fn active(members: &[Member], takers: u64) -> Vec<Member> {
    let weighty = || members.iter().filter(|m| m.weight > 0);
    let tier = weighty().filter(|m| takers >> m.uplink & 1 == 1).map(|m| m.tier).min();
    weighty().filter(|m| Some(m.tier) == tier).copied().collect()
}
