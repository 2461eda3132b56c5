//! Sequences of events, and what a path makes of them.

use super::*;
use Step::{At, Probes, Until};

/// One line of a sequence.
pub enum Step {
    /// A signal at a time.
    At(u64, Signal),
    /// All targets, from a time on, so often at the interval: answered after 20 ms, or not at all.
    Probes { from: u64, count: u32, answered: bool },
    /// Time passes.
    Until(u64),
}
/// The transitions of a sequence, the path ticked whenever it asks for it.
pub fn run(path: &mut Path, steps: Vec<Step>) -> Vec<(u64, &'static str, Reason)> {
    let mut signals: Vec<(u64, Option<Signal>)> = Vec::new();
    let mut seq = 0;
    for step in steps {
        match step {
            At(at, signal) => signals.push((at, Some(signal))),
            Until(at) => signals.push((at, None)),
            Probes { from, count, answered } => {
                for probe in 0..u64::from(count) {
                    for target in 0..path.targets().len() {
                        let at = from + probe * u64::from(path.health().interval_ms);
                        signals.push((at, Some(Signal::Sent { target, seq })));
                        if answered {
                            let reply = Signal::Reply { target, seq, rtt_us: 20_000 };
                            signals.push((at + 20, Some(reply)));
                        }
                        seq += 1;
                    }
                }
            }
        }
    }
    signals.sort_by_key(|(at, _)| *at);
    let mut seen = Vec::new();
    let mut note = |transition: Option<Transition>| {
        if let Some(Transition { from, to, reason, at }) = transition {
            assert_ne!(std::mem::discriminant(&from), std::mem::discriminant(&to));
            seen.push((at, to.name(), reason));
        }
    };
    for (at, signal) in signals {
        while let Some(deadline) = path.deadline().filter(|d| *d < at) {
            note(path.tick(deadline));
            assert!(path.deadline().is_none_or(|d| d > deadline), "time stands still");
        }
        note(match signal {
            Some(signal) => path.signal(signal, at),
            None => path.tick(at),
        });
    }
    seen
}

/// `count` probes a second of one target from `from` on: every `lose`th is lost.
pub fn lossy(from: u64, count: u32, lose: u32, rtt_us: impl Fn(u32) -> u32) -> Vec<Step> {
    let mut steps = Vec::new();
    for probe in 0..count {
        let (at, seq) = (from + u64::from(probe) * 1000, from as u32 + probe);
        steps.push(At(at, Signal::Sent { target: 0, seq }));
        if probe % lose != lose - 1 {
            let rtt_us = rtt_us(probe);
            let reply = Signal::Reply { target: 0, seq, rtt_us };
            steps.push(At(at + u64::from(rtt_us / 1000), reply));
        }
    }
    steps
}
