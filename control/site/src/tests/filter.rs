//! `[[rule]]`: what becomes of what matches.

use super::*;

/// A good file with this rule at its end.
fn with(rule: &str) -> String {
    format!("{GOOD}\n[[rule]]\nname = \"last\"\n{rule}\n")
}

fn verdict(rule: &str) -> Verdict {
    parse("weir.toml", &with(rule)).unwrap().rules.last().unwrap().verdict
}

#[test]
fn a_rule_names_a_policy_or_denies() {
    assert_eq!(verdict("action = \"drop\""), Verdict::Drop);
    assert_eq!(verdict("action = \"reject\""), Verdict::Reject);
    assert!(matches!(verdict("policy = \"balanced\""), Verdict::Policy(_)));
    assert!(matches!(verdict("policy = \"balanced\"\naction = \"policy\""), Verdict::Policy(_)));
}

#[test]
fn a_rule_that_says_neither_or_both_is_refused() {
    let refused = |rule| problems(&with(rule)).remove(0);
    assert!(refused("").contains("does not say what becomes of what matches"));
    assert!(refused("action = \"policy\"").contains("does not say what becomes"));
    let both = refused("policy = \"balanced\"\naction = \"drop\"");
    assert!(both.contains("what is dropped or rejected has no policy"), "{both}");
    let unknown = problems(&with("action = \"deny\""));
    assert!(unknown.iter().any(|it| it.contains("unknown variant `deny`")), "{unknown:?}");
}

#[test]
fn a_rule_that_denies_is_warned_of_where_the_kernel_stands_in() {
    let text = with("action = \"drop\"");
    let warns = |text: &str| {
        let warnings = parse("weir.toml", text).unwrap().warnings;
        warnings.iter().any(|it| it.contains("rule last does not hold while the kernel stands in"))
    };
    assert!(!warns(&text));
    let loss = "[gateway]\non_dataplane_loss = \"kernel\"\n";
    assert!(warns(&text.replacen("[gateway]\n", loss, 1)));
}

/// A rule about what uplinks bring.
fn outside(rule: &str) -> String {
    with(&format!("from = \"uplink\"\n{rule}"))
}

#[test]
fn a_rule_about_uplinks_is_about_all_or_those_it_names() {
    let by = |rule: &str| parse("weir.toml", rule).unwrap().rules.last().unwrap().uplinks.clone();
    assert_eq!(by(&with("action = \"drop\"")), None);
    assert_eq!(by(&with("from = \"lan\"\naction = \"drop\"")), None);
    assert_eq!(by(&outside("action = \"accept\"")), Some(vec![0, 1]));
    assert_eq!(by(&outside("uplinks = [\"lte\"]\naction = \"drop\"")), Some(vec![1]));
    for (action, verdict) in
        [("accept", Verdict::Accept), ("drop", Verdict::Drop), ("reject", Verdict::Reject)]
    {
        let text = outside(&format!("action = \"{action}\""));
        assert_eq!(parse("weir.toml", &text).unwrap().rules.last().unwrap().verdict, verdict);
    }
}

#[test]
fn what_goes_with_rules_about_lans_is_refused_of_uplinks_and_the_reverse() {
    for (rule, why) in [
        (outside(""), "does not say what becomes of what matches"),
        (outside("policy = \"balanced\""), "what comes in by an uplink has no policy"),
        (outside("policy = \"balanced\"\naction = \"drop\""), "has no policy"),
        (outside("in_interface = \"lan0\"\naction = \"drop\""), "`in_interface` is a LAN's"),
        (outside("uplinks = []\naction = \"drop\""), "no uplink is named"),
        (outside("uplinks = [\"no\"]\naction = \"drop\""), "\"no\""),
        (with("uplinks = [\"lte\"]\naction = \"drop\""), "the rule is about what LANs send"),
        (with("action = \"accept\""), "what LANs send is not accepted"),
        (with("from = \"wan\"\naction = \"drop\""), "unknown variant `wan`"),
    ] {
        let found = problems(&rule);
        assert!(found.iter().any(|told| told.contains(why)), "{rule}: {found:#?}");
    }
    let six = "uplinks = [\"lte\"]\ndestination = \"2001:2::/48\"\naction = \"drop\"";
    let text = outside(six).replacen("weight = 5", "ipv6 = { translate = \"nat66\" }", 1);
    let found = problems(&text);
    assert!(found.len() == 1 && found[0].contains("no uplink of the rule has a path"), "{found:?}");
}

