//! Published services.

use std::net::SocketAddr;

use weir_layout::Family;

use super::*;
use crate::{Service, To};

/// The last entry of the file is this.
fn with(text: &str) -> String {
    format!("{GOOD}\n[[publish]]\n{text}\n")
}

const WEB: &str = "name = \"web\"\nprotocol = \"tcp\"\nports = 443\nto = \"10.77.0.5:8443\"";

fn read(text: &str) -> Site {
    parse("weir.toml", &with(text)).unwrap_or_else(|wrong| panic!("{wrong:#?}"))
}

/// What is wrong with the entry.
fn wrong(text: &str) -> String {
    let found = parse("weir.toml", &with(text)).expect_err(text);
    found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn a_service_is_open_by_all_uplinks_to_everybody_unless_the_file_says_more() {
    let site = read(WEB);
    let web = &site.publish[0];
    assert_eq!((web.ports, web.uplinks.len()), ((443, 443), site.uplinks.len()));
    assert_eq!((&web.to[..], web.from.len()), (&[To::Host(addr("10.77.0.5:8443"))][..], 0));
    let host = Some(addr("10.77.0.5:8443"));
    let service = Service { family: Family::V4, protocol: 6, host };
    assert_eq!(web.services(&Family::ALL), [service]);
    let more = "uplinks = [\"fiber\"]\nfrom = [\"192.0.2.0/24\"]";
    let site = read(&format!("{WEB}\n{more}"));
    assert_eq!((&site.publish[0].uplinks[..], site.publish[0].from.len()), (&[0][..], 1));
}

#[test]
fn a_host_without_a_port_has_the_ports_that_are_published() {
    let text = WEB.replace("443\n", "\"8000-8010\"\n").replace("10.77.0.5:8443", "10.77.0.5");
    let site = read(&text);
    assert_eq!(site.publish[0].ports, (8000, 8010));
    assert_eq!(site.publish[0].to, [To::Host(addr("10.77.0.5:8000"))]);
}

#[test]
fn what_cannot_be_published_is_refused_with_what_to_do() {
    for (from, to, says) in [
        ("\"tcp\"", "\"icmp\"", "protocol \"icmp\" cannot be published"),
        ("\"tcp\"", "[]", "no protocol is given"),
        ("443\n", "0\n", "port 0 is nobody's"),
        ("443\n", "70000\n", "expected a port or a range of ports"),
        ("443\n", "\"10-9\"\n", "is no range of ports"),
        ("10.77.0.5:8443", "there", "\"there\" is no address"),
        ("10.77.0.5:8443", "224.0.0.9:8443", "224.0.0.9 is no host's address"),
        ("10.77.0.5:8443", "127.0.0.1", "127.0.0.1 is no host's address"),
        ("10.77.0.5:8443", "10.77.0.5:0", "from port 0 on"),
        ("\"10.77.0.5:8443\"", "[]", "nobody is named"),
        ("\"10.77.0.5:8443\"", "[\"10.77.0.5\", \"gateway\"]", "cannot both have it"),
        ("10.77.0.5:8443", "[2001:db8::5]:443", "no uplink that is open for 2001:db8::5"),
        ("name = \"web\"", "name = \"web\"\nuplinks = [\"nope\"]", "there is no uplink \"nope\""),
        ("name = \"web\"", "name = \"web\"\nuplinks = []", "no uplink is named"),
        ("name = \"web\"", "name = \"web\"\nfrom = []", "`from` names nobody"),
        (
            "name = \"web\"",
            "name = \"web\"\nfrom = [\"2001:db8::/32\"]",
            "has no prefix of the family",
        ),
        (
            "name = \"web\"",
            "name = \"web\"\nfrom = [\"192.0.2.1/24\"]",
            "bits set after its length",
        ),
        ("name = \"web\"", "name = \"Web\"", "publish name \"Web\" is not usable"),
        ("name = \"web\"", "name = \"web\"\nport = 1", "unknown field `port`"),
    ] {
        assert!(WEB.contains(from), "{from}");
        let text = wrong(&WEB.replacen(from, to, 1));
        assert!(text.contains(says), "{to}: {text}");
    }
    let range = WEB.replace("443\n", "\"1-200\"\n").replace(":8443", ":65400");
    assert!(wrong(&range).contains("from port 65400 on there are no 200 ports"));
    let gateway = WEB.replace("10.77.0.5:8443", "gateway") + "\nfrom = [\"192.0.2.0/24\"]";
    assert!(wrong(&gateway).contains("`from` is for services of hosts"));
}

#[test]
fn ports_that_two_services_would_have_by_one_uplink_are_refused() {
    let second = |ports: &str, more: &str| {
        let second = WEB.replace("web", "second").replace("443\n", &format!("{ports}\n"));
        format!("{WEB}\n{more}\n[[publish]]\n{second}\n{more}")
    };
    let text = wrong(&second("\"400-500\"", ""));
    assert!(text.contains("publish \"second\" has ports of publish \"web\" by uplink"), "{text}");
    read(&second("444", ""));
    read(&second("443", "uplinks = [\"fiber\"]").replacen("fiber", "lte", 1));
    read(&second("443", "").replacen("\"tcp\"", "\"udp\"", 1));
    assert!(wrong(&second("444", "").replace("second", "web")).contains("there twice"));
}

#[test]
fn an_uplink_that_lets_everything_in_is_told() {
    assert!(!read(WEB).warnings.iter().any(|warning| warning.contains("publish")));
    let open =
        with(WEB).replacen("translate = \"none\"", "translate = \"none\"\ninbound = true", 1);
    let site = parse("weir.toml", &open).unwrap();
    let told = |warning: &String| warning.contains("publish \"web\": lte lets in all");
    assert!(site.warnings.iter().any(told), "{:?}", site.warnings);
}

#[test]
fn a_host_that_no_lan_has_is_told_and_takes_out_nothing_else() {
    let told = |host: &str| {
        let site = read(&WEB.replace("10.77.0.5:8443", host));
        against_kernel(&site, &kernel(), "weir.toml")
    };
    assert!(told("10.77.0.5").is_empty());
    let found = told("10.88.0.5");
    assert!(found[0].passing && found[0].to_string().contains("no LAN has 10.88.0.5"), "{found:?}");
    assert!(told("10.77.0.1")[0].to_string().contains("10.77.0.1 is the gateway's own"));
}

#[test]
fn a_port_that_a_socket_of_the_gateway_has_is_told() {
    let site = read(WEB);
    assert!(site.taken(|port| port == 443)[0].contains("has port 443"));
    assert!(site.taken(|port| port == 8443).is_empty());
    let own = read(&WEB.replace("10.77.0.5:8443", "gateway"));
    assert!(own.taken(|_| true).is_empty());
}

#[test]
fn the_ports_of_the_gateways_leases_are_refused() {
    for ports in ["68", "\"60-70\"", "546"] {
        let of_hosts =
            WEB.replacen("\"tcp\"", "\"udp\"", 1).replace("443\n", &format!("{ports}\n"));
        assert!(wrong(&of_hosts).contains("the gateway's own leases come"), "{ports}");
        read(&of_hosts.replacen("\"udp\"", "\"tcp\"", 1));
    }
}

#[test]
fn services_leave_ports_to_flows_from_inside() {
    let ports = |ports: &str| WEB.replace("443\n", &format!("{ports}\n")).replace(":8443", "");
    for all in ["\"1-65535\"", "\"16000-54000\""] {
        let text = wrong(&ports(all));
        assert!(text.contains("less than a quarter of the TCP ports 16384-65535"), "{text}");
        assert!(!text.contains("UDP"), "{text}");
    }
    let third = ports("\"16384-32767\"");
    read(&third);
    let workers = with(&third).replacen("[gateway]", "[gateway]\nworkers = 3", 1);
    let found = parse("weir.toml", &workers).expect_err("the first has none left");
    assert!(found.iter().any(|it| it.to_string().contains("TCP ports 16384-32767")), "{found:?}");
}

#[test]
fn ports_that_the_kernel_gives_to_sockets_are_told() {
    let udp = WEB.replacen("\"tcp\"", "\"udp\"", 1).replace(":8443", "");
    let told = |ports: &str, reserved: &str| {
        let site = read(&udp.replace("443\n", &format!("{ports}\n")));
        crate::service_ports::lent(&site, &kernel(), reserved)
    };
    let text = told("\"10000-10100\"", "8080,9000-9010\n");
    assert!(text[0].contains("reserved_ports=8080,9000-9010,10000-10100`"), "{text:?}");
    assert!(told("\"1000-1030\"", "\n")[0].contains("reserved_ports=1024-1030`"));
    for (ports, reserved) in [("443", "\n"), ("16384", "\n"), ("5060", "5060\n")] {
        assert!(told(ports, reserved).is_empty(), "{ports}");
    }
    assert!(told("\"10000-10100\"", "9000-10100,11000\n").is_empty());
    assert!(crate::service_ports::lent(&read(WEB), &kernel(), "").is_empty());
}

const TUNNEL: &str = "name = \"pptp\"\nprotocol = \"gre\"\nto = \"10.77.0.5\"";

#[test]
fn a_protocol_without_ports_is_published_without() {
    let site = read(TUNNEL);
    let tunnel = &site.publish[0];
    assert_eq!((&tunnel.protocols[..], tunnel.ports), (&[47][..], (0, 0)));
    assert_eq!(tunnel.to, [To::Host(addr("10.77.0.5:0"))]);
    assert!(site.taken(|_| true).is_empty(), "no socket has its port");
    for (protocol, numbers) in [("47", &[47][..]), ("[\"esp\", 115]", &[50, 115]), ("4", &[4])] {
        let site = read(&TUNNEL.replace("\"gre\"", protocol));
        assert_eq!(site.publish[0].protocols, numbers);
    }
    // Beside one with ports, and by another uplink.
    read(&format!("{TUNNEL}\n[[publish]]\n{WEB}"));
    let apart = format!("{TUNNEL}\nuplinks = [\"fiber\"]");
    read(&format!("{apart}\n[[publish]]\n{}", apart.replace("pptp", "b").replace("fiber", "lte")));
}

#[test]
fn what_a_protocol_without_ports_cannot_have_is_refused_with_what_to_do() {
    for (text, says) in [
        (format!("{TUNNEL}\nports = 47"), "protocol \"gre\" has no ports"),
        (TUNNEL.replace("10.77.0.5", "10.77.0.5:80"), "10.77.0.5:80 names a port"),
        (TUNNEL.replace("10.77.0.5", "gateway"), "is not kept for the gateway"),
        (WEB.replace("ports = 443\n", ""), "no `ports` are given, which protocol \"tcp\" has"),
        (WEB.replace("\"tcp\"", "[\"tcp\", \"gre\"]"), "has ports, and \"gre\" has none"),
        (
            TUNNEL.replace("\"gre\"", "\"ah\""),
            "protocol \"ah\" is only right with its own addresses",
        ),
        (TUNNEL.replace("\"gre\"", "33"), "protocol 33 is only right with its own addresses"),
        (TUNNEL.replace("\"gre\"", "89"), "protocol 89 cannot be published"),
        (TUNNEL.replace("\"gre\"", "256"), "expected a protocol's name"),
        (TUNNEL.replace("\"gre\"", "\"icmp\""), "protocol \"icmp\" cannot be published"),
        (
            format!("{TUNNEL}\n[[publish]]\n{}", TUNNEL.replace("pptp", "second")),
            "publish \"second\" has a protocol of publish \"pptp\" by uplink",
        ),
    ] {
        let found = wrong(&text);
        assert!(found.contains(says), "{text}: {found}");
    }
    // By uplinks that leave addresses as they are, all may come.
    read(&format!("{}\nuplinks = [\"lte\"]", TUNNEL.replace("\"gre\"", "\"ah\"")));
}

#[test]
fn by_prefix_translation_what_needs_the_sum_of_its_addresses_comes_and_a_digest_of_them_does_not() {
    let uplink = "ipv6 = { translate = \"npt66\", prefix = \"2001:2:0:a000::/56\" }";
    let host = TUNNEL.replace("10.77.0.5", "fd00:1:2::5");
    let of = |protocol: &str| {
        let lan = "\"10.77.0.0/16\", \"fd00:1:2::/64\"";
        with(&host.replace("\"gre\"", protocol))
            .replacen("weight = 5", &format!("weight = 5\n{uplink}"), 1)
            .replacen("\"10.77.0.0/16\"", lan, 1)
    };
    for protocol in ["33", "135", "136", "139", "\"esp\""] {
        let text = of(protocol);
        parse("weir.toml", &text).unwrap_or_else(|wrong| panic!("{protocol}: {wrong:#?}"));
    }
    let found = problems(&of("\"ah\""));
    let says = "protocol \"ah\" is only right with its own addresses, which uplink fiber changes";
    assert!(found.len() == 1 && found[0].contains(says), "{found:#?}");
}

#[test]
fn whom_the_gateway_itself_speaks_with_by_a_published_protocol_is_told() {
    use weir_view::Peer;
    let site = read(TUNNEL);
    let peer = |protocol| Peer {
        protocol,
        local: [203, 0, 113, 9].into(),
        remote: [198, 51, 100, 7].into(),
    };
    let told = |peers: Vec<Peer>| {
        crate::service_ports::spoken(&site, &weir_view::Kernel { peers, ..kernel() })
    };
    let found = told(vec![peer(47), peer(50)]);
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("protocol 47, from 203.0.113.9 with 198.51.100.7"), "{found:?}");
    assert!(told(vec![peer(50)]).is_empty());
}
