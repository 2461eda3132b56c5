//! Which settings are refused, and how it is said.

use super::*;

fn target(index: usize) -> Target {
    let address = std::net::Ipv4Addr::new(192, 0, 2, index as u8 + 1).into();
    Target { name: format!("t{index}"), kind: Probe::Icmp { address } }
}

/// Settings with targets `t0`, `t1`, …
fn health(targets: usize) -> Health {
    Health {
        targets: (0..targets).map(target).collect(),
        hold_down_max_ms: 64_000,
        ..Health::default()
    }
}

fn faults(health: &Health) -> Vec<String> {
    health.check().iter().map(Fault::to_string).collect()
}

#[test]
fn the_defaults_are_good() {
    assert_eq!(faults(&Health::default()), [""; 0]);
    assert_eq!(faults(&health(3)), [""; 0]);
}

#[test]
fn every_bad_setting_is_named_with_its_range() {
    let limits = |fail, recover| Some(Limits { fail, recover });
    for (bad, fault) in [
        (Health { interval_ms: 99, ..health(1) }, "interval_ms: 99 is out of range; use 100 to"),
        (Health { timeout_ms: Some(16_001), ..health(1) }, "timeout_ms: 16001 is out of range"),
        (Health { quorum: 0, ..health(1) }, "quorum: 0 is out of range; use 1 to 1"),
        (Health { quorum: 4, ..health(3) }, "quorum: 4 is out of range; use 1 to 3"),
        (Health { down: 0, ..health(1) }, "down: 0"),
        (Health { up: 0, ..health(1) }, "up: 0"),
        (Health { window: 4, ..health(1) }, "window: 4"),
        (Health { flap_memory_ms: 0, ..health(1) }, "flap_memory_ms: 0"),
        (Health { hold_down_ms: 64_001, ..health(1) }, "hold_down_ms: 64001"),
        (Health { loss_percent: limits(101, 5), ..health(1) }, "loss_percent.fail: 101"),
        (Health { rtt_ms: limits(10, 10), ..health(1) }, "rtt_ms.recover: 10 is not below fail"),
        (Health { targets: vec![target(0), target(0)], ..health(0) }, "targets[1].name: \"t0\""),
        (health(17), "targets: 17 targets are too many; use up to 16"),
    ] {
        let faults = faults(&bad);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with(fault), "{faults:?} is not {fault}");
    }
}

fn probe_fault(kind: Probe) -> Option<String> {
    let targets = vec![Target { name: "t".into(), kind }];
    faults(&Health { targets, ..health(0) }).pop()
}

fn http(url: &str, address: Option<&str>) -> Probe {
    let address = address.map(|a| a.parse().unwrap());
    Probe::Http { url: url.into(), address, expect_status: None, expect_body: None }
}

#[test]
fn targets_that_cannot_be_probed_are_refused() {
    let dns = |name: &str| Probe::Dns {
        server: "192.0.2.1:53".parse().unwrap(),
        name: name.into(),
        kind: Record::A,
    };
    for (bad, part) in [
        (Probe::Icmp { address: "224.0.0.1".parse().unwrap() }, "address"),
        (Probe::Icmp { address: "::".parse().unwrap() }, "address"),
        (Probe::Tcp { address: "192.0.2.1:0".parse().unwrap() }, "address"),
        (dns("a..b"), "query"),
        (dns(""), "query"),
        (http("http://www.example/", None), "address"),
        (http("ftp://192.0.2.1/", None), "url"),
        (http("http://192.0.2.1/ HTTP/1.0", None), "url"),
        (http("http://192.0.2.1:x/", None), "url"),
        (http("http:///", Some("192.0.2.1")), "url"),
    ] {
        let fault = probe_fault(bad.clone()).unwrap_or_else(|| panic!("{bad:?} is taken"));
        assert!(fault.starts_with(&format!("targets[0].{part}: ")), "{fault}");
    }
    for good in [
        dns("."),
        dns("www.example."),
        http("http://192.0.2.1", None),
        http("https://[2001:db8::1]:8443/?a", None),
        http("https://www.example/health", Some("192.0.2.1")),
    ] {
        assert_eq!(probe_fault(good), None);
    }
}

#[test]
fn a_url_is_taken_apart() {
    let parts = |url: &str| {
        let Url { tls, host, authority, port, path } = Url::parse(url).unwrap();
        format!("{tls} {host} {authority} {port} {path}")
    };
    assert_eq!(parts("http://a.example"), "false a.example a.example 80 /");
    assert_eq!(parts("https://[::1]:8443/x?y"), "true ::1 [::1]:8443 8443 /x?y");
    assert_eq!(parts("https://a?q"), "true a a 443 /?q");
}

#[test]
fn a_key_that_the_probe_does_not_have_is_refused() {
    let read = |keys: &str| {
        let target = format!("[[targets]]\nname = \"a\"\n{keys}");
        toml::from_str::<Health>(&target).map_err(|error| error.message().to_owned())
    };
    let ping = "probe = \"icmp\"\naddress = \"192.0.2.1\"";
    assert!(read(ping).is_ok());
    let refused = read(&format!("{ping}\nport = 99")).unwrap_err();
    assert!(refused.starts_with("unknown field `port`"), "{refused}");
    let refused =
        read("probe = \"http\"\nurl = \"http://192.0.2.1\"\nexpect_stauts = 200").unwrap_err();
    assert!(
        refused.contains("`expect_stauts`") && refused.contains("`expect_status`"),
        "{refused}"
    );
    let refused = read("probe = \"icmp\"").unwrap_err();
    assert_eq!(refused, "missing field `address`");
}

#[test]
fn settings_survive_toml() {
    let text = r#"
        interval_ms = 200
        quorum = 2
        loss_percent = { fail = 30, recover = 5 }
        [[targets]]
        name = "resolver"
        probe = "dns"
        server = "192.0.2.53:53"
        name_ = "unknown"
    "#;
    assert!(toml::from_str::<Health>(&text.replace("name_", "kind")).is_err());
    let text = text.replace("name_ = \"unknown\"", "query = \"example\"\nkind = \"AAAA\"");
    let read: Health = toml::from_str(&text).unwrap();
    assert_eq!(read.interval_ms, 200);
    assert!(matches!(read.targets[0].kind, Probe::Dns { kind: Record::Aaaa, .. }));
    let written = toml::to_string(&read).unwrap();
    assert_eq!(toml::from_str::<Health>(&written).unwrap(), read);
}
