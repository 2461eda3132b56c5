//! Flows that leave an uplink by somebody's wish, and a link that only its users find dead.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use weir_api::Request;
use weir_health::{Reason, State};
use weir_kit::line::Impairment;
use weir_kit::long_flows::{Alive, LongFlows};
use weir_kit::plan::{self, Plan};
use weir_kit::probed::{ECHO, Probed, QUICK, SERVER, is, told};
use weir_kit::server::Server;
use weir_kit::topology::Topology;
use weir_kit::weir::{UPLINKS, Weir};
use weir_kit::{udp_flows, wait};

const FIBER: usize = 0;
const CABLE: usize = 1;
/// All of them on one of two uplinks: a chance of 2^-31.
const FLOWS: usize = 32;

fn created(weir: &Weir) -> [u64; 2] {
    let uplinks = weir.uplinks().unwrap();
    [uplinks[FIBER].flows_created, uplinks[CABLE].flows_created]
}

fn active(weir: &Weir, uplink: usize) -> u64 {
    weir.uplinks().unwrap()[uplink].flows_active
}

#[test]
fn a_drained_uplink_takes_no_new_flow_and_what_is_left_ends_at_the_deadline() {
    let site = Probed::start(2, 1, QUICK).unwrap();
    let before = created(&site.weir);
    let mut flows = LongFlows::open(&site.topology.hosts[0], ECHO, FLOWS).unwrap();
    let on_fiber = (created(&site.weir)[FIBER] - before[FIBER]) as usize;
    assert!((1..FLOWS).contains(&on_fiber), "{on_fiber} of {FLOWS} connections are on fiber");
    let drain = |deadline_s| Request::Drain { uplink: UPLINKS[FIBER].into(), deadline_s };
    site.weir.request(&drain(None)).unwrap();
    assert!(!site.takes(FIBER).unwrap());
    let before = created(&site.weir);
    assert_eq!(udp_flows::run(&site.topology.hosts, ECHO, 50).unwrap().answered, 50);
    assert_eq!(created(&site.weir)[FIBER], before[FIBER]);
    let alive = flows.ask();
    assert_eq!((alive.tcp, alive.reset), (FLOWS, 0));
    site.weir.request(&drain(Some(1))).unwrap();
    let history = site.until(FIBER, "to be drained", |entries| is(entries, State::Down)).unwrap();
    let reasons: Vec<_> = history.iter().map(|entry| entry.transition.reason).collect();
    assert!(matches!(reasons[1..], [Reason::Draining, Reason::Drained]), "{}", told(&history));
    assert_eq!(flows.ask(), Alive { tcp: FLOWS - on_fiber, reset: on_fiber, udp: FLOWS });
    site.weir.request(&Request::Up { uplink: UPLINKS[FIBER].into() }).unwrap();
    site.until(FIBER, "to be up again", |entries| is(entries, State::Up)).unwrap();
    site.weir.check_conservation().unwrap();
}

#[test]
fn flows_on_the_backup_come_home_when_idle_and_connections_when_asked() {
    let site = Probed::start(2, 1, QUICK).unwrap();
    let members = "[[policy]]\nname = \"balanced\"\nselection = \"flow\"\nfailback = \"idle\"\n\
        idle = \"1s\"\nmembers = [{ uplink = \"fiber\" }, { uplink = \"cable\", tier = 2 }]\n";
    let plain = "[[policy]]\nname = \"balanced\"\nselection = \"flow\"\n";
    let tiers = Probed::configuration(&site.topology, QUICK).replace(plain, members);
    site.weir.reload(&tiers).unwrap();
    let takes = |uplink, wanted| {
        let what = format!("{} to take flows: {wanted}", UPLINKS[uplink]);
        wait::until(&what, wait::BOUND, || Ok((site.takes(uplink)? == wanted).then_some(())))
            .unwrap();
    };
    takes(CABLE, false);
    site.line(FIBER).impair_both(Impairment::dead());
    takes(CABLE, true);
    let mut flows = LongFlows::open(&site.topology.hosts[0], ECHO, 10).unwrap();
    assert_eq!(flows.ask(), Alive { tcp: 10, reset: 0, udp: 10 });
    assert!(active(&site.weir, CABLE) >= 20);
    site.line(FIBER).heal();
    takes(FIBER, true);
    wait::until("idle UDP flows to leave the backup", wait::BOUND, || {
        Ok((active(&site.weir, CABLE) <= 10).then_some(()))
    })
    .unwrap();
    let before = created(&site.weir);
    assert_eq!(flows.ask(), Alive { tcp: 10, reset: 0, udp: 10 });
    let after = created(&site.weir);
    assert_eq!((after[FIBER] - before[FIBER], after[CABLE] - before[CABLE]), (10, 0));
    site.weir.request(&Request::Home { policy: None }).unwrap();
    wait::until("connections to leave the backup", wait::BOUND, || {
        Ok((flows.ask().reset == 10).then_some(()))
    })
    .unwrap_or_else(|error| {
        let history = told(&site.history(FIBER).unwrap());
        panic!(
            "{error:#}: {:?}, {} on cable, fiber: {history}",
            flows.ask(),
            active(&site.weir, CABLE)
        )
    });
    site.weir.check_conservation().unwrap();
}

#[test]
fn a_link_that_answers_probes_and_no_users_is_degraded() {
    let mut plan = Plan::new(2, 2);
    plan.servers = 10;
    let topology = Topology::build(plan).unwrap();
    let server = Server::start(&topology.internet, SERVER).unwrap();
    let health = format!("{QUICK}[health.passive]\nwindow_ms = 3000\n");
    let weir = Weir::start(&topology, &Probed::configuration(&topology, &health)).unwrap();
    let site = Probed { weir, server, topology };
    for uplink in [FIBER, CABLE] {
        site.until(uplink, "to be up", |entries| is(entries, State::Up)).unwrap();
    }
    // Nobody listens on the other addresses: they refuse, which is an answer, or are not reached.
    let (first, last) = (plan::server_address(1), plan::server_address(9));
    let provider = &site.topology.providers[FIBER].netns;
    provider.nft(&format!("add rule inet bench forward ip daddr {first}-{last} drop\n")).unwrap();
    let end = Instant::now() + wait::BOUND;
    let degraded = || is(&site.history(FIBER).unwrap(), State::Degraded);
    std::thread::scope(|scope| {
        for host in &site.topology.hosts {
            scope.spawn(move || {
                let attempt = |server| {
                    let to = (plan::server_address(server), 4000).into();
                    let _ = TcpStream::connect_timeout(&to, Duration::from_millis(20));
                };
                let attempts = (1..10).cycle().take_while(|_| Instant::now() < end && !degraded());
                host.netns.run(|| attempts.for_each(attempt)).unwrap();
            });
        }
    });
    let history = site.history(FIBER).unwrap();
    let by_users = |reason: &Reason| matches!(reason, Reason::PassiveSyn { .. });
    let last = history.last().unwrap();
    assert!(
        is(&history, State::Degraded) && by_users(&last.transition.reason),
        "{}",
        told(&history)
    );
    let neighbour = site.history(CABLE).unwrap();
    assert!(neighbour.len() == 1, "{}", told(&neighbour));
    site.topology.providers[FIBER].set_black_hole(false).unwrap();
    site.until(FIBER, "to be up again", |entries| is(entries, State::Up)).unwrap();
}
