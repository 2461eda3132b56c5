//! What the operator wants, beside what is found.

use super::steps::Step::{At, Until};
use super::steps::run;
use super::*;

#[test]
fn the_operator_is_obeyed_at_once_both_ways() {
    let mut path = connected(health(0));
    let seen =
        run(&mut path, vec![At(1, Signal::Wish(Wish::Down)), At(2, Signal::Wish(Wish::Use))]);
    assert_eq!(seen, [(1, "down", Reason::Admin), (2, "up", Reason::Released)]);
}

#[test]
fn a_draining_uplink_is_usable_until_it_is_drained() {
    let mut path = connected(health(0));
    let seen = run(&mut path, vec![At(1, Signal::Wish(Wish::Drain)), Until(1000)]);
    assert_eq!(seen, [(1, "draining", Reason::Draining)]);
    assert!(path.state().usable());
    let steps =
        vec![At(1001, Signal::Wish(Wish::Drained)), At(1002, Signal::Wish(Wish::Use)), Until(2000)];
    let seen = run(&mut path, steps);
    assert_eq!(seen, [(1001, "down", Reason::Drained), (1002, "up", Reason::Released)]);
}

#[test]
fn the_operator_ends_a_drain_at_once() {
    let mut path = connected(health(0));
    let steps = vec![At(1, Signal::Wish(Wish::Drain)), At(2, Signal::Wish(Wish::Use))];
    let seen = run(&mut path, steps);
    assert_eq!(seen, [(1, "draining", Reason::Draining), (2, "up", Reason::Released)]);
}

#[test]
fn a_draining_uplink_that_breaks_is_down_and_drains_on_when_it_is_well_again() {
    let mut path = connected(health(0));
    let steps = vec![
        At(1, Signal::Wish(Wish::Drain)),
        At(2, Signal::Carrier(false)),
        At(3, Signal::Carrier(true)),
        Until(20_000),
    ];
    let states: Vec<_> = run(&mut path, steps).iter().map(|(_, state, _)| *state).collect();
    assert_eq!(states, ["draining", "down", "recovering", "draining"]);
}

#[test]
fn what_breaks_while_it_is_out_of_use_is_held_down() {
    let mut path = connected(health(0));
    let steps = vec![
        At(1, Signal::Wish(Wish::Down)),
        At(2, Signal::NextHop(false)),
        At(3, Signal::NextHop(true)),
        At(4, Signal::Wish(Wish::Use)),
        Until(20_000),
    ];
    let states: Vec<_> = run(&mut path, steps).iter().map(|(_, state, _)| *state).collect();
    assert_eq!(states, ["down", "recovering", "up"]);
}

#[test]
fn the_operator_does_not_cut_a_hold_down_short() {
    let mut path = connected(health(0));
    let steps = vec![
        At(1, Signal::Carrier(false)),
        At(2, Signal::Wish(Wish::Down)),
        At(3, Signal::Carrier(true)),
        At(4, Signal::Wish(Wish::Use)),
        Until(20_000),
    ];
    let seen = run(&mut path, steps);
    assert_eq!(seen.last(), Some(&(8005, "up", Reason::Recovered { held_ms: 8001 })));
}
