//! Users' connections as a signal.

use super::steps::Step::{At, Probes};
use super::steps::run;
use super::*;
use crate::passive::ByHost;

fn flows(flows: u32, unanswered: u32, hosts: u64, silent: u64) -> passive::NewFlows {
    let set = |count: u64| {
        let mut remotes = Remotes::default();
        (0..count).for_each(|host| remotes.add(host * 37));
        remotes
    };
    let (remotes, silent) = (set(hosts), set(silent));
    let (users, elsewhere) = (set(2), passive::Share::default());
    passive::NewFlows { flows, unanswered, remotes, silent, users, askers: users, elsewhere }
}

fn tcp(flows: passive::NewFlows) -> Signal {
    Signal::Passive(Box::new(PassiveCounts { tcp: flows, ..PassiveCounts::default() }))
}

#[test]
fn dying_connections_degrade_a_link_whose_probes_answer() {
    let mut path = Path::adopt(health(1), 0);
    let mut steps = vec![Probes { from: 0, count: 30, answered: true }];
    for second in 1..=4 {
        steps.push(At(second * 1000, tcp(flows(10, 9, 8, 7))));
    }
    let seen = run(&mut path, steps);
    let reason = Reason::PassiveSyn { unanswered: 18, of: 20 };
    // Spared, it has no connections to show; the counts age out and the hold-down runs.
    let up = (4000 + 5001 + 8001, "up", Reason::Recovered { held_ms: 8001 });
    let [degraded, (at, "up", _)] = seen[..] else { panic!("{seen:?}") };
    assert_eq!(degraded, (2000, "degraded", reason));
    assert!(at <= up.0, "{at}");
}

#[test]
fn udp_without_reply_degrades() {
    let mut path = Path::adopt(health(0), 0);
    let udp = flows(40, 38, 20, 19);
    let counts = PassiveCounts { udp, ..PassiveCounts::default() };
    let seen = run(&mut path, vec![At(1000, Signal::Passive(Box::new(counts)))]);
    assert_eq!(seen, [(1000, "degraded", Reason::PassiveUdp { unanswered: 38, of: 40 })]);
}

#[test]
fn data_sent_again_degrades() {
    let mut path = Path::adopt(health(0), 0);
    let counts = PassiveCounts { segments: 2000, retransmitted: 500, ..PassiveCounts::default() };
    let seen = run(&mut path, vec![At(1000, Signal::Passive(Box::new(counts)))]);
    let reason = Reason::PassiveRetransmits { retransmitted: 500, of: 2000 };
    assert_eq!(seen, [(1000, "degraded", reason)]);
}

#[test]
fn what_one_user_or_one_remote_sends_again_condemns_no_link() {
    let spread: ByHost = std::array::from_fn(|_| 50);
    let mut one = ByHost::default();
    (one[3], one[7]) = (700, 100);
    for (by_user, by_remote) in [(one, spread), (spread, one), (one, one)] {
        let counts = PassiveCounts {
            segments: 2000,
            retransmitted: 800,
            by_user,
            by_remote,
            ..PassiveCounts::default()
        };
        let mut path = Path::adopt(health(0), 0);
        assert_eq!(path.signal(Signal::Passive(Box::new(counts)), 1000), None);
        let all = PassiveCounts { by_user: spread, by_remote: spread, ..counts };
        assert!(path.signal(Signal::Passive(Box::new(all)), 1001).is_some());
    }
}

#[test]
fn neither_few_connections_nor_one_dead_server_condemn_a_link() {
    for innocent in [
        flows(19, 19, 19, 19),
        flows(1000, 900, 30, 1),
        flows(1000, 900, 4, 3),
        flows(1000, 900, 100, 10),
        flows(1000, 490, 100, 60),
    ] {
        let mut path = Path::adopt(health(0), 0);
        assert_eq!(path.signal(tcp(innocent), 1000), None, "{innocent:?}");
    }
}

#[test]
fn a_few_users_of_many_condemn_no_link() {
    let mut path = Path::adopt(health(0), 0);
    let dead = flows(1000, 990, 400, 400);
    let many = passive::NewFlows { users: Remotes::from([0x1f, 0, 0, 0]), ..dead };
    assert_eq!(path.signal(tcp(many), 1000), None);
}

#[test]
fn what_fails_by_other_uplinks_alike_condemns_no_link() {
    for (flows_elsewhere, unanswered, condemned) in [
        (1000, 900, false),
        (1000, 1000, false),
        (1000, 790, true),
        // Too few to tell.
        (19, 19, true),
    ] {
        let mut dying = flows(1000, 900, 400, 400);
        dying.elsewhere = passive::Share { flows: flows_elsewhere, unanswered };
        let mut path = Path::adopt(health(0), 0);
        assert_eq!(path.signal(tcp(dying), 1000).is_some(), condemned, "{dying:?}");
    }
    let mut all_dead = flows(1000, 1000, 400, 400);
    all_dead.elsewhere = passive::Share { flows: 1000, unanswered: 1000 };
    assert_eq!(Path::adopt(health(0), 0).signal(tcp(all_dead), 1000), None);
}

#[test]
fn users_connections_that_are_no_signal_condemn_no_link() {
    let passive = Passive { enabled: Some(false), ..Passive::default() };
    let mut path = Path::adopt(Health { passive, ..health(0) }, 0);
    assert_eq!(path.signal(tcp(flows(1000, 990, 400, 400)), 1000), None);
    let passive = Passive { enabled: Some(true), ..Passive::default() };
    assert!(path.reconfigure(Health { passive, ..health(0) }, 1001).is_some());
}

#[test]
fn one_user_who_scans_the_net_condemns_no_link() {
    let mut scan = flows(1000, 990, 400, 400);
    scan.askers = Remotes::from([1, 0, 0, 0]);
    let mut path = Path::adopt(health(0), 0);
    assert_eq!(path.signal(tcp(scan), 1000), None);
    // Two who get no answer do; where there is but one, the setting says so.
    let mut path = Path::adopt(health(0), 0);
    assert!(path.signal(tcp(flows(1000, 990, 400, 400)), 1000).is_some());
    let passive = Passive { min_users: 1, ..Passive::default() };
    let mut path = Path::adopt(Health { passive, ..health(0) }, 0);
    assert!(path.signal(tcp(scan), 1000).is_some());
}
