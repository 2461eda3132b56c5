//! IPv6 paths.

use weir_view::Route;

use super::*;

/// The good file with this for the first uplink's IPv6 path.
fn with_ipv6(ipv6: &str) -> String {
    GOOD.replacen("weight = 5", &format!("weight = 5\nipv6 = {{ {ipv6} }}"), 1)
}

#[test]
fn an_uplink_has_an_ipv6_path_where_the_file_says_so() {
    let text = with_ipv6("translate = \"none\", next_hop = \"fe80::1\", joint = true").replacen(
        "\"10.77.0.0/16\"",
        "\"10.77.0.0/16\", \"2001:db8:7::/48\"",
        1,
    );
    let site = parse("weir.toml", &text).unwrap();
    let next_hop = "fe80::1".parse().ok();
    assert_eq!(
        site.uplinks[0].ipv6,
        Some(Ipv6Config { next_hop, joint: true, ..Ipv6Config::default() })
    );
    assert_eq!(site.uplinks[1].ipv6, None);
    let nets = |family| site.lans[0].networks(family, &kernel());
    assert_eq!(nets(Family::V4), ["10.77.0.0/16".parse().unwrap()]);
    assert_eq!(nets(Family::V6), ["2001:db8:7::/48".parse().unwrap()]);
}

#[test]
fn ipv6_is_told_how_it_is_translated() {
    let found = problems(&with_ipv6("joint = true"));
    assert!(found[0].contains("missing field `translate`"), "{found:?}");
    let found = problems(&with_ipv6("translate = \"nat44\""));
    assert!(found[0].contains("`nat44`") && found[0].contains("`none`"), "{found:?}");
}

#[test]
fn an_ipv6_next_hop_is_a_host_and_a_source_is_one_beyond_the_link() {
    let found = problems(&with_ipv6("translate = \"none\", next_hop = \"ff02::2\""));
    assert!(found[0].contains("next hop ff02::2 is no host"), "{found:?}");
    let found = problems(&with_ipv6("translate = \"none\", addresses = [\"fe80::7\"]"));
    assert!(found[0].contains("address fe80::7 means nothing beyond"), "{found:?}");
}

#[test]
fn a_lan_prefix_of_ipv6_wants_an_uplink_of_ipv6() {
    let text = broken("\"10.77.0.0/16\"", "\"2001:db8:7::/48\"");
    assert!(text.contains("2001:db8:7::/48 is of IPv6, and no uplink is"), "{text}");
}

#[test]
fn a_rule_of_ipv6_wants_an_uplink_of_ipv6() {
    let rule = "destination = \"2001:db8::/32\"\nprotocol = \"udp\"";
    let text = broken("protocol = \"udp\"", rule);
    assert!(text.contains("2001:db8::/32 is of IPv6, and no uplink is"), "{text}");
}

#[test]
fn a_rule_is_of_one_family() {
    let prefixes = "source = \"10.77.0.0/16\"\ndestination = \"2001:db8::/32\"\nprotocol = \"udp\"";
    let text = broken("protocol = \"udp\"", prefixes);
    assert!(text.contains("no packet has an address in 10.77.0.0/16 and one in"), "{text}");
}

#[test]
fn an_ipv6_network_of_an_uplink_that_a_lan_has_too_is_told() {
    let text = with_ipv6("translate = \"none\", next_hop = \"2001:db8:9::1\"");
    let site = parse("weir.toml", &text).unwrap();
    let mut kernel = kernel();
    kernel.addresses.push((1, "2001:db8:7::1/64".parse().unwrap()));
    kernel.addresses.push((2, "2001:db8:7:0:1::1/80".parse().unwrap()));
    let found = against_kernel(&site, &kernel, "weir.toml");
    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("overlaps 2001:db8:7::/64 of LAN lan0"), "{found:?}");
    assert!(found[1].contains("next hop 2001:db8:9::1 of uplink fiber is on no"), "{found:?}");
}

