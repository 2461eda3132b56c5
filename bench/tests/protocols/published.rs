//! Hosts of LANs that are asked from outside by a protocol without ports.

use super::*;

/// How long one who asks waits before it asks again: the kernel may have yet to hear of the host.
const TURN: Duration = Duration::from_millis(500);

fn entry(name: &str, protocol: &str, to: &str) -> String {
    format!("[[publish]]\nname = \"{name}\"\nprotocol = {protocol}\nto = \"{to}\"\n")
}

fn reaches(peer: &Peer, bytes: &[u8]) {
    let asked = || Ok(peer.ask(bytes, TURN).is_ok_and(|answer| answer == bytes).then_some(()));
    wait::until("an answer of the host", wait::BOUND, asked).unwrap();
}

#[test]
fn a_published_protocol_reaches_its_host_which_answers_by_the_uplink_that_was_asked() {
    let topology = Topology::build(Plan::new(2, 2)).unwrap();
    // Without DF, so that a provider's router cuts what is too long for the link.
    topology.internet.sysctl(&[("net/ipv4/ip_no_pmtu_disc", "1")]).unwrap();
    let [host, other] = &topology.hosts[..] else { panic!("two hosts") };
    let file = Weir::configuration(&topology, &[1, 1])
        + &entry("tunnels", "[\"gre\", \"sctp\"]", &host.address.to_string());
    let weir = Weir::start(&topology, &file).unwrap();
    let outside = [0, 1].map(|uplink| plan::uplink_address(uplink, 0));
    let _echoes = [GRE, SCTP, ESP]
        .map(|protocol| Echo::start(&host.netns, host.address.into(), protocol).unwrap());
    let open = |protocol, uplink: usize| {
        let to = outside[uplink].into();
        Peer::open(&topology.internet, SERVER.into(), to, protocol).unwrap()
    };
    // Who is connected hears nobody but whom it asks.
    for (protocol, uplink) in [(GRE, 0), (SCTP, 1)] {
        let asks = open(protocol, uplink);
        reaches(&asks, b"asked for");
        assert!(answers(&asks, &[7; 1000]), "protocol {protocol}");
        assert!(answers(&asks, &[7; 3000]), "in fragments");
    }
    assert!(open(ESP, 0).ask(b"not published", SHORT).is_err());
    // A host that asks the same remote itself has another address.
    let _echo = Echo::start(&topology.internet, SERVER.into(), GRE).unwrap();
    let second = Peer::open(&other.netns, other.address.into(), SERVER.into(), GRE).unwrap();
    assert!(answers(&second, b"its own"));
    assert_eq!(uplink_of(&weir, other.address, "gre"), UPLINKS[1]);
    let inside = Peer::open(&other.netns, other.address.into(), outside[0].into(), SCTP).unwrap();
    assert!(inside.ask(b"from a LAN", SHORT).is_err());
    let listed = weir_kit::process::output(&mut weir.cli(&["--json", "publish"]).unwrap()).unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    for service in listed["publish"].as_array().unwrap() {
        assert_eq!((&service["new_flows"], &service["flows"]), (&1.into(), &1.into()), "{service}");
        assert_eq!(service["to"], host.address.to_string(), "{service}");
        assert!(service["ports"].is_null(), "{service}");
    }
    weir.check_conservation().unwrap();
}

#[test]
fn what_the_gateway_itself_is_told_no_published_protocol_takes() {
    let topology = Topology::build(Plan::new(1, 1)).unwrap();
    let (host, outside) = (&topology.hosts[0], plan::uplink_address(0, 0));
    let file = Weir::configuration(&topology, &[1])
        + &entry("tunnels", "\"gre\"", &host.address.to_string());
    let weir = Weir::start(&topology, &file).unwrap();
    let _echo = Echo::start(&host.netns, host.address.into(), GRE).unwrap();
    let asks = Peer::open(&topology.internet, SERVER.into(), outside.into(), GRE).unwrap();
    reaches(&asks, b"the host's");
    let own = Peer::open(&topology.gateway, outside.into(), SERVER.into(), GRE).unwrap();
    wait::until("the gateway to be told", wait::BOUND, || {
        let _ = asks.ask(b"the gateway's", Duration::from_millis(50));
        Ok(own.hear(SHORT).is_ok().then_some(()))
    })
    .unwrap();
    while asks.hear(SHORT).is_ok() {}
    assert!(asks.ask(b"no answer of the host's", SHORT).is_err());
    drop(own);
    reaches(&asks, b"the host's again");
    weir.check_conservation().unwrap();
}

#[test]
fn of_ipv6_a_published_protocol_is_reached_where_addresses_change_and_where_they_do_not() {
    for (mode, provider) in [(Mode::None, 1), (Mode::Nat66, 0)] {
        let host = mode.host(0);
        let (topology, weir) = mode.start(Plan::new(2, 1), &[1, 1], "").unwrap();
        let file = mode.configuration(&topology, &[1, 1]);
        weir.reload(&(file + &entry("tunnels", "\"gre\"", &host.to_string()))).unwrap();
        let _echo = Echo::start(&topology.hosts[0].netns, host.into(), GRE).unwrap();
        let outside = match mode {
            Mode::None => host,
            _ => ipv6::by(provider, "::1".parse().unwrap()),
        };
        let asks = Peer::open(&topology.internet, ipv6::SERVER.into(), outside.into(), GRE);
        reaches(&asks.unwrap(), b"asked for");
        weir.check_conservation().unwrap();
    }
}
