//! Port mappings of IPv4, by WANIPConnection:2, and pinholes of IPv6.

mod site;

use site::{HOST, HOST6, OTHER, Site, ip, mapping, situation};
use weir_ports::{Owner, Store, Wish};
use weir_upnp::Service::{Connection, Firewall, Interface};

const KEY: [(&str, &str); 3] =
    [("NewRemoteHost", ""), ("NewExternalPort", "18080"), ("NewProtocol", "TCP")];

#[test]
fn a_port_is_mapped_told_of_and_ended() {
    let mut site = Site::default();
    let mapped = site.map(HOST, &[]);
    assert!(mapped.fault() == 0 && mapped.changes);
    let [known] = site.store.mappings() else { panic!("one") };
    assert_eq!((known.name().as_str(), known.port), ("upnp:0", 18_080));
    assert_eq!((known.inside, known.until), ("10.0.0.5:8080".parse().unwrap(), 3_605_000));
    let told = site.ask(HOST, Connection, "GetSpecificPortMappingEntry", &KEY);
    assert_eq!(told.result("NewInternalPort"), Some("8080"));
    assert_eq!(told.result("NewPortMappingDescription"), Some("a &lt;game&gt;"));
    assert_eq!(told.result("NewLeaseDuration"), Some("3600"));
    let first = [("NewPortMappingIndex", "0")];
    let told = site.ask(HOST, Connection, "GetGenericPortMappingEntry", &first);
    assert_eq!(
        (told.result("NewExternalPort"), told.result("NewProtocol")),
        (Some("18080"), Some("TCP"))
    );
    let second = [("NewPortMappingIndex", "1")];
    assert_eq!(site.ask(HOST, Connection, "GetGenericPortMappingEntry", &second).fault(), 713);
    let ended = site.ask(HOST, Connection, "DeletePortMapping", &KEY);
    assert!(ended.fault() == 0 && ended.changes && site.store.mappings().is_empty());
    assert_eq!(site.ask(HOST, Connection, "DeletePortMapping", &KEY).fault(), 714);
}

#[test]
fn a_host_maps_to_itself_alone_and_sees_its_own_alone() {
    let mut site = Site::default();
    assert_eq!(site.map(HOST, &[("NewInternalClient", OTHER)]).fault(), 606);
    assert_eq!(site.map(HOST, &[("NewInternalClient", "printer")]).fault(), 402);
    assert!(site.store.mappings().is_empty());
    site.map(HOST, &[]);
    for action in ["GetSpecificPortMappingEntry", "DeletePortMapping"] {
        assert_eq!(site.ask(OTHER, Connection, action, &KEY).fault(), 606, "{action}");
    }
    let first = [("NewPortMappingIndex", "0")];
    assert_eq!(site.ask(OTHER, Connection, "GetGenericPortMappingEntry", &first).fault(), 713);
    for manage in ["0", "1"] {
        let all = [
            ("NewStartPort", "1"),
            ("NewEndPort", "65535"),
            ("NewProtocol", "TCP"),
            ("NewManage", manage),
            ("NewNumberOfPorts", "0"),
        ];
        for action in ["GetListOfPortMappings", "DeletePortMappingRange"] {
            assert_eq!(site.ask(OTHER, Connection, action, &all[..]).fault(), 730, "{action}");
        }
    }
    assert_eq!(site.store.mappings().len(), 1);
    assert_eq!(site.map(OTHER, &[]).fault(), 718, "the port is another client's");
}

#[test]
fn a_host_of_ipv6_maps_no_port_by_the_service_of_ipv4() {
    for shared in [false, true] {
        let mut site = Site::default();
        let mut other = situation();
        other.realms[1].shares_addresses = shared;
        site.store.follow(other, 0, |_| {});
        for (action, remote) in
            [("AddPortMapping", "198.51.100.7"), ("AddPortMapping", ""), ("AddAnyPortMapping", "")]
        {
            let changed = [
                ("NewRemoteHost", remote),
                ("NewExternalPort", "18080"),
                ("NewInternalPort", "18080"),
            ];
            let refused = site.ask(HOST6, Connection, action, &mapping(HOST6, &changed));
            assert_eq!((refused.fault(), refused.changes), (606, false), "{action} {remote}");
        }
        assert!(site.store.mappings().is_empty());
    }
}

