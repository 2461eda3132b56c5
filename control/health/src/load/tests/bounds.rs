//! Properties that hold whatever is read.

use proptest::prelude::*;
use weir_site::load::{GREATEST, LEAST};

use super::*;
use crate::load::place::{Known, Placer};

const SITE: &str = "[[lan]]\ninterface = \"lan0\"\n\
    [[uplink]]\nname = \"a\"\ninterface = \"wan0\"\nspill = { above = 80, below = 60 }\n\
    [[uplink]]\nname = \"b\"\ninterface = \"wan1\"\ncapacity = { down = \"10M\", up = \"1M\" }\n";

fn counts() -> impl Strategy<Value = Counts> {
    let bytes = prop_oneof![0..1_000_000_000u64, any::<u64>()];
    (bytes, any::<u64>()).prop_map(|(bytes, packets)| Counts { bytes, packets })
}

fn reading() -> impl Strategy<Value = Reading> {
    let rtt = prop::option::of((0.0..5000.0, 0.0..500.0));
    let rtt = rtt.prop_map(|rtt| rtt.map(|(ms, jitter_ms)| Rtt { ms, jitter_ms }));
    ([counts(), counts()], rtt).prop_map(|(counts, rtt)| Reading { counts, rtt })
}

fn known() -> impl Strategy<Value = Vec<Known>> {
    let one = (any::<bool>(), prop::option::of(0.0..1e10), prop::option::of(0.0..1000.0));
    let one = one.prop_map(|(saturated, room, rtt_ms)| Known { saturated, room, rtt_ms });
    prop::collection::vec(one, 6)
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    let one = (1..4u8, 0..5u16);
    prop::collection::vec(one, 6).prop_map(|given| {
        (0..).zip(given).map(|(uplink, (tier, weight))| member(uplink, tier, weight)).collect()
    })
}

fn balance() -> impl Strategy<Value = Balance> {
    prop_oneof![Just(Balance::Hash), Just(Balance::LeastLoaded), Just(Balance::LowestLatency)]
}

proptest! {
    #[test]
    fn figures_are_numbers_and_states_last(
        readings in prop::collection::vec(([reading(), reading()], 0..3000u64), 1..200),
    ) {
        let mut load = Load::new(&weir_site::parse("weir.toml", SITE).unwrap());
        let mut now = 0;
        let mut changed = [None; 2];
        for (reading, passed) in readings {
            now += passed;
            for change in load.step(&reading, now) {
                let last = changed[usize::from(change.uplink)].replace(now);
                prop_assert!(
                    last.is_none_or(|last| now - last >= spill::LEAST_MS)
                        || change.tighter.is_none()
                );
            }
            for uplink in [0, 1] {
                let view = load.view(uplink).unwrap();
                for direction in [view.down, view.up] {
                    let capacity = direction.capacity.map_or(LEAST, |bits| bits as f64);
                    prop_assert!((LEAST - 1.0..=GREATEST).contains(&capacity));
                    prop_assert!(direction.load as f64 <= GREATEST);
                    prop_assert!(direction.load_weighted as f64 <= GREATEST);
                }
            }
        }
    }

    #[test]
    fn load_takes_nobody_the_last_place(
        members in members(),
        balance in balance(),
        spillover in any::<bool>(),
        steps in prop::collection::vec((known(), 0..64u64, 0..2000u64), 1..20),
    ) {
        let mut placer = Placer::new(balance, spillover);
        let mut now = 0;
        for (known, takers, passed) in steps {
            now += passed;
            let placed = placer.place(&members, takers, &|u| known[usize::from(u)], now);
            prop_assert_eq!(placed.takers & !takers, 0, "health has the first word");
            let weighty = |m: &&Member| m.weight > 0;
            let could = members.iter().filter(weighty).any(|m| takers >> m.uplink & 1 == 1);
            let can = members.iter().filter(weighty).any(|m| placed.takers >> m.uplink & 1 == 1);
            prop_assert_eq!(could, can);
            prop_assert_eq!(placed.weights.len(), members.len());
            for (member, weight) in members.iter().zip(&placed.weights) {
                prop_assert_eq!(member.weight == 0, *weight == 0);
                prop_assert!(*weight <= Member::MAX_WEIGHT);
            }
            if let Some(heavy) = placed.heavy {
                prop_assert!(placed.takers >> heavy & 1 == 1);
            }
        }
    }

    #[test]
    fn the_same_readings_give_the_same_placement(known in known(), members in members()) {
        let place = || {
            let mut placer = Placer::new(Balance::LeastLoaded, true);
            placer.place(&members, 0b111111, &|u| known[usize::from(u)], 0)
        };
        prop_assert_eq!(place(), place());
    }
}
