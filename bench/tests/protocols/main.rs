//! Protocols without ports, on the wire: real tunnels (IPv4 and IPv6 in IPv4, by socat), and
//! packets of GRE, ESP, SCTP and others by raw sockets.

mod published;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use etherparse::{IpNumber, PacketBuilder};
use weir_api::Request;
use weir_kit::capture::Capture;
use weir_kit::ipv6::{self, Mode};
use weir_kit::netns::Netns;
use weir_kit::plan::{self, Plan, Port};
use weir_kit::process::Process;
use weir_kit::raw::{Echo, Peer};
use weir_kit::station::Station;
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::weir::{UPLINKS, Weir};
use weir_kit::{clients, wait};
use weir_layout::counters::Counter;
use weir_wire::protocol::{AH, DCCP, ESP, GRE, IPIP, IPV6, OSPF, SCTP, UDP_LITE};

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const TRANSLATED: [u8; 4] = [GRE, ESP, SCTP, 253];
const PATIENCE: Duration = Duration::from_secs(10);
/// How long nobody's answer is waited for.
const SHORT: Duration = Duration::from_millis(300);

fn behind_nat(uplinks: usize, hosts: usize) -> (Topology, Weir) {
    let topology = Topology::build(Plan::new(uplinks, hosts)).unwrap();
    let weights = vec![1; uplinks];
    let weir = Weir::start(&topology, &Weir::configuration(&topology, &weights)).unwrap();
    (topology, weir)
}

/// A site whose hosts have an address of an own prefix.
fn own_prefix() -> (Topology, Weir) {
    let plan = Plan { owned_prefix: true, ..Plan::new(2, 1) };
    let topology = Topology::build(plan).unwrap();
    let path = |_| "translate = \"none\"\n".into();
    let file = Weir::configuration_with(&topology, &[1, 1], &plan::owned_line(), path);
    let weir = Weir::start(&topology, &file).unwrap();
    (topology, weir)
}

/// An end of a tunnel: the device `tunnel`, whose packets a raw socket of the protocol carries.
fn tunnel(netns: &Netns, [from, to]: [Ipv4Addr; 2], protocol: u8, address: &str) -> Process {
    let mut socat = Command::new("socat");
    let device = "TUN,tun-type=tun,iff-no-pi,iff-up,tun-name=tunnel";
    let end = format!("IP4-SENDTO:{to}:{protocol},bind={from}");
    socat.args([device, &end]).stdin(Stdio::null()).stderr(Stdio::null());
    let process = netns.spawn(&mut socat).unwrap();
    // Its device is there before socat sets it up, and a device that is down has no routes.
    let set = format!("addr replace {address} dev tunnel nodad\nlink set tunnel up\n");
    wait::until("a tunnel", wait::BOUND, || Ok(netns.ip(&set).is_ok().then_some(()))).unwrap();
    process
}

/// The uplink that the host's flow of a protocol is on.
fn uplink_of(weir: &Weir, source: Ipv4Addr, protocol: &str) -> String {
    let source = source.to_string();
    let arguments = ["--json", "flows", "--source", &source, "--protocol", protocol];
    let output = weir_kit::process::output(&mut weir.cli(&arguments).unwrap()).unwrap();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let shown = value["flows"]["shown"].as_array().unwrap();
    assert_eq!(shown.len(), 1, "{value}");
    assert_eq!(shown[0]["protocol"], protocol, "{value}");
    assert_eq!(shown[0]["offered"], false, "{value}");
    shown[0]["uplink"].as_str().unwrap().to_owned()
}

fn number_of(uplink: &str) -> usize {
    UPLINKS.iter().position(|name| *name == uplink).unwrap()
}

fn answers(peer: &Peer, bytes: &[u8]) -> bool {
    peer.ask(bytes, PATIENCE).is_ok_and(|answer| answer == bytes)
}

