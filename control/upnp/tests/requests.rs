//! Which requests are served, how the gateway is found, and what it says of itself.

mod site;

use http::{Method, Request};
use site::{HOST, HOST6, Site, device, ip, request, situation};
use weir_layout::Family;
use weir_ports::Outside;
use weir_upnp::Service::{Connection, Firewall, Interface};
use weir_upnp::ssdp::Search;
use weir_upnp::{Presence, Service, presence};

fn get(path: &str, headers: &[(&str, &str)]) -> Request<Vec<u8>> {
    let mut builder = Request::builder().method(Method::GET).uri(path);
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    builder.body(Vec::new()).unwrap()
}

const TO: (&str, &str) = ("host", "10.0.0.1:1900");

#[test]
fn the_devices_and_services_are_described() {
    let mut site = Site::default();
    let root = site.reply(HOST, &get("/gateway.xml", &[TO]));
    assert_eq!(root.status, 200);
    for part in [
        "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
        "urn:schemas-upnp-org:device:WANDevice:2",
        "urn:schemas-upnp-org:device:WANConnectionDevice:2",
        "urn:schemas-upnp-org:service:WANIPConnection:2",
        "urn:schemas-upnp-org:service:WANIPv6FirewallControl:1",
        "<eventSubURL></eventSubURL>",
    ] {
        assert!(root.document.contains(part), "{part}");
    }
    for service in Service::ALL {
        assert!(root.document.contains(service.control()));
        let described = site.reply(HOST, &get(service.description(2), &[TO]));
        let document = roxmltree::Document::parse(&described.document).unwrap();
        let variables: Vec<_> = document
            .descendants()
            .filter(|node| node.has_tag_name(("urn:schemas-upnp-org:service-1-0", "stateVariable")))
            .map(|node| node.first_element_child().unwrap().text().unwrap())
            .collect();
        let used =
            document.descendants().filter(|it| it.tag_name().name() == "relatedStateVariable");
        for variable in used {
            assert!(variables.contains(&variable.text().unwrap()), "{variable:?}");
        }
    }
    assert_eq!(site.reply(HOST, &get("/other.xml", &[TO])).status, 404);
}

#[test]
fn clients_of_version_1_read_of_no_other() {
    let mut site = Site::default();
    for (path, agent) in [
        ("/gateway1.xml", "upnp"),
        ("/gateway.xml", "Microsoft-Windows/10.0 UPnP/1.0"),
        ("/gateway.xml", "FDSSDP"),
    ] {
        let root = site.reply(HOST, &get(path, &[TO, ("user-agent", agent)])).document;
        for device in ["InternetGatewayDevice", "WANDevice", "WANConnectionDevice"] {
            assert!(root.contains(&format!("{device}:1<")), "{agent}");
        }
        assert!(root.contains("WANIPConnection:1<") && root.contains("/connection1.xml"));
        assert!(!root.contains(":2<") && !root.contains("WANIPv6FirewallControl"), "{root}");
    }
    let service = site.reply(HOST, &get("/connection1.xml", &[TO])).document;
    assert!(service.contains("<name>AddPortMapping</name>"));
    for later in ["AddAnyPortMapping", "DeletePortMappingRange", "GetListOfPortMappings", "Listing"]
    {
        assert!(!service.contains(later), "{later}");
    }
}

#[test]
fn a_page_that_a_browser_shows_is_not_served() {
    let mut site = Site::default();
    let mut status =
        |headers: &[(&str, &str)]| site.reply(HOST, &get("/gateway.xml", headers)).status.as_u16();
    for host in ["10.0.0.1", "10.0.0.1:1900"] {
        assert_eq!(status(&[("host", host)]), 200, "{host}");
    }
    for host in ["gateway.lan", "evil.example:1900", "10.0.0.2:1900", "10.0.0.1:80", "[::1]", ""] {
        assert_eq!(status(&[("host", host)]), 400, "{host}");
    }
    assert_eq!(status(&[]), 400);
    assert_eq!(status(&[TO, ("host", "evil.example")]), 400, "two of them");
    for header in ["origin", "referer", "sec-fetch-site", "x-requested-with"] {
        assert_eq!(status(&[TO, (header, "http://10.0.0.1:1900")]), 403, "{header}");
    }
    let changed = |change: fn(&mut Request<Vec<u8>>)| {
        let mut request = request(HOST, Connection, "GetStatusInfo", &[]);
        change(&mut request);
        Site::default().reply(HOST, &request).status.as_u16()
    };
    assert_eq!(changed(|_| {}), 200);
    let kind = |it: &mut Request<_>, kind: &'static str| {
        it.headers_mut().insert("content-type", kind.parse().unwrap());
    };
    for plain in ["text/plain", "application/x-www-form-urlencoded"] {
        let mut request = request(HOST, Connection, "GetStatusInfo", &[]);
        kind(&mut request, plain);
        assert_eq!(Site::default().reply(HOST, &request).status, 415, "what a form can send");
    }
    assert_eq!(changed(|it| drop(it.headers_mut().remove("soapaction"))), 400);
}

