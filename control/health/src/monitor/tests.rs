//! What all uplinks together come to.

use super::*;
use crate::signal::State;

const SITE: &str = "[[lan]]\ninterface = \"lan0\"\n\
    [[uplink]]\nname = \"fiber\"\ninterface = \"wan0\"\n\
    [[uplink]]\nname = \"lte\"\ninterface = \"wan1\"\n\
    [[policy]]\nname = \"all\"\n\
    [[policy]]\nname = \"fiber-only\"\nmembers = [{ uplink = \"fiber\" }]\n";

fn site() -> Site {
    weir_site::parse("weir.toml", SITE).unwrap()
}

fn told(problems: [u32; 2]) -> Verdict {
    let mut monitor = Monitor::new(Family::V4, &site(), &[], 0);
    monitor.observe(&problems, 0);
    monitor.verdict(&site(), |_| u64::MAX, &[])
}

#[test]
fn uplinks_without_a_problem_are_in_use() {
    let wanted = Verdict { states: vec![path_state::USABLE; 2], takers: vec![0b11, 0b01] };
    assert_eq!(told([0, 0]), wanted);
}

#[test]
fn a_next_hop_that_is_not_known_yet_at_the_start_is_no_flap() {
    let mut monitor = Monitor::new(Family::V4, &site(), &[], 0);
    monitor.observe(&[path_state::NO_NEXT_HOP, 0], 0);
    monitor.observe(&[0, 0], 20);
    assert_eq!(monitor.verdict(&site(), |_| u64::MAX, &[]).states, [path_state::USABLE; 2]);
    let transitions = monitor.take_transitions();
    let held = transitions.iter().any(|(_, t)| matches!(t.to, State::Recovering { .. }));
    assert!(!held);
}

/// Whatever goes with the carrier: address and next hop.
#[test]
fn a_cut_is_one_flap_for_want_of_carrier() {
    let mut monitor = Monitor::new(Family::V4, &site(), &[], 0);
    monitor.observe(&[0, 0], 0);
    let gone = path_state::NO_CARRIER | path_state::NO_ADDRESS | path_state::NO_NEXT_HOP;
    monitor.observe(&[gone, 0], 10);
    monitor.observe(&[path_state::NO_NEXT_HOP, 0], 20);
    monitor.observe(&[0, 0], 30);
    let transitions = monitor.take_transitions();
    let held = transitions.last().map(|(_, transition)| transition.reason);
    assert_eq!(held, Some(Reason::Carrier), "{transitions:?}");
    let hold_ms = site().uplinks[0].health.hold_down_ms;
    let held_ms = monitor.path(0).map(Path::hold_ms);
    assert_eq!(held_ms, Some(u64::from(hold_ms)), "not doubled");
}

#[test]
fn what_a_path_loses_by_a_change_that_somebody_here_makes_is_no_flap() {
    let hold_ms = |by_hand: bool| {
        let mut monitor = Monitor::new(Family::V4, &site(), &[], 0);
        monitor.observe(&[0, 0], 0);
        for now in [10, 20, 30] {
            if by_hand {
                monitor.expect_change();
            }
            monitor.observe(&[path_state::NO_ADDRESS, 0], now);
            monitor.observe(&[0, 0], now + 5);
        }
        monitor.path(0).map(Path::hold_ms)
    };
    let first = u64::from(site().uplinks[0].health.hold_down_ms);
    assert_eq!([true, false].map(hold_ms), [Some(first), Some(4 * first)]);
}

#[test]
fn the_only_member_of_a_policy_is_its_last_resort_and_no_others() {
    let verdict = told([path_state::NO_NEXT_HOP, 0]);
    // Down for the policy that has another, whose flows leave.
    let state = path_state::NO_NEXT_HOP | path_state::SPARED | path_state::LAST_RESORT;
    assert_eq!(verdict.states, [state, path_state::USABLE]);
    assert_eq!(verdict.takers, [0b10, 0b01]);
}

#[test]
fn a_last_resort_that_no_policy_would_leave_is_in_use() {
    let down = path_state::NO_NEXT_HOP;
    let verdict = told([down, down]);
    let state = down | path_state::USABLE | path_state::LAST_RESORT;
    assert_eq!(verdict.states, [state; 2]);
}

