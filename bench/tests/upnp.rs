//! Ports that hosts of LANs ask for by UPnP, with clients that are not ours: upnpc (miniupnpc) and
//! igd-next. Two providers, and two hosts, each in a LAN of its own.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use igd_next::{PortMappingProtocol, SearchOptions};
use weir_kit::ipv6::{self, Mode};
use weir_kit::netns::Netns;
use weir_kit::plan::{self, Lan, Plan};
use weir_kit::topology::{Host, Topology};
use weir_kit::wait;
use weir_kit::weir::Weir;

const PROVIDERS: usize = 2;
const PORT: u16 = 1900;
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
/// The port inside, and the one outside that it is to have.
const INSIDE: u16 = 8080;
const OUTSIDE: u16 = 20_080;
/// What silence is taken for none: longer than answers to a search are spread over.
const SILENCE: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(10);
const SEARCH: &str = "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\n\
    MAN: \"ssdp:discover\"\r\nMX: 1\r\nST: upnp:rootdevice\r\n\r\n";

struct Site {
    topology: Topology,
    weir: Weir,
}

impl Site {
    /// Hosts of the first LAN may ask.
    fn new() -> Self {
        let plan = Plan { lan: Lan::Direct, ..Plan::new(PROVIDERS, 2) };
        let topology = Topology::build(plan).unwrap();
        serve_pages(&topology.hosts[0].netns, topology.hosts[0].address.into());
        let none = |_| String::new();
        let text = Weir::configuration_with(&topology, &[2, 1], "port_mapping = true", none);
        let weir = Weir::start(&topology, &format!("{text}[port_mapping]\nupnp = true\n")).unwrap();
        Self { topology, weir }
    }

    fn host(&self) -> &Host {
        &self.topology.hosts[0]
    }

    /// The gateway's address in the first LAN.
    fn gateway(&self) -> SocketAddr {
        (plan::lan_gateway(self.host().port), PORT).into()
    }

    /// What upnpc says on the first host, which knows where the gateway is.
    fn upnpc(&self, arguments: &[&str]) -> String {
        let description = format!("http://{}/gateway.xml", self.gateway());
        upnpc(&self.host().netns, &[&["-i", "-u", &description], arguments].concat())
    }

    /// What a page has that is asked for by a provider, from the Internet; none: no answer.
    fn page(&self, provider: usize, port: u16) -> Option<String> {
        let outside = self.topology.providers[provider].addresses[0];
        fetch(&self.topology.internet, SocketAddr::new(outside.into(), port))
    }

    fn wait_for_page(&self, provider: usize, port: u16) {
        let reached = || Ok(self.page(provider, port).map(|page| assert_eq!(page, "page")));
        wait::until("the port to be reached", wait::BOUND, reached).unwrap();
    }

    fn wait_for_gateway(&self) {
        let found = || Ok(search(self.host(), (GROUP, PORT).into()));
        wait::until("the gateway to be found", wait::BOUND, found).unwrap();
    }
}

fn upnpc(netns: &Netns, arguments: &[&str]) -> String {
    let run = || Command::new("upnpc").args(arguments).output().unwrap();
    let output = netns.run(run).unwrap();
    [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat()
}

/// What curl says of a page; none: no answer.
fn fetch(netns: &Netns, from: SocketAddr) -> Option<String> {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-m", "1", &format!("http://{from}/")]);
    let output = netns.run(|| curl.output().unwrap()).unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Serves a page at an address.
fn serve_pages(netns: &Netns, address: IpAddr) {
    let listener = netns.run(|| TcpListener::bind((address, INSIDE))).unwrap().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\npage",
            );
        }
    });
}

/// The answer to a search by a host; none: silence.
fn search(host: &Host, to: SocketAddr) -> Option<String> {
    host.netns.run(|| ask_by_udp(host.address.into(), to, SEARCH)).unwrap()
}

fn ask_by_udp(from: IpAddr, to: SocketAddr, text: &str) -> Option<String> {
    let socket = UdpSocket::bind((from, 0)).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    socket.send_to(text.as_bytes(), to).unwrap();
    let mut answer = [0; 1500];
    let length = socket.recv(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).into_owned())
}

/// The answer to a request of HTTP; none: no connection, or no answer.
fn request(netns: &Netns, to: SocketAddr, text: &str) -> Option<String> {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&to, SILENCE).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(text.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer).filter(|answer| !answer.is_empty())
    };
    netns.run(ask).unwrap()
}

