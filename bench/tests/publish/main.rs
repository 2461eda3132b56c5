//! Published services, by real clients in the Internet and real servers in a LAN, on a gateway whose
//! kernel forwards too.

mod hairpin;

use std::io::{Read, Write};
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket,
};
use std::time::Duration;

use serde_json::Value;
use weir_kit::capture::Capture;
use weir_kit::ipv6::{self, Mode};
use weir_kit::long_flows::{Alive, LongFlows};
use weir_kit::netns::Netns;
use weir_kit::plan::Plan;
use weir_kit::server::{ECHO_PORT, HTTP_PORT, Server};
use weir_kit::topology::{Host, Topology};
use weir_kit::weir::{UPLINKS, Weir};
use weir_kit::{clients, wait};
use weir_layout::Family;
use weir_layout::counters::Counter;
use weir_wire::npt;

const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const PROVIDERS: usize = 3;
/// Ports outside.
const WEB: u16 = 8080;
const ECHO: u16 = 20_007;
const TCP: u8 = 6;
const PATIENCE: Duration = Duration::from_secs(10);
/// The first may find that the kernel has yet to hear of the host.
const SOON: Duration = Duration::from_millis(500);

/// An entry of the file.
fn publish(name: &str, protocol: &str, port: u16, to: &str, rest: &str) -> String {
    format!(
        "[[publish]]\nname = \"{name}\"\nprotocol = {protocol}\nports = {port}\nto = \"{to}\"\n\
         {rest}\n"
    )
}

/// A site with servers on its first host, and a configuration that publishes them.
fn site() -> (Topology, Server, String) {
    let topology = Topology::build(Plan::new(PROVIDERS, 2)).unwrap();
    let host = &topology.hosts[0];
    let server = Server::start(&host.netns, host.address).unwrap();
    let mut configuration = Weir::configuration(&topology, &[1; PROVIDERS]);
    let at = |port: u16| format!("{}:{port}", host.address);
    configuration += &publish("web", "\"tcp\"", WEB, &at(HTTP_PORT), "");
    configuration += &publish("echo", "[\"tcp\", \"udp\"]", ECHO, &at(ECHO_PORT), "");
    (topology, server, configuration)
}

/// The outside of a port.
fn outside(topology: &Topology, provider: usize, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(topology.providers[provider].addresses[0], port)
}

/// Is a datagram from a namespace soon answered, by whom it was sent to?
fn echoes(netns: &Netns, from: IpAddr, to: SocketAddr) -> bool {
    echoes_in(SOON, netns, from, to)
}

/// The same in this time.
fn echoes_in(time: Duration, netns: &Netns, from: IpAddr, to: SocketAddr) -> bool {
    let asked = netns.run(|| {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        socket.set_read_timeout(Some(time)).unwrap();
        socket.send_to(b"question", to).unwrap();
        let mut answer = [0; 16];
        let answered = socket.recv_from(&mut answer).ok();
        answered.is_some_and(|(len, by)| by == to && &answer[..len] == b"question")
    });
    asked.unwrap()
}

/// Waits until a service answers a client in the Internet.
fn wait_for(topology: &Topology, to: SocketAddrV4) {
    wait_for_answer(&topology.internet, CLIENT.into(), to.into());
}

/// Waits until one answers: a worker asks for its host before anybody asks it, but not at once.
fn wait_for_answer(netns: &Netns, from: IpAddr, to: SocketAddr) {
    wait::until("the service to answer", wait::BOUND, || Ok(echoes(netns, from, to).then_some(())))
        .unwrap();
}

/// Asks by a connection, which has to be answered.
fn ask_by_connection(netns: &Netns, to: SocketAddr) {
    let mut stream = netns.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap().unwrap();
    stream.write_all(b"question").unwrap();
    let mut answer = [0; 8];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"question");
}