#[test]
fn an_action_is_what_header_body_and_service_say() {
    let status = |change: &dyn Fn(&mut Request<Vec<u8>>)| {
        let mut request = request(HOST, Connection, "GetStatusInfo", &[]);
        change(&mut request);
        Site::default().reply(HOST, &request).status.as_u16()
    };
    let action = |text: &'static str| {
        move |it: &mut Request<Vec<u8>>| {
            it.headers_mut().insert("soapaction", text.parse().unwrap());
        }
    };
    let urn = "urn:schemas-upnp-org:service:WANIPConnection";
    let of = |version: u8| format!("\"{urn}:{version}#GetStatusInfo\"");
    assert_eq!(status(&action("\"x#GetStatusInfo\"")), 400);
    assert_eq!(status(&action("GetStatusInfo")), 400);
    assert_eq!(status(&|it| *it.uri_mut() = "/control/firewall".parse().unwrap()), 400);
    assert_eq!(status(&|it| *it.uri_mut() = "/control".parse().unwrap()), 404);
    assert_eq!(status(&|it| *it.method_mut() = "M-POST".parse().unwrap()), 501);
    assert_eq!(status(&|it| *it.method_mut() = "SUBSCRIBE".parse().unwrap()), 501);
    for version in [1, 2, 3] {
        // Of version 1 ask those that know no other.
        let told = status(&|it| {
            it.headers_mut().insert("soapaction", of(version).parse().unwrap());
            let text = String::from_utf8(it.body().clone()).unwrap();
            *it.body_mut() =
                text.replace("WANIPConnection:2", &format!("WANIPConnection:{version}")).into();
        });
        assert_eq!(told, if version < 3 { 200 } else { 400 });
    }
    assert_eq!(
        status(&action("\"urn:schemas-upnp-org:service:WANIPConnection:1#GetStatusInfo\"")),
        400
    );
}

#[test]
fn documents_that_are_none_are_refused() {
    let deep = "<a>".repeat(2500);
    let entity = "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>";
    let file = "<!DOCTYPE a [<!ENTITY b SYSTEM \"file:///etc/passwd\">]><a>&b;</a>";
    let long = " ".repeat(10_000);
    for body in ["", "<a", "<a/>", "\u{0}", &deep, entity, file, &long] {
        let mut wrong = request(HOST, Connection, "GetStatusInfo", &[]);
        *wrong.body_mut() = body.as_bytes().to_vec();
        let mut site = Site::default();
        assert_eq!(site.reply(HOST, &wrong).status, 400, "{}", &body[..body.len().min(40)]);
    }
    let mut many = get("/gateway.xml", &[TO]);
    for number in 0..40 {
        let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
        many.headers_mut().insert(name, "y".parse().unwrap());
    }
    assert_eq!(Site::default().reply(HOST, &many).status, 431);
}

#[test]
fn who_is_of_no_lan_is_not_answered() {
    let mut site = Site::default();
    for from in ["192.0.2.9", "10.0.1.5", "10.0.0.1", "2001:db8:9::1", "fe80::1"] {
        let request = request(from, Connection, "GetStatusInfo", &[]);
        assert!(site.serve(from, &request).is_none(), "{from}");
    }
    assert_eq!(site.ask(HOST6, Firewall, "GetFirewallStatus", &[]).fault(), 0);
    assert_eq!(site.ask(HOST, Interface, "Nothing", &[]).fault(), 401);
}

fn search(target: &str, within: &str) -> Option<Search> {
    let text = format!(
        "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:1900\r\nMAN: \"ssdp:discover\"\r\n\
         {within}ST: {target}\r\n\r\n"
    );
    Search::read(text.as_bytes())
}

#[test]
fn hosts_that_look_for_an_earlier_version_find_the_gateway() {
    let answers = |target: &str| {
        search(target, "MX: 2\r\n").unwrap().answers(&device(), (ip("10.0.0.1"), 1900).into())
    };
    for target in [
        "upnp:rootdevice",
        "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
        "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
        "urn:schemas-upnp-org:service:WANIPConnection:1",
        &device().names[1],
    ] {
        let [answer] = &answers(target)[..] else { panic!("{target}") };
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\n"));
        assert!(answer.contains(&format!("\r\nST: {target}\r\n")), "{answer}");
        let root = if target.ends_with(":1") { "gateway1.xml" } else { "gateway.xml" };
        assert!(answer.contains(&format!("\r\nLOCATION: http://10.0.0.1:1900/{root}\r\n")));
        assert!(answer.contains("\r\nBOOTID.UPNP.ORG: 1700000000\r\n"));
        assert!(answer.contains("\r\nUSN: uuid:"));
    }
    // By IPv6 there is the firewall, which version 1 has not.
    let first = search("urn:schemas-upnp-org:device:InternetGatewayDevice:1", "").unwrap();
    let [answer] = &first.answers(&device(), (ip("2001:db8:1::1"), 1900).into())[..] else {
        panic!()
    };
    assert!(answer.contains("\r\nLOCATION: http://[2001:db8:1::1]:1900/gateway.xml\r\n"));
    assert_eq!(answers("ssdp:all").len(), 10, "a root, three devices twice, three services");
    for other in ["urn:schemas-upnp-org:device:InternetGatewayDevice:3", "urn:other:device:x:1", ""]
    {
        assert!(answers(other).is_empty(), "{other}");
    }
}

