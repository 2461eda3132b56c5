//! What the gateway says of itself and its prefixes to a real host, while it is another than the
//! site's only router, or has lost its own addresses.

use weir_kit::ipv6::{self, Mode, PREFIX};
use weir_kit::plan::Plan;
use weir_kit::slaac::Standing::Preferred;
use weir_kit::topology::{Host, Topology};
use weir_kit::weir::Weir;
use weir_kit::{slaac, wait};
use weir_layout::Family;

const WEIGHTS: [u16; 3] = [5, 3, 2];

/// The file of a site that needs no flows, whose hosts are told this.
fn configuration(topology: &Topology, ra: &str) -> String {
    let lan = format!("{}ra = {{ {ra} }}\n", Mode::Stateless.lan_line(1));
    let path = |provider| Mode::Stateless.path(provider);
    Weir::configuration_with(topology, &WEIGHTS, &lan, path)
}

fn site(ra: &str) -> (Topology, Weir) {
    let topology = Topology::build(Plan::new(1, 1)).unwrap();
    Mode::Stateless.lay(&topology).unwrap();
    let weir = Weir::start(&topology, &configuration(&topology, ra)).unwrap();
    weir.wait_until_usable_in(Family::V6, &[0]).unwrap();
    (topology, weir)
}

/// How a host prefers the router that it has heard of.
fn preference(host: &Host) -> Option<String> {
    let mut show = std::process::Command::new("ip");
    show.args(["-json", "-6", "route", "show", "default", "proto", "ra"]);
    let shown = host.netns.output(&mut show).unwrap();
    let routes: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap_or_default();
    routes[0]["pref"].as_str().map(ToOwned::to_owned)
}

#[test]
fn a_host_prefers_the_gateway_to_other_routers_as_the_file_says() {
    let (topology, weir) = site("preference = \"high\"");
    let host = &topology.hosts[0];
    let wait_for = |wanted: &str| {
        wait::until("a host's preference", wait::BOUND, || {
            Ok((preference(host).as_deref() == Some(wanted)).then_some(()))
        })
        .unwrap();
    };
    wait_for("high");
    assert!(slaac::ask(host).unwrap().contains("Router preference : high"));
    for (ra, wanted) in [("preference = \"low\"", "low"), ("", "medium")] {
        weir.reload(&configuration(&topology, ra)).unwrap();
        wait_for(wanted);
    }
}

/// What is wrong with the LAN.
fn trouble(weir: &Weir) -> Option<String> {
    weir.advertised().unwrap().remove(0).trouble
}

#[test]
fn a_prefix_whose_addresses_the_gateway_has_lost_is_still_told_and_named_until_they_are_back() {
    let (topology, weir) = site("");
    let host = &topology.hosts[0];
    let wait_until_heard = || ipv6::wait_until_heard(&topology, ipv6::host(0)).unwrap();
    let checked = || {
        let file = topology.run.file_directory().unwrap().join("checked.toml");
        std::fs::write(&file, configuration(&topology, "")).unwrap();
        let mut check = weir.cli(&["check", file.to_str().unwrap()]).unwrap();
        String::from_utf8(topology.gateway.output(&mut check).unwrap().stderr).unwrap()
    };
    let words = format!("hosts are told {PREFIX}, and the gateway has no address of it on lan0");
    wait_until_heard();
    wait::until("no trouble", wait::BOUND, || Ok(trouble(&weir).is_none().then_some(()))).unwrap();
    assert!(!checked().contains(&words), "{}", checked());
    // The kernel takes the interface's IPv6 addresses away (`addrconf_ifdown`,
    // net/ipv6/addrconf.c).
    topology.gateway.ip("link set lan0 down\nlink set lan0 up\n").unwrap();
    wait::until("word of the lost address", wait::BOUND, || {
        let named = format!("the gateway has no address of {PREFIX} on lan0");
        Ok(trouble(&weir).filter(|text| text.contains(&named)))
    })
    .unwrap();
    let heard = ipv6::heard(&topology, ipv6::host(0)).unwrap();
    assert_eq!(heard, 0, "what is for hosts gets lost");
    assert!(checked().contains(&words), "{}", checked());
    assert!(
        weir.log("weir-control")
            .contains(&format!("LAN lan0: the gateway has no address of {PREFIX}"))
    );
    let told = slaac::ask(host).unwrap();
    let prefix =
        format!("Prefix : {PREFIX} On-link : Yes Autonomous address conf.: Yes Valid time : 5400");
    assert!(told.contains(&prefix) && told.contains("Router lifetime : 2700"), "{told}");
    assert_eq!(slaac::standing(host, PREFIX).unwrap(), Preferred);
    topology.gateway.ip(&format!("addr add {}/64 dev lan0 nodad\n", ipv6::LAN_GATEWAY)).unwrap();
    wait_until_heard();
    wait::until("no more of it", wait::BOUND, || Ok(trouble(&weir).is_none().then_some(())))
        .unwrap();
    weir.check_conservation().unwrap();
}
