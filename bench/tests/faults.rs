//! Every fault of a link against the decision that is due, with real probes; the healthy link
//! beside it never changes its state.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use weir_health::{Reason, State};
use weir_kit::capture::Capture;
use weir_kit::line::{Direction, Impairment};
use weir_kit::long_flows::{Alive, LongFlows};
use weir_kit::probed::{ECHO, Probed, QUICK, SERVER, is, told};
use weir_kit::topology::TOWARDS_GATEWAY;
use weir_kit::weir::Change;
use weir_kit::{clients, plan, server, udp_flows, wait};
use weir_layout::Family;
use weir_layout::control::{Address, path_state};

/// The uplink that things happen to, and the healthy one.
const FIBER: usize = 0;
const CABLE: usize = 1;
/// All of them on one of two uplinks: a chance of 2^-31.
const FLOWS: usize = 32;

/// A site with probes as those of [`QUICK`], and every figure judged. A round-trip time of so many
/// milliseconds is too much.
fn strict_site(rtt: u32) -> Probed {
    let recover = rtt / 2;
    let figures = format!(
        "down = 8\nrtt_ms = {{ fail = {rtt}, recover = {recover} }}\n\
         jitter_ms = {{ fail = 150, recover = 75 }}\n"
    );
    site(&format!("{QUICK}{figures}"))
}

/// Its protocol number.
const UDP: u8 = 17;
/// Last byte of another router's hardware address.
const REPLACED: u8 = 0xee;

const MS: Duration = Duration::from_millis(1);
const NOT_YET: State = State::Recovering { until: 0 };

fn site(health: &str) -> Probed {
    Probed::start(2, 1, health).unwrap()
}

/// A state, and the reasons that may lead to it.
type Step = (State, fn(&Reason) -> bool);

/// What came after the first state.
fn assert_states(history: &[Change], wanted: &[Step]) {
    let rest = &history[1..];
    let fits = rest.len() == wanted.len()
        && rest.iter().zip(wanted).all(|(entry, (state, reason))| {
            is(std::slice::from_ref(entry), *state) && reason(&entry.transition.reason)
        });
    assert!(fits, "{}", told(history));
}

/// The other uplink was never told to be anything but up.
fn assert_neighbour_untouched(site: &Probed) {
    let history = site.history(CABLE).unwrap();
    assert!(history.len() == 1 && is(&history, State::Up), "{}", told(&history));
    site.weir.check_conservation().unwrap();
}

fn created(site: &Probed) -> [u64; 2] {
    let uplinks = site.weir.uplinks().unwrap();
    [uplinks[FIBER].flows_created, uplinks[CABLE].flows_created]
}

/// While the fault lasts, fiber is degraded: its flows stay, new ones avoid it; and it is up again
/// when the fault is gone.
fn degrades(begin: impl FnOnce(&Probed), reason: fn(&Reason) -> bool) {
    let site = strict_site(400);
    let mut flows = LongFlows::open(&site.topology.hosts[0], ECHO, 10).unwrap();
    assert_eq!(flows.ask(), Alive { tcp: 10, reset: 0, udp: 10 });
    begin(&site);
    site.until(FIBER, "to be degraded", |history| is(history, State::Degraded)).unwrap();
    let states = site.weir.states().unwrap();
    assert_eq!(states[..2], [path_state::USABLE | path_state::DEGRADED, path_state::USABLE]);
    wait::until(
        "new flows to avoid fiber",
        wait::BOUND,
        || Ok((!site.takes(FIBER)?).then_some(())),
    )
    .unwrap();
    let before = created(&site);
    assert_eq!(udp_flows::run(&site.topology.hosts, ECHO, 50).unwrap().answered, 50);
    assert_eq!(created(&site)[FIBER], before[FIBER]);
    site.line(FIBER).heal();
    let history = site.until(FIBER, "to be up again", |history| is(history, State::Up)).unwrap();
    assert_states(
        &history,
        &[(State::Degraded, reason), (State::Up, |r| matches!(r, Reason::Recovered { .. }))],
    );
    assert!(site.takes(FIBER).unwrap());
    assert_eq!(flows.ask(), Alive { tcp: 10, reset: 0, udp: 10 }, "no flow was moved or cut");
    assert_neighbour_untouched(&site);
}