/// Both processes start again, one after the other: ten connections and as many flows of UDP go on.
fn start_again(weir: &mut Weir, flows: &mut LongFlows) {
    let alive = Alive { tcp: 10, reset: 0, udp: 10 };
    weir.kill_control();
    assert_eq!(flows.ask(), alive);
    weir.start_control().unwrap();
    assert_eq!(flows.ask(), alive);
    // What a killed process has in its rings is in no account: connections acknowledge late.
    weir.check_conservation().unwrap();
    weir.kill_dataplane();
    weir.start_dataplane().unwrap();
    assert_eq!(flows.ask(), alive);
    let adopted = weir.counters().unwrap().sum(Counter::FlowsAdopted);
    assert!(adopted >= 20, "{adopted}");
}

/// What is published no more ends: who asks for it gets no answer, and those flows are over.
fn publish_no_more(
    weir: &Weir,
    configuration: &str,
    asks: impl Fn() -> bool,
    flows: &mut LongFlows,
) {
    let (without, _) = configuration.split_once("[[publish]]").unwrap();
    weir.reload(without).unwrap();
    wait::until("the service to be gone", wait::BOUND, || Ok((!asks()).then_some(()))).unwrap();
    assert_eq!(flows.ask(), Alive { tcp: 0, reset: 10, udp: 0 });
}

fn connect(topology: &Topology, to: impl Into<SocketAddr>) -> std::io::Result<TcpStream> {
    let to = to.into();
    topology.internet.run(|| TcpStream::connect_timeout(&to, PATIENCE)).unwrap()
}

/// Long flows of a client in the Internet to a service.
fn long_flows(topology: &Topology, provider: usize, count: usize) -> LongFlows {
    let client = Host { netns: topology.internet.clone(), address: CLIENT, owned: None, port: 0 };
    LongFlows::open(&client, outside(topology, provider, ECHO), count).unwrap()
}

/// What `weir publish` says of a service.
fn told(topology: &Topology, weir: &Weir, name: &str, protocol: &str) -> Value {
    let output = topology.gateway.output(&mut weir.cli(&["--json", "publish"]).unwrap()).unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let services = json["publish"].as_array().unwrap().iter();
    let mut named = services.filter(|of| of["name"] == name && of["protocol"] == protocol).cloned();
    named.next().unwrap()
}

#[test]
fn a_service_is_reached_by_every_uplink_and_answers_by_the_one_that_was_asked() {
    let (topology, _server, configuration) = site();
    let weir = Weir::start(&topology, &configuration).unwrap();
    (0..PROVIDERS).for_each(|provider| wait_for(&topology, outside(&topology, provider, ECHO)));
    // Nothing that begins inside would leave by the first.
    weir.weight(UPLINKS[0], 0).unwrap();
    let captures = Capture::at_providers(&topology).unwrap();
    for provider in 0..PROVIDERS {
        let to = outside(&topology, provider, WEB);
        for _ in 0..5 {
            let url = format!("http://{to}/3000000");
            assert_eq!(clients::curl(&topology.internet, &url).unwrap().bytes, 3_000_000);
        }
        for _ in 0..20 {
            let to = outside(&topology, provider, ECHO);
            assert!(echoes_in(PATIENCE, &topology.internet, CLIENT.into(), to.into()));
        }
    }
    for (provider, capture) in captures.into_iter().enumerate() {
        let tally = capture.stop().unwrap();
        assert_eq!(tally.faulty, 0, "{:?}", tally.faults);
        let own = topology.providers[provider].addresses[0];
        let answers: Vec<_> = tally
            .flows
            .keys()
            .filter(|flow| flow.protocol == TCP && flow.source_port == WEB)
            .collect();
        assert_eq!(answers.len(), 5);
        assert!(answers.iter().all(|flow| flow.source == own), "{answers:?}");
        assert_eq!(topology.providers[provider].foreign_sources().unwrap(), 0);
    }
    assert_eq!(told(&topology, &weir, "web", "tcp")["new_flows"], 5 * PROVIDERS);
    weir.check_conservation().unwrap();
    weir.check_tier(10).unwrap();
}

