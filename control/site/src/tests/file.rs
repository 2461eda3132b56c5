//! A file by itself: its text, its names, its numbers.

use super::*;

#[test]
fn a_good_file_becomes_a_site() {
    let site = parse("weir.toml", GOOD).unwrap();
    assert_eq!(site.uplinks[0].weight, 5);
    assert_eq!(site.uplinks[1].translate, Translate::None);
    assert_eq!(site.policies[0].selection, Selection::Flow);
    assert_eq!(site.policies[0].members.len(), 2, "all uplinks, when none is named");
    assert_eq!(site.policies[1].members[1], MemberConfig { uplink: 1, tier: 2, weight: Some(7) });
    let rule = &site.rules[0];
    assert_eq!((rule.protocol, rule.destination_ports), (17, Some((5060, 5061))));
    assert_eq!(rule.verdict, Verdict::Policy(1));
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
    let text = include_str!("../../../../docs/configuration.md");
    let documented = text.split("```\n").find(|block| block.starts_with("weir.toml:")).unwrap();
    assert_eq!(broken("weight = 5", "wieght = 5"), documented.trim_end());
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
fn the_flows_of_a_host_may_be_limited() {
    let with = |line: &str| format!("[limits]\n{line}\n{GOOD}");
    let limit = |line: &str| parse("weir.toml", &with(line)).unwrap().flows_per_host;
    assert_eq!([limit(""), limit("flows_per_host = 500")], [0, 500]);
    let rate = |line: &str| parse("weir.toml", &with(line)).unwrap().new_flows_per_host;
    assert_eq!([rate(""), rate("new_flows_per_host = 65535")], [0, 65_535]);
    for (line, said) in [
        ("flows_per_host = 0", "use 1 to 268435456"),
        ("flows_per_host = -1", "weir.toml:2:18: flows_per_host -1 is out of range"),
        ("new_flows_per_host = 65536", "use 1 to 65535"),
        ("flows_per_hosts = 5", "did you mean `flows_per_host`?"),
    ] {
        let text = problems(&with(line)).remove(0);
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn a_core_is_for_one_worker() {
    let text = broken("[gateway]", "[gateway]\nworkers = 2\ncores = [1, 1]");
    assert!(text.contains("cores [1, 1] do not do for 2 workers"), "{text}");
    let text = broken("[gateway]", "[gateway]\ncores = [0, 1]");
    assert!(text.contains("cores [0, 1] do not do for 1 workers"), "{text}");
}

#[test]
fn a_core_that_no_thread_can_be_bound_to_is_refused() {
    assert!(
        parse("weir.toml", &GOOD.replacen("[gateway]", "[gateway]\ncores = [1023]", 1)).is_ok()
    );
    let text = broken("[gateway]", "[gateway]\ncores = [1024]");
    assert!(text.contains("core 1024 of cores [1024] is no CPU"), "{text}");
    assert!(text.contains("use 0 to 1023"), "{text}");
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
fn who_comes_in_by_mappings_is_said_where_there_are_some() {
    let with = |line: &str| GOOD.replacen("weight = 5", &format!("weight = 5\n{line}"), 1);
    for (line, filtering) in [
        ("", Filtering::AddressAndPort),
        ("filtering = \"address-and-port\"", Filtering::AddressAndPort),
        ("filtering = \"address\"", Filtering::Address),
        ("filtering = \"endpoint\"", Filtering::Endpoint),
    ] {
        assert_eq!(parse("weir.toml", &with(line)).unwrap().uplinks[0].filtering, filtering);
    }
    let text = problems(&with("filtering = \"port\"")).remove(0);
    assert!(text.contains("unknown variant `port`, expected one of"), "{text}");
    let text = broken("translate = \"none\"", "translate = \"none\"\nfiltering = \"endpoint\"");
    assert!(text.contains("filtering on an uplink that translates no IPv4"), "{text}");
}

#[test]
fn what_connections_have_in_common_outside_is_said_where_ports_are_translated() {
    let with = |line: &str| GOOD.replacen("weight = 5", &format!("weight = 5\n{line}"), 1);
    for (line, mapping) in [
        ("", TcpMapping::Flow),
        ("tcp_mapping = \"flow\"", TcpMapping::Flow),
        ("tcp_mapping = \"endpoint\"", TcpMapping::Endpoint),
    ] {
        assert_eq!(parse("weir.toml", &with(line)).unwrap().uplinks[0].tcp_mapping, mapping);
    }
    let text = problems(&with("tcp_mapping = \"port\"")).remove(0);
    assert!(text.contains("unknown variant `port`, expected `flow` or `endpoint`"), "{text}");
    let text = broken("translate = \"none\"", "translate = \"none\"\ntcp_mapping = \"endpoint\"");
    assert!(text.contains("tcp_mapping on an uplink that translates no ports"), "{text}");
}

#[test]
fn the_log_of_allocations_has_a_place_and_bounds() {
    let with = |lines: &str| format!("{GOOD}\n[nat_log]\n{lines}\n");
    assert_eq!(parse("weir.toml", GOOD).unwrap().nat_log, None);
    let log = parse("weir.toml", &with("file = \"/var/log/weir/nat.log\"")).unwrap().nat_log;
    let log = log.unwrap();
    assert_eq!((log.max_size, log.keep), (64 << 20, 8));
    for (lines, what) in [
        ("max_size = 4", "missing field `file`"),
        ("file = \"nat.log\"", "is no path of a file from / on"),
        ("file = \"/nat.log\"\nmax_size = 0", "max_size"),
        ("file = \"/nat.log\"\nkeep = 1", "keep"),
        ("file = \"/nat.log\"\nsize = 1", "unknown field `size`"),
    ] {
        let text = problems(&with(lines)).remove(0);
        assert!(text.contains(what), "{text}");
    }
}