/// While the fault lasts, fiber is down: its UDP flows go on elsewhere, its TCP connections are
/// reset; and it is up again when the fault is gone.
fn goes_down(begin: impl FnOnce(&Probed), end: impl FnOnce(&Probed), reason: fn(&Reason) -> bool) {
    let site = site(QUICK);
    let before = created(&site);
    let mut flows = LongFlows::open(&site.topology.hosts[0], ECHO, FLOWS).unwrap();
    let on_fiber = (created(&site)[FIBER] - before[FIBER]) as usize;
    assert!((1..FLOWS).contains(&on_fiber), "{on_fiber} of {FLOWS} connections are on fiber");
    assert_eq!(flows.ask(), Alive { tcp: FLOWS, reset: 0, udp: FLOWS });
    let begun = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    begin(&site);
    let history = site.until(FIBER, "to be down", |history| is(history, State::Down)).unwrap();
    let took = history.last().unwrap().time_ms.saturating_sub(begun);
    println!("down {took} ms after the fault: {}", history.last().unwrap().transition.reason);
    assert_eq!(flows.ask(), Alive { tcp: FLOWS - on_fiber, reset: on_fiber, udp: FLOWS });
    assert_eq!(udp_flows::run(&site.topology.hosts, ECHO, 50).unwrap().answered, 50);
    end(&site);
    let history = site.until(FIBER, "to be up again", |history| is(history, State::Up)).unwrap();
    assert_states(
        &history,
        &[
            (State::Down, reason),
            (NOT_YET, |r| matches!(r, Reason::Holding { .. })),
            (State::Up, |r| matches!(r, Reason::Recovered { .. })),
        ],
    );
    assert_neighbour_untouched(&site);
}

fn targets_failed(reason: &Reason) -> bool {
    matches!(reason, Reason::TargetsFailed { .. })
}

#[test]
fn a_lossy_link_is_degraded_by_its_loss_until_it_is_well() {
    degrades(
        |site| site.line(FIBER).impair(Direction::Up, Impairment::loss(35.0)),
        |reason| matches!(reason, Reason::Loss { .. }),
    );
}

#[test]
fn a_slow_link_is_degraded_by_its_round_trip_time_until_it_is_well() {
    degrades(
        |site| site.line(FIBER).impair_both(Impairment::delay(MS * 300, Duration::ZERO)),
        |reason| matches!(reason, Reason::Rtt { .. }),
    );
}

#[test]
fn a_jittery_link_is_degraded_by_its_jitter_until_it_is_well() {
    degrades(
        |site| {
            site.line(FIBER).impair(Direction::Down, Impairment::delay(Duration::ZERO, MS * 600))
        },
        |reason| matches!(reason, Reason::Jitter { .. }),
    );
}

#[test]
fn a_link_dead_from_the_gateway_on_is_down() {
    goes_down(
        |site| site.line(FIBER).impair(Direction::Up, Impairment::dead()),
        |site| site.line(FIBER).heal(),
        targets_failed,
    );
}

#[test]
fn a_link_dead_towards_the_gateway_is_down() {
    goes_down(
        |site| site.line(FIBER).impair(Direction::Down, Impairment::dead()),
        |site| site.line(FIBER).heal(),
        targets_failed,
    );
}

#[test]
fn a_black_hole_on_the_link_takes_it_down() {
    goes_down(
        |site| site.line(FIBER).impair_both(Impairment::dead()),
        |site| site.line(FIBER).heal(),
        targets_failed,
    );
}

#[test]
fn a_black_hole_beyond_the_first_hop_takes_the_link_down() {
    goes_down(
        |site| site.topology.providers[FIBER].set_black_hole(true).unwrap(),
        |site| site.topology.providers[FIBER].set_black_hole(false).unwrap(),
        targets_failed,
    );
}

#[test]
fn a_cut_link_is_down_at_once() {
    goes_down(
        |site| site.topology.providers[FIBER].set_carrier(false).unwrap(),
        |site| site.topology.providers[FIBER].set_carrier(true).unwrap(),
        |reason| matches!(reason, Reason::Carrier),
    );
}

/// Eight downloads fill the queue of a slow link: its probes wait in it.
#[test]
fn a_saturated_link_is_degraded_by_its_round_trip_time_and_finishes_what_it_carries() {
    let site = strict_site(200);
    let netns = &site.topology.hosts[0].netns;
    let line = site.line(FIBER);
    line.impair(Direction::Down, Impairment::rate(4_000_000, MS * 800));
    site.weir.weight("cable", 0).unwrap();
    let url = server::content_url(SERVER, 400_000);
    std::thread::scope(|scope| {
        let downloads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| clients::curl(netns, &url))).collect();
        site.until(FIBER, "to be degraded", |history| is(history, State::Degraded)).unwrap();
        site.weir.weight("cable", 1).unwrap();
        let before = created(&site);
        assert_eq!(udp_flows::run(&site.topology.hosts, ECHO, 50).unwrap().answered, 50);
        assert_eq!(created(&site)[FIBER], before[FIBER], "new flows avoid it");
        for download in downloads {
            assert_eq!(download.join().unwrap().unwrap().bytes, 400_000);
        }
    });
    let history = site.until(FIBER, "to be up again", |history| is(history, State::Up)).unwrap();
    assert_states(
        &history,
        &[
            (State::Degraded, |r| matches!(r, Reason::Rtt { .. })),
            (State::Up, |r| matches!(r, Reason::Recovered { .. })),
        ],
    );
    assert_neighbour_untouched(&site);
}