#[test]
fn a_host_sees_its_clients_address_and_nobody_reaches_what_is_not_published() {
    let (topology, _server, configuration) = site();
    let host = &topology.hosts[0];
    let open = publish("seen", "\"tcp\"", 9000, &host.address.to_string(), "");
    let rest = "from = [\"192.0.2.0/24\"]\nuplinks = [\"cable\"]";
    let closed = publish("closed", "\"tcp\"", 9001, &format!("{}:9000", host.address), rest);
    let weir = Weir::start(&topology, &(configuration + &open + &closed)).unwrap();
    wait_for(&topology, outside(&topology, 0, ECHO));
    let listener = host.netns.run(|| TcpListener::bind((host.address, 9000))).unwrap().unwrap();
    for provider in 0..PROVIDERS {
        let to = outside(&topology, provider, 9000);
        let stream = connect(&topology, to).unwrap();
        assert_eq!(listener.accept().unwrap().1, stream.local_addr().unwrap());
    }
    let reached = |to: SocketAddrV4| {
        let connect = || TcpStream::connect_timeout(&to.into(), 2 * SOON);
        topology.internet.run(connect).unwrap().is_ok()
    };
    assert!(!reached(outside(&topology, 1, 9001)), "its source is not allowed");
    assert!(weir.counters().unwrap().sum(Counter::DropPublishSource) > 0);
    assert!(!reached(outside(&topology, 0, 9001)), "the uplink is not open for it");
    assert!(!reached(outside(&topology, 0, HTTP_PORT)), "the host's port is not published");
    // By a route at the provider, whose kernel would have the gateway's forward it.
    let provider = &topology.providers[0];
    let route = format!("route add {}/32 via {}\n", host.address, provider.addresses[0]);
    provider.netns.ip(&route).unwrap();
    let direct = SocketAddr::from((host.address, HTTP_PORT));
    let by_route = provider.netns.run(|| TcpStream::connect_timeout(&direct, 2 * SOON)).unwrap();
    assert!(by_route.is_err(), "the host's own address is not published");
    weir.check_conservation().unwrap();
}

#[test]
fn of_uplinks_that_are_cut_in_turn_only_the_flows_of_the_dead_one_end() {
    const FLOWS: usize = 10;
    let (topology, _server, configuration) = site();
    let weir = Weir::start(&topology, &configuration).unwrap();
    (0..PROVIDERS).for_each(|provider| wait_for(&topology, outside(&topology, provider, ECHO)));
    for (dead, name) in UPLINKS.iter().enumerate().take(PROVIDERS) {
        let mut flows: Vec<_> =
            (0..PROVIDERS).map(|provider| long_flows(&topology, provider, FLOWS)).collect();
        let reset = || weir.counters().unwrap().sum(Counter::FlowsReset);
        let before = reset();
        topology.providers[dead].set_carrier(false).unwrap();
        wait::until("its connections to be reset", wait::BOUND, || {
            Ok((reset() >= before + FLOWS as u64).then_some(()))
        })
        .unwrap();
        let alive = Alive { tcp: FLOWS, reset: 0, udp: FLOWS };
        for provider in (0..PROVIDERS).filter(|provider| *provider != dead) {
            assert_eq!(flows[provider].ask(), alive, "{provider} of {dead}");
            let url = format!("http://{}/1000", outside(&topology, provider, WEB));
            assert_eq!(clients::curl(&topology.internet, &url).unwrap().bytes, 1000);
        }
        assert_eq!(reset(), before + FLOWS as u64, "and no others");
        let service = told(&topology, &weir, "web", "tcp");
        assert_eq!(service["closed"], serde_json::json!([name]));
        topology.providers[dead].set_carrier(true).unwrap();
        weir.wait_until_usable(&[0, 1, 2]).unwrap();
        wait_for(&topology, outside(&topology, dead, ECHO));
    }
    assert!(topology.providers.iter().all(|it| it.foreign_sources().unwrap() == 0));
    weir.check_conservation().unwrap();
}