#[test]
fn arguments_that_cannot_be_have_the_standards_errors() {
    let mut site = Site::default();
    for (name, value, fault) in [
        ("NewExternalPort", "0", 716),
        ("NewExternalPort", "65536", 402),
        ("NewExternalPort", "80", 606),
        ("NewExternalPort", "20005", 729),
        ("NewExternalPort", "17000", 729),
        ("NewInternalPort", "0", 732),
        ("NewProtocol", "SCTP", 601),
        ("NewEnabled", "0", 501),
        ("NewEnabled", "maybe", 402),
        ("NewLeaseDuration", "soon", 402),
        ("NewRemoteHost", "example.org", 402),
    ] {
        let refused = site.map(HOST, &[(name, value)]);
        assert_eq!((refused.fault(), refused.changes), (fault, false), "{name} {value}");
    }
    let few = [("NewExternalPort", "18080")];
    assert_eq!(site.ask(HOST, Connection, "AddPortMapping", &few).fault(), 402);
    assert_eq!(site.ask(HOST, Connection, "AddPort", &[]).fault(), 401);
    let types = [("NewConnectionType", "IP_Bridged")];
    assert_eq!(site.ask(HOST, Connection, "SetConnectionType", &types).fault(), 731);
    assert_eq!(site.ask(HOST, Connection, "ForceTermination", &[]).fault(), 606);
    assert_eq!(site.ask(HOST, Interface, "GetTotalBytesSent", &[]).fault(), 602);
    let range =
        [("NewStartPort", "2"), ("NewEndPort", "1"), ("NewProtocol", "TCP"), ("NewManage", "0")];
    assert_eq!(site.ask(HOST, Connection, "DeletePortMappingRange", &range).fault(), 733);
    assert!(site.store.mappings().is_empty());
}

#[test]
fn clients_of_version_1_have_its_errors() {
    let mut site = Site::default();
    site.map(HOST, &[]);
    for port in ["80", "20005", "17000", "18080"] {
        let arguments = mapping(OTHER, &[("NewExternalPort", port)]);
        let refused = site.ask_1(OTHER, "AddPortMapping", &arguments);
        assert_eq!(refused.fault(), 718, "{port}: they try another port then");
    }
    for action in ["GetSpecificPortMappingEntry", "DeletePortMapping"] {
        assert_eq!(site.ask_1(OTHER, action, &KEY).fault(), 714, "{action}");
    }
    assert_eq!(site.store.mappings().len(), 1);
}

#[test]
fn a_lease_of_nothing_is_a_week_and_no_lease_is_longer_than_the_file_allows() {
    let left = |lease: &str, max_lifetime: u32| {
        let mut site = Site::default();
        let mut limits = situation();
        limits.limits.max_lifetime = max_lifetime;
        site.store.follow(limits, 0, |_| {});
        site.map(HOST, &[("NewLeaseDuration", lease)]);
        (site.store.mappings()[0].until - site::NOW) / 1000
    };
    assert_eq!(left("0", u32::MAX), 604_800);
    assert_eq!(left("0", 86_400), 86_400);
    assert_eq!(left("4294967295", u32::MAX), 604_800);
    assert_eq!(left("5", 86_400), 5, "no longer than is asked for");
}

