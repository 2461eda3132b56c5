use super::*;
use crate::watch::{Kernel, Link};

const GOOD: &str = r#"
[gateway]
nat_ports = "16384-65535"

[[lan]]
interface = "lan0"
prefixes = ["10.77.0.0/16"]

[[uplink]]
name = "fiber"
interface = "wan0"
weight = 5

[[uplink]]
name = "lte"
interface = "wan1"
translate = "none"

[[policy]]
name = "balanced"
selection = "flow"

[[policy]]
name = "fiber-first"
members = [{ uplink = "fiber" }, { uplink = "lte", tier = 2, weight = 7 }]

[[rule]]
in_interface = "lan0"
protocol = "udp"
destination_ports = "5060-5061"
policy = "fiber-first"
"#;

fn problems(text: &str) -> Vec<String> {
    parse("weir.toml", text).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

/// The one problem that a change of the good file makes.
fn broken(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from));
    let found = problems(&GOOD.replacen(from, to, 1));
    assert_eq!(found.len(), 1, "{found:#?}");
    found.into_iter().next().unwrap()
}

fn kernel() -> Kernel {
    let link = |index, name: &str| Link {
        index,
        name: name.into(),
        mac: [2; 6],
        mtu: 1500,
        running: true,
        vlan: None,
        queues: 1,
    };
    Kernel {
        links: vec![link(1, "lan0"), link(2, "wan0"), link(3, "wan1")],
        addresses: vec![
            (1, "10.77.0.1/16".parse().unwrap()),
            (2, "100.64.0.2/24".parse().unwrap()),
            (3, "100.65.0.2/24".parse().unwrap()),
        ],
        local_ports: (1024, 16_383),
        ..Kernel::default()
    }
}

#[test]
fn a_good_file_becomes_a_site() {
    let site = parse("weir.toml", GOOD).unwrap();
    assert_eq!(site.uplinks[0].weight, 5);
    assert_eq!(site.uplinks[1].translate, Translate::None);
    assert_eq!(site.policies[0].selection, Selection::Flow);
    assert_eq!(site.policies[0].members.len(), 2, "all uplinks, when none is named");
    assert_eq!(site.policies[1].members[1], Member { uplink: 1, tier: 2, weight: Some(7) });
    let rule = &site.rules[0];
    assert_eq!((rule.protocol, rule.destination_ports, rule.policy), (17, Some((5060, 5061)), 1));
    assert!(against_kernel(&site, &kernel(), "weir.toml").is_empty());
}

#[test]
fn without_a_policy_all_uplinks_are_balanced() {
    let text = &GOOD[..GOOD.find("[[policy]]").unwrap()];
    let site = parse("weir.toml", text).unwrap();
    assert_eq!((site.policies[0].name.as_str(), site.policies[0].members.len()), ("balanced", 2));
}

#[test]
fn an_unknown_key_is_named_with_the_one_that_was_meant() {
    let text = broken("weight = 5", "wieght = 5");
    assert!(text.starts_with("weir.toml:12:1: unknown field `wieght`"), "{text}");
    assert!(text.contains("did you mean `weight`?"), "{text}");
}

#[test]
fn a_duplicate_name_says_where_the_first_is() {
    let text = problems(&GOOD.replacen("name = \"lte\"", "name = \"fiber\"", 1)).remove(0);
    assert!(text.contains("uplink \"fiber\" is there twice, first in line 10"), "{text}");
}

#[test]
fn an_interface_is_used_once() {
    assert!(broken("\"wan1\"", "\"wan0\"").contains("interface \"wan0\" is there twice"));
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let text = broken("policy = \"fiber-first\"", "policy = \"voip\"");
    assert!(
        text.contains("there is no policy \"voip\"") && text.contains("balanced, fiber-first"),
        "{text}"
    );
}

#[test]
fn overlapping_lan_prefixes_are_refused() {
    let text = broken("[\"10.77.0.0/16\"]", "[\"10.77.0.0/16\", \"10.77.4.0/24\"]");
    assert!(text.contains("LAN prefix 10.77.4.0/24 overlaps 10.77.0.0/16"), "{text}");
}

#[test]
fn host_bits_in_a_prefix_are_pointed_out() {
    assert!(broken("10.77.0.0/16", "10.77.0.1/16").contains("write 10.77.0.0/16"));
}

#[test]
fn a_policy_without_weight_is_refused() {
    let text = broken("{ uplink = \"fiber\" }", "{ uplink = \"fiber\", weight = 0 }");
    assert!(text.contains("policy \"fiber-first\" tier 1 add up to zero"), "{text}");
}

#[test]
fn ports_need_a_protocol_that_has_them() {
    assert!(broken("protocol = \"udp\"", "protocol = \"icmp\"").contains("has no ports"));
}

#[test]
fn a_backward_range_of_ports_is_refused() {
    assert!(broken("5060-5061", "5061-5060").contains("no range of ports"));
}

#[test]
fn numbers_out_of_range_say_the_range() {
    assert!(broken("weight = 5", "weight = 99999").contains("use 0 to 32767"));
    assert!(broken("tier = 2", "tier = 0").contains("use 1 to 254"));
}

#[test]
fn every_problem_of_a_file_is_told_at_once() {
    let text = GOOD
        .replace("weight = 5", "weight = -1")
        .replace("policy = \"fiber-first\"", "policy = \"x\"");
    assert_eq!(problems(&text).len(), 2);
    assert_eq!(problems("").len(), 2, "no LAN and no uplink");
}

#[test]
fn short_timeouts_are_allowed_with_a_warning() {
    let site = parse("weir.toml", &format!("{GOOD}\n[timeouts]\nudp = 30\n")).unwrap();
    assert_eq!(site.timeouts.udp, 30);
    assert!(site.warnings[0].contains("RFC 4787"));
}

fn on_this_machine(change: impl FnOnce(&mut Kernel)) -> String {
    let mut kernel = kernel();
    change(&mut kernel);
    let found = against_kernel(&parse("weir.toml", GOOD).unwrap(), &kernel, "weir.toml");
    assert_eq!(found.len(), 1, "{found:#?}");
    found[0].to_string()
}

#[test]
fn an_absent_interface_lists_what_is_there() {
    let text = on_this_machine(|kernel| kernel.links.retain(|l| l.name != "wan1"));
    assert!(text.contains("no interface wan1") && text.contains("lan0, wan0"), "{text}");
}

#[test]
fn clashing_port_ranges_name_the_sysctl() {
    let text = on_this_machine(|kernel| kernel.local_ports = (32_768, 60_999));
    assert!(text.contains("sysctl -w net.ipv4.ip_local_port_range=\"1024 16383\""), "{text}");
}

#[test]
fn a_lan_that_overlaps_a_provider_is_refused() {
    let text = on_this_machine(|kernel| kernel.addresses[1].1 = "10.77.9.2/24".parse().unwrap());
    assert!(text.contains("10.77.9.0/24 of uplink fiber overlaps 10.77.0.0/16"), "{text}");
}
