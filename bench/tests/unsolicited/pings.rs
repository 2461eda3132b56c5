//! A stranger who pings with the identifier of a ping that a host has sent him, and still sends: it is
//! of no flow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread;

use weir_kit::capture::Capture;
use weir_kit::clients;
use weir_kit::ipv6::{self, Mode};
use weir_kit::plan::{self, Plan};
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::weir::Weir;
use weir_layout::Family;

/// One that a translated ping may keep, and one that says nothing.
const IDENTIFIERS: [u16; 2] = [40_000, 0];
const STRANGERS: usize = 20;
/// Some hundredths of a second apart.
const OF_HOST: usize = 200;

/// Where its addresses are, if the frame is an echo request; behind them there is its identifier.
fn request(frame: &[u8]) -> Option<(IpAddr, IpAddr, u16)> {
    let address4 = |at: usize| frame[at..at + 4].try_into().map(|octets: [u8; 4]| octets.into());
    let address6 = |at: usize| frame[at..at + 16].try_into().map(|octets: [u8; 16]| octets.into());
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    match (word(12), frame.len()) {
        (0x0800, 42..) if (frame[23], frame[34]) == (1, 8) => {
            let [from, to]: [Ipv4Addr; 2] = [address4(26).ok()?, address4(30).ok()?];
            Some((from.into(), to.into(), word(38)))
        }
        (0x86dd, 62..) if (frame[20], frame[54]) == (58, 128) => {
            let [from, to]: [Ipv6Addr; 2] = [address6(22).ok()?, address6(38).ok()?];
            Some((from.into(), to.into(), word(58)))
        }
        _ => None,
    }
}

/// The echo requests that a capture has kept.
fn requests(capture: Capture) -> Vec<(IpAddr, IpAddr, u16)> {
    capture.stop().unwrap().kept.iter().filter_map(|frame| request(frame)).collect()
}

/// A host pings a server, which pings back with the identifier that it sees; how many of these pings
/// are answered. `host` and `server` are their addresses, `shows`: the server's pings reach the host.
fn pinged_back(topology: &Topology, [host, server]: [IpAddr; 2], id: u16, shows: bool) -> usize {
    let (inside, provider) = (&topology.hosts[0].netns, &topology.providers[0].netns);
    let keep = |frame: &[u8]| request(frame).is_some();
    let capture = Capture::keeping(provider, TOWARDS_GATEWAY, keep).unwrap();
    assert_eq!(clients::ping_as(inside, host, id, server, 1).unwrap().received, 1);
    let (outside, _, id_outside) =
        requests(capture).into_iter().find(|(_, to, _)| *to == server).unwrap();
    assert!(outside != host || id_outside == id);

    let lan = Capture::keeping(inside, "eth0", keep).unwrap();
    let back = thread::scope(|scope| {
        let own = scope.spawn(|| clients::ping_as(inside, host, id, server, OF_HOST).unwrap());
        let back =
            clients::ping_as(&topology.internet, server, id_outside, outside, STRANGERS).unwrap();
        assert_eq!(own.join().unwrap().received, OF_HOST);
        back
    });
    let seen = requests(lan);
    let from = |address| seen.iter().filter(|(from, ..)| *from == address).count();
    assert_eq!((from(host), from(server)), (OF_HOST, if shows { STRANGERS } else { 0 }));
    back.received
}

#[test]
fn a_ping_with_the_identifier_of_a_hosts_own_is_the_gateways_where_that_translates() {
    let topology = Topology::build(Plan::new(1, 1)).unwrap();
    let weir = Weir::start(&topology, &Weir::configuration(&topology, &[1])).unwrap();
    let ends = [topology.hosts[0].address, plan::server_address(0)].map(IpAddr::from);
    for id in IDENTIFIERS {
        assert_eq!(pinged_back(&topology, ends, id, false), STRANGERS, "{id}");
    }
    weir.check_conservation().unwrap();
}

#[test]
fn a_ping_with_the_identifier_of_a_hosts_own_reaches_an_own_prefix_if_any_may() {
    for inbound in [false, true] {
        let plan = Plan { owned_prefix: true, ..Plan::new(1, 1) };
        let topology = Topology::build(plan).unwrap();
        let path = |_| format!("translate = \"none\"\ninbound = {inbound}\n");
        let file = Weir::configuration_with(&topology, &[1], &plan::owned_line(), path);
        let weir = Weir::start(&topology, &file).unwrap();
        let ends = [topology.hosts[0].owned.unwrap(), plan::server_address(0)].map(IpAddr::from);
        for id in IDENTIFIERS {
            let answered = if inbound { STRANGERS } else { 0 };
            assert_eq!(pinged_back(&topology, ends, id, inbound), answered, "{id}");
        }
        weir.check_conservation().unwrap();
    }
}

#[test]
fn a_ping_of_ipv6_with_the_identifier_of_a_hosts_own_reaches_nobody_in_whatever_mode() {
    for mode in Mode::ALL {
        println!("{mode:?}");
        let (topology, weir) = mode.start(Plan::new(1, 1), &[1], "").unwrap();
        weir.wait_until_usable_in(Family::V6, &[0]).unwrap();
        let ends = [mode.host(0), ipv6::SERVER].map(IpAddr::from);
        for id in IDENTIFIERS {
            assert_eq!(pinged_back(&topology, ends, id, false), 0, "{id}");
        }
        weir.check_conservation().unwrap();
    }
}