#[test]
fn a_host_finds_the_gateway_and_has_a_port_by_every_uplink_until_it_needs_it_no_more() {
    let mut site = Site::new();
    site.wait_for_gateway();
    let address = site.host().address.to_string();
    let (inside, outside) = (INSIDE.to_string(), OUTSIDE.to_string());
    // It looks for the gateway by itself; addresses of documentation it takes for no connection.
    let map = ["-i", "-e", "a page", "-a", &address, &inside, &outside, "TCP", "600"];
    let said = upnpc(&site.host().netns, &map);
    assert!(said.contains("is redirected to internal"), "{said}");
    let first = site.topology.providers[0].addresses[0].to_string();
    assert!(said.contains(&first), "the address outside: {said}");
    (0..PROVIDERS).for_each(|provider| site.wait_for_page(provider, OUTSIDE));
    // Another client, that knows version 1 of the services alone.
    let (gateway, other) = site
        .host()
        .netns
        .run(|| {
            let gateway = igd_next::search_gateway(SearchOptions::default()).unwrap();
            let local = SocketAddr::new(site.host().address.into(), INSIDE);
            let port = gateway.add_any_port(PortMappingProtocol::TCP, local, 600, "igd").unwrap();
            assert_eq!(gateway.get_external_ip().unwrap().to_string(), first);
            (gateway, port)
        })
        .unwrap();
    site.wait_for_page(1, other);
    // Another process goes on with what this one granted.
    site.weir.kill_control();
    assert!(site.page(0, OUTSIDE).is_some());
    site.weir.start_control().unwrap();
    site.wait_for_gateway();
    for list in ["-l", "-L"] {
        let said = site.upnpc(&[list]);
        assert!(said.contains(&outside) && said.contains("a page"), "{list}: {said}");
    }
    let remove = || gateway.remove_port(PortMappingProtocol::TCP, other);
    site.host().netns.run(remove).unwrap().unwrap();
    let said = site.upnpc(&["-d", &outside, "TCP"]);
    assert!(said.contains("returned : 0"), "{said}");
    assert!(site.page(0, OUTSIDE).is_none() && site.page(1, other).is_none());
    site.weir.check_conservation().unwrap();
}