#[test]
fn a_draining_uplink_takes_new_flows_only_when_no_other_member_can() {
    let usable = path_state::USABLE;
    let verdict = told([0, path_state::DRAINING]);
    assert_eq!(verdict.states, [usable, usable | path_state::DRAINING]);
    assert_eq!(verdict.takers, [0b01, 0b01]);
    // Alone in `fiber-only`.
    let verdict = told([path_state::DRAINING, 0]);
    assert_eq!(verdict.states, [usable | path_state::DRAINING, usable]);
    assert_eq!(verdict.takers, [0b10, 0b01]);
}

#[test]
fn a_drained_uplink_is_down_as_by_hand() {
    let verdict = told([0, path_state::DRAINING | path_state::ADMIN_DOWN]);
    assert_eq!(verdict.states, [path_state::USABLE, path_state::ADMIN_DOWN]);
}

#[test]
fn a_member_without_weight_spares_no_other() {
    let mut monitor = Monitor::new(Family::V4, &site(), &[], 0);
    monitor.observe(&[path_state::NO_NEXT_HOP, 0], 0);
    assert_eq!(monitor.verdict(&site(), |_| 0b01, &[]).takers, [0b01, 0b01]);
    assert_eq!(monitor.verdict(&site(), |_| u64::MAX, &[]).takers, [0b10, 0b01]);
}

#[test]
fn a_link_without_carrier_is_nobodys_resort() {
    let verdict = told([path_state::NO_CARRIER, path_state::ADMIN_DOWN]);
    assert_eq!(verdict.states, [path_state::NO_CARRIER, path_state::ADMIN_DOWN]);
    assert_eq!(verdict.takers, [0, 0]);
}

/// The site, with a target for each uplink that is asked every 100 ms.
fn asked() -> Site {
    let health = "health = { interval_ms = 100, targets = \
        [{ name = \"a\", probe = \"icmp\", address = \"192.0.2.1\" }] }";
    let text = SITE[..SITE.find("[[policy]]").unwrap()]
        .replace("interface = \"wan0\"", &format!("interface = \"wan0\"\n{health}"))
        .replace("interface = \"wan1\"", &format!("interface = \"wan1\"\n{health}"));
    weir_site::parse("weir.toml", &text).unwrap()
}

/// Probes both uplinks every 100 ms, half an interval apart; those for which `answers` says so
/// are answered at once. The state words every 10 ms.
fn probed(answers: impl Fn(usize, u64) -> bool) -> Vec<(u64, Vec<u32>)> {
    let site = asked();
    let mut monitor = Monitor::new(Family::V4, &site, &[], 0);
    let mut words = Vec::new();
    let states = (0..300u64).map(|step| {
        let now = step * 10;
        monitor.observe(&[0, 0], now);
        for uplink in 0..2 {
            if step % 10 == uplink as u64 * 5 {
                let (target, seq) = (0, step as u32);
                monitor.signal(uplink, Signal::Sent { target, seq }, now);
                if answers(uplink, now) {
                    monitor.signal(uplink, Signal::Reply { target, seq, rtt_us: 1 }, now);
                }
            }
        }
        monitor.tick(now);
        words = monitor.verdict(&site, |_| u64::MAX, &words).states;
        (now, words.clone())
    });
    states.collect()
}

#[test]
fn the_first_uplink_to_answer_leaves_the_others_their_flows_until_they_have_answered_too() {
    let states = probed(|uplink, now| uplink == 1 || now > 100);
    let alone = |states: &[u32]| states[1] == path_state::USABLE && states[0] != states[1];
    assert!(states.iter().any(|(_, states)| alone(states)), "they answer at the same moment");
    assert!(states.iter().all(|(_, states)| states[0] & path_state::USABLE != 0), "{states:?}");
    assert_eq!(states.last().unwrap().1, [path_state::USABLE; 2]);
}

#[test]
fn an_uplink_that_never_answers_keeps_its_flows_until_it_has_failed_to() {
    let states = probed(|uplink, _| uplink == 1);
    let usable = states.iter().take_while(|(_, states)| states[0] & path_state::USABLE != 0);
    let (waiting, out) = states.split_at(usable.count());
    assert!(
        waiting.iter().any(|(_, states)| states[1] == path_state::USABLE),
        "it waits no longer"
    );
    assert!(!out.is_empty());
    assert!(out.iter().all(|(_, states)| states[0] == path_state::UNHEALTHY), "{out:?}");
}

