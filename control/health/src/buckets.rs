//! Bucket tables: which uplink takes which of a policy's 65 536 buckets.
//!
//! Two tables per policy. *Home* says where a bucket belongs while every member of the tier is
//! usable; its shares follow the weights to less than one bucket, and it changes by the fewest
//! buckets that a change of weights allows. *Live* is home with the buckets of unusable members
//! lent to usable ones.
//!
//! Lending is weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted distributed hash
//! tables", SPAA 2005): a bucket goes to the usable member with the least `-ln(hash) / weight`.
//! So live is a function of home, the weights and the set of usable members, without history: when
//! an uplink dies only its buckets move, by weight, and when it returns exactly those return, in
//! whatever order uplinks come and go.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use weir_layout::NONE;
use weir_layout::control::{BUCKETS, BucketTable, Member};

/// The bucket tables of one policy.
#[derive(Clone, PartialEq, Eq)]
pub struct Buckets {
    /// One home table for each tier that has been active, so that a tier finds its table unchanged
    /// when it is active again.
    homes: BTreeMap<u8, Box<BucketTable>>,
    live: Box<BucketTable>,
    active: Option<u8>,
    /// Members and usable uplinks that the tables are made for.
    made: Option<(Vec<Member>, u64)>,
}

impl Default for Buckets {
    fn default() -> Self {
        Self { homes: BTreeMap::new(), live: empty(), active: None, made: None }
    }
}

impl Buckets {
    /// The state a former process left: the active tier's home table; entries that are no member
    /// are given away at the first [`update`](Self::update).
    pub fn adopt(tier: u8, home: Box<BucketTable>) -> Self {
        Self { homes: BTreeMap::from([(tier, home)]), active: Some(tier), ..Self::default() }
    }

    /// Makes the tables for `members`, whose weights have no mark; bit *u* of `usable` is set while uplink *u* can take flows.
    /// Says whether the live table changed. For what they are made for already it costs nothing.
    ///
    /// The active tier becomes the best one with a usable member of positive weight. Without any,
    /// every live bucket is [`NONE`] and the home tables stay as they are.
    ///
    /// # Panics
    /// When an uplink is not below 64, or appears twice: [`weir_site`] lets neither pass.
    pub fn update(&mut self, members: &[Member], usable: u64) -> bool {
        if self.is_made_for(members, usable) {
            return false;
        }
        let before = self.live.clone();
        self.make(members, usable);
        self.made = Some((members.to_vec(), usable));
        self.live != before
    }

    /// Has buckets belong where those of another table do, so that both lend the same to the same.
    pub fn follow(&mut self, other: &Self) {
        for (tier, home) in &other.homes {
            if self.homes.get(tier) != Some(home) {
                self.homes.insert(*tier, home.clone());
                self.made = None;
            }
        }
    }

    /// Are the tables those of these members, while these uplinks are usable?
    pub fn is_made_for(&self, members: &[Member], usable: u64) -> bool {
        self.made.as_ref().is_some_and(|(of, by)| of == members && *by == usable)
    }

    fn make(&mut self, members: &[Member], usable: u64) {
        let mut seen = 0u64;
        for member in members {
            assert!(member.uplink < 64 && seen & bit(member) == 0, "bad member {member:?}");
            seen |= bit(member);
        }
        self.homes.retain(|tier, _| members.iter().any(|m| m.tier == *tier));
        let usable_tiers = members.iter().filter(|m| m.weight > 0 && usable & bit(m) != 0);
        self.active = usable_tiers.map(|m| m.tier).min();
        let Some(tier) = self.active else {
            self.live.fill(NONE);
            return;
        };
        let members: Vec<Member> =
            members.iter().copied().filter(|m| m.tier == tier && m.weight > 0).collect();
        let home = self.homes.entry(tier).or_insert_with(empty);
        settle(home, &members);
        lend(home, &members, usable, &mut self.live);
    }

    /// The table that new flows follow.
    pub fn live(&self) -> &BucketTable {
        &self.live
    }

    /// The active tier's table with every member usable; `None` while no tier is active.
    pub fn home(&self) -> Option<&BucketTable> {
        self.homes.get(&self.active?).map(Box::as_ref)
    }

    /// The best tier with a usable member.
    pub fn active_tier(&self) -> Option<u8> {
        self.active
    }
}

/// Number of buckets whose uplink differs.
pub fn moved(old: &BucketTable, new: &BucketTable) -> usize {
    old.iter().zip(new).filter(|(old, new)| old != new).count()
}

/// Fewest buckets that a change of weights can move: ½·Σ|Δquota|. Weights are by member; a member
/// that is missing in one list has weight 0 there.
pub fn bound(old: &[u16], new: &[u16]) -> usize {
    let (old, new) = (quotas(old), quotas(new));
    let at = |quotas: &[u32], i: usize| quotas.get(i).copied().unwrap_or(0);
    let members = 0..old.len().max(new.len());
    let gained = members.clone().map(|i| at(&new, i).saturating_sub(at(&old, i))).sum::<u32>();
    let lost = members.map(|i| at(&old, i).saturating_sub(at(&new, i))).sum::<u32>();
    gained.max(lost) as usize
}

