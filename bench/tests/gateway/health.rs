//! Uplinks that fail, and return.

use weir_kit::plan::Plan;
use weir_kit::probed::{QUICK, TARGETS};
use weir_kit::server::Server;
use weir_kit::topology::Topology;
use weir_kit::weir::Weir;
use weir_kit::{udp_flows, wait};
use weir_layout::control::path_state;

use super::{ECHO, SERVER, WEIGHTS};

fn probed_site() -> (Topology, Server, Weir) {
    let topology = Topology::build(Plan::new(3, 4)).unwrap();
    let server = Server::start(&topology.internet, SERVER).unwrap();
    let base = Weir::configuration(&topology, &WEIGHTS);
    let configuration = format!("{base}\n[health]\n{QUICK}{TARGETS}");
    let weir = Weir::start(&topology, &configuration).unwrap();
    until_states(&weir, "all uplinks to be well", |states| *states == [1; 3]);
    (topology, server, weir)
}

fn until_states(weir: &Weir, what: &str, wanted: impl Fn(&[u32]) -> bool) {
    wait::until(what, wait::BOUND, || Ok(wanted(&weir.states()?).then_some(()))).unwrap();
}

#[test]
fn a_black_hole_beyond_the_first_hop_takes_an_uplink_out_until_it_is_gone() {
    let (topology, _server, weir) = probed_site();
    topology.providers[0].set_black_hole(true).unwrap();
    until_states(&weir, "fiber to be out", |states| *states == [path_state::UNHEALTHY, 1, 1]);
    let report = udp_flows::run(&topology.hosts, ECHO, 500).unwrap();
    assert_eq!((report.answered, report.wrong), (2000, 0));
    assert_eq!(weir.uplinks().unwrap()[0].flows_created, 0);
    topology.providers[0].set_black_hole(false).unwrap();
    until_states(&weir, "fiber to be back", |states| *states == [1; 3]);
    let history = weir.history().unwrap();
    let of_fiber = history.iter().filter(|entry| entry.part.uplink() == Some("fiber"));
    let states: Vec<String> = of_fiber.map(|entry| entry.transition.to.to_string()).collect();
    assert_eq!(states, ["up", "down", "held down", "up"]);
    assert_eq!(history.len(), 6, "{history:?}");
}

#[test]
fn with_all_uplinks_dead_flows_stay_where_they_are_until_one_is_back() {
    let (topology, _server, weir) = probed_site();
    let last_resort = path_state::USABLE | path_state::UNHEALTHY | path_state::LAST_RESORT;
    for provider in &topology.providers {
        provider.set_black_hole(true).unwrap();
    }
    until_states(&weir, "the last resort", |states| *states == [last_resort; 3]);
    topology.providers[1].set_black_hole(false).unwrap();
    let wanted = [path_state::UNHEALTHY, 1, path_state::UNHEALTHY];
    until_states(&weir, "cable to be back alone", |states| *states == wanted);
    let report = udp_flows::run(&topology.hosts, ECHO, 100).unwrap();
    assert_eq!((report.answered, report.wrong), (400, 0));
}

#[test]
fn an_uplink_whose_carrier_returns_is_held_down_first() {
    let (topology, _server, weir) = probed_site();
    topology.providers[2].set_carrier(false).unwrap();
    until_states(&weir, "lte to lose its carrier", |s| s[2] & path_state::NO_CARRIER != 0);
    assert_eq!(weir.states().unwrap()[2] & path_state::USABLE, 0);
    topology.providers[2].set_carrier(true).unwrap();
    until_states(&weir, "lte to be back", |states| *states == [1; 3]);
    let history = weir.history().unwrap();
    let states: Vec<String> = history
        .iter()
        .filter(|entry| entry.part.uplink() == Some("lte"))
        .map(|entry| entry.transition.to.to_string())
        .collect();
    assert_eq!(states, ["up", "down", "held down", "up"]);
}
