//! What holds for every sequence of events.

use proptest::prelude::*;

use super::*;

fn signal(targets: usize) -> impl Strategy<Value = Signal> {
    let target = 0..targets;
    let seq = 0..40u32;
    prop_oneof![
        2 => any::<bool>().prop_map(Signal::Carrier),
        1 => any::<bool>().prop_map(Signal::Address),
        1 => any::<bool>().prop_map(Signal::NextHop),
        1 => prop::sample::select([Wish::Use, Wish::Drain, Wish::Drained, Wish::Down].as_slice())
            .prop_map(Signal::Wish),
        20 => (target.clone(), seq.clone()).prop_map(|(target, seq)| Signal::Sent { target, seq }),
        20 => (target.clone(), seq.clone(), 0..2_000_000u32)
            .prop_map(|(target, seq, rtt_us)| Signal::Reply { target, seq, rtt_us }),
        2 => (target, seq)
            .prop_map(|(target, seq)| Signal::Failed { target, seq, why: ProbeError::Refused }),
        2 => (0..100u32, 0..100u32).prop_map(|(flows, bad)| {
            let mut tcp = passive::NewFlows { flows, ..Default::default() };
            tcp.unanswered = bad.min(flows);
            (0..u64::from(flows)).for_each(|host| tcp.remotes.add(host));
            (0..u64::from(tcp.unanswered)).for_each(|host| tcp.silent.add(host));
            (tcp.users, tcp.askers) = (tcp.remotes, tcp.silent);
            Signal::Passive(Box::new(PassiveCounts { tcp, ..Default::default() }))
        }),
    ]
}

fn settings() -> impl Strategy<Value = Health> {
    (1..4usize, 1..4u32, 1..4u32, 0..20_000u32).prop_map(|(targets, down, up, hold_down_ms)| {
        Health { down, up, hold_down_ms, quorum: 1, ..health(targets) }
    })
}

