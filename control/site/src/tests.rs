use weir_view::{Kernel, Link, Route};

use super::*;
use crate::health::{Limits, Passive};

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
        up: true,
        running: true,
        queues: 1,
        xdp_transmit: true,
        ..Link::default()
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
    assert_eq!(site.policies[1].members[1], MemberConfig { uplink: 1, tier: 2, weight: Some(7) });
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
fn unknown_keys_wrong_types_and_unknown_names_are_told_at_once() {
    let text = GOOD
        .replace("nat_ports =", "nat_prots =")
        .replace("weight = 5", "wieght = 5")
        .replace("selection = \"flow\"", "selection = \"flows\"")
        .replace("\"10.77.0.0/16\"", "\"10.77.0.0/99\"")
        .replace("policy = \"fiber-first\"", "policy = \"fibre-first\"");
    let found = problems(&text);
    let lines: Vec<_> = found.iter().map(|p| p.split(':').nth(1).unwrap()).collect();
    assert_eq!(lines, ["3", "7", "12", "21", "31"], "{found:#?}");
}

#[test]
fn a_misspelt_required_key_is_one_problem() {
    let text = broken("name = \"fiber\"", "nmae = \"fiber\"");
    assert!(text.contains("did you mean `name`?"), "{text}");
}

#[test]
fn a_missing_key_is_told_at_its_table() {
    let text = broken("interface = \"wan0\"", "");
    assert!(text.starts_with("weir.toml:9:1: missing field `interface`"), "{text}");
}

#[test]
fn text_that_is_not_toml_is_told_with_its_place() {
    let text = broken("weight = 5", "weight = ");
    assert!(text.starts_with("weir.toml:12:"), "{text}");
}

#[test]
fn the_documented_error_is_what_is_printed() {
    let text = include_str!("../../../docs/configuration.md");
    let documented = text.split("```\n").find(|block| block.starts_with("weir.toml:")).unwrap();
    assert_eq!(broken("weight = 5", "wieght = 5"), documented.trim_end());
}

#[test]
fn health_is_everybodys_or_an_uplinks_own() {
    let everybodys = "\n[health]\ninterval_ms = 200\n";
    let own = "name = \"fiber\"\nhealth = { interval_ms = 300 }";
    let site = parse("weir.toml", &(GOOD.replace("name = \"fiber\"", own) + everybodys)).unwrap();
    let intervals: Vec<u32> = site.uplinks.iter().map(|u| u.health.interval_ms).collect();
    assert_eq!(intervals, [300, 200]);
}

#[test]
fn users_connections_are_a_signal_where_another_uplink_stands_beside() {
    let enabled = |text: &str| -> Vec<_> {
        let site = parse("weir.toml", text).unwrap();
        site.uplinks.iter().map(|uplink| uplink.health.passive.enabled).collect()
    };
    assert_eq!(enabled(GOOD), [Some(true); 2]);
    let balanced = "[[policy]]\nname = \"balanced\"\nselection = \"flow\"\n";
    let tiers = GOOD.replace(balanced, "");
    assert_eq!(enabled(&tiers), [Some(false); 2], "one above the other");
    let word = |text: &str, word| format!("{text}\n[health]\npassive = {{ enabled = {word} }}\n");
    assert_eq!(enabled(&word(GOOD, false)), [Some(false); 2]);
    assert_eq!(enabled(&word(&tiers, true)), [Some(true); 2]);
    let wrong = problems(&format!("{GOOD}\n[health]\npassive = false\n"));
    assert!(wrong[0].contains("expected a table, such as { enabled = false }"), "{wrong:?}");
}

#[test]
fn uplinks_without_targets_are_warned_of() {
    let site = parse("weir.toml", GOOD).unwrap();
    let told = super::warn::unwatched(&site).unwrap();
    assert!(told.starts_with("nothing beyond the next hop of fiber, lte is watched"), "{told}");
    let site = parse("weir.toml", &format!("{GOOD}{SHARED}")).unwrap();
    assert_eq!(super::warn::unwatched(&site), None);
}

const SHARED: &str = r#"
[health]
interval_ms = 200
loss_percent = { fail = 30, recover = 5 }
passive = { min_users = 3, syn_percent = { fail = 60, recover = 20 } }
[[health.targets]]
name = "a"
probe = "icmp"
address = "192.0.2.1"
[[health.targets]]
name = "b"
probe = "icmp"
address = "192.0.2.2"
"#;