#[test]
fn tunnels_work_behind_a_nat_and_the_second_host_takes_the_other_uplink() {
    let (topology, weir) = behind_nat(2, 3);
    let captures = Capture::at_providers(&topology).unwrap();
    let hosts = &topology.hosts;
    // Of the two protocols, either may be on either uplink: the far end is told by what comes.
    let mut ends = Vec::new();
    for (protocol, name, inside, outside, to) in [
        (IPIP, "ipip", "192.168.77.1/24", "192.168.77.2/24", "192.168.77.2"),
        (IPV6, "6in4", "fd77::1/64", "fd77::2/64", "fd77::2"),
    ] {
        let near = tunnel(&hosts[0].netns, [hosts[0].address, SERVER], protocol, inside);
        // Whatever it sends begins the flow.
        let to: IpAddr = to.parse().unwrap();
        assert_eq!(clients::ping(&hosts[0].netns, to, 1).unwrap().received, 0);
        let uplink = number_of(&uplink_of(&weir, hosts[0].address, name));
        let seen_as = plan::uplink_address(uplink, 0);
        let far = tunnel(&topology.internet, [SERVER, seen_as], protocol, outside);
        assert_eq!(clients::ping(&hosts[0].netns, to, 5).unwrap().received, 5, "{name}");
        // Another host to the same server has the address of the other uplink, and a third none.
        let second = Peer::open(&hosts[1].netns, hosts[1].address.into(), SERVER.into(), protocol);
        assert!(second.unwrap().ask(b"second", SHORT).is_err(), "nobody answers");
        assert_eq!(number_of(&uplink_of(&weir, hosts[1].address, name)), 1 - uplink);
        let told = Capture::keeping(&hosts[2].netns, "eth0", |frame| {
            frame.get(23) == Some(&1) && frame.get(34..36) == Some(&[3, 1])
        });
        let told = told.unwrap();
        let third = Peer::open(&hosts[2].netns, hosts[2].address.into(), SERVER.into(), protocol);
        assert!(third.unwrap().ask(b"third", SHORT).is_err());
        assert!(!told.stop().unwrap().kept.is_empty(), "it is told that the host is not reached");
        assert_eq!(clients::ping(&hosts[0].netns, to, 5).unwrap().received, 5, "{name}");
        ends.push((near, far));
        drop(ends.pop());
    }
    assert!(weir.counters().unwrap().sum(Counter::DropNoPort) >= 2);
    for (capture, provider) in captures.into_iter().zip(&topology.providers) {
        let sources = capture.stop().unwrap().sources_to(SERVER);
        let outside = plan::uplink_address(provider.index, 0);
        assert!(sources.keys().all(|source| *source == outside), "{sources:?}");
        assert_eq!(provider.foreign_sources().unwrap(), 0);
    }
    weir.check_conservation().unwrap();
}

#[test]
fn a_tunnel_from_an_own_prefix_goes_on_by_another_uplink() {
    let (topology, weir) = own_prefix();
    let host = &topology.hosts[0];
    let owned = host.owned.unwrap();
    let _near = tunnel(&host.netns, [owned, SERVER], IPIP, "192.168.77.1/24");
    let _far = tunnel(&topology.internet, [SERVER, owned], IPIP, "192.168.77.2/24");
    let to: IpAddr = "192.168.77.2".parse().unwrap();
    let works = || clients::ping(&host.netns, to, 5).unwrap().received == 5;
    wait::until("the tunnel to work", wait::BOUND, || Ok(works().then_some(()))).unwrap();
    let first = uplink_of(&weir, owned, "ipip");
    // What comes for the prefix may come by any, this one among them.
    weir.request(&Request::Down { uplink: first.clone() }).unwrap();
    wait::until("the tunnel to go on", wait::BOUND, || Ok(works().then_some(()))).unwrap();
    assert_ne!(uplink_of(&weir, owned, "ipip"), first);
    // Nothing that it covers changes, so what covers its addresses goes out too.
    for protocol in [AH, DCCP, UDP_LITE] {
        let _echo = Echo::start(&topology.internet, SERVER.into(), protocol).unwrap();
        let peer = Peer::open(&host.netns, owned.into(), SERVER.into(), protocol).unwrap();
        assert!(answers(&peer, b"as it is"), "protocol {protocol}");
    }
    weir.check_conservation().unwrap();
}

