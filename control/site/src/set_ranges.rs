//! From the prefixes of all sets to ranges: which sets hold an address.

use ipnet::IpNet;
use weir_layout::Family;
use weir_layout::prefix_sets;

/// The addresses of a prefix, first and last, and the number of the set that holds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval {
    set: u8,
    first: u128,
    last: u128,
}

impl Interval {
    pub fn of(net: &IpNet, set: u8) -> Self {
        let (first, last) = match net {
            IpNet::V4(net) => (u32::from(net.network()).into(), u32::from(net.broadcast()).into()),
            IpNet::V6(net) => (net.network().into(), net.broadcast().into()),
        };
        Self { set, first, last }
    }
}

/// The ranges of both families, as a bank of shared memory has them.
#[derive(Debug, Default)]
pub struct Ranges {
    firsts4: Vec<u32>,
    masks4: Vec<u64>,
    firsts6: Vec<[u64; 2]>,
    masks6: Vec<u64>,
    checksum: u64,
}

impl Ranges {
    /// By [`Family`], of these.
    pub fn of([v4, v6]: &[Vec<Interval>; Family::COUNT]) -> Self {
        let (firsts4, masks4) = merge(v4, u32::MAX.into(), |first| first as u32);
        let (firsts6, masks6) = merge(v6, u128::MAX, |first| [(first >> 64) as u64, first as u64]);
        let mut ranges = Self { firsts4, masks4, firsts6, masks6, checksum: 0 };
        ranges.checksum = ranges.borrow().checksum();
        ranges
    }

    pub fn borrow(&self) -> prefix_sets::Ranges<'_> {
        let Self { firsts4, masks4, firsts6, masks6, .. } = self;
        prefix_sets::Ranges { firsts4, masks4, firsts6, masks6 }
    }

    pub fn checksum(&self) -> u64 {
        self.checksum
    }
}