#[test]
fn a_flapping_link_is_held_down_twice_as_long_each_time() {
    let site = site(&QUICK.replace("hold_down_ms = 500", "hold_down_ms = 2000"));
    let provider = &site.topology.providers[FIBER];
    for _ in 0..3 {
        provider.set_carrier(false).unwrap();
        site.until(FIBER, "to be down", |history| is(history, State::Down)).unwrap();
        provider.set_carrier(true).unwrap();
        site.until(FIBER, "to be held down", |history| is(history, NOT_YET)).unwrap();
        assert!(!site.takes(FIBER).unwrap());
    }
    let history = site.until(FIBER, "to be up again", |history| is(history, State::Up)).unwrap();
    let holds: Vec<u64> = history
        .iter()
        .filter_map(|entry| match entry.transition.reason {
            Reason::Holding { hold_ms, .. } => Some(hold_ms),
            _ => None,
        })
        .collect();
    assert_eq!(holds, [2000, 4000, 8000], "{}", told(&history));
    let Reason::Recovered { held_ms } = history.last().unwrap().transition.reason else {
        panic!("{}", told(&history));
    };
    assert!(held_ms >= 8000);
    assert_neighbour_untouched(&site);
}

/// Limits as for real links; the lines lose 2 % and vary by 50 ms.
#[test]
fn noisy_healthy_links_change_their_state_never() {
    let site = site(
        "interval_ms = 100\ntimeout_ms = 1000\ndown = 8\nrtt_ms = { fail = 300, recover = 200 }\n\
        jitter_ms = { fail = 100, recover = 60 }\n",
    );
    for uplink in [FIBER, CABLE] {
        let noise = Impairment { loss_percent: 1.0, jitter: MS * 25, ..Impairment::default() };
        site.line(uplink).impair_both(noise);
    }
    let end = Instant::now() + Duration::from_secs(20);
    let mut flows = LongFlows::open(&site.topology.hosts[0], ECHO, 10).unwrap();
    while Instant::now() < end {
        assert_eq!(flows.ask(), Alive { tcp: 10, reset: 0, udp: 10 });
        std::thread::sleep(MS * 500);
    }
    for uplink in [FIBER, CABLE] {
        let history = site.history(uplink).unwrap();
        assert_eq!(history.len(), 1, "{}", told(&history));
    }
}

#[test]
fn a_renumbered_link_gives_new_flows_its_new_address_and_needs_no_restart() {
    let site = site(QUICK);
    let address = plan::uplink_address(FIBER, 7);
    site.topology.renumber(FIBER, address).unwrap();
    wait::until("the new address to be in use", wait::BOUND, || {
        let uplink = site.weir.snapshot()?.half.uplinks[FIBER];
        let pool = uplink.path(Family::V4).addresses();
        Ok((pool == [Address::v4(address.octets())] && site.takes(FIBER)?).then_some(()))
    })
    .unwrap();
    let capture = Capture::start(&site.topology.providers[FIBER].netns, TOWARDS_GATEWAY).unwrap();
    assert_eq!(udp_flows::run(&site.topology.hosts, ECHO, 200).unwrap().answered, 200);
    let flows = capture.stop().unwrap().flows_to(SERVER, UDP);
    assert_eq!(flows.iter().map(|flow| flow.source).collect::<BTreeSet<_>>(), [address].into());
    site.until(FIBER, "to be up", |history| is(history, State::Up)).unwrap();
    assert_neighbour_untouched(&site);
}

#[test]
fn a_next_hop_that_is_replaced_and_says_so_is_followed_at_once() {
    let site = site(QUICK);
    let mut flows = LongFlows::open(&site.topology.hosts[0], ECHO, 20).unwrap();
    site.topology.providers[FIBER].replace_router(REPLACED, true).unwrap();
    until_next_hop_is_replaced(&site);
    assert_eq!(flows.ask(), Alive { tcp: 20, reset: 0, udp: 20 });
    let history = site.history(FIBER).unwrap();
    assert!(history.len() == 1, "{}", told(&history));
    assert_neighbour_untouched(&site);
}

/// The kernel would believe in the old hardware address for half a minute.
#[test]
fn a_next_hop_that_is_replaced_silently_is_asked_for_when_the_targets_are_silent() {
    let site = site(QUICK);
    let mut flows = LongFlows::open(&site.topology.hosts[0], ECHO, 20).unwrap();
    site.topology.providers[FIBER].replace_router(REPLACED, false).unwrap();
    let begun = Instant::now();
    let has_been_down = |history: &[Change]| history.len() > 1;
    let history = site.until(FIBER, "to be down", has_been_down).unwrap();
    assert_states(&history[..2], &[(State::Down, targets_failed)]);
    assert_eq!(flows.ask().udp, 20);
    until_next_hop_is_replaced(&site);
    println!("found {:?} after it was replaced", begun.elapsed());
    site.until(FIBER, "to be up again", |history| is(history, State::Up)).unwrap();
    assert_neighbour_untouched(&site);
}

fn until_next_hop_is_replaced(site: &Probed) {
    wait::until("the new next hop to be known", wait::BOUND, || {
        let mac = site.weir.snapshot()?.half.uplinks[FIBER].path(Family::V4).next_hop_mac;
        Ok((mac.bytes()[5] == REPLACED).then_some(()))
    })
    .unwrap();
}