#[test]
fn an_ipv6_path_that_learns_no_next_hop_is_told() {
    let site = parse("weir.toml", &with_ipv6("translate = \"none\"")).unwrap();
    let told = warn::unadvertised(&site, &kernel(), |interface| interface != "wan0");
    assert!(told[0].contains("set net.ipv6.conf.wan0.accept_ra to 2"), "{told:?}");
    assert!(warn::unadvertised(&site, &kernel(), |_| true).is_empty());
    let given = with_ipv6("translate = \"none\", next_hop = \"fe80::1\"");
    let site = parse("weir.toml", &given).unwrap();
    assert!(warn::unadvertised(&site, &kernel(), |_| false).is_empty(), "it need not");
}

#[test]
fn a_setting_of_an_interface_with_a_dot_is_named_as_sysctl_has_it() {
    let mut site = parse("weir.toml", &with_ipv6("translate = \"none\"")).unwrap();
    site.uplinks[0].interface = "eth0.5".into();
    let told = warn::unadvertised(&site, &kernel(), |_| false);
    assert!(told[0].contains("set net.ipv6.conf.eth0/5.accept_ra to 2"), "{told:?}");
}

#[test]
fn a_path_whose_routes_are_entered_without_the_kernel_is_no_warning() {
    let site = parse("weir.toml", &with_ipv6("translate = \"none\"")).unwrap();
    let mut kernel = kernel();
    let index = kernel.link("wan0").unwrap().index;
    let gateway = "fe80::1".parse().ok();
    let default = Route { gateway, ..Route::by(index, ipnet::Ipv6Net::default()) };
    kernel.routes6 = std::sync::Arc::new(vec![default].into());
    assert!(warn::unadvertised(&site, &kernel, |_| false).is_empty());
}

#[test]
fn a_target_of_ipv6_with_a_port_wants_brackets() {
    let probed = |address: &str| {
        let target = format!("{{ name = \"a\", probe = \"tcp\", address = \"{address}\" }}");
        let health = format!("health = {{ targets = [{target}] }}");
        problems(&with_ipv6(&format!("translate = \"none\" }}\n{health}\n# {{")))
    };
    let found = probed("2a00::1:443");
    assert!(found.len() == 1 && found[0].contains("\"[2001:db8::1]:443\""), "{found:?}");
    assert_eq!(probed("[2a00::1]:443"), [""; 0]);
}

#[test]
fn a_path_is_unwatched_without_targets_of_its_family() {
    let targets =
        "health = { targets = [{ name = \"a\", probe = \"icmp\", address = \"192.0.2.1\" }] }";
    let text = with_ipv6(&format!("translate = \"none\" }}\n{targets}\n# {{"));
    let site = parse("weir.toml", &text).unwrap();
    let told = warn::unwatched(&site).unwrap();
    assert!(told.contains("next hop of fiber (IPv6), lte is"), "{told}");
}

/// The good file, whose LAN has these prefixes and whose first uplink this IPv6 path.
fn with_prefixes(lan: &str, ipv6: &str) -> String {
    with_ipv6(ipv6).replacen("\"10.77.0.0/16\"", &format!("\"10.77.0.0/16\", {lan}"), 1)
}

/// With more of the uplink `lte`.
fn of_lte(text: &str, more: &str) -> String {
    text.replacen("interface = \"wan1\"", &format!("interface = \"wan1\"\n{more}"), 1)
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let site = parse("weir.toml", text).unwrap();
    let prefixes = site.uplinks[0].ipv6.clone().unwrap().prefixes.into_iter();
    let inside = |pair: &PrefixPair| pair.inside.map(|net| net.to_string()).unwrap_or_default();
    prefixes.map(|pair| (inside(&pair), pair.outside.to_string())).collect()
}

