//! Prefix translation against vectors that another program made, and by its properties.

use std::net::Ipv6Addr;

use proptest::prelude::*;
use weir_layout::control::PathPrefix;
use weir_wire::checksum;
use weir_wire::npt::{self, Untranslatable};

/// `address inside outside`, and what leaves: an address, or why none does.
const VECTORS: &str = include_str!("npt/vectors.txt");

fn address(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

fn prefix(text: &str) -> ([u8; 16], u8) {
    let (prefix, len) = text.split_once('/').unwrap();
    (address(prefix), len.parse().unwrap())
}

fn pair(
    (inside, inside_len): ([u8; 16], u8),
    (outside, outside_len): ([u8; 16], u8),
) -> PathPrefix {
    let adjustment = npt::adjustment(inside, outside);
    PathPrefix { inside, outside, inside_len, outside_len, adjustment, ..PathPrefix::UNUSED }
}

fn expected(text: &str) -> Result<[u8; 16], Untranslatable> {
    match text {
        "prefix" => Err(Untranslatable::Prefix),
        "subnet" => Err(Untranslatable::Subnet),
        "identifier" => Err(Untranslatable::Identifier),
        translated => Ok(address(translated)),
    }
}

#[test]
fn addresses_leave_as_another_program_says() {
    let mut lines = 0;
    for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<_> = line.split(' ').collect();
        let [from, inside, outside, to] = words[..] else { panic!("{line}") };
        let found = npt::outward(&pair(prefix(inside), prefix(outside)), address(from));
        assert_eq!(found, expected(to), "{line}");
        lines += 1;
    }
    assert_eq!(lines, 1000);
}

#[test]
fn an_address_that_left_comes_back() {
    for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<_> = line.split(' ').collect();
        if let Ok(to) = expected(words[3]) {
            let pair = pair(prefix(words[1]), prefix(words[2]));
            assert_eq!(npt::inward(&pair, to), Ok(address(words[0])), "{line}");
        }
    }
}

#[test]
fn the_outside_subnet_of_all_ones_is_nobodys_and_comes_in_as_that_of_zeros() {
    // RFC 6296 §3.2 refuses subnet 0xffff of those that leave alone. Nothing that leaves has it.
    let pair = pair(prefix("fd01:203:405::/48"), prefix("2001:db8:1::/48"));
    let [ones, zeros] = ["2001:db8:1:ffff::1", "2001:db8:1::1"].map(address);
    assert_eq!(npt::inward(&pair, ones), npt::inward(&pair, zeros));
}

#[test]
fn an_identifier_of_zeros_or_ones_comes_in_no_more_than_it_leaves() {
    let pair = pair(prefix("fd00:1:2:3::/64"), prefix("2001:db8:1:2::/64"));
    for outside in ["2001:db8:1:2::", "2001:db8:1:2:ffff:ffff:ffff:ffff"] {
        assert_eq!(npt::inward(&pair, address(outside)), Err(Untranslatable::Identifier));
    }
}

/// A prefix of at most 64 bits whose first byte is this.
fn prefixes(first: u8) -> impl Strategy<Value = ([u8; 16], u8)> {
    (any::<u128>(), 8u8..=64).prop_map(move |(bits, len)| {
        let mut prefix = bits.to_be_bytes();
        prefix[0] = first;
        let host = u128::MAX >> len;
        ((u128::from_be_bytes(prefix) & !host).to_be_bytes(), len)
    })
}

proptest! {
    #[test]
    fn each_address_of_both_prefixes_keeps_its_sum_and_comes_back(
        inside in prefixes(0xfd),
        outside in prefixes(0x20),
        host in any::<u128>(),
    ) {
        let len = inside.1.max(outside.1);
        let bits = u128::from_be_bytes(inside.0) | host & (u128::MAX >> len);
        let from = bits.to_be_bytes();
        let pair = pair(inside, outside);
        let to = match npt::outward(&pair, from) {
            Ok(to) => to,
            Err(why) => {
                let subnet = len <= 48 && from[6..8] == [0xff; 2];
                let identifier = len > 48 && matches!(bits as u64, 0 | u64::MAX);
                prop_assert_eq!(why == Untranslatable::Subnet, subnet);
                prop_assert_eq!(why == Untranslatable::Identifier, identifier);
                return Ok(());
            }
        };
        prop_assert!(pair.is_outside(to));
        prop_assert_eq!(npt::inward(&pair, to), Ok(from));
        prop_assert_eq!(checksum::sum(&to) % 0xffff, checksum::sum(&from) % 0xffff);
    }

    #[test]
    fn an_address_of_another_prefix_is_not_translated(
        inside in prefixes(0xfd),
        outside in prefixes(0x20),
        mut other in any::<[u8; 16]>(),
    ) {
        other[0] = 0x30;
        prop_assert_eq!(npt::outward(&pair(inside, outside), other), Err(Untranslatable::Prefix));
        prop_assert_eq!(npt::inward(&pair(inside, outside), other), Err(Untranslatable::Prefix));
    }
}
