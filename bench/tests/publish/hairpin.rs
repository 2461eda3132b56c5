//! The same services, asked by hosts of the LAN at the address outside.

use std::io::ErrorKind;
use std::net::{TcpListener, TcpStream, UdpSocket};

use super::*;

/// Waits until a service answers a host.
fn wait_inside(host: &Host, to: SocketAddrV4) {
    wait_for_answer(&host.netns, host.address.into(), to.into());
}

/// The addresses outside.
fn outsides(topology: &Topology) -> Vec<Ipv4Addr> {
    topology.providers.iter().map(|provider| provider.addresses[0]).collect()
}

#[test]
fn hosts_of_the_lan_reach_a_service_by_each_address_outside_and_are_seen_by_one() {
    let (topology, _server, configuration) = site();
    let [serving, asking] = &topology.hosts[..] else { panic!("two hosts") };
    let seen = publish("seen", "\"tcp\"", 9000, &serving.address.to_string(), "");
    let weir = Weir::start(&topology, &(configuration + &seen)).unwrap();
    let listener =
        serving.netns.run(|| TcpListener::bind((serving.address, 9000))).unwrap().unwrap();
    let captures = Capture::at_providers(&topology).unwrap();
    // The server's own host is one that asks.
    for host in [asking, serving] {
        for provider in 0..PROVIDERS {
            wait_inside(host, outside(&topology, provider, ECHO));
            let connect = || TcpStream::connect(outside(&topology, provider, 9000));
            let stream = host.netns.run(connect).unwrap().unwrap();
            let (_, client) = listener.accept().unwrap();
            assert_ne!(client, stream.local_addr().unwrap());
            assert!(outsides(&topology).iter().any(|of| client.ip() == IpAddr::V4(*of)));
            let url = format!("http://{}/3000000", outside(&topology, provider, WEB));
            assert_eq!(clients::curl(&host.netns, &url).unwrap().bytes, 3_000_000);
        }
    }
    for capture in captures {
        let tally = capture.stop().unwrap();
        let ours: Vec<_> = tally
            .flows
            .keys()
            .filter(|flow| [WEB, ECHO, 9000].contains(&flow.source_port))
            .collect();
        assert!(ours.is_empty(), "it stays inside: {ours:?}");
    }
    assert_eq!(told(&topology, &weir, "web", "tcp")["new_flows"], 2 * PROVIDERS);
    assert!(weir.uplinks().unwrap().iter().all(|uplink| uplink.rx_bytes < 1_000_000));
    weir.check_conservation().unwrap();
    weir.check_tier(10).unwrap();
}

#[test]
fn an_endpoint_looks_the_same_to_a_service_inside_as_to_the_world() {
    let (topology, _server, configuration) = site();
    let [serving, asking] = &topology.hosts[..] else { panic!("two hosts") };
    let seen = publish("seen", "\"udp\"", 9000, &serving.address.to_string(), "");
    let _weir = Weir::start(&topology, &(configuration + &seen)).unwrap();
    let bind = |host: &Host| host.netns.run(|| UdpSocket::bind((host.address, 9000)));
    let (server, client) = (bind(serving).unwrap().unwrap(), bind(asking).unwrap().unwrap());
    let world = topology.internet.run(|| UdpSocket::bind((CLIENT, 9000))).unwrap().unwrap();
    for socket in [&server, &client, &world] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    wait_inside(asking, outside(&topology, 0, ECHO));
    client.send_to(b"world", (CLIENT, 9000)).unwrap();
    let (_, known) = world.recv_from(&mut [0; 8]).unwrap();
    for provider in 0..PROVIDERS - 1 {
        client.send_to(b"inside", outside(&topology, provider, 9000)).unwrap();
        let (_, known_inside) = server.recv_from(&mut [0; 8]).unwrap();
        if provider == 0 {
            assert_eq!(known_inside, known);
        } else {
            assert_ne!(known_inside, known, "by another address it is another client");
        }
        server.send_to(b"answer", known_inside).unwrap();
        let (_, by) = client.recv_from(&mut [0; 8]).unwrap();
        assert_eq!(by, outside(&topology, provider, 9000).into());
    }
}

#[test]
fn who_asks_where_nobody_serves_is_told() {
    let (topology, _server, configuration) = site();
    let [serving, asking] = &topology.hosts[..] else { panic!("two hosts") };
    let empty = publish("empty", "[\"tcp\", \"udp\"]", 9000, &serving.address.to_string(), "");
    let _weir = Weir::start(&topology, &(configuration + &empty)).unwrap();
    wait_inside(asking, outside(&topology, 0, ECHO));
    let to = outside(&topology, 1, 9000);
    let refused = asking.netns.run(|| TcpStream::connect_timeout(&to.into(), PATIENCE)).unwrap();
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    let told = asking.netns.run(|| {
        let socket = UdpSocket::bind((asking.address, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(to).unwrap();
        socket.send(b"question").unwrap();
        socket.recv(&mut [0; 8]).unwrap_err().kind()
    });
    assert_eq!(told.unwrap(), ErrorKind::ConnectionRefused, "by an ICMP error");
}

#[test]
fn a_service_is_reached_in_the_lan_while_all_uplinks_are_down_and_either_process_starts_again() {
    let (topology, _server, configuration) = site();
    let asking = &topology.hosts[1];
    let mut weir = Weir::start(&topology, &configuration).unwrap();
    let to = outside(&topology, 1, ECHO);
    wait_inside(asking, to);
    let mut flows = LongFlows::open(asking, to, 10).unwrap();
    let alive = Alive { tcp: 10, reset: 0, udp: 10 };
    assert_eq!(flows.ask(), alive);
    for provider in &topology.providers {
        provider.set_carrier(false).unwrap();
    }
    assert_eq!(flows.ask(), alive);
    wait_inside(asking, to);
    start_again(&mut weir, &mut flows);
    assert_eq!(told(&topology, &weir, "echo", "tcp")["flows"], 10);
    wait_inside(asking, outside(&topology, 2, ECHO));
    let asks = || echoes(&asking.netns, asking.address.into(), to.into());
    publish_no_more(&weir, &configuration, asks, &mut flows);
}

#[test]
fn a_service_of_ipv6_that_is_translated_is_reached_in_the_lan_too() {
    for mode in [Mode::Nat66, Mode::Npt66] {
        println!("{mode:?}");
        let serving = mode.hosts(0, PROVIDERS)[0];
        let entry =
            publish("echo", "[\"tcp\", \"udp\"]", ECHO, &format!("[{serving}]:{ECHO_PORT}"), "");
        let (topology, weir) = mode.start(Plan::new(PROVIDERS, 2), &[1; PROVIDERS], "").unwrap();
        weir.reload(&(mode.configuration(&topology, &[1; PROVIDERS]) + &entry)).unwrap();
        let _server = Server::start(&topology.hosts[0].netns, serving).unwrap();
        for number in [1, 0] {
            let (host, own) = (&topology.hosts[number], mode.hosts(number, PROVIDERS)[0]);
            for provider in 0..PROVIDERS {
                let to = SocketAddr::from((addresses(mode, &weir, provider), ECHO));
                wait_for_answer(&host.netns, own.into(), to);
                (0..5).for_each(|_| ask_by_connection(&host.netns, to));
            }
        }
        let made = told(&topology, &weir, "echo", "tcp")["new_flows"].as_u64().unwrap();
        assert_eq!(made, 2 * 5 * PROVIDERS as u64, "they are weir's");
        ipv6::outbound(&topology).unwrap();
        weir.check_conservation().unwrap();
    }
}