#[test]
fn the_only_prefix_of_the_lans_is_translated_unless_another_is_named() {
    let npt = "translate = \"npt66\", prefix = \"2001:2:0:a000::/56\"";
    let pair = |inside: &str| vec![(inside.to_owned(), "2001:2:0:a000::/56".to_owned())];
    assert_eq!(pairs(&with_prefixes("\"fd00:1:2::/64\"", npt)), pair("fd00:1:2::/64"));
    let named = format!("{npt}, inside = \"fd00:1:2::/56\"");
    assert_eq!(pairs(&with_prefixes("\"fd00:1:2::/64\"", &named)), pair("fd00:1:2::/56"));
    let found = problems(&with_prefixes("\"fd00:1:2::/64\", \"fd00:1:3::/64\"", npt));
    assert!(found[0].contains("the LANs have several IPv6 prefixes"), "{found:?}");
    assert!(found[0].contains("say inside ="), "{found:?}");
    let found = problems(&with_ipv6(npt));
    assert!(found[0].contains("the LANs have no IPv6 prefix"), "{found:?}");
}

#[test]
fn several_prefixes_are_translated_each_to_its_own() {
    let npt = "translate = \"npt66\", pairs = [\
        { inside = \"fd00:1:2::/64\", outside = \"2001:2:0:a000::/64\" }, \
        { inside = \"fd00:1:3::/64\", outside = \"2001:2:0:a001::/64\" }]";
    let found = pairs(&with_prefixes("\"fd00:1:2::/64\", \"fd00:1:3::/64\"", npt));
    let outside: Vec<_> = found.iter().map(|(_, outside)| outside.as_str()).collect();
    assert_eq!(outside, ["2001:2:0:a000::/64", "2001:2:0:a001::/64"]);
}

#[test]
fn a_pair_of_prefixes_that_cannot_be_translated_is_refused() {
    let one = |inside: &str, outside: &str| {
        format!(
            "translate = \"npt66\", pairs = [{{ inside = \"{inside}\", outside = \"{outside}\" }}]"
        )
    };
    let twice = "translate = \"npt66\", pairs = [\
        { inside = \"fd00:1::/48\", outside = \"2001:2:0:a000::/64\" }, \
        { inside = \"fd00:1:0:1::/64\", outside = \"2001:2:0:a000::/56\" }]";
    for (ipv6, message) in [
        (one("fd00:1::/48", "2001:2:0:a000::1/64"), "has bits set after its length"),
        (one("fd00:1::/48", "2001:2:0:a000::/80"), "is longer than 64 bits"),
        (one("fd00:1::/48", "fd00:2::/48"), "is no provider's prefix"),
        (one("fe80::/64", "2001:2:0:a000::/64"), "no host of a LAN has an address of fe80::/64"),
        (one("fd00:2::/48", "2001:2:0:a000::/64"), "no LAN has an address of the inside prefix"),
        (twice.into(), "inside prefix fd00:1:0:1::/64 overlaps fd00:1::/48 of the same path"),
        (twice.into(), "prefix 2001:2:0:a000::/56 overlaps 2001:2:0:a000::/64 of line"),
        ("translate = \"npt66\"".into(), "has either `prefix` or `pairs`"),
        ("translate = \"none\", prefix = \"2001:2::/48\"".into(), "prefix has no effect"),
        ("translate = \"npt66\", rescue = true".into(), "rescue has no effect"),
        ("translate = \"source\"".into(), "a path by source has `prefixes`"),
        (
            "translate = \"nat66\", inbound = true".into(),
            "inbound = true on a path that translates",
        ),
    ] {
        let found = problems(&with_prefixes("\"fd00:1::/64\"", &ipv6));
        assert!(found.iter().any(|one| one.contains(message)), "{ipv6}: {found:#?}");
    }
    let own =
        with_prefixes("\"2001:2:0:a000::/64\"", &one("2001:2:0:a000::/64", "2001:2:0:a000::/56"));
    let found = problems(&own);
    assert!(found[0].contains("is of the provider's prefix"), "{found:?}");
}

#[test]
fn a_prefix_that_cannot_be_read_is_told_of_once() {
    let lan = "\"fd00:1:2::/64\", \"fd00:1:3::/64\"";
    for wrong in ["prefix = \"2a01:a::\"", "prefix = \"2001:2:0:a000::/56\", inside = \"lan0\""] {
        let found = problems(&with_prefixes(lan, &format!("translate = \"npt66\", {wrong}")));
        assert!(found.len() == 1 && !found[0].contains("has either"), "{found:?}");
        assert!(!found[0].contains("what is translated is not said"), "{found:?}");
    }
}