#[test]
fn what_clients_leave_out_means_what_most_mean() {
    let mut site = Site::default();
    let mut few = mapping("", &[("NewRemoteHost", "*")]);
    assert_eq!(site.ask(HOST, Connection, "AddPortMapping", &few).fault(), 0);
    few.retain(|(name, _)| {
        name.ends_with("Port") || ["NewProtocol", "NewInternalClient"].contains(name)
    });
    let again = site.ask(HOST, Connection, "AddPortMapping", &few);
    assert_eq!(again.fault(), 0);
    let [known] = site.store.mappings() else { panic!("one") };
    assert_eq!(known.inside, "10.0.0.5:8080".parse().unwrap());
    assert!(known.filters.is_empty() && known.owner == Owner::Upnp(String::new()));
    assert_eq!(known.until, site::NOW + 86_400_000, "the longest that there is");
    assert_eq!(site.ask(HOST, Connection, "DeletePortMapping", &KEY[1..]).fault(), 0);
}

#[test]
fn a_mapping_is_known_by_its_port_outside() {
    let mut site = Site::default();
    site.map(HOST, &[]);
    assert_eq!(
        site.map(HOST, &[("NewExternalPort", "18081")]).fault(),
        0,
        "of the same port inside"
    );
    assert_eq!(
        site.map(HOST, &[("NewInternalPort", "8081")]).fault(),
        0,
        "the first leads elsewhere"
    );
    let all: Vec<_> = site.store.mappings().iter().map(|it| (it.port, it.inside.port())).collect();
    assert_eq!(all, [(18_080, 8081), (18_081, 8080)]);
    let again = site.map(HOST, &[("NewInternalPort", "8081")]);
    assert!(again.fault() == 0 && !again.changes, "renewed");
    assert_eq!(site.map(HOST, &[("NewRemoteHost", "198.51.100.7")]).fault(), 718);
    let of_one = [("NewRemoteHost", "198.51.100.7"), ("NewExternalPort", "18082")];
    assert_eq!(site.map(HOST, &of_one).fault(), 0);
    assert_eq!(site.store.mappings()[2].filters, ["198.51.100.7/32".parse().unwrap()]);
}

#[test]
fn a_host_with_an_address_of_its_own_maps_ports_to_the_same_inside() {
    let mut site = Site::default();
    let mut own = situation();
    (own.realms[0].outside, own.realms[0].shares_addresses) = (weir_ports::Outside::Own, false);
    site.store.follow(own, 0, |_| {});
    assert_eq!(site.map(HOST, &[]).fault(), 606);
    assert_eq!(site.map(HOST, &[("NewInternalPort", "18080")]).fault(), 0);
    assert_eq!(site.map(HOST, &[]).fault(), 606, "nor does it lead elsewhere later");
    assert_eq!(site.store.mappings()[0].inside.port(), 18_080);
}

#[test]
fn any_port_is_another_where_that_is_taken_and_the_same_again() {
    let mut site = Site::default();
    let mut any = |from: &'static str, changed: &[(&'static str, &'static str)]| {
        let reply = site.ask(from, Connection, "AddAnyPortMapping", &mapping(from, changed));
        reply.result("NewReservedPort").unwrap().parse::<u16>().unwrap()
    };
    assert_eq!(any(HOST, &[]), 18_080);
    let other = any(OTHER, &[]);
    assert_ne!(other, 18_080);
    assert_eq!(any(OTHER, &[]), other, "no third");
    assert!(any(OTHER, &[("NewExternalPort", "80")]) >= 16_384);
    assert_ne!(any(HOST, &[("NewRemoteHost", "198.51.100.7")]), 18_080, "for one remote host");
}

#[test]
fn a_host_has_a_share_of_ports_by_whichever_protocol() {
    let mut site = Site::default();
    let realm = site.store.situation().realms[0].clone();
    for port in 1..=31 {
        let wish = Wish {
            inside: (ip(HOST), port).into(),
            protocol: 17,
            port: 0,
            address: None,
            exactly: false,
            lifetime: 600,
            owner: Owner::NatPmp,
            filters: weir_ports::Filters::default(),
        };
        site.store.grant(&realm, &wish, 0, Some(&|_| false)).unwrap();
    }
    assert_eq!(site.map(HOST, &[]).fault(), 0);
    assert_eq!(site.map(HOST, &[("NewExternalPort", "18081")]).fault(), 728);
}

