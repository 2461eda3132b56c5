//! Weights by room, members by latency, and the place for heavy flows; each with hysteresis.

/// Weight of the member with most room.
const GREATEST_WEIGHT: f64 = 10_000.0;
/// No member that takes flows gets less than this part of the greatest weight: it must be seen
/// whether it has room again.
const LEAST_PART: f64 = 0.01;
/// Shares that differ by less stay as they are.
const DEAD_BAND: f64 = 0.05;
/// Members within this of the lowest round-trip time are as near, milliseconds …
const NEAR_MS: f64 = 10.0;
/// … or within this part of it; who is near stays so up to twice as far.
const NEAR_PART: f64 = 0.25;
/// Another place for heavy flows must have so many times the room.
const MORE_ROOM: f64 = 1.25;

/// Weights in proportion to the room; none where the shares would be about the same as by `old`,
/// which may be empty.
pub fn by_room(rooms: &[f64], old: &[u16]) -> Option<Vec<u16>> {
    let most = rooms.iter().copied().fold(0.0, f64::max);
    let weight = |room: &f64| {
        // All full: all alike.
        let part = if most > 0.0 { room / most } else { 1.0 };
        (part.max(LEAST_PART) * GREATEST_WEIGHT).round() as u16
    };
    let new: Vec<u16> = rooms.iter().map(weight).collect();
    let differ = || shares(&new).zip(shares(old)).any(|(new, old)| (new - old).abs() >= DEAD_BAND);
    (old.len() != new.len() || differ()).then_some(new)
}

fn shares(weights: &[u16]) -> impl Iterator<Item = f64> {
    let total: u32 = weights.iter().map(|w| u32::from(*w)).sum();
    weights.iter().map(move |w| f64::from(*w) / f64::from(total.max(1)))
}

/// Those near the lowest round-trip time, a bit for each uplink, given those that were. Members of
/// unknown round-trip time are near only if all are unknown.
pub fn nearest(members: &[(u8, Option<f64>)], near: u64) -> u64 {
    let lowest = members.iter().filter_map(|(_, rtt)| *rtt).reduce(f64::min);
    let is_near = |uplink: u8, rtt: Option<f64>| match (lowest, rtt) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(lowest), Some(rtt)) => {
            let margin = NEAR_MS.max(NEAR_PART * lowest);
            rtt <= lowest + if near >> uplink & 1 == 1 { 2.0 * margin } else { margin }
        }
    };
    members
        .iter()
        .filter(|(uplink, rtt)| is_near(*uplink, *rtt))
        .fold(0, |set, (u, _)| set | 1 << u)
}

/// The member with most room, unless that of now has about as much; none when the room of one is
/// not known.
pub fn roomiest(members: &[(u8, Option<f64>)], now: Option<u8>) -> Option<u8> {
    let known = members.iter().map(|(uplink, room)| Some((*uplink, (*room)?)));
    let known: Vec<(u8, f64)> = known.collect::<Option<_>>()?;
    let best = known.iter().copied().reduce(|a, b| if b.1 > a.1 { b } else { a })?;
    let held = known.iter().find(|(uplink, _)| Some(*uplink) == now);
    match held {
        Some((uplink, room)) if best.1 < MORE_ROOM * room => Some(*uplink),
        _ => Some(best.0),
    }
}