#[test]
fn flows_go_on_while_either_process_starts_again_and_new_ones_begin_after() {
    let (topology, _server, configuration) = site();
    let mut weir = Weir::start(&topology, &configuration).unwrap();
    wait_for(&topology, outside(&topology, 0, ECHO));
    let mut flows = long_flows(&topology, 0, 10);
    let alive = Alive { tcp: 10, reset: 0, udp: 10 };
    assert_eq!(flows.ask(), alive);
    start_again(&mut weir, &mut flows);
    wait_for(&topology, outside(&topology, 1, ECHO));
    assert_eq!(told(&topology, &weir, "echo", "tcp")["flows"], 10);
    let asks = || echoes(&topology.internet, CLIENT.into(), outside(&topology, 2, ECHO).into());
    publish_no_more(&weir, &configuration, asks, &mut flows);
}

#[test]
fn a_connection_with_the_gateway_goes_on_when_its_port_is_published() {
    const PORT: u16 = 2022;
    let (topology, _server, configuration) = site();
    let weir = Weir::start(&topology, &configuration).unwrap();
    let (to, host) = (outside(&topology, 0, PORT), topology.hosts[0].address);
    let listener = topology.gateway.run(|| TcpListener::bind(("0.0.0.0", PORT))).unwrap().unwrap();
    let mut client = connect(&topology, to).unwrap();
    let (mut gateway, _) = listener.accept().unwrap();
    let entry = publish("ssh", "\"tcp\"", PORT, &format!("{host}:{ECHO_PORT}"), "");
    wait::until("the socket to be known", wait::BOUND, || {
        Ok(weir.control()?.is_bound(PORT).then_some(()))
    })
    .unwrap();
    weir.reload(&(configuration + &entry)).unwrap();
    let said = |from: &mut TcpStream, to: &mut TcpStream| {
        to.set_read_timeout(Some(PATIENCE)).unwrap();
        from.write_all(b"question").unwrap();
        let mut heard = [0; 8];
        to.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"question");
    };
    wait::until("the host to answer others", wait::BOUND, || {
        let mut other = connect(&topology, to)?;
        other.set_read_timeout(Some(SOON))?;
        other.write_all(b"question")?;
        Ok(other.read(&mut [0; 8]).is_ok_and(|heard| heard == 8).then_some(()))
    })
    .unwrap();
    said(&mut client, &mut gateway);
    said(&mut gateway, &mut client);
    let told = weir.log("weir-control");
    assert!(told.contains(&format!("a socket of the gateway has port {PORT}")), "{told}");
    weir.check_conservation().unwrap();
}

#[test]
fn connections_by_the_weights_of_names_are_all_answered_by_the_way_they_came() {
    const CONNECTIONS: usize = 10_000;
    // What a resolver gives out in turn: three of the first, two of the second, one of the third.
    const NAMES: [usize; 6] = [0, 1, 0, 2, 1, 0];
    let (topology, _server, configuration) = site();
    let weir = Weir::start(&topology, &configuration).unwrap();
    (0..PROVIDERS).for_each(|provider| wait_for(&topology, outside(&topology, provider, ECHO)));
    let sent = || -> Vec<u64> {
        weir.paths(Family::V4).unwrap().iter().map(|path| path.flows_created).collect()
    };
    let before = sent();
    let ask = |number: usize| -> std::io::Result<()> {
        let to = outside(&topology, NAMES[number % NAMES.len()], ECHO);
        let mut stream = TcpStream::connect_timeout(&to.into(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"question")?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer)
    };
    let all = topology.internet.run(|| (0..CONNECTIONS).try_for_each(ask)).unwrap();
    all.unwrap();
    let made: Vec<_> = sent().iter().zip(before).map(|(after, before)| after - before).collect();
    let expected =
        [0, 1, 2].map(|of| (0..CONNECTIONS).filter(|n| NAMES[n % 6] == of).count() as u64);
    assert_eq!(made[..PROVIDERS], expected);
    assert!(topology.providers.iter().all(|it| it.foreign_sources().unwrap() == 0));
    weir.check_conservation().unwrap();
}

