//! What hosts are answered, by the bytes of the RFCs.

mod both;
#[path = "../../ports/tests/site/mod.rs"]
mod site;

use std::net::{IpAddr, Ipv6Addr};

use both::Server;
use site::{ip, situation};
use weir_layout::Family;
use weir_ports::{Asker, Outside, Realm, Situation};

const UDP: u8 = 17;
const TCP: u8 = 6;
const SUCCESS: u8 = 0;
const NOT_AUTHORIZED: u8 = 2;
const HOST: &str = "10.0.0.5";
const HOST6: &str = "2001:db8:1::5";

fn server() -> Server {
    let mut server = Server::default();
    server.follow(situation(), 0);
    server
}

fn ask_at(server: &mut Server, from: &str, datagram: &[u8], now: u64) -> Option<Vec<u8>> {
    let asker = Asker { lan: "lan0", from: ip(from), now };
    server.answer(datagram, asker, Some(&|port| port == 17_000)).map(|answer| answer.message)
}

fn ask(server: &mut Server, from: &str, datagram: &[u8]) -> Vec<u8> {
    ask_at(server, from, datagram, 5000).unwrap()
}

fn octets(address: &str) -> [u8; 16] {
    match ip(address) {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// A request of PCP.
fn pcp(client: &str, opcode: u8, lifetime: u32, body: &[u8]) -> Vec<u8> {
    let mut message = vec![2, opcode, 0, 0];
    message.extend(lifetime.to_be_bytes());
    message.extend(octets(client));
    message.extend(body);
    message
}

/// One of MAP, by a client of this nonce.
struct Map {
    client: &'static str,
    nonce: u8,
    protocol: u8,
    inside: u16,
    outside: u16,
    address: &'static str,
    lifetime: u32,
    options: Vec<u8>,
}

impl Default for Map {
    fn default() -> Self {
        Self {
            client: HOST,
            nonce: 1,
            protocol: TCP,
            inside: 18_080,
            outside: 0,
            address: "0.0.0.0",
            lifetime: 3600,
            options: Vec::new(),
        }
    }
}

impl Map {
    fn bytes(&self) -> Vec<u8> {
        let mut body = vec![self.nonce; 12];
        body.extend([self.protocol, 0, 0, 0]);
        body.extend(self.inside.to_be_bytes());
        body.extend(self.outside.to_be_bytes());
        body.extend(octets(self.address));
        body.extend(&self.options);
        pcp(self.client, 1, self.lifetime, &body)
    }

    fn ask(&self, server: &mut Server) -> Mapped {
        Mapped(ask(server, self.client, &self.bytes()))
    }
}

/// An answer to one.
struct Mapped(Vec<u8>);

impl Mapped {
    fn code(&self) -> u8 {
        assert_eq!(self.0[..2], [2, 0x81]);
        self.0[3]
    }

    fn lifetime(&self) -> u32 {
        u32::from_be_bytes(self.0[4..8].try_into().unwrap())
    }

    fn port(&self) -> u16 {
        u16::from_be_bytes(self.0[42..44].try_into().unwrap())
    }

    fn address(&self) -> IpAddr {
        Ipv6Addr::from(<[u8; 16]>::try_from(&self.0[44..60]).unwrap()).to_canonical()
    }
}

const PREFER_FAILURE: [u8; 4] = [2, 0, 0, 0];

/// The option FILTER.
fn filter(length: u8, port: u16, peer: &str) -> Vec<u8> {
    let mut option = vec![3, 0, 0, 20, 0, length];
    option.extend(port.to_be_bytes());
    option.extend(octets(peer));
    option
}

/// A request of NAT-PMP.
fn nat_pmp(opcode: u8, inside: u16, outside: u16, lifetime: u32) -> Vec<u8> {
    let mut message = vec![0, opcode, 0, 0];
    message.extend(inside.to_be_bytes());
    message.extend(outside.to_be_bytes());
    message.extend(lifetime.to_be_bytes());
    message
}

#[test]
fn a_host_is_told_the_address_outside_and_the_time_of_the_epoch() {
    let answer = ask(&mut server(), HOST, &[0, 0]);
    assert_eq!(answer, [0, 128, 0, 0, 0, 0, 0, 5, 192, 0, 2, 2]);
}

#[test]
fn a_port_is_mapped_by_nat_pmp_and_ended_and_all_are_at_once() {
    let mut server = server();
    let granted = ask(&mut server, HOST, &nat_pmp(2, 18_080, 0, 600));
    assert_eq!(granted[..8], [0, 130, 0, 0, 0, 0, 0, 5]);
    assert_eq!(granted[8..], [70, 160, 70, 160, 0, 0, 2, 88], "18080, 18080, 600");
    ask(&mut server, HOST, &nat_pmp(1, 18_080, 0, 600));
    ask(&mut server, HOST, &nat_pmp(2, 18_081, 0, 600));
    let ended = ask(&mut server, HOST, &nat_pmp(2, 18_080, 18_080, 0));
    assert_eq!(ended[8..], [70, 160, 0, 0, 0, 0, 0, 0]);
    assert_eq!(server.mappings().len(), 2);
    ask(&mut server, "10.0.0.6", &nat_pmp(2, 0, 0, 0));
    assert_eq!(server.mappings().len(), 2, "those of another host stay");
    ask(&mut server, HOST, &nat_pmp(2, 0, 0, 0));
    assert_eq!(server.mappings().iter().map(|it| it.protocol).collect::<Vec<_>>(), [UDP]);
}

#[test]
fn opcodes_of_nat_pmp_that_are_not_served_are_refused_and_responses_are_not_answered() {
    let mut server = server();
    assert_eq!(ask(&mut server, HOST, &[0, 9]), [0, 137, 0, 5, 0, 0, 0, 5]);
    for silent in [&[0][..], &[], &[0, 128, 0, 0], &[0, 1, 0, 0], &[2, 0x81], &[2]] {
        assert_eq!(ask_at(&mut server, HOST, silent, 0), None, "{silent:?}");
    }
}

#[test]
fn a_port_is_mapped_by_pcp_as_it_is_asked_for_where_that_is_free() {
    let mut server = server();
    let granted = Map { outside: 30_000, ..Map::default() }.ask(&mut server);
    assert_eq!((granted.code(), granted.port(), granted.lifetime()), (SUCCESS, 30_000, 3600));
    assert_eq!(granted.address(), ip("192.0.2.2"));
    let bytes = Map::default().bytes();
    assert_eq!(granted.0[24..42], bytes[24..42], "nonce, protocol and port inside");
    let same = Map::default().ask(&mut server);
    assert_eq!(same.port(), 30_000, "it is renewed");
    let other = |outside| Map { client: "10.0.0.6", outside, ..Map::default() };
    let taken = other(30_000).ask(&mut server);
    assert_eq!((taken.code(), taken.port()), (SUCCESS, 18_080), "as inside");
    let third = Map { client: "10.0.0.7", ..Map::default() }.ask(&mut server);
    assert!(third.code() == SUCCESS && ![30_000, 18_080].contains(&third.port()));
}

#[test]
fn the_same_end_inside_has_the_same_port_when_nothing_is_known_of_it_any_more() {
    let far = Map { inside: 80, ..Map::default() };
    let ports = [far.ask(&mut server()).port(), far.ask(&mut server()).port()];
    assert!(ports[0] == ports[1] && ports[0] >= 16_384);
}

#[test]
fn ports_of_the_file_of_sockets_and_outside_the_range_are_given_to_nobody() {
    let mut server = server();
    for outside in [20_005, 17_000, 443, 1] {
        let options = PREFER_FAILURE.to_vec();
        let refused = Map { outside, options, ..Map::default() }.ask(&mut server);
        assert_eq!((refused.code(), refused.lifetime()), (11, 30), "{outside}");
        let other = Map { outside, inside: outside, ..Map::default() }.ask(&mut server);
        assert!(other.code() == SUCCESS && other.port() != outside);
    }
    let udp = Map { protocol: UDP, outside: 20_005, ..Map::default() }.ask(&mut server);
    assert_eq!(udp.port(), 20_005, "the other protocol's is free");
}

#[test]
fn the_other_protocols_port_is_kept_for_the_same_host() {
    let mut server = server();
    Map::default().ask(&mut server);
    let of = |client| Map { client, protocol: UDP, outside: 18_080, ..Map::default() };
    assert_ne!(of("10.0.0.6").ask(&mut server).port(), 18_080);
    assert_eq!(of(HOST).ask(&mut server).port(), 18_080);
}

#[test]
fn who_does_not_know_the_nonce_neither_renews_nor_ends_a_mapping() {
    let mut server = server();
    Map::default().ask(&mut server);
    for lifetime in [0, 7200] {
        let refused = Map { nonce: 2, lifetime, ..Map::default() }.ask(&mut server);
        assert_eq!((refused.code(), refused.lifetime()), (NOT_AUTHORIZED, 3600));
    }
    let by_nat_pmp = ask(&mut server, HOST, &nat_pmp(2, 18_080, 0, 0));
    assert_eq!(by_nat_pmp[2..4], [0, NOT_AUTHORIZED]);
    ask(&mut server, HOST, &nat_pmp(2, 0, 0, 0));
    assert_eq!(server.mappings().len(), 1);
    let ended = Map { lifetime: 0, outside: 18_080, ..Map::default() }.ask(&mut server);
    assert_eq!((ended.code(), ended.lifetime(), server.mappings().len()), (SUCCESS, 0, 0));
    let again = Map { lifetime: 0, ..Map::default() }.ask(&mut server);
    assert_eq!((again.code(), again.lifetime()), (SUCCESS, 0), "what is not there has ended");
}

#[test]
fn a_lifetime_is_granted_within_bounds_and_a_mapping_ends_with_it() {
    let mut server = server();
    let granted = |server: &mut Server, lifetime| Map { lifetime, ..Map::default() }.ask(server);
    assert_eq!(granted(&mut server, u32::MAX).lifetime(), 86_400);
    assert_eq!(granted(&mut server, 1).lifetime(), 120);
    assert!(!server.store.expire(5000 + 119_999));
    assert!(server.store.expire(5000 + 120_000) && server.mappings().is_empty());
}

#[test]
fn the_header_is_checked_before_all_else() {
    let mut server = server();
    let code = |server: &mut Server, message: &[u8]| ask(server, HOST, message)[3];
    let good = Map::default().bytes();
    let wrong_version = [&[3], &good[1..]].concat();
    let refused = ask(&mut server, HOST, &wrong_version);
    assert_eq!((refused[0], refused[1], refused[3]), (2, 0x81, 1));
    assert_eq!(refused[12..], good[12..], "what was not read is sent back");
    assert_eq!(code(&mut server, &good[..20]), 3, "too short");
    assert_eq!(code(&mut server, &good[..24]), 3, "without its body");
    assert_eq!(code(&mut server, &[&good[..], &[0; 3]].concat()), 3, "not by four");
    assert_eq!(code(&mut server, &[&good[..], &[0; 1044]].concat()), 3, "too long");
    assert_eq!(code(&mut server, &pcp(HOST, 2, 60, &[0; 56])), 4, "PEER");
    assert_eq!(code(&mut server, &pcp("10.0.0.6", 1, 60, &good[24..])), 12, "of another host");
    let long = ask(&mut server, HOST, &vec![3; 5000]);
    assert_eq!(long.len(), 1100);
    assert!(server.mappings().is_empty());
}

#[test]
fn protocols_without_ports_and_all_ports_at_once_are_refused() {
    let mut server = server();
    let code = |server: &mut Server, protocol, inside| {
        Map { protocol, inside, ..Map::default() }.ask(server).code()
    };
    assert_eq!(code(&mut server, 132, 80), 9);
    assert_eq!(code(&mut server, TCP, 0), 9);
    assert_eq!(code(&mut server, 0, 0), 9);
    assert_eq!(code(&mut server, 0, 80), 3, "all protocols, but one port");
}

#[test]
fn options_that_are_not_known_are_refused_or_ignored_as_their_code_says() {
    let mut server = server();
    let code = |server: &mut Server, options: &[u8]| {
        Map { options: options.to_vec(), ..Map::default() }.ask(server).code()
    };
    assert_eq!(
        code(&mut server, &[[1, 0, 0, 16].to_vec(), vec![0; 16]].concat()),
        5,
        "THIRD_PARTY"
    );
    assert_eq!(code(&mut server, &[127, 0, 0, 0]), 5);
    assert_eq!(code(&mut server, &[2, 0, 0, 4, 0, 0, 0, 0]), 6, "PREFER_FAILURE has no data");
    assert_eq!(code(&mut server, &[2, 0, 0, 0, 2, 0, 0, 0]), 6, "nor is it there twice");
    assert_eq!(code(&mut server, &[200, 0, 0, 40]), 6, "longer than the message");
    assert_eq!(code(&mut server, &filter(64, 0, "192.0.2.1")), 6, "no prefix of IPv4");
    assert_eq!(code(&mut server, &filter(64, 0, "2001:db8::")), 6, "of the other family");
    assert!(server.mappings().is_empty());
    let options = [&[200, 0, 0, 3, 1, 2, 3, 0][..], &PREFER_FAILURE].concat();
    let granted = Map { options, ..Map::default() }.ask(&mut server);
    assert_eq!((granted.code(), &granted.0[60..]), (SUCCESS, &PREFER_FAILURE[..]));
}

#[test]
fn filters_add_up_until_they_are_cleared() {
    let mut server = server();
    let code = |server: &mut Server, options| Map { options, ..Map::default() }.ask(server).code();
    let filters = |server: &Server| {
        let filters = server.mappings()[0].filters.iter();
        filters.map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(code(&mut server, filter(120, 0, "198.51.100.7")), SUCCESS);
    assert_eq!(code(&mut server, filter(128, 0, "203.0.113.9")), SUCCESS);
    assert_eq!(filters(&server), ["198.51.100.0/24", "203.0.113.9/32"]);
    assert_eq!(code(&mut server, Vec::new()), SUCCESS);
    assert_eq!(filters(&server).len(), 2, "they stay");
    assert_eq!(code(&mut server, filter(128, 80, "203.0.113.10")), 13, "a port of the remote end");
    let many: Vec<u8> =
        (0..9u8).flat_map(|last| filter(128, 0, &format!("203.0.113.{last}"))).collect();
    assert_eq!(code(&mut server, many), 13);
    assert_eq!(filters(&server).len(), 2, "as they were");
    let anew = [filter(0, 0, "0.0.0.0"), filter(128, 0, "203.0.113.1")].concat();
    assert_eq!(code(&mut server, anew), SUCCESS);
    assert_eq!(filters(&server), ["203.0.113.1/32"]);
}

#[test]
fn a_host_has_no_more_than_its_share() {
    let mut server = server();
    let count = |server: &mut Server, client: &'static str| {
        let granted = |inside: u16| Map { client, inside, ..Map::default() }.ask(server).code();
        let codes: Vec<u8> = (18_000..18_100).map(granted).collect();
        assert!(codes.iter().all(|code| [SUCCESS, 8, 10].contains(code)), "{codes:?}");
        codes.iter().filter(|code| **code == SUCCESS).count()
    };
    let hosts = ["10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8", "10.0.0.9", "10.0.0.10"];
    let counts = hosts.map(|host| count(&mut server, host));
    assert_eq!(counts, [32, 32, 32, 16, 8, 4], "who comes late has some too");
}

#[test]
fn a_host_has_no_more_than_its_share_of_filters() {
    let mut server = server();
    let eight: Vec<u8> =
        (0..8u8).flat_map(|last| filter(128, 0, &format!("203.0.113.{last}"))).collect();
    let count = |server: &mut Server, client: &'static str| {
        let granted = |inside: u16| {
            Map { client, inside, options: eight.clone(), ..Map::default() }.ask(server).code()
        };
        let codes: Vec<u8> = (18_000..18_020).map(granted).collect();
        assert!(codes.iter().all(|code| [SUCCESS, 13].contains(code)), "{codes:?}");
        codes.iter().filter(|code| **code == SUCCESS).count()
    };
    let hosts = ["10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8"];
    assert_eq!(hosts.map(|host| count(&mut server, host)), [8, 4, 2, 1]);
    let renewed = Map { inside: 18_000, options: eight.clone(), ..Map::default() };
    assert_eq!(renewed.ask(&mut server).code(), SUCCESS, "no more than before");
}

#[test]
fn hosts_of_a_lan_leave_as_much_to_other_lans_as_they_have() {
    let mut two = situation();
    let other = Realm {
        lan: "lan1".into(),
        servers: vec![ip("10.1.0.1")],
        networks: vec!["10.1.0.0/24".parse().unwrap()],
        ..two.realms[0].clone()
    };
    two.realms.push(other);
    let mut server = server();
    server.follow(two, 0);
    let mut count = |lan: &str, net: &str| {
        let hosts = (5..15).map(|host| ip(&format!("{net}.{host}")));
        let each = hosts.flat_map(|from| (18_000..18_100).map(move |inside| (from, inside)));
        let granted = each.filter(|(from, inside)| {
            let asker = Asker { lan, from: *from, now: 5000 };
            let answer = server.answer(&nat_pmp(2, *inside, 0, 600), asker, Some(&|_| false));
            answer.unwrap().message[3] == SUCCESS
        });
        granted.count()
    };
    assert_eq!(count("lan0", "10.0.0"), 64);
    assert_eq!(count("lan1", "10.1.0"), 32);
}

#[test]
fn a_host_with_an_address_of_its_own_gets_its_own_port_or_none() {
    let mut server = server();
    let map =
        |inside, outside| Map { client: HOST6, address: "::", inside, outside, ..Map::default() };
    let granted = map(8080, 9090).ask(&mut server);
    assert_eq!((granted.code(), granted.port(), granted.address()), (SUCCESS, 8080, ip(HOST6)));
    let strict = Map { options: PREFER_FAILURE.to_vec(), ..map(8081, 9090) }.ask(&mut server);
    assert_eq!(strict.code(), 11);
    let other = Map { client: "2001:db8:1::6", ..map(8080, 0) }.ask(&mut server);
    assert_eq!((other.code(), other.port()), (SUCCESS, 8080), "so has another host");
    assert_eq!(map(22, 0).ask(&mut server).code(), 11, "a well-known one is the file's to publish");
}

#[test]
fn who_is_not_of_the_lan_has_no_answer() {
    let mut server = server();
    for from in ["10.0.1.5", "192.0.2.9", "10.0.0.1", "2001:db8:2::5"] {
        assert_eq!(ask_at(&mut server, from, &[0, 0], 0), None, "{from}");
    }
    let asker = Asker { lan: "lan1", from: ip(HOST), now: 0 };
    assert_eq!(server.answer(&[0, 0], asker, None), None, "by a LAN that may not");
}

#[test]
fn another_address_outside_begins_another_epoch_and_keeps_the_ports() {
    let mut server = server();
    Map::default().ask(&mut server);
    (0..10).for_each(|turn| drop(server.announce(turn * 150_000)));
    let mut other = situation();
    other.realms[0].outside = Outside::Nowhere;
    assert!(!server.follow(other.clone(), 2_000_000));
    assert_eq!(Map::default().ask(&mut server).code(), 7, "no uplink");
    assert_eq!(ask(&mut server, HOST, &[0, 0])[2..4], [0, 3]);
    other.realms[0].outside = Outside::Shared(ip("198.51.100.2"));
    assert!(!server.follow(other.clone(), 2_000_000));
    let told = server.announce(2_003_000);
    assert_eq!(told.len(), 1, "IPv6 is as it was");
    assert_eq!(told[0].messages[0][..12], [2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
    assert_eq!(told[0].messages[1], [0, 128, 0, 0, 0, 0, 0, 3, 198, 51, 100, 2]);
    let renewed = Map::default().ask(&mut server);
    assert_eq!((renewed.port(), renewed.address()), (18_080, ip("198.51.100.2")));
    server.follow(other, 2_004_000);
    let announce = ask_at(&mut server, HOST, &pcp(HOST, 0, 0, &[]), 2_010_000).unwrap();
    assert_eq!(announce[8..12], [0, 0, 0, 10], "the same address, the same epoch");
}

#[test]
fn a_port_that_the_file_publishes_now_is_taken_back() {
    let mut server = server();
    Map::default().ask(&mut server);
    let mut other = situation();
    other.reserved[0].ports = (18_080, 18_080);
    assert!(server.follow(other, 0) && server.mappings().is_empty());
}

#[test]
fn a_port_that_a_socket_of_the_gateway_has_now_is_not_renewed() {
    let mut server = server();
    Map::default().ask(&mut server);
    ask(&mut server, HOST, &nat_pmp(1, 18_081, 0, 600));
    let asker = Asker { lan: "lan0", from: ip(HOST), now: 6000 };
    let mut renew = |message: &[u8]| {
        let is_bound = |port| [18_080, 18_081].contains(&port);
        let answer = server.answer(message, asker, Some(&is_bound)).unwrap();
        (answer.message[3], answer.changes, server.mappings().len())
    };
    assert_eq!(renew(&Map::default().bytes()), (11, true, 1), "and it ends");
    assert_eq!(renew(&nat_pmp(1, 18_081, 0, 600)), (4, true, 0));
    assert_eq!(renew(&Map::default().bytes()), (SUCCESS, true, 1), "another is to be had");
    assert_ne!(server.mappings()[0].port, 18_080);
}

#[test]
fn nothing_is_granted_while_it_is_not_known_which_ports_sockets_have() {
    let mut server = server();
    Map::default().ask(&mut server);
    let mut code = |from: &str, map: Map| {
        let asker = Asker { lan: "lan0", from: ip(from), now: 6000 };
        server.answer(&map.bytes(), asker, None).unwrap().message[3]
    };
    assert_eq!(code(HOST, Map { inside: 18_081, ..Map::default() }), 8, "a new one");
    assert_eq!(code(HOST, Map::default()), 8, "one that is renewed");
    assert_eq!(code(HOST, Map { lifetime: 0, ..Map::default() }), SUCCESS, "it ends all the same");
    let of_its_own = Map { client: HOST6, address: "::", inside: 8080, ..Map::default() };
    assert_eq!(code(HOST6, of_its_own), SUCCESS, "sockets are at other addresses");
}

#[test]
fn a_mapping_ends_with_what_allows_it() {
    let follows = |change: fn(&mut Situation)| {
        let mut server = server();
        Map { lifetime: 86_400, ..Map::default() }.ask(&mut server);
        let mut other = situation();
        change(&mut other);
        let ended = server.follow(other, 6000);
        (ended, server.mappings().first().map(|mapping| mapping.until))
    };
    let until = Some(5000 + 86_400_000);
    assert_eq!(follows(|_| {}), (false, until));
    let gone = (true, None);
    let other_network = |it: &mut Situation| {
        it.realms[0].networks = vec!["10.9.0.0/24".parse().unwrap()];
    };
    assert_eq!(follows(other_network), gone, "its host is not of the LAN any more");
    assert_eq!(follows(|it| it.realms[0].servers.push(ip(HOST))), gone, "it is the gateway now");
    assert_eq!(follows(|it| drop(it.realms.remove(0))), gone);
    assert_eq!(follows(|it| it.limits.ports = (20_000, 30_000)), gone, "its port is not for hosts");
    assert_eq!(follows(|it| it.limits.max_lifetime = 600), (false, Some(606_000)), "too long");
    assert_eq!(follows(|it| it.realms[0].networks.clear()), (false, until), "its cable is out");
}

#[test]
fn hosts_are_told_when_a_mapping_ends_or_will_before_the_time_that_they_heard() {
    type Change = fn(&mut Server, &mut Situation);
    let told = |change: Change| {
        let mut server = server();
        Map { lifetime: 86_400, ..Map::default() }.ask(&mut server);
        (0..10).for_each(|turn| drop(server.announce(turn * 150_000)));
        let mut other = situation();
        change(&mut server, &mut other);
        server.follow(other, 2_000_000);
        let now = 2_003_000;
        let told = server.announce(now).into_iter().map(|it| (it.family, it.messages));
        let heard = ask_at(&mut server, HOST, &pcp(HOST, 0, 0, &[]), now).unwrap();
        (told.collect::<Vec<_>>(), u32::from_be_bytes(heard[8..12].try_into().unwrap()))
    };
    assert_eq!(told(|_, _| {}), (vec![], 2003));
    let lost: [(&str, Change); 4] = [
        ("its port is the file's", |_, it| it.reserved[0].ports = (18_080, 18_080)),
        ("its port is not for hosts", |_, it| it.limits.ports = (20_000, 30_000)),
        ("it ends sooner", |_, it| it.limits.max_lifetime = 600),
        ("it is taken back by hand", |server, _| assert!(server.remove("pcp:0", 2_000_000))),
    ];
    for (why, change) in lost {
        let (told, epoch) = told(change);
        assert_eq!(epoch, 3, "{why}");
        let [(Family::V4, messages)] = &told[..] else { panic!("{why}: {told:?}") };
        assert_eq!(messages[0][..12], [2, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3], "{why}");
        assert_eq!(messages[1], [0, 128, 0, 0, 0, 0, 0, 3, 192, 0, 2, 2], "{why}");
    }
    // One that ends in its time is nothing new to its host.
    let mut server = server();
    Map { lifetime: 120, ..Map::default() }.ask(&mut server);
    (0..10).for_each(|turn| drop(server.announce(turn * 150_000)));
    assert!(server.store.expire(2_000_000) && server.announce(2_000_000).is_empty());
}

#[test]
fn mappings_of_an_earlier_process_are_renewed_and_removed_by_name() {
    let mut before = server();
    Map::default().ask(&mut before);
    ask(&mut before, HOST, &nat_pmp(1, 18_081, 0, 600));
    let mut server = Server::new(before.mappings().to_vec());
    assert!(!server.follow(situation(), 9000));
    assert_eq!(Map::default().ask(&mut server).port(), 18_080);
    Map { inside: 18_082, ..Map::default() }.ask(&mut server);
    let names: Vec<_> = server.mappings().iter().map(|mapping| mapping.name()).collect();
    assert_eq!(names, ["pcp:0", "nat-pmp:1", "pcp:2"]);
    assert!(server.remove("pcp:0", 9000) && !server.remove("pcp:0", 9000));
}
