//! A path in simulated time: a schedule of probes, a link that loses and delays, and the engine.

use std::collections::BTreeMap;

use super::*;
use crate::pace::{Pace, Random};

/// What a link makes of a probe: its round-trip time in milliseconds, or lost.
pub type LinkModel<'a> = dyn FnMut(u64, &mut Random) -> Option<u64> + 'a;

/// Runs a path that is Up for `length` milliseconds: its probes as the probers send them, other
/// signals at their times, and ticks when it asks for them. Gives its transitions.
pub fn run(
    health: &Health,
    seed: u64,
    length: u64,
    signals: Vec<(u64, Signal)>,
    link: &mut LinkModel<'_>,
) -> Vec<Transition> {
    let mut random = Random::new(seed);
    let mut path = Path::adopt(health.clone(), 0);
    let targets = health.targets.len();
    let mut paces: Vec<_> = (0..targets)
        .map(|index| Pace::new(u64::from(health.interval_ms), 0, index, targets, seed))
        .collect();
    // By time and then by the order of making: deterministic.
    let mut queue: BTreeMap<(u64, u64), Signal> = BTreeMap::new();
    let mut made = 0;
    let mut add = |queue: &mut BTreeMap<_, _>, at: u64, signal| {
        made += 1;
        queue.insert((at, made), signal);
    };
    for (at, signal) in signals {
        add(&mut queue, at, signal);
    }
    for (target, pace) in paces.iter_mut().enumerate() {
        add(&mut queue, pace.advance(), Signal::Sent { target, seq: 0 });
    }
    let mut transitions = Vec::new();
    loop {
        let event = queue.first_key_value().map(|((at, _), _)| *at);
        let deadline = path.deadline();
        let Some(now) = [event, deadline].into_iter().flatten().min().filter(|t| *t < length)
        else {
            return transitions;
        };
        if event != Some(now) {
            transitions.extend(path.tick(now));
            continue;
        }
        let Some((_, signal)) = queue.pop_first() else { return transitions };
        if let Signal::Sent { target, seq } = signal {
            add(&mut queue, paces[target].advance(), Signal::Sent { target, seq: seq + 1 });
            if let Some(rtt) = link(now, &mut random) {
                let rtt_us = rtt as u32 * 1000;
                add(&mut queue, now + rtt, Signal::Reply { target, seq, rtt_us });
            }
        }
        transitions.extend(path.signal(signal, now));
    }
}

/// A healthy noisy link: 2 % lost, 20 to 120 ms.
pub fn noisy(_: u64, random: &mut Random) -> Option<u64> {
    (random.below(100) >= 2).then(|| 20 + random.below(101))
}
