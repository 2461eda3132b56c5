//! Translation of IPv6: an inside prefix that no provider carries, and one of each provider's, or one
//! address of that.

use std::fs;
use std::net::Ipv6Addr;
use std::process::Command;

use weir_api::Request;
use weir_kit::ipv6::{self, Mode, SERVER, STRANGER, outbound};
use weir_kit::plan::{Plan, Uplink};
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::{clients, nginx, wait};
use weir_layout::Family;

const WEIGHTS: [u16; 3] = [5, 3, 2];

/// What a host's ping with these arguments says.
fn ping(topology: &Topology, arguments: &[&str]) -> String {
    let mut ping = Command::new("ping");
    ping.args(["-6", "-n", "-i", "0.2", "-W", "1"]).args(arguments).arg(SERVER.to_string());
    let output = topology.hosts[0].netns.run(|| ping.output()).unwrap().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn who_is_on_the_way_is_heard_of_and_large_datagrams_pass_in_fragments() {
    for mode in [Mode::Npt66, Mode::Nat66] {
        routers_and_fragments(mode);
    }
}

fn routers_and_fragments(mode: Mode) {
    let mut plan = Plan::new(1, 1);
    plan.uplinks = vec![Uplink { addresses: 1, mtu: 1400 }];
    let (topology, weir) = mode.start(plan, &WEIGHTS, "").unwrap();
    let gateway = mode.lan_gateway().to_string();
    assert!(ping(&topology, &["-c", "1", "-t", "1"]).contains(&gateway));
    let router = format!("From {}", ipv6::link(0, 1));
    let told = ping(&topology, &["-c", "1", "-t", "2"]);
    assert!(told.contains(&router) && told.contains("Time exceeded"), "{told}");
    let told = ping(&topology, &["-c", "2", "-M", "do", "-s", "1400"]);
    assert!(told.contains("mtu=1400") || told.contains("mtu: 1400"), "{told}");
    // The first shows the server what the way back carries.
    ping(&topology, &["-c", "1", "-s", "4000"]);
    let told = ping(&topology, &["-c", "5", "-l", "5", "-i", "2", "-s", "4000"]);
    assert!(told.contains(" 5 received"), "{told}");
    outbound(&topology).unwrap();
    weir.check_conservation().unwrap();
}

/// Asks beyond a router of the provider's that takes no more than this, less than before, and for a
/// hop behind it.
fn hear_the_providers_router(topology: &Topology, router: Ipv6Addr, mtu: u16) {
    let narrow = format!("link set internet mtu {mtu}\n");
    topology.providers[0].netns.ip(&narrow).unwrap();
    let from = format!("From {router}");
    let told = ping(topology, &["-c", "1", "-t", "2"]);
    assert!(told.contains(&from) && told.contains("Time exceeded"), "{told}");
    let told = ping(topology, &["-c", "2", "-M", "do", "-s", &mtu.to_string()]);
    assert!(told.contains(&from) && told.contains(&format!("mtu={mtu}")), "{told}");
    assert_eq!(clients::ping(&topology.hosts[0].netns, router, 5).unwrap().received, 5);
}

#[test]
fn a_providers_router_is_heard_whose_link_is_a_part_of_what_it_delegates() {
    let (topology, weir) = Mode::Npt66.start(Plan::new(1, 1), &WEIGHTS, "").unwrap();
    let prefix = ipv6::delegated(0);
    let link = |end: &str| prefix.replace("00::/56", &format!("ff::{end}"));
    let (gateway, provider) = (&topology.gateway, &topology.providers[0].netns);
    let add = |end: &str, device: &str| format!("addr add {}/64 dev {device} nodad\n", link(end));
    gateway.ip(&add("2", "wan0")).unwrap();
    provider.ip(&add("1", TOWARDS_GATEWAY)).unwrap();
    let file = Mode::Npt66.configuration(&topology, &WEIGHTS[..1]);
    let whole = ipv6::INSIDE.replace("/64", "/56");
    let of_prefix = format!("prefix = \"{prefix}\"");
    let with = |given: &str| file.replace(&of_prefix, &format!("{given}, inside = \"{whole}\""));
    weir.reload(&with(&of_prefix)).unwrap();
    let router = link("1").parse().unwrap();
    wait::until("answers of the provider's router", wait::BOUND, || {
        Ok((clients::ping(&topology.hosts[0].netns, router, 1)?.received == 1).then_some(()))
    })
    .unwrap();
    hear_the_providers_router(&topology, router, 1400);
    weir.reload(&with("prefix = \"delegated\"")).unwrap();
    let told = Request::SetPrefix {
        uplink: "fiber".into(),
        prefix: prefix.parse().unwrap(),
        valid_s: Some(3600),
        preferred_s: Some(3600),
    };
    wait::until("the prefix to be taken", wait::BOUND, || {
        Ok(weir.request(&told).is_ok().then_some(()))
    })
    .unwrap();
    weir.wait_until_usable_in(Family::V6, &[0]).unwrap();
    hear_the_providers_router(&topology, router, 1300);
    outbound(&topology).unwrap();
    weir.check_conservation().unwrap();
}

#[test]
fn after_a_cut_hosts_go_on_from_another_providers_prefix() {
    hosts_go_on_after_a_cut(Mode::Npt66);
}

#[test]
fn after_a_cut_hosts_go_on_from_an_address_of_another_provider() {
    hosts_go_on_after_a_cut(Mode::Nat66);
}

fn hosts_go_on_after_a_cut(mode: Mode) {
    let (topology, weir) = mode.start(Plan::new(2, 1), &WEIGHTS, "").unwrap();
    let directory = topology.run.file_directory().unwrap();
    let _nginx = nginx::serve(&topology.internet, &directory).unwrap();
    fs::write(directory.join("files/content"), vec![7; 300_000]).unwrap();
    let host = &topology.hosts[0].netns;
    // Each has an identifier of its own. All keep off an uplink of weight 3 in 8 with a chance of
    // (5/8)^40, below 1e-8.
    let pings = std::array::from_fn::<_, 40, _>(|_| {
        let host = host.clone();
        std::thread::spawn(move || clients::ping(&host, SERVER, 600))
    });
    wait::until("packets by both providers", wait::BOUND, || {
        Ok(outbound(&topology)?.iter().all(|packets| *packets > 50).then_some(()))
    })
    .unwrap();
    topology.providers[0].set_carrier(false).unwrap();
    let before = outbound(&topology).unwrap();
    let url = format!("http://[{SERVER}]:{}/content", nginx::PORT);
    assert_eq!(clients::curl(host, &url).unwrap().bytes, 300_000);
    for ping in pings {
        let received = ping.join().unwrap().unwrap().received;
        assert!(received > 300, "{received} of 600 were answered");
    }
    let after = outbound(&topology).unwrap();
    assert_eq!(after[0], before[0]);
    assert!(after[1] > before[1] + 100, "{before:?} {after:?}");
    weir.check_conservation().unwrap();
}

#[test]
fn nobody_outside_reaches_a_host_that_did_not_ask() {
    let (topology, weir) = Mode::Npt66.start(Plan::new(2, 1), &WEIGHTS, "").unwrap();
    let asked = clients::ping(&topology.hosts[0].netns, STRANGER, 5).unwrap();
    assert_eq!(asked.received, 5, "the way is open for what is asked for");
    let inbound = |provider: usize| ipv6::carried(&topology.providers[provider]).unwrap().inbound;
    for provider in 0..2 {
        let before = inbound(provider);
        let prefix = ipv6::delegated(provider);
        let someone = prefix.replace("/56", "1");
        let mut ping = Command::new("ping");
        ping.args(["-6", "-n", "-q", "-i", "0.05", "-W", "1", "-c", "5", &someone]);
        let output = topology.internet.run(|| ping.output()).unwrap().unwrap();
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(told.contains(" 0 received"), "{told}");
        assert_eq!(inbound(provider), before + 5);
    }
    outbound(&topology).unwrap();
    weir.check_conservation().unwrap();
}

#[test]
fn the_kernel_that_stands_in_sends_no_inside_source_to_a_provider() {
    let stands_in = "on_dataplane_loss = \"kernel\"\n";
    let (topology, mut weir) = Mode::Npt66.start(Plan::new(2, 1), &WEIGHTS, stands_in).unwrap();
    let host = &topology.hosts[0].netns;
    assert_eq!(clients::ping(host, SERVER, 5).unwrap().received, 5);
    weir.kill_dataplane();
    weir.take_program_off().unwrap();
    let before = outbound(&topology).unwrap();
    assert_eq!(clients::ping(host, SERVER, 5).unwrap().received, 0);
    assert_eq!(outbound(&topology).unwrap(), before);
    // The gateway itself is asked as ever.
    assert_eq!(clients::ping(host, Mode::Npt66.lan_gateway(), 5).unwrap().received, 5);
}