/// Buckets due to each member: the largest-remainder method (Hamilton), ties to the first member.
/// Their sum is [`BUCKETS`], or 0 when every weight is 0.
pub fn quotas(weights: &[u16]) -> Vec<u32> {
    let total: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    if total == 0 {
        return vec![0; weights.len()];
    }
    let share = |weight: u16| u64::from(weight) * BUCKETS as u64;
    let mut quotas: Vec<u32> = weights.iter().map(|w| (share(*w) / total) as u32).collect();
    let missing = BUCKETS - quotas.iter().sum::<u32>() as usize;
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(share(weights[*i]) % total));
    for i in order.into_iter().take(missing) {
        quotas[i] += 1;
    }
    quotas
}

/// Every bucket once, neighbours far apart, so that whatever moves is spread over the table.
fn spread() -> impl Iterator<Item = usize> {
    // An odd multiplier permutes the integers modulo a power of two; this one is 2^16 / golden ratio.
    (0..BUCKETS).map(|i| (i * 40_503) & (BUCKETS - 1))
}

/// Brings `home` to the members' quotas by the fewest moves: only members above their quota give,
/// only members below it take.
fn settle(home: &mut BucketTable, members: &[Member]) {
    let mut due = [0u32; 256];
    let weights: Vec<u16> = members.iter().map(|m| m.weight).collect();
    for (member, quota) in members.iter().zip(quotas(&weights)) {
        due[usize::from(member.uplink)] = quota;
    }
    let has = owned(home);
    let mut excess: [u32; 256] = std::array::from_fn(|owner| has[owner].saturating_sub(due[owner]));
    let mut left = excess.iter().sum::<u32>();
    let mut takers = members.iter().flat_map(|m| {
        let owner = usize::from(m.uplink);
        std::iter::repeat_n(m.uplink, due[owner].saturating_sub(has[owner]) as usize)
    });
    let mut buckets = spread();
    while left > 0
        && let Some(bucket) = buckets.next()
    {
        let from = usize::from(home[bucket]);
        if excess[from] > 0 {
            let Some(to) = takers.next() else { return };
            excess[from] -= 1;
            left -= 1;
            home[bucket] = to;
        }
    }
}

/// How many buckets each uplink has.
fn owned(table: &BucketTable) -> [u32; 256] {
    // Several counts for each, since neighbours often have one owner, and each of its increments
    // would wait for the one before.
    let mut counts = [[0u32; 256]; 4];
    for owners in table.as_chunks::<4>().0 {
        for (count, owner) in counts.iter_mut().zip(owners) {
            count[usize::from(*owner)] += 1;
        }
    }
    std::array::from_fn(|owner| counts.iter().map(|count| count[owner]).sum())
}

/// Fills `live` from `home`, giving buckets of unusable members to usable ones.
fn lend(home: &BucketTable, members: &[Member], usable: u64, live: &mut BucketTable) {
    *live = *home;
    let lenders: Vec<(u8, u64, f32)> = members
        .iter()
        .filter(|m| usable & bit(m) != 0)
        .map(|m| (m.uplink, mix(u64::from(m.uplink) + 1), 1.0 / f32::from(m.weight)))
        .collect();
    if lenders.len() == members.len() {
        return;
    }
    let borrows: [bool; 256] = std::array::from_fn(|owner| usable & (1 << (owner % 64)) == 0);
    if let [(uplink, ..)] = lenders[..] {
        live.iter_mut().filter(|owner| borrows[usize::from(**owner)]).for_each(|o| *o = uplink);
        return;
    }
    for (bucket, owner) in live.iter_mut().enumerate() {
        if !borrows[usize::from(*owner)] {
            continue;
        }
        let seed = mix(bucket as u64);
        let mut least = f32::INFINITY;
        for (uplink, salt, inverse_weight) in &lenders {
            let hash = (seed ^ salt).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
            let score = NEGATIVE_LN[hash as usize] * inverse_weight;
            if score < least {
                (least, *owner) = (score, *uplink);
            }
        }
    }
}

/// `-ln((i + ½) / 2^16)`: an exponentially distributed value for a uniform 16-bit hash.
static NEGATIVE_LN: LazyLock<Vec<f32>> = LazyLock::new(|| {
    (0..1 << 16).map(|i| -((f64::from(i) + 0.5) / 65_536.0).ln() as f32).collect()
});

/// The finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn bit(member: &Member) -> u64 {
    1 << member.uplink
}

fn empty() -> Box<BucketTable> {
    // Made on the heap: a table is too large to pass over a small stack.
    let table: Box<[u8]> = vec![NONE; BUCKETS].into();
    table.try_into().expect("the vector has BUCKETS bytes")
}