#[test]
fn a_lan_prefix_that_an_uplink_does_not_translate_is_warned_of() {
    let npt = "translate = \"npt66\", prefix = \"2001:2:0:a000::/56\", inside = \"fd00:1:2::/64\"";
    let site = parse("weir.toml", &with_prefixes("\"fd00:1:2::/64\", \"fd00:1:3::/64\"", npt));
    let warnings = site.unwrap().warnings;
    assert!(warnings.iter().any(|text| text.contains("LAN prefix fd00:1:3::/64")), "{warnings:?}");
}

#[test]
fn hosts_may_have_addresses_of_each_provider() {
    let source = "translate = \"source\", prefixes = [\"2001:2:0:a000::/56\"], rescue = true";
    let text = with_prefixes("\"2001:2:0:a001::/64\"", source);
    assert_eq!(pairs(&text), [(String::new(), "2001:2:0:a000::/56".to_owned())]);
    let site = parse("weir.toml", &text).unwrap();
    assert!(site.uplinks[0].ipv6.as_ref().unwrap().rescue);
    let told = |text: &String| text.contains("uplink fiber: `rescue` has nothing to rescue");
    assert!(site.warnings.iter().any(told), "{:?}", site.warnings);
    let later = of_lte(&text, "ipv6 = { translate = \"source\", prefixes = \"delegated\" }");
    let site = parse("weir.toml", &later).unwrap();
    assert!(!site.warnings.iter().any(told), "the provider may delegate one");
    let found = problems(&with_prefixes("\"fd00:1::/64\"", source));
    assert!(found[0].contains("no LAN has an address of the prefix"), "{found:?}");
}

#[test]
fn prefixes_may_be_left_to_what_the_provider_delegates() {
    let path = |lan: &str, ipv6: &str| {
        let site = parse("weir.toml", &with_prefixes(lan, ipv6)).unwrap();
        (site.uplinks[0].awaits_prefix(), site.uplinks[0].ipv6.clone().unwrap().delegation)
    };
    let npt = "translate = \"npt66\", prefix = \"delegated\"";
    let inside = |net: &str| Some(Delegation { inside: net.parse().ok() });
    assert_eq!(path("\"fd00:1:2::/64\"", npt), (true, inside("fd00:1:2::/64")));
    let named = format!("{npt}, inside = \"fd00:1:2::/56\"");
    assert_eq!(path("\"fd00:1:2::/64\"", &named), (true, inside("fd00:1:2::/56")));
    let source = "translate = \"source\", prefixes = \"delegated\"";
    assert_eq!(path("\"fd00:1:2::/64\"", source), (true, Some(Delegation { inside: None })));
}

#[test]
fn a_name_that_is_the_interface_of_another_is_refused_where_prefixes_are_delegated() {
    let named = |text: &str, fiber: &str| text.replace("\"fiber\"", &format!("\"{fiber}\""));
    let delegated = with_ipv6("translate = \"source\", prefixes = \"delegated\"");
    let found = problems(&named(&delegated, "wan1"));
    let told = "uplink name \"wan1\" is the interface of uplink \"lte\"";
    assert!(found.len() == 1 && found[0].contains(told), "{found:?}");
    assert!(found[0].contains("rename it"), "{found:?}");
    let other = delegated.replace("wan0", "wan2").replace("wan1", "wan0").replace("wan2", "wan1");
    let found = problems(&other.replace("\"lte\"", "\"wan1\""));
    let told = "uplink name \"wan1\" is the interface of uplink \"fiber\"";
    assert!(found.len() == 1 && found[0].contains(told), "{found:?}");
    // One that is its own; and where no hook tells prefixes.
    assert_eq!(problems(&named(&delegated, "wan0")), [""; 0]);
    assert_eq!(problems(&named(GOOD, "wan1")), [""; 0]);
}