#[test]
fn an_uplink_that_comes_while_another_answers_takes_nothing_before_it_answers_itself() {
    let site = asked();
    let mut monitor = Monitor::new(Family::V4, &site, &[], 0);
    monitor.observe(&[path_state::NO_CARRIER, 0], 0);
    monitor.signal(1, Signal::Sent { target: 0, seq: 1 }, 0);
    monitor.signal(1, Signal::Reply { target: 0, seq: 1, rtt_us: 1 }, 0);
    let words = monitor.verdict(&site, |_| u64::MAX, &[]).states;
    assert_eq!(words[1], path_state::USABLE);
    monitor.observe(&[0, 0], 10);
    let states = monitor.verdict(&site, |_| u64::MAX, &words).states;
    assert_eq!(states, [path_state::UNHEALTHY, path_state::USABLE]);
}

#[test]
fn what_silences_all_uplinks_takes_none_out_of_use() {
    let states = probed(|_, now| now < 1000);
    let usable = |states: &[u32]| states.iter().all(|s| s & path_state::USABLE != 0);
    let bad = states.iter().find(|(now, states)| *now > 100 && !usable(states));
    assert_eq!(bad, None);
    let resort = path_state::UNHEALTHY | path_state::USABLE | path_state::LAST_RESORT;
    assert_eq!(states.last().unwrap().1, [resort; 2]);
    let one = states.iter().any(|(_, s)| s[0] & !s[1] & path_state::UNHEALTHY != 0);
    assert!(one, "they do not fall at the same moment");
}

#[test]
fn one_silent_uplink_is_out_of_use_at_once_beside_one_that_answers() {
    let states = probed(|uplink, now| uplink == 1 || now < 1000);
    let down = states.iter().find(|(_, states)| states[0] & path_state::UNHEALTHY != 0);
    assert_eq!(down.unwrap().1, [path_state::UNHEALTHY, path_state::USABLE]);
}

#[test]
fn a_silent_uplink_is_out_of_use_when_another_is_found_to_answer() {
    // The other misses what it is asked while the first goes down.
    let states = probed(|uplink, now| now < 1000 || uplink == 1 && !(1000..1200).contains(&now));
    let down = states.iter().find(|(_, states)| states[0] & path_state::UNHEALTHY != 0);
    assert_eq!(down.unwrap().1[0], path_state::UNHEALTHY | path_state::USABLE);
    assert_eq!(states.last().unwrap().1, [path_state::UNHEALTHY, path_state::USABLE]);
}

#[test]
fn an_uplink_in_use_stays_so_when_the_control_process_starts_again() {
    let earlier = [path_state::USABLE, path_state::ADMIN_DOWN];
    let mut monitor = Monitor::new(Family::V4, &site(), &earlier, 0);
    monitor.observe(&[0, path_state::ADMIN_DOWN], 0);
    assert_eq!(
        monitor.verdict(&site(), |_| u64::MAX, &[]).states,
        [path_state::USABLE, path_state::ADMIN_DOWN]
    );
    let transitions = monitor.take_transitions();
    assert!(transitions.iter().all(|(part, _)| part.uplink() != Some("fiber")));
}

/// The states at the end, when the kernel says for so long that all is well.
fn well_for(ms: u64, earlier: [u32; 2]) -> Vec<State> {
    let mut monitor = Monitor::new(Family::V4, &site(), &earlier, 0);
    monitor.observe(&[0, 0], 0);
    (0..=ms).for_each(|now| _ = monitor.tick(now));
    (0..2).filter_map(|uplink| monitor.path(uplink)).map(Path::state).collect()
}

#[test]
fn a_hold_down_is_served_when_the_control_process_starts_again() {
    let hold_ms = u64::from(site().uplinks[0].health.hold_down_ms);
    let earlier = [path_state::HELD_DOWN, path_state::NO_CARRIER];
    let held = well_for(hold_ms, earlier);
    assert!(held.iter().all(|state| matches!(state, State::Recovering { .. })), "{held:?}");
    assert_eq!(well_for(hold_ms + 1, earlier), [State::Up; 2]);
    let by_hand = [path_state::ADMIN_DOWN, path_state::USABLE];
    assert_eq!(well_for(0, by_hand), [State::Up; 2], "put back by the operator");
}

