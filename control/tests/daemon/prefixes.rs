//! Prefixes that a provider delegates, as an operator sees them.

use serde_json::Value;

use crate::gateway::{Gateway, on_its_own, run};

const PREFIX: &str = "2001:2:0:a00::/56";
const DELEGATED: &str = "translate = \"source\", prefixes = \"delegated\"";

/// Gives the gateway a file with these IPv6 paths, each by its uplink's name.
fn give(gateway: &Gateway, paths: &[(&str, &str)]) {
    gateway.edit(|text| {
        let lines = text.lines().filter(|line| !line.starts_with("ipv6 = "));
        let text = lines.collect::<Vec<_>>().join("\n");
        paths.iter().fold(text, |text, (name, ipv6)| {
            let name = format!("name = \"{name}\"");
            text.replacen(&name, &format!("{name}\nipv6 = {{ {ipv6} }}"), 1)
        })
    });
    gateway.done(&["reload"]);
}

/// A gateway whose provider `fiber` delegates its prefixes.
fn delegated(test: &str) -> Gateway {
    let gateway = Gateway::start(test, "");
    give(&gateway, &[("fiber", DELEGATED)]);
    gateway
}

/// The prefixes of `fiber`, and whether each is used.
fn prefixes(gateway: &Gateway) -> Vec<(String, bool)> {
    let uplinks = gateway.json("prefix");
    let prefixes = uplinks[0]["prefixes"].as_array().cloned().unwrap_or_default();
    let of = |it: &Value| (it["prefix"].as_str().unwrap().to_owned(), it["used"] == true);
    prefixes.iter().map(of).collect()
}

#[test]
fn a_prefix_that_no_lan_has_an_address_of_is_not_used() {
    on_its_own(|| {
        let gateway = delegated("prefix-used");
        gateway.done(&["prefix", "fiber", "set", PREFIX]);
        assert_eq!(prefixes(&gateway), [(PREFIX.to_owned(), false)]);
        run("ip addr add 2001:2:0:a01::1/64 dev lan0 nodad");
        gateway.wait("hosts of the prefix", |gateway| prefixes(gateway)[0].1.then_some(()));
    });
}

#[test]
fn a_prefix_that_others_sources_are_rescued_to_is_used() {
    on_its_own(|| {
        let gateway = Gateway::start("prefix-rescue", "");
        let rescue = format!("{DELEGATED}, rescue = true");
        give(&gateway, &[("fiber", &rescue), ("lte", DELEGATED)]);
        gateway.done(&["prefix", "fiber", "set", PREFIX]);
        assert_eq!(prefixes(&gateway), [(PREFIX.to_owned(), false)]);
        gateway.done(&["prefix", "lte", "set", "2001:2:0:b00::/56"]);
        assert_eq!(prefixes(&gateway), [(PREFIX.to_owned(), true)]);
    });
}

#[test]
fn a_prefix_that_is_not_delegated_yet_is_named_by_a_check() {
    on_its_own(|| {
        let gateway = delegated("prefix-missing");
        let file = gateway.path("weir.toml");
        let warned = || {
            let checked = gateway.weir(&["check", file.to_str().unwrap()]);
            assert!(checked.status.success(), "{checked:?}");
            let words = "uplink fiber (IPv6): no prefix is delegated yet";
            String::from_utf8(checked.stderr).unwrap().contains(words)
        };
        assert!(warned());
        gateway.done(&["prefix", "fiber", "set", PREFIX]);
        assert!(!warned());
    });
}

#[test]
fn prefixes_of_an_uplink_whose_file_gives_them_do_not_come_back_with_another_file() {
    on_its_own(|| {
        let gateway = delegated("prefix-static");
        gateway.done(&["prefix", "fiber", "set", PREFIX]);
        assert_eq!(prefixes(&gateway).len(), 1);
        give(&gateway, &[("fiber", "translate = \"none\"")]);
        assert!(gateway.log().contains("uplink fiber loses a prefix"), "{}", gateway.log());
        give(&gateway, &[("fiber", DELEGATED)]);
        assert_eq!(prefixes(&gateway), []);
    });
}