#[test]
fn what_cannot_be_delegated_is_refused() {
    for (ipv6, message) in [
        (
            "translate = \"npt66\", prefix = \"delegate\"",
            "expected an IPv6 prefix, or \"delegated\"",
        ),
        ("translate = \"source\", prefixes = \"2001:2::/56\"", "expected a list of IPv6 prefixes"),
        ("translate = \"source\", prefixes = [\"delegated\"]", "expected a list of IPv6 prefixes"),
        ("translate = \"source\", prefix = \"delegated\"", "prefix has no effect on this path"),
        ("translate = \"nat66\", prefix = \"delegated\"", "prefix has no effect on this path"),
        ("translate = \"npt66\", prefix = \"delegated\", inside = \"fd00:9::/64\"", "no LAN has"),
    ] {
        let found = problems(&with_prefixes("\"fd00:1::/64\"", ipv6));
        assert!(found.iter().any(|one| one.contains(message)), "{ipv6}: {found:#?}");
    }
    let found = problems(&with_ipv6("translate = \"npt66\", prefix = \"delegated\""));
    assert!(found.len() == 1 && found[0].contains("say inside ="), "{found:?}");
}

#[test]
fn a_providers_prefix_that_is_left_from_the_docs_is_refused() {
    let npt = |net: &str| {
        let npt = format!("translate = \"npt66\", prefix = \"{net}\", inside = \"fd00:1:2::/64\"");
        problems(&with_prefixes("\"fd00:1:2::/64\"", &npt))
    };
    let source = |net: &str| {
        let source = format!("translate = \"source\", prefixes = [\"{net}\"]");
        problems(&with_prefixes(&format!("\"{net}\""), &source))
    };
    for net in ["2001:db8:a000::/56", "3fff:1::/56"] {
        let words = format!("{net} is for documentation, and no provider routes it");
        for found in [npt(net), source(net)] {
            assert!(found.len() == 1 && found[0].contains(&words), "{found:?}");
            assert!(found[0].contains("give the prefix that the provider delegates"), "{found:?}");
        }
    }
    assert_eq!(npt("2001:2:0:a000::/56"), [""; 0]);
}

#[test]
fn one_prefix_is_of_two_uplinks_where_hosts_have_addresses_of_it() {
    let both = |first: &str, second: &str| {
        let lan = "\"fd00:1::/64\", \"2001:2:0:a001::/64\"";
        let second = format!("interface = \"wan1\"\nipv6 = {{ {second} }}");
        problems(&with_prefixes(lan, first).replacen("interface = \"wan1\"", &second, 1))
    };
    let source = |net: &str| format!("translate = \"source\", prefixes = [{net}]");
    let (net, part) = ("\"2001:2:0:a000::/56\"", "\"2001:2:0:a001::/64\"");
    let npt = format!("translate = \"npt66\", inside = \"fd00:1::/64\", prefix = {net}");
    assert_eq!(both(&source(net), &source(net)), [""; 0]);
    for (first, second) in [
        (source(net), source(part)),
        (source(net), npt.clone()),
        (npt.clone(), source(net)),
        (source(&format!("{net}, {net}")), "translate = \"none\"".into()),
    ] {
        let found = both(&first, &second);
        let told = found.iter().any(|told| told.contains("delegates it by one uplink"));
        assert!(told, "{first} {second}: {found:?}");
    }
}

#[test]
fn an_ipv6_path_without_an_address_to_send_from_is_told() {
    let text = with_ipv6("translate = \"none\", next_hop = \"fe80::1\"");
    let text = text.replacen("\"10.77.0.0/16\"", "\"10.77.0.0/16\", \"2001:2:7::/48\"", 1);
    let site = parse("weir.toml", &text).unwrap();
    let mut kernel = kernel();
    kernel.addresses.push((2, "fd00::2/64".parse().unwrap()));
    let told = warn::unaddressed(&site, &kernel);
    assert!(told[0].contains("uplink fiber (IPv6): wan0 has no global address"), "{told:?}");
    let waits = with_ipv6("translate = \"source\", prefixes = \"delegated\"");
    let waits = parse("weir.toml", &waits).unwrap();
    assert_eq!(warn::unaddressed(&waits, &kernel), [""; 0], "it may come with the prefix");
    kernel.addresses.push((1, "2001:2:7::1/64".parse().unwrap()));
    assert_eq!(warn::unaddressed(&site, &kernel), [""; 0]);
}

