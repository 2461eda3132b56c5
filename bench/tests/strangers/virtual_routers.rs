//! Hosts that know the gateway by another hardware address: that of a virtual router (RFC 9568 §7.3)
//! on a macvlan device of the LAN port, as keepalived makes them with `use_vmac`.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use etherparse::PacketBuilder;
use weir_kit::capture::Capture;
use weir_kit::plan::{Plan, Port};
use weir_kit::station::Station;
use weir_kit::topology::TOWARDS_GATEWAY;
use weir_kit::weir::Weir;
use weir_kit::{clients, server, udp_flows, wait};
use weir_layout::counters::Counter;

use crate::{ECHO, SERVER, mac, site, written};

/// The virtual router of each host.
const ROUTERS: [(u8, Ipv4Addr); 2] =
    [(7, Ipv4Addr::new(10, 0, 0, 254)), (8, Ipv4Addr::new(10, 0, 0, 253))];

#[test]
fn hosts_that_use_virtual_routers_are_forwarded_as_others() {
    const BYTES: usize = 1_000_000;
    let (topology, _server, configuration) = site(Plan::new(2, 2));
    // An address is answered for by its own device alone.
    topology.gateway.sysctl(&[("net/ipv4/conf/lan0/arp_ignore", "1")]).unwrap();
    let weir = Weir::start(&topology, &configuration).unwrap();
    for (host, (id, address)) in topology.hosts.iter().zip(ROUTERS) {
        let mac = format!("00:00:5e:00:01:{id:02x}");
        topology
            .gateway
            .ip(&format!(
                "link add vrrp{id} link lan0 address {mac} type macvlan mode bridge\n\
                 addr add {address}/32 dev vrrp{id}\n\
                 link set vrrp{id} up\n"
            ))
            .unwrap();
        host.netns.ip(&format!("route replace default via {address}\n")).unwrap();
        wait::until("the address to be known", wait::BOUND, || {
            let snapshot = weir.snapshot()?;
            let known = |mac: &weir_layout::control::Mac| mac.bytes()[5] == id;
            Ok(snapshot.half.ports.iter().any(|p| p.virtual_macs.iter().any(known)).then_some(()))
        })
        .unwrap();
    }
    let lans: Vec<_> =
        topology.hosts.iter().map(|host| Capture::start(&host.netns, "eth0").unwrap()).collect();
    let links = Capture::at_providers(&topology).unwrap();
    let report = udp_flows::run(&topology.hosts, ECHO, 200).unwrap();
    assert_eq!((report.sent, report.answered), (400, 400));
    for host in &topology.hosts {
        // What one uplink leads to is reached by the kernel, which translates it.
        let next_hop = topology.providers[0].next_hop;
        assert_eq!(clients::ping(&host.netns, next_hop, 3).unwrap().received, 3);
        let download = clients::curl(&host.netns, &server::content_url(SERVER, BYTES)).unwrap();
        assert_eq!(download.bytes, BYTES);
        let neighbours =
            host.netns.output(Command::new("ip").args(["neigh", "show", "dev", "eth0"]));
        let neighbours = String::from_utf8(neighbours.unwrap().stdout).unwrap();
        assert!(neighbours.contains("00:00:5e:00:01:"), "{neighbours}");
    }
    for (link, provider) in links.into_iter().zip(&topology.providers) {
        let tally = link.stop().unwrap();
        let sources: Vec<_> = tally.sources_to(SERVER).into_keys().collect();
        assert_eq!(sources, provider.addresses, "translated, and dealt out");
        assert_eq!(provider.foreign_sources().unwrap(), 0);
    }
    assert!(lans.into_iter().all(|lan| lan.stop().unwrap().faulty == 0));
    // A megabyte is some 700 segments, of which the kernel tier takes all but a few.
    let forwarded = weir.counters().unwrap().sum(Counter::XdpForwarded);
    match weir_kit::weir::tier().as_str() {
        "user" => assert_eq!(forwarded, 0),
        _ => assert!(forwarded > 1000, "{forwarded}"),
    }
    weir.check_conservation().unwrap();
}

#[test]
fn what_hosts_send_to_virtual_routers_leaves_translated_or_not_at_all() {
    // More than a port has room for.
    const IDS: std::ops::RangeInclusive<u8> = 1..=7;
    let (topology, _server, configuration) = site(Plan::new(1, 1));
    let mut weir = Weir::prepare(&topology, &configuration).unwrap();
    for id in IDS {
        topology
            .gateway
            .ip(&format!(
                "link add vrrp{id} link lan0 address 00:00:5e:00:01:{id:02x} type macvlan\n\
                 link set vrrp{id} up\n"
            ))
            .unwrap();
    }
    let (host, provider) = (&topology.hosts[0], &topology.providers[0]);
    let mut station = Station::on(&host.netns, "eth0").unwrap();
    let mut sources = |settle: &dyn Fn()| {
        let link = Capture::start(&provider.netns, TOWARDS_GATEWAY).unwrap();
        for id in IDS {
            let [from, to] = [mac(Port::Host(0)), [0, 0, 0x5e, 0, 1, id]];
            let (src, port) = (host.address.octets(), 2000 + u16::from(id));
            let packet = PacketBuilder::ethernet2(from, to).ipv4(src, SERVER.octets(), 64);
            station.send(&written(|to| packet.udp(port, port).write(to, b"?"))).unwrap();
        }
        settle();
        link.stop().unwrap().sources_to(SERVER)
    };
    let all = IDS.count() as u64;
    // The kernel forwards some of them a little later, perhaps.
    let later = || std::thread::sleep(Duration::from_millis(200));
    assert_eq!(sources(&later), [(host.address, all)].into(), "without weir");
    weir.start_control().unwrap();
    topology.gateway.wait_for_rules(&["\"vrrp7\""]).unwrap();
    assert_eq!(sources(&|| {}), [].into(), "without a dataplane");
    weir.start_dataplane().unwrap();
    weir.wait_until_usable(&[0]).unwrap();
    // An answer by the same worker: what went before has left.
    let ping = || {
        let other = topology.servers[1];
        assert_eq!(clients::ping(&host.netns, other, 1).unwrap().received, 1);
    };
    let found = sources(&ping);
    assert!(found.keys().all(|source| *source == provider.addresses[0]), "{found:?}");
    assert!(!found.is_empty());
    weir.check_conservation().unwrap();
}