#[test]
fn what_another_protocol_made_is_neither_changed_nor_ended() {
    let mut site = Site::default();
    let realm = site.store.situation().realms[0].clone();
    let wish = |owner| Wish {
        inside: (ip(HOST), 18_080).into(),
        protocol: 6,
        port: 18_080,
        address: None,
        exactly: false,
        lifetime: 600,
        owner,
        filters: weir_ports::Filters::default(),
    };
    let grant = |store: &mut Store, owner| {
        store.grant(&realm, &wish(owner), 0, Some(&|_| false)).unwrap().port
    };
    assert_eq!(grant(&mut site.store, Owner::Pcp([1; 12])), 18_080);
    assert_eq!(site.map(HOST, &[]).fault(), 729);
    assert_eq!(site.ask(HOST, Connection, "DeletePortMapping", &KEY).fault(), 606);
    assert_eq!(site.map(HOST, &[("NewExternalPort", "18081")]).fault(), 0);
    assert!(site.store.end(&wish(Owner::Pcp([1; 12])), 0).unwrap());
    assert!(!site.store.end(&wish(Owner::NatPmp), 0).unwrap(), "the one by UPnP stays");
    assert_eq!(site.store.mappings().len(), 1);
}

#[test]
fn mappings_end_when_the_file_has_upnp_no_more() {
    let mut site = Site::default();
    site.map(HOST, &[]);
    let mut off = situation();
    off.upnp = false;
    assert!(site.store.follow(off, 0, |_| {}) && site.store.mappings().is_empty());
    let request = site::request(HOST, Connection, "GetStatusInfo", &[]);
    assert!(site.serve(HOST, &request).is_none(), "nor is anybody answered");
}

#[test]
fn the_address_outside_and_the_state_of_the_connection_are_told() {
    let mut site = Site::default();
    let mut told = |action, name: &str| {
        site.ask(HOST, Connection, action, &[]).result(name).unwrap().to_owned()
    };
    assert_eq!(told("GetExternalIPAddress", "NewExternalIPAddress"), "192.0.2.2");
    assert_eq!(told("GetStatusInfo", "NewConnectionStatus"), "Connected");
    assert_eq!(told("GetStatusInfo", "NewUptime"), "3");
    assert_eq!(told("GetConnectionTypeInfo", "NewConnectionType"), "IP_Routed");
    assert_eq!(told("GetNATRSIPStatus", "NewNATEnabled"), "1");
    let link = site.ask(HOST, Interface, "GetCommonLinkProperties", &[]);
    assert_eq!(link.result("NewPhysicalLinkStatus"), Some("Up"));
    let mut down = situation();
    down.realms[0].outside = weir_ports::Outside::Nowhere;
    site.store.follow(down, 0, |_| {});
    let address = site.ask(HOST, Connection, "GetExternalIPAddress", &[]);
    assert_eq!(address.result("NewExternalIPAddress"), Some(""));
    assert_eq!(site.map(HOST, &[]).fault(), 501);
    let status = site.ask(HOST, Connection, "GetStatusInfo", &[]);
    assert_eq!(status.result("NewConnectionStatus"), Some("Disconnected"));
}

#[test]
fn mappings_are_listed_and_ended_by_range() {
    let mut site = Site::default();
    for port in ["18080", "18081", "18090"] {
        site.map(HOST, &[("NewExternalPort", port)]);
    }
    let range = |most: &'static str| {
        [
            ("NewStartPort", "18080"),
            ("NewEndPort", "18081"),
            ("NewProtocol", "TCP"),
            ("NewManage", "0"),
            ("NewNumberOfPorts", most),
        ]
    };
    let count = |site: &mut Site, most| {
        let listed = site.ask(HOST, Connection, "GetListOfPortMappings", &range(most));
        let listing = listed.result("NewPortListing").unwrap();
        assert!(listing.contains("<p:NewDescription>a &lt;game&gt;<"), "{listing}");
        listing.matches("<p:PortMappingEntry").count()
    };
    assert_eq!((count(&mut site, "0"), count(&mut site, "1")), (2, 1));
    let ended = site.ask(HOST, Connection, "DeletePortMappingRange", &range("0")[..4]);
    assert_eq!((ended.fault(), site.store.mappings().len()), (0, 1));
}