#[test]
fn a_service_of_the_gateway_is_the_kernels_on_the_uplinks_that_are_named() {
    const PORT: u16 = 20_022;
    let (topology, _server, configuration) = site();
    let host = topology.hosts[0].address;
    let own = publish("ssh", "\"tcp\"", PORT, "gateway", "uplinks = [\"fiber\"]")
        + &publish("inner", "\"tcp\"", PORT, &format!("{host}:7"), "uplinks = [\"cable\"]");
    let weir = Weir::start(&topology, &(configuration + &own)).unwrap();
    wait_for(&topology, outside(&topology, 0, ECHO));
    let listener = topology.gateway.run(|| TcpListener::bind(("0.0.0.0", PORT))).unwrap().unwrap();
    let greet = std::thread::spawn(move || {
        for _ in 0..2 {
            listener.accept().unwrap().0.write_all(b"gateway").unwrap();
        }
    });
    let greeting = |provider: usize| {
        let to = outside(&topology, provider, PORT);
        let mut stream = connect(&topology, to).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"hosts..").unwrap();
        let mut greeting = [0; 7];
        stream.read_exact(&mut greeting).unwrap();
        greeting
    };
    assert_eq!(&greeting(0), b"gateway");
    assert_eq!(&greeting(1), b"hosts..", "the host's echo");
    // Nothing is published there, so it is the kernel's as ever.
    assert_eq!(&greeting(2), b"gateway");
    greet.join().unwrap();
    assert_eq!(told(&topology, &weir, "ssh", "tcp")["to"], "gateway");
    weir.check_conservation().unwrap();
}

/// What a host looks like outside by each provider.
fn addresses(mode: Mode, weir: &Weir, provider: usize) -> Ipv6Addr {
    let host = mode.hosts(0, PROVIDERS);
    match mode {
        Mode::Source => host[provider],
        Mode::Nat66 => ipv6::by(provider, "::1".parse().unwrap()),
        Mode::Npt66 => {
            let half = weir.snapshot().unwrap().half;
            let pair = *half.prefixes_of(provider as u8).next().unwrap();
            npt::outward(&pair, host[0].octets()).unwrap().into()
        }
        _ => host[0],
    }
}

#[test]
fn a_service_of_ipv6_is_reached_in_every_mode() {
    for mode in Mode::ALL {
        println!("{mode:?}");
        let host = mode.hosts(0, PROVIDERS);
        let mut entries = String::new();
        for (number, host) in host.iter().enumerate() {
            // By source each provider has an address of its own.
            let by = match mode {
                Mode::Source => format!("uplinks = [\"{}\"]", UPLINKS[number]),
                _ => String::new(),
            };
            let (name, to) = (format!("echo{number}"), format!("[{host}]:{ECHO_PORT}"));
            entries += &publish(&name, "[\"tcp\", \"udp\"]", ECHO, &to, &by);
        }
        let (topology, weir) = mode.start(Plan::new(PROVIDERS, 1), &[1; PROVIDERS], "").unwrap();
        weir.reload(&(mode.configuration(&topology, &[1; PROVIDERS]) + &entries)).unwrap();
        let _servers: Vec<_> = host
            .iter()
            .map(|host| Server::start(&topology.hosts[0].netns, *host).unwrap())
            .collect();
        // What is for an own prefix comes by the last provider.
        let first = if mode == Mode::None { PROVIDERS - 1 } else { 0 };
        for provider in first..PROVIDERS {
            let to = SocketAddr::from((addresses(mode, &weir, provider), ECHO));
            wait_for_answer(&topology.internet, ipv6::SERVER.into(), to);
            (0..5).for_each(|_| ask_by_connection(&topology.internet, to));
            // Not what is not published.
            let closed = SocketAddr::from((to.ip(), HTTP_PORT));
            let reached = topology.internet.run(|| TcpStream::connect_timeout(&closed, 2 * SOON));
            assert!(reached.unwrap().is_err(), "{closed}");
        }
        let asked = (PROVIDERS - first) as u64;
        let of = |number: usize| told(&topology, &weir, &format!("echo{number}"), "tcp");
        let made = (0..host.len()).map(|number| of(number)["new_flows"].as_u64().unwrap());
        assert_eq!(made.sum::<u64>(), 5 * asked, "they are weir's");
        ipv6::outbound(&topology).unwrap();
        weir.check_conservation().unwrap();
    }
}