/// The good file with [`SHARED`], and fiber with these settings of its own.
fn with_own_health(own: &str) -> String {
    let own = format!("name = \"fiber\"\nhealth = {{ {own} }}");
    GOOD.replace("name = \"fiber\"", &own) + SHARED
}

#[test]
fn an_uplinks_own_health_is_merged_key_by_key_over_everybodys() {
    let own = "interval_ms = 5000, loss_percent = { fail = 40 }, \
        passive = { window_ms = 9000, syn_percent = { fail = 70 } }";
    let site = parse("weir.toml", &with_own_health(own)).unwrap();
    let (fiber, lte) = (&site.uplinks[0].health, &site.uplinks[1].health);
    assert_eq!((fiber.interval_ms, lte.interval_ms), (5000, 200));
    assert_eq!(fiber.targets, lte.targets);
    assert_eq!(fiber.targets.len(), 2);
    assert_eq!(fiber.loss_percent, Some(Limits { fail: 40, recover: 5 }));
    assert_eq!((fiber.passive.window_ms, fiber.passive.min_users), (9000, 3));
    assert_eq!(fiber.passive.syn_percent, Some(Limits { fail: 70, recover: 20 }));
    let passive = Passive { window_ms: 9000, ..lte.passive.clone() };
    assert_eq!(fiber.passive, Passive { syn_percent: fiber.passive.syn_percent, ..passive });
}

#[test]
fn targets_of_an_uplinks_own_replace_everybodys() {
    let own = r#"targets = [{ name = "c", probe = "icmp", address = "192.0.2.3" }]"#;
    let site = parse("weir.toml", &with_own_health(own)).unwrap();
    let names = |uplink: usize| {
        let targets = &site.uplinks[uplink].health.targets;
        targets.iter().map(|target| target.name.as_str()).collect::<Vec<_>>()
    };
    assert_eq!((names(0), names(1)), (vec!["c"], vec!["a", "b"]));
}

#[test]
fn what_is_wrong_with_inherited_health_is_told_once_where_it_stands() {
    for (wrong, told) in [
        ("interval_ms = 20", "health.interval_ms: 20 is out of range"),
        ("interval_ms = \"x\"", "invalid type: string \"x\""),
        ("intreval_ms = 200", "unknown field `intreval_ms`"),
    ] {
        let text = with_own_health("up = 2").replacen("interval_ms = 200", wrong, 1);
        let found = problems(&text);
        assert_eq!(found.len(), 1, "{found:#?}");
        let line = text.lines().position(|line| line.contains("[health]")).unwrap() + 1;
        let near = (line..line + 2).any(|at| found[0].starts_with(&format!("weir.toml:{at}:")));
        assert!(near && found[0].contains(told), "{}", found[0]);
    }
    // What makes no sense together stands in the uplink.
    let text = with_own_health("loss_percent = { fail = 5 }");
    let found = problems(&text);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains("health.loss_percent.recover: 5 is not below fail, 5"));
}

