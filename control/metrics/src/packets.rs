//! What became of packets and flows.

use std::fmt;

use weir_layout::Family;
use weir_layout::counters::Counter;
use weir_shm::nat_log::NatLog;
use weir_shm::published::Published;

use crate::metric::*;
use crate::page::{NONE, Page};

const EVENTS: [(&str, Counter); 5] = [
    ("created", Counter::FlowsCreated),
    ("expired", Counter::FlowsExpired),
    ("moved", Counter::FlowsMoved),
    ("reset", Counter::FlowsReset),
    ("adopted", Counter::FlowsAdopted),
];

pub fn add(state: &Published, page: &mut Page<'_>) -> fmt::Result {
    let half = &state.snapshot.half;
    let of = |counter| state.counters.sum(counter);
    let tiers = |kernel, user| [(["kernel"], of(kernel)), (["user"], of(user))];
    page.count(&RECEIVED, tiers(Counter::XdpRx, Counter::UserRx))?;
    page.count(&FORWARDED, tiers(Counter::XdpForwarded, Counter::UserTx))?;
    page.count(&TO_USER, [(NONE, of(Counter::XdpToUser))])?;
    let all = || Counter::ALL.iter().copied();
    let passed = all().filter(|counter| counter.is_pass());
    page.count(&PASSED, passed.map(|counter| ([reason(counter)], of(counter))))?;
    let tier = |counter: Counter| if counter.is_xdp_drop() { "kernel" } else { "user" };
    let drops = all().filter(|counter| counter.is_drop());
    page.count(&DROPPED, drops.map(|counter| ([tier(counter), reason(counter)], of(counter))))?;
    page.count(&HANDED_OVER, [(NONE, of(Counter::UserHandoffOut))])?;
    page.count(&ORIGINATED, [(NONE, of(Counter::UserOriginated))])?;
    page.count(&FLOW_EVENTS, EVENTS.map(|(event, counter)| ([event], of(counter))))?;
    let uplinks = state.uplinks().len() as u8;
    let flows = Family::ALL.map(|family| {
        let flows = state.counters.flows(family, uplinks, half.workers).cast_signed().max(0);
        ([family.name()], flows as f64)
    });
    page.gauge(&TABLE_FLOWS, flows)
}

/// The last part of a counter's name: what comes after `drop` or `pass`.
fn reason(counter: Counter) -> &'static str {
    let label = counter.label();
    label.rsplit_once('.').map_or(label, |(_, reason)| reason)
}

pub fn add_nat_log(log: Option<&NatLog>, page: &mut Page<'_>) -> fmt::Result {
    page.flag(&NAT_LOG_UP, log.iter().map(|log| (NONE, log.error() == 0)))?;
    page.count(&NAT_LOG_LOST, log.iter().map(|log| (NONE, log.lost())))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_counter_is_in_one_metric() {
        let named: Vec<Counter> = EVENTS.iter().map(|(_, counter)| *counter).collect();
        let single = [
            Counter::XdpRx,
            Counter::UserRx,
            Counter::XdpForwarded,
            Counter::UserTx,
            Counter::XdpToUser,
            Counter::UserHandoffOut,
            // What one worker hands over, another gets.
            Counter::UserHandoffIn,
            Counter::UserOriginated,
        ];
        for counter in Counter::ALL {
            let times = [
                counter.is_drop(),
                counter.is_pass(),
                single.contains(counter),
                named.contains(counter),
            ];
            assert_eq!(times.iter().filter(|is| **is).count(), 1, "{}", counter.label());
        }
    }

    #[test]
    fn reasons_tell_drops_of_a_tier_apart() {
        let drops = Counter::ALL.iter().filter(|counter| counter.is_drop());
        let all: Vec<_> = drops.map(|counter| (counter.is_xdp_drop(), reason(*counter))).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "{all:?}");
        assert_eq!(reason(Counter::XdpDropNoFlow), "no_flow");
    }
}