/// The first address of each range, as `convert` has it, and the sets that hold the range. `end` is
/// the last address that there is.
fn merge<A>(held: &[Interval], end: u128, convert: impl Fn(u128) -> A) -> (Vec<A>, Vec<u64>) {
    let mut held = held.to_vec();
    held.sort_unstable();
    // Where each set begins and ends to hold addresses: of a set, what touches is one.
    let mut turns: Vec<(u128, u8)> = Vec::new();
    let mut open: Option<Interval> = None;
    let close = |turns: &mut Vec<(u128, u8)>, of: Interval| {
        turns.push((of.first, of.set));
        if of.last < end {
            turns.push((of.last + 1, of.set));
        }
    };
    for next in held {
        match &mut open {
            Some(of) if of.set == next.set && next.first <= of.last.saturating_add(1) => {
                of.last = of.last.max(next.last);
            }
            _ => {
                if let Some(done) = open.replace(next) {
                    close(&mut turns, done);
                }
            }
        }
    }
    if let Some(done) = open {
        close(&mut turns, done);
    }
    turns.sort_unstable();
    let (mut firsts, mut masks, mut sets) = (Vec::new(), Vec::new(), 0u64);
    for turns in turns.chunk_by(|(one, _), (other, _)| one == other) {
        let before = sets;
        turns.iter().for_each(|(_, set)| sets ^= 1 << (set & 63));
        // One set may end where another begins, but none where it begins itself.
        if sets != before {
            firsts.push(convert(turns[0].0));
            masks.push(sets);
        }
    }
    (firsts, masks)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    /// The sets that hold an address: by its range.
    fn by_range(ranges: &Ranges, address: IpAddr) -> u64 {
        let (behind, masks) = match address {
            IpAddr::V4(address) => {
                let address = u32::from(address);
                (ranges.firsts4.partition_point(|first| *first <= address), &ranges.masks4)
            }
            IpAddr::V6(address) => {
                let address = u128::from(address);
                let address = [(address >> 64) as u64, address as u64];
                (ranges.firsts6.partition_point(|first| *first <= address), &ranges.masks6)
            }
        };
        behind.checked_sub(1).map_or(0, |at| masks[at])
    }

    /// The same, by each prefix.
    fn by_prefix(prefixes: &[(IpNet, u8)], address: IpAddr) -> u64 {
        let holding = prefixes.iter().filter(|(net, _)| net.contains(&address));
        holding.fold(0, |sets, (_, set)| sets | 1 << set)
    }

    fn of(prefixes: &[(IpNet, u8)]) -> Ranges {
        let mut held: [Vec<Interval>; Family::COUNT] = Default::default();
        for (net, set) in prefixes {
            held[Family::of(net.addr()).index()].push(Interval::of(net, *set));
        }
        Ranges::of(&held)
    }

    /// Addresses at and around both ends of prefixes.
    fn near(prefixes: &[(IpNet, u8)]) -> Vec<IpAddr> {
        let around = |net: &IpNet| match net {
            IpNet::V4(net) => [net.network(), net.broadcast()]
                .map(u32::from)
                .into_iter()
                .flat_map(|end| [end.wrapping_sub(1), end, end.wrapping_add(1)])
                .map(|address| Ipv4Addr::from(address).into())
                .collect::<Vec<IpAddr>>(),
            IpNet::V6(net) => [net.network(), net.broadcast()]
                .map(u128::from)
                .into_iter()
                .flat_map(|end| [end.wrapping_sub(1), end, end.wrapping_add(1)])
                .map(|address| Ipv6Addr::from(address).into())
                .collect(),
        };
        prefixes.iter().flat_map(|(net, _)| around(net)).collect()
    }

    /// A prefix of some set: near others, or anywhere, and of any length.
    fn prefix() -> impl Strategy<Value = (IpNet, u8)> {
        let v4 = (any::<u32>(), 0..=32u8, any::<bool>()).prop_map(|(bits, length, near)| {
            let bits = if near { 0x0a00_0000 | bits & 0xff } else { bits };
            IpNet::new(Ipv4Addr::from(bits).into(), length).unwrap().trunc()
        });
        let v6 = (any::<u128>(), 0..=128u8, any::<bool>()).prop_map(|(bits, length, near)| {
            let bits = if near { 0x2001 << 112 | bits & 0xff } else { bits };
            IpNet::new(Ipv6Addr::from(bits).into(), length).unwrap().trunc()
        });
        (prop_oneof![v4, v6], prop_oneof![0..4u8, 0..64u8])
    }

    proptest! {
        #[test]
        fn ranges_say_of_each_address_what_its_prefixes_say(
            prefixes in prop::collection::vec(prefix(), 0..40),
            others in prop::collection::vec(any::<u128>(), 8),
        ) {
            let ranges = of(&prefixes);
            prop_assert!(ranges.firsts4.is_sorted_by(|a, b| a < b));
            prop_assert!(ranges.firsts6.is_sorted_by(|a, b| a < b));
            let [v4, v6] = [ranges.firsts4.len(), ranges.firsts6.len()];
            prop_assert!(v4.max(v6) <= 2 * prefixes.len(), "no more than there is room for");
            let far = others.iter().flat_map(|bits| {
                [IpAddr::V4((*bits as u32).into()), IpAddr::V6((*bits).into())]
            });
            for address in near(&prefixes).into_iter().chain(far) {
                let (found, wanted) = (by_range(&ranges, address), by_prefix(&prefixes, address));
                prop_assert_eq!(found, wanted, "{}", address);
            }
        }
    }

    #[test]
    fn a_set_of_all_addresses_is_one_range_and_neighbours_are_one() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let all = of(&[(net("0.0.0.0/0"), 0), (net("::/0"), 63)]);
        assert_eq!((&all.firsts4[..], &all.masks4[..]), (&[0][..], &[1][..]));
        assert_eq!((&all.firsts6[..], &all.masks6[..]), (&[[0, 0]][..], &[1 << 63][..]));
        let halves = of(&[(net("10.0.0.0/9"), 1), (net("10.128.0.0/9"), 1)]);
        assert_eq!(halves.firsts4, [0x0a00_0000, 0x0b00_0000]);
        let last = of(&[(net("255.255.255.255/32"), 2)]);
        assert_eq!((&last.firsts4[..], &last.masks4[..]), (&[u32::MAX][..], &[4][..]));
        assert_eq!(of(&[]).checksum(), 0);
    }
}