#[test]
fn health_that_cannot_be_is_refused_where_it_stands() {
    let refused = |settings: &str| problems(&format!("{GOOD}\n[health]\n{settings}\n"));
    for (settings, wanted) in [
        ("interval_ms = 50", "health.interval_ms: 50 is out of range"),
        ("quorum = 3", "health.quorum: 3 is out of range"),
        ("loss_percent = { fail = 5, recover = 5 }", "5 is not below fail, 5"),
        ("passive = { window_ms = 1 }", "health.passive.window_ms: 1 is out of range"),
    ] {
        let found = refused(settings);
        assert!(found.len() == 1 && found[0].contains(wanted), "{settings}: {found:?}");
    }
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
fn what_befalls_one_part_keeps_the_others_from_nothing() {
    let passing = |name: &str, change: fn(&mut Link)| {
        let mut kernel = kernel();
        kernel.links.iter_mut().filter(|link| link.name == name).for_each(change);
        let found = against_kernel(&parse("weir.toml", GOOD).unwrap(), &kernel, "weir.toml");
        found.iter().map(|problem| problem.passing).collect::<Vec<_>>()
    };
    let gone = |link: &mut Link| link.name.clear();
    let raw = |link: &mut Link| link.headerless = true;
    for name in ["lan0", "wan1"] {
        assert_eq!((passing(name, gone), passing(name, raw)), (vec![true], vec![true]), "{name}");
    }
    let text = GOOD.replacen("weight = 5", "weight = 5\naddresses = [\"10.77.3.4\"]", 1);
    let mut clash = kernel();
    clash.addresses[1].1 = "10.77.9.2/24".parse().unwrap();
    let found = against_kernel(&parse("weir.toml", &text).unwrap(), &clash, "weir.toml");
    assert!(found.len() == 2 && found.iter().all(|problem| problem.passing), "{found:#?}");
}

#[test]
fn an_absent_interface_lists_what_is_there() {
    let text = on_this_machine(|kernel| kernel.links.retain(|l| l.name != "wan1"));
    let expected = "weir.toml:14:1: there is no interface wan1\n    help: there are: lan0, wan0";
    assert_eq!(text, expected);
}

#[test]
fn clashing_port_ranges_name_the_sysctl() {
    let given = format!("[gateway]\nsysctls = false\n{}", GOOD.replacen("[gateway]\n", "", 1));
    let mut kernel = kernel();
    kernel.local_ports = (32_768, 60_999);
    let found = against_kernel(&parse("weir.toml", &given).unwrap(), &kernel, "weir.toml");
    let text = found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(text.contains("sysctl -w net.ipv4.ip_local_port_range=\"1024 16383\""), "{text}");
}

#[test]
fn a_lan_that_overlaps_a_provider_is_refused() {
    let text = on_this_machine(|kernel| kernel.addresses[1].1 = "10.77.9.2/24".parse().unwrap());
    assert!(text.contains("10.77.9.0/24 of uplink fiber overlaps 10.77.0.0/16"), "{text}");
}

#[test]
fn a_lan_prefix_of_the_kernel_that_overlaps_another_lan_is_refused() {
    let two = format!("{GOOD}\n[[lan]]\ninterface = \"lan1\"\n");
    let mut kernel = kernel();
    let lan1 = Link { index: 4, name: "lan1".into(), ..kernel.links[0].clone() };
    kernel.links.push(lan1);
    kernel.addresses.push((4, "10.77.8.1/24".parse().unwrap()));
    let found = against_kernel(&parse("weir.toml", &two).unwrap(), &kernel, "weir.toml");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(
        found[0].message,
        "network 10.77.8.0/24 of LAN lan1 overlaps 10.77.0.0/16 of LAN lan0"
    );
}

#[test]
fn an_interface_without_an_ethernet_header_is_told_of() {
    let text = on_this_machine(|kernel| kernel.links[1].headerless = true);
    assert!(text.contains("wan0 has no Ethernet header"), "{text}");
}

#[test]
fn a_vlan_whose_parent_takes_the_tags_off_is_told_with_the_command_that_stops_it() {
    let vlan_of = |kernel: &mut Kernel, strips_tags| {
        kernel.links[1].vlan = Some((8, 20));
        let (name, vlan) = ("eth0".into(), None);
        let parent = Link { index: 8, name, vlan, strips_tags, ..kernel.links[1].clone() };
        kernel.links.push(parent);
    };
    let text = on_this_machine(|kernel| vlan_of(kernel, true));
    assert!(text.contains("wan0 is a VLAN of eth0, which takes the tags off"), "{text}");
    assert!(text.contains("ethtool -K eth0 rxvlan off"), "{text}");
    let mut kernel = kernel();
    vlan_of(&mut kernel, false);
    let site = parse("weir.toml", GOOD).unwrap();
    assert!(against_kernel(&site, &kernel, "weir.toml").is_empty());
}

#[test]
fn a_vlan_within_a_vlan_is_refused() {
    let text = on_this_machine(|kernel| {
        kernel.links[1].vlan = Some((8, 20));
        let outer = Link {
            index: 8,
            name: "eth0.10".into(),
            vlan: Some((9, 10)),
            ..kernel.links[1].clone()
        };
        kernel.links.push(outer);
    });
    assert!(text.contains("wan0 is a VLAN within a VLAN"), "{text}");
}

/// The problems of the good file with more said about the uplink `fiber`.
fn with_fiber(line: &str, change: impl FnOnce(&mut Kernel)) -> Vec<String> {
    let text = GOOD.replacen("weight = 5", &format!("weight = 5\n{line}"), 1);
    let mut kernel = kernel();
    change(&mut kernel);
    let site = parse("weir.toml", &text).unwrap();
    against_kernel(&site, &kernel, "weir.toml").iter().map(ToString::to_string).collect()
}

#[test]
fn a_next_hop_is_on_a_network_of_its_interface() {
    assert!(with_fiber("next_hop = \"100.64.0.1\"", |_| ()).is_empty());
    let found = with_fiber("next_hop = \"100.65.0.1\"", |_| ());
    assert!(found[0].contains("100.65.0.1 of uplink fiber is on no network of wan0"), "{found:?}");
}

#[test]
fn a_next_hop_may_be_routed_to_its_interface() {
    let route = |kernel: &mut Kernel| {
        let destination = "100.65.0.1/32".parse().unwrap();
        let route = Route::by(2, destination);
        kernel.routes = std::sync::Arc::new(vec![route].into());
    };
    assert!(with_fiber("next_hop = \"100.65.0.1\"", route).is_empty());
}

#[test]
fn a_next_hop_is_not_the_gateway_itself() {
    let found = with_fiber("next_hop = \"100.64.0.2\"", |_| ());
    assert!(found[0].contains("is the gateway itself"), "{found:?}");
}

#[test]
fn a_pool_address_in_a_lan_is_refused() {
    let found = with_fiber("addresses = [\"10.77.3.4\"]", |_| ());
    assert!(
        found[0].contains("10.77.3.4 of uplink fiber is in 10.77.0.0/16 of LAN lan0"),
        "{found:?}"
    );
}

#[test]
fn a_pool_address_belongs_to_one_uplink() {
    let text = GOOD
        .replace("weight = 5", "addresses = [\"192.0.2.8/30\"]")
        .replace("translate = \"none\"", "addresses = [\"192.0.2.9\"]");
    let found = problems(&text);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert!(found[0].contains("address 192.0.2.9 is there twice, first in line 9"), "{found:?}");
}

#[test]
fn a_core_is_for_one_worker() {
    let text = broken("[gateway]", "[gateway]\nworkers = 2\ncores = [1, 1]");
    assert!(text.contains("cores [1, 1] do not do for 2 workers"), "{text}");
    let text = broken("[gateway]", "[gateway]\ncores = [0, 1]");
    assert!(text.contains("cores [0, 1] do not do for 1 workers"), "{text}");
}

#[test]
fn local_ports_that_weir_can_set_are_no_clash() {
    let clash = Kernel { local_ports: (32_768, 60_999), ..kernel() };
    let found =
        |text: &str| against_kernel(&parse("weir.toml", text).unwrap(), &clash, "weir.toml");
    assert_eq!(found(GOOD), []);
    let all = found(&GOOD.replace("16384-65535", "1024-65535"));
    assert!(all.len() == 1 && all[0].remedy.contains("fewer ports"), "{all:?}");
}

#[test]
fn what_is_likely_not_meant_is_told() {
    let warnings = |text: &str| parse("weir.toml", text).unwrap().warnings;
    let about = |text: &str, what: &str| warnings(text).iter().any(|told| told.contains(what));
    let first = GOOD.replace("name = \"balanced\"", "name = \"all\"");
    assert!(about(&first, "policy all takes all that no rule matches"));
    let said = first.replacen("[gateway]", "[gateway]\ndefault_policy = \"all\"", 1);
    assert!(!about(&said, "that no rule matches"));
    let wide = GOOD.replace("[[rule]]", "[[rule]]\npolicy = \"balanced\"\n[[rule]]");
    assert!(about(&wide, "rule rule-1 has no criteria and matches everything: the 1 after it"));
    let last = format!("{GOOD}[[rule]]\npolicy = \"balanced\"\n");
    assert!(!about(&last, "has no criteria"));
    let alone = "members = [{ uplink = \"fiber\" }]";
    let unused = GOOD.replace("selection = \"flow\"", alone);
    assert!(!about(&unused, "uplink lte is in no policy"), "fiber-first has it");
    let unused = unused.replace(
        "members = [{ uplink = \"fiber\" }, { uplink = \"lte\", tier = 2, weight = 7 }]",
        alone,
    );
    assert!(about(&unused, "uplink lte is in no policy"));
    let idle = GOOD.replace("policy = \"fiber-first\"", "policy = \"balanced\"");
    assert!(about(&idle, "policy fiber-first takes no flows"));
    assert!(!about(GOOD, "takes no flows") && !about(GOOD, "that no rule matches"));
}

#[test]
fn the_sysctl_that_is_proposed_ends_the_clash() {
    for nat_ports in ["16384-65535", "1024-32767", "2048-40000"] {
        let text = GOOD.replace("16384-65535", nat_ports);
        let text = text.replacen("[gateway]", "[gateway]\nsysctls = false", 1);
        let site = parse("weir.toml", &text).unwrap();
        let clash = Kernel { local_ports: (20_000, 30_000), ..kernel() };
        let remedy = against_kernel(&site, &clash, "weir.toml").remove(0).remedy;
        let proposed = remedy.split('"').nth(1).unwrap().split_once(' ').unwrap();
        let local_ports = (proposed.0.parse().unwrap(), proposed.1.parse().unwrap());
        assert!(local_ports.0 < local_ports.1, "{remedy}");
        let cured = Kernel { local_ports, ..kernel() };
        assert!(against_kernel(&site, &cured, "weir.toml").is_empty(), "{nat_ports}: {remedy}");
    }
}

#[test]
fn nat_ports_that_leave_the_kernel_none_are_to_be_changed_themselves() {
    let site = parse("weir.toml", &GOOD.replace("16384-65535", "1024-65535")).unwrap();
    let problem = against_kernel(&site, &kernel(), "weir.toml").remove(0);
    assert!(problem.remedy.starts_with("set nat_ports"), "{}", problem.remedy);
}

#[test]
fn a_policy_says_what_becomes_of_its_flows() {
    let policy = |more: &str| {
        let text = format!("{GOOD}\n[[policy]]\nname = \"p\"\n{more}");
        parse("weir.toml", &text).map(|site| site.policies.last().unwrap().clone())
    };
    let plain = policy("").unwrap();
    assert_eq!((plain.on_uplink_down, plain.failback), (OnUplinkDown::Reset, Failback::NewFlows));
    assert_eq!((plain.idle_s, plain.failback_rate), (30, 100));
    let full = policy(
        "on_uplink_down = \"keep\"\nfailback = \"deadline\"\nfailback_deadline = \"1h\"\n\
         idle = \"2m\"\nfailback_rate = 7",
    );
    let full = full.unwrap();
    assert_eq!(
        (full.on_uplink_down, full.failback),
        (OnUplinkDown::Keep, Failback::Deadline(3600))
    );
    assert_eq!((full.idle_s, full.failback_rate), (120, 7));
    assert_eq!(policy("failback = \"deadline\"").unwrap().failback, Failback::Deadline(600));
    for (bad, message) in [
        ("idle = \"30\"", "no duration"),
        ("idle = \"48h\"", "too long"),
        ("failback_rate = 0", "out of range"),
        ("failback_deadline = \"10m\"", "no effect"),
        ("failback = \"never\"", "unknown variant"),
    ] {
        let problems = policy(bad).unwrap_err();
        assert!(problems[0].message.contains(message), "{bad}: {}", problems[0]);
    }
}

/// The warnings of the good file with more said about the uplink `fiber`.
fn warnings(more: &str, strict: bool) -> Vec<String> {
    let text =
        GOOD.replacen("weight = 5", &format!("weight = 5\nnext_hop = \"100.64.0.1\"\n{more}"), 1);
    let site = parse("weir.toml", &text).unwrap();
    let here = warn::on_machine(&site, &kernel(), |interface| strict && interface == "wan0");
    [site.warnings, here].concat()
}

fn targets(addresses: &[&str]) -> String {
    let target = |(index, address): (usize, &&str)| {
        format!("{{ name = \"t{index}\", probe = \"icmp\", address = \"{address}\" }}")
    };
    let targets: Vec<String> = addresses.iter().enumerate().map(target).collect();
    format!("health = {{ targets = [{}] }}", targets.join(", "))
}

#[test]
fn an_uplink_that_hangs_on_one_host_is_warned_of() {
    for hosts in [&["203.0.113.1"][..], &["203.0.113.1", "203.0.113.1"]] {
        let found = warnings(&targets(hosts), false);
        assert!(found.len() == 1 && found[0].contains("fiber: all that is probed is one host"));
    }
    assert_eq!(warnings("", false), [""; 0]);
    assert_eq!(warnings(&targets(&["203.0.113.1", "198.51.100.1"]), false), [""; 0]);
}

#[test]
fn targets_that_see_no_further_than_the_link_are_warned_of() {
    let found = warnings(&targets(&["100.64.0.1", "100.64.0.9"]), false);
    assert!(found.len() == 1 && found[0].contains("on the link itself"), "{found:?}");
    assert_eq!(warnings(&targets(&["100.64.0.1", "198.51.100.1"]), false), [""; 0]);
}

#[test]
fn a_strict_path_filter_is_warned_of_where_it_drops_answers() {
    let two = targets(&["203.0.113.1", "198.51.100.1"]);
    // With weir's rules answers pass.
    assert_eq!(warnings(&two, true), [""; 0]);
    let text = GOOD.replacen("weight = 5", &format!("weight = 5\n{two}"), 1);
    let text = text.replacen("[gateway]", "[gateway]\nown_traffic = false", 1);
    let site = parse("weir.toml", &text).unwrap();
    let found = |strict: &str| warn::on_machine(&site, &kernel(), |name| name == strict);
    assert!(found("wan0")[0].contains("net.ipv4.conf.wan0.rp_filter is 1"));
    assert_eq!(found("wan1"), [""; 0], "nothing is probed there");
}

#[test]
fn hooks_that_cannot_run_are_warned_of() {
    let text = GOOD.replacen("[gateway]", "[gateway]\nhooks = \"/nonexistent/hooks.d\"", 1);
    let site = parse("weir.toml", &text).unwrap();
    let found = warn::on_machine(&site, &kernel(), |_| false);
    assert!(found.len() == 1 && found[0].contains("/nonexistent/hooks.d cannot be read"));
    let text = GOOD.replacen("[gateway]", "[gateway]\nhooks = \"hooks.d\"", 1);
    assert!(problems(&text)[0].contains("no absolute path"));
}

#[test]
fn only_an_uplink_that_does_not_translate_lets_others_in() {
    let inbound = "translate = \"none\"\ninbound = true";
    let site = parse("weir.toml", &GOOD.replace("translate = \"none\"", inbound)).unwrap();
    assert_eq!(site.uplinks.iter().map(|u| u.inbound).collect::<Vec<_>>(), [false, true]);
    let refused = broken("translate = \"none\"", "inbound = true");
    assert!(refused.contains("inbound = true on an uplink that translates"), "{refused}");
}

#[test]
fn names_that_no_interface_can_have_are_refused() {
    for name in ["", "wan0:1", "wan*", "a name", "sixteencharacters", ".."] {
        let refused = broken("\"wan0\"", &format!("\"{name}\""));
        assert!(refused.contains("is no name of an interface"), "{refused}");
    }
}

#[test]
fn a_device_with_fewer_queues_than_workers_is_warned_of_and_one_with_too_many_is_out_alone() {
    let site =
        parse("weir.toml", &GOOD.replacen("[gateway]", "[gateway]\nworkers = 2", 1)).unwrap();
    let mut kernel = kernel();
    kernel.links.iter_mut().for_each(|link| link.queues = 2);
    let few = |kernel: &Kernel| {
        let warnings = super::warnings_here(&site, kernel);
        warnings.into_iter().filter(|text| text.contains("queues for")).collect::<Vec<_>>()
    };
    assert_eq!(few(&kernel), [""; 0]);
    kernel.links[1].queues = 1;
    let warnings = few(&kernel);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("`ethtool -L wan0 combined 2`"), "{warnings:?}");
    kernel.links[2].queues = 300;
    let found = against_kernel(&site, &kernel, "weir.toml");
    assert!(found.len() == 1 && found[0].passing, "{found:#?}");
    assert!(found[0].to_string().contains("`ethtool -L wan1 combined 256`"), "{}", found[0]);
}

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
fn a_path_is_unwatched_without_targets_of_its_family() {
    let targets =
        "health = { targets = [{ name = \"a\", probe = \"icmp\", address = \"192.0.2.1\" }] }";
    let text = with_ipv6(&format!("translate = \"none\" }}\n{targets}\n# {{"));
    let site = parse("weir.toml", &text).unwrap();
    let told = warn::unwatched(&site).unwrap();
    assert!(told.contains("next hop of fiber (IPv6), lte is"), "{told}");
}