fn pinhole<'a>(changed: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut arguments = vec![
        ("RemoteHost", ""),
        ("RemotePort", "0"),
        ("InternalClient", HOST6),
        ("InternalPort", "8080"),
        ("Protocol", "6"),
        ("LeaseTime", "3600"),
    ];
    for (name, value) in changed {
        arguments.iter_mut().find(|(of, _)| of == name).unwrap().1 = value;
    }
    arguments
}

#[test]
fn a_host_of_ipv6_opens_its_own_port_and_shuts_it() {
    let mut site = Site::default();
    let status = site.ask(HOST6, Firewall, "GetFirewallStatus", &[]);
    assert_eq!(status.result("InboundPinholeAllowed"), Some("1"));
    let opened = site.ask(HOST6, Firewall, "AddPinhole", &pinhole(&[]));
    assert_eq!((opened.fault(), opened.result("UniqueID")), (0, Some("0")));
    let longer = site.ask(HOST6, Firewall, "AddPinhole", &pinhole(&[("LeaseTime", "7200")]));
    assert_eq!((longer.result("UniqueID"), longer.changes), (Some("0"), false));
    assert_eq!(site.store.mappings()[0].until, 7_205_000);
    let update = [("UniqueID", "0"), ("NewLeaseTime", "60")];
    assert_eq!(site.ask(HOST6, Firewall, "UpdatePinhole", &update).fault(), 0);
    assert_eq!(site.store.mappings()[0].until, 65_000);
    let id = [("UniqueID", "0")];
    assert_eq!(site.ask("2001:db8:1::6", Firewall, "DeletePinhole", &id).fault(), 606);
    assert_eq!(site.ask(HOST6, Firewall, "DeletePinhole", &id).fault(), 0);
    assert_eq!(site.ask(HOST6, Firewall, "DeletePinhole", &id).fault(), 704);
}

#[test]
fn pinholes_that_cannot_be_have_the_standards_errors() {
    let mut site = Site::default();
    for (name, value, fault) in [
        ("InternalClient", "2001:db8:1::6", 606),
        ("InternalClient", "", 402),
        ("InternalPort", "0", 706),
        ("InternalPort", "80", 606),
        ("Protocol", "65535", 707),
        ("Protocol", "132", 705),
        ("LeaseTime", "0", 402),
        ("LeaseTime", "86401", 402),
        ("RemotePort", "1", 501),
        ("RemoteHost", "here", 402),
    ] {
        let refused = site.ask(HOST6, Firewall, "AddPinhole", &pinhole(&[(name, value)]));
        assert_eq!((refused.fault(), refused.changes), (fault, false), "{name} {value}");
    }
    let by_v4 = site.ask(HOST, Firewall, "AddPinhole", &pinhole(&[]));
    assert_eq!(by_v4.fault(), 606, "from another address than it is for");
    let of_one = [("RemoteHost", "2001:db8:2::7")];
    assert_eq!(site.ask(HOST6, Firewall, "AddPinhole", &pinhole(&of_one)).fault(), 0);
    assert_eq!(site.store.mappings()[0].filters, ["2001:db8:2::7/128".parse().unwrap()]);
    assert_eq!(site.ask(HOST6, Firewall, "AddPinhole", &pinhole(&[])).fault(), 701);
    let mut shared = situation();
    shared.realms[1].shares_addresses = true;
    site.store.follow(shared, 0, |_| {});
    let refused = site.ask(HOST6, Firewall, "AddPinhole", &pinhole(&[("InternalPort", "18080")]));
    assert_eq!(refused.fault(), 703);
}