#[test]
fn who_may_not_ask_gets_nothing_and_slow_clients_hold_nobody_up() {
    let site = Site::new();
    site.wait_for_gateway();
    let [host, other] = &site.topology.hosts[..] else { panic!("two hosts") };
    let get = |host: &str| format!("GET /gateway.xml HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let right = get(&site.gateway().to_string());
    let described = request(&host.netns, site.gateway(), &right).unwrap();
    assert!(described.starts_with("HTTP/1.1 200 OK"), "{described}");
    // By a name that leads here, and from a page.
    let named = request(&host.netns, site.gateway(), &get("gateway.example")).unwrap();
    assert!(named.starts_with("HTTP/1.1 400"), "{named}");
    let page = right.replace("\r\n\r\n", "\r\nOrigin: http://example.org\r\n\r\n");
    let paged = request(&host.netns, site.gateway(), &page).unwrap();
    assert!(paged.starts_with("HTTP/1.1 403"), "{paged}");
    let subscribe = right.replace("GET", "SUBSCRIBE");
    let refused = request(&host.netns, site.gateway(), &subscribe).unwrap();
    assert!(refused.starts_with("HTTP/1.1 501"), "{refused}");
    // A host of another LAN, by its own gateway and by this one; a neighbour on an uplink.
    let theirs = SocketAddr::from((plan::lan_gateway(other.port), PORT));
    for to in [theirs, site.gateway()] {
        assert_eq!(search(other, to), None);
        assert_eq!(request(&other.netns, to, &right), None);
    }
    assert_eq!(search(other, (GROUP, PORT).into()), None);
    let provider = &site.topology.providers[0];
    let own = provider.addresses[0];
    let lan = site.gateway();
    provider.netns.ip(&format!("route add {}/32 via {own}\n", lan.ip())).unwrap();
    for to in [SocketAddr::new(own.into(), PORT), lan] {
        let from = provider.next_hop.into();
        assert_eq!(provider.netns.run(|| ask_by_udp(from, to, SEARCH)).unwrap(), None);
        assert_eq!(request(&provider.netns, to, &right), None);
    }
    // To another host than itself.
    let (inside, outside) = (INSIDE.to_string(), OUTSIDE.to_string());
    let said = site.upnpc(&["-a", &other.address.to_string(), &inside, &outside, "TCP"]);
    assert!(said.contains("606"), "{said}");
    // One that begins requests and goes on with none, until it has no connection left.
    let slow: Vec<TcpStream> = host
        .netns
        .run(|| {
            let begin = |_| {
                let mut stream = TcpStream::connect_timeout(&lan, PATIENCE).ok()?;
                stream.write_all(b"GET / HTTP/1.1\r\n").ok()?;
                Some(stream)
            };
            (0..40).filter_map(begin).collect()
        })
        .unwrap();
    let [a, b, c, _] = host.address.octets();
    host.netns.ip(&format!("addr add {a}.{b}.{c}.77/24 dev eth0\n")).unwrap();
    let mut curl = Command::new("curl");
    curl.args(["-s", "-m", "5", "--interface", &format!("{a}.{b}.{c}.77")]);
    curl.arg(format!("http://{lan}/gateway.xml"));
    let output = host.netns.run(|| curl.output().unwrap()).unwrap();
    assert!(output.status.success() && output.stdout.starts_with(b"<?xml"), "{output:?}");
    drop(slow);
    site.weir.check_conservation().unwrap();
}

#[test]
fn hosts_are_told_when_the_address_outside_is_another() {
    let site = Site::new();
    site.wait_for_gateway();
    let host = site.host();
    let heard = || {
        let socket = UdpSocket::bind((GROUP, PORT)).unwrap();
        socket.join_multicast_v4(&GROUP, &host.address).unwrap();
        socket
    };
    let heard = host.netns.run(heard).unwrap();
    heard.set_read_timeout(Some(PATIENCE)).unwrap();
    site.topology.providers[0].set_carrier(false).unwrap();
    let told = std::iter::repeat_with(|| {
        let mut notice = [0; 1500];
        let length = heard.recv(&mut notice).unwrap();
        String::from_utf8_lossy(&notice[..length]).into_owned()
    });
    let update = told.take(200).find(|notice| notice.contains("NTS: ssdp:update"));
    assert!(update.unwrap().contains("NEXTBOOTID.UPNP.ORG: "));
    let other = site.topology.providers[1].addresses[0].to_string();
    let said = site.upnpc(&["-s"]);
    assert!(said.contains(&format!("ExternalIPAddress = {other}")), "{said}");
    site.weir.check_conservation().unwrap();
}

#[test]
fn a_host_of_ipv6_opens_its_own_port() {
    let mode = Mode::None;
    let (topology, weir) = mode.start(Plan::new(PROVIDERS, 1), &[2, 1], "").unwrap();
    let text = mode.configuration(&topology, &[2, 1]);
    let text = text.replacen("[[lan]]", "[[lan]]\nport_mapping = true", 1);
    weir.reload(&format!("{text}\n[port_mapping]\nupnp = true\n")).unwrap();
    let host = &topology.hosts[0].netns;
    let address = mode.hosts(0, PROVIDERS)[0];
    serve_pages(host, address.into());
    let index = host.ifindex("eth0").unwrap();
    let found = || {
        let search = || igd_next::search_ipv6_firewall_gateway(SearchOptions::ipv6(index));
        Ok(host.run(search).unwrap().ok())
    };
    let gateway = wait::until("the gateway to be found", wait::BOUND, found).unwrap();
    let local = SocketAddr::new(address.into(), INSIDE);
    let reached = || fetch(&topology.internet, local).filter(|page| page == "page");
    assert_eq!(reached(), None);
    let tcp = PortMappingProtocol::TCP;
    let open = || gateway.add_pinhole(tcp, SocketAddrV6::new(address, INSIDE, 0, 0), 600);
    let id = host.run(open).unwrap().unwrap();
    wait::until("the port to be reached", wait::BOUND, || Ok(reached().map(drop))).unwrap();
    host.run(|| gateway.remove_pinhole(id)).unwrap().unwrap();
    assert_eq!(reached(), None);
    let other = SocketAddrV6::new(ipv6::SERVER, INSIDE, 0, 0);
    let refused = host.run(|| gateway.add_pinhole(tcp, other, 600));
    assert!(refused.unwrap().is_err(), "for another host than itself");
    weir.check_conservation().unwrap();
}