#[test]
fn any_protocol_is_translated_by_its_address_begins_again_elsewhere_and_what_cannot_be_is_refused()
{
    let (topology, weir) = behind_nat(2, 1);
    // Without DF, so that a provider's router cuts what is too long for the link.
    topology.internet.sysctl(&[("net/ipv4/ip_no_pmtu_disc", "1")]).unwrap();
    let host = &topology.hosts[0];
    let server = SERVER.into();
    let open = |protocol| Peer::open(&host.netns, host.address.into(), server, protocol).unwrap();
    let echoes = TRANSLATED.map(|it| Echo::start(&topology.internet, server, it).unwrap());
    let peers = TRANSLATED.map(open);
    // In fragments too: of four thousand bytes.
    for bytes in [&[][..], &[7; 3], &[7; 1000], &[7; 4000]] {
        for (peer, protocol) in peers.iter().zip(TRANSLATED) {
            assert!(answers(peer, bytes), "protocol {protocol}, {} bytes", bytes.len());
        }
    }
    // Where its uplink is down, a flow has the address of another.
    weir.request(&Request::Down { uplink: UPLINKS[0].into() }).unwrap();
    for (peer, protocol) in peers.iter().zip(TRANSLATED) {
        let again = || Ok(answers(peer, b"again").then_some(()));
        wait::until("answers by the other uplink", wait::BOUND, again).unwrap();
        let name = weir_cli_name(protocol);
        assert_eq!(uplink_of(&weir, host.address, &name), UPLINKS[1]);
    }
    drop(echoes);
    for protocol in [AH, DCCP, UDP_LITE] {
        const PROTOCOL_NOT_AVAILABLE: i32 = 92;
        let error = open(protocol).ask(b"covers its addresses", PATIENCE).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(PROTOCOL_NOT_AVAILABLE), "protocol {protocol}");
    }
    let error = open(OSPF).ask(b"of one link", SHORT).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock, "nobody says anything");
    assert!(weir.counters().unwrap().sum(Counter::DropProtocol) >= 4);
    weir.check_conservation().unwrap();
}

fn weir_cli_name(protocol: u8) -> String {
    match protocol {
        GRE => "gre".into(),
        ESP => "esp".into(),
        SCTP => "sctp".into(),
        other => other.to_string(),
    }
}

#[test]
fn what_no_flow_waits_for_reaches_no_host_by_any_protocol() {
    let plan = Plan { owned_prefix: true, ..Plan::new(2, 1) };
    let topology = Topology::build(plan).unwrap();
    // The first translates, the second carries an own prefix.
    let path = |index| if index == 1 { "translate = \"none\"\n".into() } else { String::new() };
    let file = Weir::configuration_with(&topology, &[1, 1], &plan::owned_line(), path);
    let weir = Weir::start(&topology, &file).unwrap();
    let host = &topology.hosts[0];
    // A flow is there: of another remote it lets in nothing.
    let _echo = Echo::start(&topology.internet, SERVER.into(), GRE).unwrap();
    let owned = host.owned.unwrap();
    let peer = Peer::open(&host.netns, owned.into(), SERVER.into(), GRE).unwrap();
    assert!(answers(&peer, b"asked for"));
    const TOKEN: &[u8] = b"nobody asked for this";
    let lan = Capture::keeping(&host.netns, "eth0", |frame| {
        frame.windows(TOKEN.len()).any(|bytes| bytes == TOKEN)
    })
    .unwrap();
    let targets = [plan::uplink_address(0, 0), host.address, owned];
    for (index, provider) in topology.providers.iter().enumerate() {
        let mut station = Station::on(&provider.netns, TOWARDS_GATEWAY).unwrap();
        let to = mac(Port::GatewayWan(index));
        for protocol in (0..=255).filter(|protocol| ![1, 6, 17, 58].contains(protocol)) {
            for target in targets {
                let builder = PacketBuilder::ethernet2([2, 0x66, 0, 0, 0, 0], to).ipv4(
                    [198, 51, 100, 99],
                    target.octets(),
                    64,
                );
                let mut frame = Vec::new();
                builder.write(&mut frame, IpNumber(protocol), TOKEN).unwrap();
                station.send(&frame).unwrap();
            }
        }
    }
    assert!(answers(&peer, b"still"), "behind all of them");
    assert_eq!(lan.stop().unwrap().kept.len(), 0);
    weir.check_conservation().unwrap();
}