#[test]
fn ports_are_translated_to_an_address_of_the_interface_and_to_no_other() {
    let site = parse("weir.toml", &with_ipv6("translate = \"nat66\"")).unwrap();
    let mut kernel = kernel();
    kernel.addresses.push((1, "2001:2:7::1/64".parse().unwrap()));
    let told = warn::unaddressed(&site, &kernel);
    assert!(told[0].contains("wan0 has no global address to translate to"), "{told:?}");
    kernel.addresses.push((2, "2001:2:8::1/64".parse().unwrap()));
    assert_eq!(warn::unaddressed(&site, &kernel), [""; 0]);
}

#[test]
fn hosts_are_translated_to_no_address_that_no_provider_or_another_routes_back() {
    let found = problems(&with_ipv6("translate = \"nat66\", addresses = [\"fd00::1\"]"));
    assert!(found[0].contains("address fd00::1 is one that no provider routes"), "{found:?}");
    let npt = "translate = \"npt66\", prefix = \"2001:2:0:a000::/56\", inside = \"fd00:1:2::/64\"";
    let other = "ipv6 = { translate = \"nat66\", addresses = [\"2001:2:0:a000::5\"] }";
    let found = problems(&of_lte(&with_prefixes("\"fd00:1:2::/64\"", npt), other));
    assert!(found[0].contains("which uplink fiber has of its provider"), "{found:?}");
}

#[test]
fn a_lan_prefix_is_neither_of_a_link_nor_of_groups() {
    for (prefix, of) in [
        ("fe80::/64", "fe80::/10"),
        ("ff00::/8", "ff00::/8"),
        ("::/0", "fe80::/10"),
        ("::1/128", "::/127"),
    ] {
        let two = format!("\"10.77.0.0/16\", \"{prefix}\"");
        let found = problems(&with_ipv6("translate = \"none\"").replace("\"10.77.0.0/16\"", &two));
        let told = format!("LAN prefix {prefix} has addresses of {of}");
        assert!(found.len() == 1 && found[0].contains(&told), "{found:?}");
    }
}

#[test]
fn ipv6_that_is_no_table_is_told_what_to_write() {
    let found = problems(&GOOD.replacen("weight = 5", "ipv6 = true", 1));
    assert!(found[0].contains("expected a table, such as { translate = \"none\" }"), "{found:?}");
}

#[test]
fn packets_of_ipv6_that_a_policy_leads_nowhere_are_told_of() {
    let told = |text: &str| {
        let warnings = parse("weir.toml", text).unwrap().warnings.into_iter();
        warnings.filter(|told| told.contains("go nowhere")).collect::<Vec<_>>()
    };
    let four = GOOD.replace(
        "weight = 7 }]",
        "weight = 7 }]\n[[policy]]\nname = \"old\"\nmembers = [{ uplink = \"lte\" }]",
    );
    let old = |text: &str| text.replace("policy = \"fiber-first\"", "policy = \"old\"");
    let ipv6 = "weight = 5\nipv6 = { translate = \"none\" }";
    let six = four.replacen("weight = 5", ipv6, 1);
    assert_eq!(told(&old(&four)), [""; 0]);
    assert_eq!(told(&six), [""; 0]);
    let found = told(&old(&six));
    assert!(found.len() == 1 && found[0].contains("match rule rule-1 go nowhere"), "{found:?}");
    let of_ipv4 =
        old(&six).replace("protocol = \"udp\"", "protocol = \"udp\"\nsource = \"10.77.0.0/16\"");
    assert_eq!(told(&of_ipv4), [""; 0]);
    let default = six.replacen("[gateway]", "[gateway]\ndefault_policy = \"old\"", 1);
    let found = told(&default);
    assert!(
        found.len() == 1 && found[0].contains("match no rule go nowhere: no uplink of policy old"),
        "{found:?}"
    );
}