#[test]
fn searches_that_are_none_are_not_answered() {
    assert_eq!(search("ssdp:all", "").unwrap().within, None);
    assert_eq!(search("ssdp:all", "MX: 3\r\n").unwrap().within, Some(3));
    assert_eq!(search("ssdp:all", "MX: 300\r\n").unwrap().within, Some(5), "no longer than that");
    let bare = "M-SEARCH * HTTP/1.1\r\nMAN: ssdp:discover\r\nST: ssdp:all\r\n\r\n";
    assert!(Search::read(bare.as_bytes()).is_some(), "without quotes, as some clients do");
    for wrong in ["MX: 0\r\n", "MX: many\r\n", "MX: -1\r\n"] {
        assert_eq!(search("ssdp:all", wrong), None, "{wrong}");
    }
    for wrong in [
        "",
        "NOTIFY * HTTP/1.1\r\nNT: upnp:rootdevice\r\n\r\n",
        "M-SEARCH / HTTP/1.1\r\nMAN: \"ssdp:discover\"\r\nST: ssdp:all\r\n\r\n",
        "M-SEARCH * HTTP/1.1\r\nST: ssdp:all\r\n\r\n",
        "M-SEARCH * HTTP/1.1\r\nMAN: ssdp:other\r\nST: ssdp:all\r\n\r\n",
        "M-SEARCH * HTTP/1.1\r\nMAN: \"ssdp:discover\"\r\n\r\n",
        "M-SEARCH * HTTP/1.1\r\nMAN: \"ssdp:discover\"\r\nST: ssdp:all\r\n",
    ] {
        assert_eq!(Search::read(wrong.as_bytes()), None, "{wrong}");
    }
    let long = format!(
        "M-SEARCH * HTTP/1.1\r\nMAN: \"ssdp:discover\"\r\nST: {}\r\n\r\n",
        "x".repeat(2000)
    );
    assert_eq!(Search::read(long.as_bytes()), None);
}

#[test]
fn hosts_are_told_that_it_is_there_is_another_and_is_no_more() {
    let mut presence = Presence::default();
    let secret = |_: &str, device: &str| [device.len() as u8; 16];
    let mut situation = situation();
    assert!(presence.follow(&situation, (1000, 50), secret).is_empty());
    let told = presence.tell(1000);
    assert_eq!(told.len(), 2, "in both families");
    assert_eq!(told[0].from, "10.0.0.1:1900".parse().unwrap());
    assert_eq!(told[1].to, "[ff02::c]:1900".parse().unwrap());
    let alive = &told[0].messages;
    assert_eq!(alive.len(), 10);
    assert!(
        alive.iter().all(|it| it.contains("NTS: ssdp:alive") && it.contains("BOOTID.UPNP.ORG: 50"))
    );
    let mut times = vec![presence.deadline().unwrap()];
    while times.len() < 4 {
        presence.tell(*times.last().unwrap());
        times.push(presence.deadline().unwrap());
    }
    assert_eq!(times, [1500, 2000, 602_000, 1_202_000], "again, and then before it is forgotten");
    // Without an uplink nothing is another until there is one.
    situation.realms[0].outside = Outside::Nowhere;
    assert!(presence.follow(&situation, (700_000, 700), secret).is_empty());
    situation.realms[0].outside = Outside::Shared("198.51.100.2".parse().unwrap());
    let told = presence.follow(&situation, (701_000, 50), secret);
    assert!(told[0].messages[0].contains("NEXTBOOTID.UPNP.ORG: 51"), "{told:?}");
    assert!(told[0].messages[0].contains("\r\nBOOTID.UPNP.ORG: 50\r\n"));
    assert_eq!(presence.lan("lan0").unwrap().since, 701_000);
    assert!(presence.tell(701_000)[0].messages[0].contains("\r\nBOOTID.UPNP.ORG: 51\r\n"));
    situation.upnp = false;
    let told = presence.follow(&situation, (702_000, 52), secret);
    assert!(told[0].messages[0].contains("NTS: ssdp:byebye"));
    assert!(presence.deadline().is_none() && presence.farewell().is_empty());
}

#[test]
fn hosts_ask_by_an_address_that_is_not_the_links() {
    let mut realm = situation().realms.remove(1);
    assert_eq!(realm.family, Family::V6);
    realm.servers.insert(0, "fe80::1".parse().unwrap());
    realm.servers.insert(1, "fd00::1".parse().unwrap());
    let place = presence::place(&realm).unwrap();
    assert_eq!(presence::base(place), "http://[2001:db8:1::1]:1900", "a global one first");
    realm.servers.truncate(2);
    assert_eq!(presence::base(presence::place(&realm).unwrap()), "http://[fd00::1]:1900");
    realm.servers.truncate(1);
    assert_eq!(presence::place(&realm), None);
}