#[test]
fn a_rule_that_accepts_what_nothing_leads_to_a_host_is_warned_of() {
    let warns = |rule: &str, more: &str| {
        let text = outside(&format!("{rule}\naction = \"accept\"\n{more}"));
        let warnings = parse("weir.toml", &text).unwrap().warnings;
        warnings.iter().any(|told| told.contains("rule last lets in nothing"))
    };
    let fiber = "uplinks = [\"fiber\"]";
    assert!(warns(fiber, ""));
    assert!(!warns("uplinks = [\"fiber\", \"lte\"]", "") && !warns("", ""));
    assert!(warns("protocol = \"gre\"", "") && !warns("protocol = \"icmp\"", ""));
    let web = "[[publish]]\nname = \"web\"\nprotocol = \"tcp\"\nports = 443\nto = \"10.77.0.5\"\n";
    assert!(!warns(fiber, web));
    let open = outside(&format!("{fiber}\naction = \"accept\"")).replacen(
        "weight = 5",
        "filtering = \"endpoint\"",
        1,
    );
    let warnings = parse("weir.toml", &open).unwrap().warnings;
    assert!(!warnings.iter().any(|told| told.contains("lets in nothing")), "{warnings:?}");
}

#[test]
fn a_rule_without_criteria_is_ahead_of_those_about_its_uplinks_alone() {
    let warns = |first: &str, second: &str| {
        let rule = |rule: &str| format!("[[rule]]\n{rule}\n");
        let text = format!("{GOOD}{}{}", rule(first), rule(second));
        let warnings = parse("weir.toml", &text).unwrap().warnings;
        warnings.iter().any(|told| told.contains("rule-2 has no criteria"))
    };
    let [all, fiber, lte] = ["", "uplinks = [\"fiber\"]", "uplinks = [\"lte\"]"]
        .map(|by| format!("from = \"uplink\"\n{by}\naction = \"drop\""));
    assert!(warns(&all, &fiber) && warns(&fiber, &fiber));
    assert!(!warns(&fiber, &all) && !warns(&fiber, &lte));
    let lan = "policy = \"balanced\"";
    assert!(!warns(&all, lan) && !warns(lan, &all));
}

#[test]
fn a_rule_about_uplinks_holds_while_the_kernel_stands_in() {
    let loss = "[gateway]\non_dataplane_loss = \"kernel\"\n";
    let text = outside("action = \"drop\"").replacen("[gateway]\n", loss, 1);
    let warnings = parse("weir.toml", &text).unwrap().warnings;
    assert!(!warnings.iter().any(|told| told.contains("stands in")), "{warnings:?}");
}

#[test]
fn a_protocol_has_a_name_or_a_number_and_only_some_have_ports() {
    let protocol = |given: &str| {
        let text = with(&format!("policy = \"balanced\"\nprotocol = {given}"));
        parse("weir.toml", &text).unwrap().rules.last().unwrap().protocol
    };
    let names = ["\"gre\"", "\"esp\"", "\"ah\"", "\"sctp\"", "\"ipip\"", "\"6in4\"", "136"];
    assert_eq!(names.map(protocol), [47, 50, 51, 132, 4, 41, 136]);
    let refused = |rule: &str| problems(&with(&format!("policy = \"balanced\"\n{rule}"))).remove(0);
    assert!(refused("protocol = \"grx\"").contains("protocol \"grx\" is not known"));
    let ports = refused("protocol = \"sctp\"\ndestination_ports = \"36412\"");
    assert!(ports.contains("protocol 132 has no ports that rules look at"), "{ports}");
}