proptest! {
    #[test]
    fn laws_of_all_transitions(
        health in settings(),
        events in prop::collection::vec((0..3000u64, signal(3)), 1..400),
    ) {
        let mut path = Path::new(health.clone(), 0);
        let (mut now, mut state) = (0, State::Down);
        let mut left: Option<u64> = None;
        for (wait, signal) in events {
            let at = now + wait;
            let mut steps = Vec::new();
            while let Some(deadline) = path.deadline().filter(|d| *d < at) {
                prop_assert!(deadline >= now, "a deadline in the past");
                now = deadline;
                steps.extend(path.tick(now));
                prop_assert!(path.deadline().is_none_or(|d| d > now), "time stands still");
            }
            now = at;
            steps.extend(path.signal(signal, now));
            for step in steps {
                prop_assert_eq!(step.from, state);
                prop_assert_ne!(std::mem::discriminant(&step.from), std::mem::discriminant(&step.to));
                prop_assert_ne!(step.reason, Reason::Starting);
                // The operator alone is quicker than the hold-down.
                let by_hand = matches!(step.reason, Reason::Admin | Reason::Drained);
                if step.from.usable() && !step.to.usable() && !by_hand {
                    left = Some(step.at);
                }
                if !step.from.usable() && step.to.usable() && let Some(left) = left {
                    let held = step.at - left;
                    let quick = matches!(step.reason, Reason::Released | Reason::Draining);
                    prop_assert!(quick || held >= u64::from(health.hold_down_ms), "{step:?}");
                }
                if let State::Recovering { until } = step.to {
                    prop_assert!(until >= step.at);
                }
                state = step.to;
            }
            prop_assert_eq!(path.state(), state);
            let (pending, parts) = path.size();
            prop_assert!(pending <= 20 && parts <= 9, "{} probes, {} counts", pending, parts);
        }
    }

    /// Answers of one moment, failures of one moment, link signals of one moment. (An answer and a
    /// failure are different: a quorum that is lost and found is lost, if only for that moment. So is
    /// a limit of loss, which is left out here, that is passed between two of them. The steps of one
    /// moment are taken as one.)
    #[test]
    fn the_order_of_one_moment_does_not_matter(
        answers in prop::collection::vec((any::<bool>(), any::<[bool; 3]>()), 1..40),
        cut in prop::option::of(0..40usize),
        swap in any::<u64>(),
    ) {
        let play = |shuffled: bool| {
            let loss_percent = None;
            let health = Health { down: 2, up: 2, quorum: 2, loss_percent, ..health(3) };
            let mut path = Path::adopt(health, 0);
            let mut random = crate::pace::Random::new(swap);
            let mut seen = Vec::new();
            for (round, answers) in answers.iter().enumerate() {
                let (seq, at) = (round as u32, round as u64 * 1000);
                let mut moments = [Vec::new(), Vec::new()];
                for (target, answered) in answers.1.into_iter().enumerate() {
                    moments[0].push(Signal::Sent { target, seq });
                    if answered && answers.0 {
                        moments[1].push(Signal::Reply { target, seq, rtt_us: 50_000 });
                    } else if answered {
                        let why = ProbeError::Refused;
                        moments[1].push(Signal::Failed { target, seq, why });
                    }
                }
                if cut == Some(round) {
                    moments[1] = vec![Signal::Carrier(false), Signal::Address(false)];
                }
                for (mut signals, at) in moments.into_iter().zip([at, at + 50]) {
                    if shuffled {
                        for last in (1..signals.len()).rev() {
                            signals.swap(last, random.below(last as u64 + 1) as usize);
                        }
                    }
                    for signal in signals {
                        if let Some(step) = path.signal(signal, at) {
                            match seen.last_mut() {
                                Some((_, to, last)) if *last == at => *to = step.to,
                                _ => seen.push((step.from, step.to, at)),
                            }
                        }
                    }
                }
            }
            (seen, path.state(), path.reason(), path.deadline())
        };
        prop_assert_eq!(play(false), play(true));
    }

    #[test]
    fn the_window_is_the_mean_of_its_newest(
        rtts in prop::collection::vec(prop::option::of(0..3_000_000u32), 1..200),
        size in 1..50u32,
    ) {
        let mut window = window::Window::new(size);
        rtts.iter().for_each(|rtt| window.push(*rtt));
        let newest = &rtts[rtts.len().saturating_sub(size as usize)..];
        let answered: Vec<f64> = newest.iter().flatten().map(|r| f64::from(*r) / 1000.0).collect();
        let lost = newest.len() - answered.len();
        let figures = window.figures();
        prop_assert_eq!(figures.probes as usize, newest.len());
        let loss = 100.0 * lost as f64 / newest.len() as f64;
        prop_assert!((figures.loss_percent.window - loss).abs() < 1e-6);
        let mean = answered.iter().sum::<f64>() / answered.len().max(1) as f64;
        prop_assert!((figures.rtt_ms.window - mean).abs() < 1e-6);
    }

    #[test]
    fn a_window_that_forgets_a_silence_is_as_before_it(
        before in prop::collection::vec(prop::option::of(0..3_000_000u32), 0..40),
        silence in 0..60usize,
    ) {
        let mut window = window::Window::new(50);
        before.iter().for_each(|rtt| window.push(*rtt));
        window.push(Some(1000));
        let figures = window.figures();
        (0..silence).for_each(|_| window.push(None));
        window.forget_silence();
        let kept = (before.len() + 1).min(50usize.saturating_sub(silence));
        let all_kept = kept == before.len() + 1;
        prop_assert_eq!(window.figures().probes as usize, kept);
        prop_assert!(!all_kept || window.figures() == figures);
        prop_assert!(kept > 0 || window.figures() == window::Figures::default());
    }

    #[test]
    fn remotes_are_counted_within_a_quarter(count in 0..300u64, seed in any::<u64>()) {
        let mut random = crate::pace::Random::new(seed);
        let mut remotes = Remotes::default();
        (0..count).for_each(|_| remotes.add(random.draw()));
        let error = f64::from(remotes.count()) - count as f64;
        prop_assert!(error.abs() <= 4.0 + count as f64 / 4.0, "{} of {}", remotes.count(), count);
    }
}