fn mac(port: Port) -> [u8; 6] {
    let mac = port.mac();
    let bytes: Vec<u8> = mac.split(':').map(|b| u8::from_str_radix(b, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

#[test]
fn in_ipv6_they_pass_however_addresses_are_translated() {
    for mode in [Mode::None, Mode::Npt66, Mode::Nat66] {
        let (topology, weir) = mode.start(Plan::new(2, 1), &[1, 1], "").unwrap();
        let (host, server) = (&topology.hosts[0].netns, ipv6::SERVER.into());
        let open = |protocol| Peer::open(host, mode.host(0).into(), server, protocol).unwrap();
        let covered = [UDP_LITE, DCCP];
        let mut heard = BTreeSet::new();
        for protocol in TRANSLATED.into_iter().chain([IPIP, 59]).chain(covered) {
            let _echo = Echo::start(&topology.internet, server, protocol).unwrap();
            let patience = if covered.contains(&protocol) { SHORT } else { PATIENCE };
            let is_answered = |bytes: &[u8]| {
                open(protocol).ask(bytes, patience).is_ok_and(|answer| answer == bytes)
            };
            if is_answered(&[1; 8]) && is_answered(&[7; 1000]) {
                heard.insert(protocol);
            }
        }
        let mut expected: BTreeSet<u8> = TRANSLATED.into_iter().chain([IPIP, 59]).collect();
        if mode != Mode::Nat66 {
            // As prefixes leave the sum of the pseudo-header as it was.
            expected.extend(covered);
        }
        assert_eq!(heard, expected, "{mode:?}");
        weir.check_conservation().unwrap();
    }
}

#[test]
fn what_the_gateway_itself_speaks_with_a_remote_no_host_takes_over() {
    let (topology, weir) = behind_nat(1, 1);
    let (host, outside) = (&topology.hosts[0], plan::uplink_address(0, 0));
    let _echo = Echo::start(&topology.internet, SERVER.into(), GRE).unwrap();
    let peer = Peer::open(&host.netns, host.address.into(), SERVER.into(), GRE).unwrap();
    assert!(answers(&peer, b"the host's"));
    // A tunnel of the gateway's own begins, to the same remote.
    let own = Peer::open(&topology.gateway, outside.into(), SERVER.into(), GRE).unwrap();
    wait::until("the gateway to be answered", wait::BOUND, || {
        Ok(own.ask(b"the gateway's", SHORT).is_ok().then_some(()))
    })
    .unwrap();
    // What came to the host until then.
    while peer.hear(SHORT).is_ok() {}
    for round in 0..10u8 {
        assert!(peer.ask(b"the host's", Duration::from_millis(20)).is_err());
        assert!(own.ask(&[round; 9], PATIENCE).is_ok(), "it goes on");
    }
    // When that ends, the host goes on.
    drop(own);
    wait::until("the host to be answered", wait::BOUND, || {
        Ok(peer.ask(b"again", SHORT).is_ok().then_some(()))
    })
    .unwrap();
    weir.check_conservation().unwrap();
}

#[test]
fn what_was_agreed_by_tcp_goes_on_by_the_same_uplink_or_is_refused() {
    const PPTP: u16 = 1723;
    let (topology, weir) = behind_nat(2, 4);
    let server = topology.internet.run(|| TcpListener::bind((SERVER, PPTP))).unwrap().unwrap();
    let _echo = Echo::start(&topology.internet, SERVER.into(), GRE).unwrap();
    let (mut taken, mut refused) = (BTreeSet::new(), 0);
    for host in &topology.hosts {
        let agreed = host.netns.run(|| TcpStream::connect((SERVER, PPTP))).unwrap().unwrap();
        let (_accepted, seen_as) = server.accept().unwrap();
        let peer = Peer::open(&host.netns, host.address.into(), SERVER.into(), GRE).unwrap();
        if taken.insert(seen_as.ip()) {
            assert!(answers(&peer, b"the first by this address"));
            let uplink = number_of(&uplink_of(&weir, host.address, "gre"));
            assert_eq!(IpAddr::from(plan::uplink_address(uplink, 0)), seen_as.ip());
        } else {
            assert!(peer.ask(b"another has the place", SHORT).is_err());
            refused += 1;
        }
        drop(agreed);
    }
    assert!(refused >= 2, "there are two addresses");
    assert!(weir.counters().unwrap().sum(Counter::DropNoPort) >= refused);
    weir.check_conservation().unwrap();
}

#[test]
fn sctp_that_a_lan_leaves_to_a_device_goes_out_with_its_crc() {
    let (topology, weir) = behind_nat(1, 1);
    let host = &topology.hosts[0];
    let _echo = Echo::start(&topology.internet, SERVER.into(), SCTP).unwrap();
    let peer = Peer::open(&host.netns, host.address.into(), SERVER.into(), SCTP).unwrap();
    // Ports, a tag, nothing where the CRC32c is to be, and a chunk: as a veth device is given it.
    let sent = [&[0x13, 0x88, 0, 80, 1, 2, 3, 4][..], &[0; 4], b"a chunk of it"].concat();
    let answer = peer.ask(&sent, PATIENCE).unwrap();
    let crc: [u8; 4] = answer[8..12].try_into().unwrap();
    assert_eq!([&answer[..8], &answer[12..]], [&sent[..8], &sent[12..]]);
    assert_eq!(crc, [0xcd, 0x4b, 0x53, 0x73], "by the bits of RFC 9260 appendix A");
    let whole = [&sent[..8], &crc[..], &sent[12..]].concat();
    assert!(answers(&peer, &whole), "what has one keeps it");
    weir.check_conservation().unwrap();
}
