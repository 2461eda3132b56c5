//! What is allowed and unwise.

use super::*;

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
fn each_family_needs_targets_of_its_own() {
    let own = "ipv6 = { translate = \"none\", next_hop = \"fe80::1\" }";
    let more = |hosts: &[&str], quorum: u32| {
        let targets =
            targets(hosts).replace("health = {", &format!("health = {{ quorum = {quorum}, "));
        warnings(&format!("{own}\n{targets}"), false)
    };
    let four = ["203.0.113.1", "198.51.100.1"];
    let six = ["2001:2::1", "2001:2::2"];
    assert_eq!(more(&[four, six].concat(), 2), [""; 0]);
    let found = more(&[&four[..], &six[..1]].concat(), 2);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("fiber (IPv6): all that is probed is one host"), "{found:?}");
    assert!(found[1].contains("fiber (IPv6): 1 of its targets"), "{found:?}");
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
fn an_uplink_without_an_address_to_translate_to_is_warned_of() {
    let site = parse("weir.toml", GOOD).unwrap();
    let mut kernel = kernel();
    assert_eq!(warn::without_pool(&site, &kernel), [""; 0]);
    kernel.addresses.truncate(1);
    let told = warn::without_pool(&site, &kernel);
    // The other one translates nothing.
    let words = "uplink fiber: wan0 has no IPv4 address to translate to";
    assert!(told.len() == 1 && told[0].starts_with(words), "{told:?}");
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
fn a_device_with_fewer_queues_than_workers_is_warned_of_and_one_with_too_many_is_out_alone() {
    let site =
        parse("weir.toml", &GOOD.replacen("[gateway]", "[gateway]\nworkers = 2", 1)).unwrap();
    let mut kernel = kernel();
    kernel.links.iter_mut().for_each(|link| link.queues = 2);
    let few = |kernel: &Kernel| {
        let warnings = warnings_here(&site, kernel);
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

#[test]
fn short_timeouts_are_allowed_with_a_warning() {
    let site = parse("weir.toml", &format!("{GOOD}\n[timeouts]\nudp = 30\nother = 5\n")).unwrap();
    assert_eq!((site.timeouts.udp, site.timeouts.other), (30, 5));
    assert!(site.warnings[0].contains("RFC 4787"));
}