#[test]
fn a_degraded_uplink_stays_so_when_the_control_process_starts_again() {
    let hold_ms = u64::from(site().uplinks[0].health.hold_down_ms);
    let degraded = path_state::USABLE | path_state::DEGRADED;
    let earlier = [degraded, path_state::USABLE];
    assert_eq!(well_for(hold_ms, earlier), [State::Degraded, State::Up]);
    assert_eq!(well_for(hold_ms + 1, earlier), [State::Up; 2]);
}

#[test]
fn an_uplink_that_fills_is_told_of_with_load_and_capacity() {
    let mut monitor = Monitor::new(Family::V4, &site(), &[path_state::USABLE; 2], 0);
    let tighter = Some((weir_site::load::Direction::Up, 91, 20_000_000));
    monitor.note_load(&Change { uplink: 1, saturated: true, tighter }, 5);
    monitor.note_load(&Change { uplink: 1, saturated: false, tighter: None }, 6);
    let transitions = monitor.take_transitions();
    let told = transitions.iter().map(|(part, t)| (part.to_string(), t.to, t.reason.to_string()));
    let told: Vec<_> = told.collect();
    let full = "91 % of 20Mbit/s up: too full for new flows".to_owned();
    let unmeasured = "takes new flows again: no capacity or threshold to judge it by".to_owned();
    let lte = || "lte".to_owned();
    assert_eq!(told, [(lte(), State::Up, full), (lte(), State::Up, unmeasured)]);
}

#[test]
fn the_round_trip_time_is_the_median_of_the_targets_that_answer() {
    let target =
        |n: u8| format!("{{ name = \"t{n}\", probe = \"icmp\", address = \"192.0.2.{n}\" }}");
    let targets: Vec<_> = (1..=4).map(target).collect();
    let probed = format!("interface = \"wan0\"\nhealth = {{ targets = [{}] }}", targets.join(", "));
    let text = SITE.replace("interface = \"wan0\"", &probed);
    let site = weir_site::parse("weir.toml", &text).unwrap();
    let mut monitor = Monitor::new(Family::V4, &site, &[path_state::USABLE; 2], 0);
    assert_eq!(monitor.rtt(0), None);
    for (target, rtt_us) in [(0, 30_000), (1, 900_000), (2, 20_000)] {
        monitor.signal(0, Signal::Sent { target, seq: 1 }, 1000);
        monitor.signal(0, Signal::Reply { target, seq: 1, rtt_us }, 1000);
    }
    assert_eq!(monitor.rtt(0).map(|rtt| rtt.ms), Some(30.0));
    assert_eq!(monitor.rtt(1), None, "it has no targets");
}

/// The site with an IPv6 path for both uplinks, and the monitors of both families.
fn both_families() -> (Site, [Monitor; Family::COUNT]) {
    let mut site = site();
    site.uplinks.iter_mut().for_each(|uplink| uplink.ipv6 = Some(weir_site::Ipv6Config::default()));
    let monitors = Family::ALL.map(|family| Monitor::new(family, &site, &[], 0));
    (site, monitors)
}

#[test]
fn an_uplink_may_be_up_in_one_family_and_down_in_the_other() {
    let (site, [mut v4, mut v6]) = both_families();
    v4.observe(&[0, 0], 0);
    v6.observe(&[path_state::NO_CARRIER, 0], 0);
    let usable = path_state::USABLE;
    let verdict = v4.verdict(&site, |_| u64::MAX, &[]);
    assert_eq!((verdict.states, verdict.takers), (vec![usable; 2], vec![0b11, 0b01]));
    let verdict = v6.verdict(&site, |_| u64::MAX, &[]);
    let states = vec![path_state::NO_CARRIER, usable];
    assert_eq!((verdict.states, verdict.takers), (states, vec![0b10, 0]));
}

#[test]
fn an_uplink_without_a_path_is_not_configured_and_takes_nothing() {
    let (mut site, _) = both_families();
    site.uplinks[0].ipv6 = None;
    let mut monitor = Monitor::new(Family::V6, &site, &[], 0);
    monitor.observe(&[path_state::NOT_CONFIGURED, 0], 0);
    let verdict = monitor.verdict(&site, |_| u64::MAX, &[]);
    assert_eq!(verdict.states, [path_state::NOT_CONFIGURED, path_state::USABLE]);
    assert_eq!(verdict.takers, [0b10, 0]);
    site.uplinks[1].ipv6 = None;
    monitor.reconfigure(&site, 1);
    monitor.observe(&[path_state::NOT_CONFIGURED; 2], 1);
    let verdict = monitor.verdict(&site, |_| u64::MAX, &[]);
    assert_eq!((verdict.states, verdict.takers), (vec![path_state::NOT_CONFIGURED; 2], vec![]));
}

#[test]
fn a_path_that_is_configured_later_hears_what_was_told_before() {
    let (mut site, _) = both_families();
    site.uplinks[0].ipv6 = None;
    let mut monitor = Monitor::new(Family::V6, &site, &[], 0);
    monitor.observe(&[path_state::NOT_CONFIGURED, 0], 0);
    site.uplinks[0].ipv6 = Some(weir_site::Ipv6Config::default());
    monitor.reconfigure(&site, 1);
    monitor.observe(&[0, 0], 1);
    assert_eq!(monitor.verdict(&site, |_| u64::MAX, &[]).states, [path_state::USABLE; 2]);
}

#[test]
fn joint_paths_are_in_use_together_or_not_at_all() {
    let (mut site, [mut v4, mut v6]) = both_families();
    site.uplinks[0].ipv6 = Some(weir_site::Ipv6Config { joint: true, ..Default::default() });
    v4.observe(&[0, 0], 0);
    v6.observe(&[path_state::NO_NEXT_HOP; 2], 0);
    v4.join(&v6.joint(&site), 0);
    v6.join(&v4.joint(&site), 0);
    let verdict = v4.verdict(&site, |_| u64::MAX, &[]);
    assert_eq!(verdict.takers, [0b10, 0b01], "the second uplink's are not joint");
    assert_eq!(verdict.states[1], path_state::USABLE);
    assert_eq!(verdict.states[0] & path_state::USABLE, 0);
    assert_ne!(verdict.states[0] & path_state::JOINT, 0);
    let own = v6.verdict(&site, |_| u64::MAX, &[]).states[0];
    assert_eq!(own & path_state::JOINT, 0, "it is down for a reason of its own");
    // Each is judged by itself: neither keeps the other down.
    v6.observe(&[0; 2], 10);
    v4.join(&v6.joint(&site), 10);
    v6.join(&v4.joint(&site), 10);
    for monitor in [&v4, &v6] {
        assert_eq!(monitor.verdict(&site, |_| u64::MAX, &[]).states, [path_state::USABLE; 2]);
    }
}

#[test]
fn what_takes_a_joint_path_out_of_use_and_back_is_told_with_its_own_reason() {
    let (mut site, [mut v4, mut v6]) = both_families();
    site.uplinks[0].ipv6 = Some(weir_site::Ipv6Config { joint: true, ..Default::default() });
    let mut at = |now, problems6: u32, problems4: u32| {
        v6.observe(&[problems6, 0], now);
        v4.observe(&[problems4, 0], now);
        v4.join(&v6.joint(&site), now);
        let told = v4.take_transitions().into_iter();
        let told = told.filter(|(part, _)| part.uplink() == Some("fiber"));
        let told: Vec<_> = told.map(|(_, t)| (t.from, t.to, t.reason)).collect();
        (told, v4.state(0).unwrap())
    };
    assert_eq!(at(0, 0, 0).1, (State::Up, Reason::Started, 0));
    let out = Reason::OtherFamilyDown;
    let (told, state) = at(10, path_state::ADMIN_DOWN, 0);
    assert_eq!(told, [(State::Up, State::Down, out)]);
    assert_eq!(state, (State::Down, out, 10));
    // What it does itself meanwhile changes nothing that is told, but for why.
    let (told, state) = at(20, path_state::ADMIN_DOWN, path_state::ADMIN_DOWN);
    assert_eq!(told, []);
    assert_eq!(state, (State::Down, Reason::Admin, 10));
    assert_eq!(at(30, path_state::ADMIN_DOWN, 0), (vec![], (State::Down, out, 10)));
    let (told, state) = at(40, 0, 0);
    assert_eq!(told, [(State::Down, State::Up, Reason::OtherFamilyBack)]);
    assert_eq!((state.0, state.2), (State::Up, 40));
}
