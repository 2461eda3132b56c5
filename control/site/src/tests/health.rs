//! Health settings: everybody's, and an uplink's own.

use super::*;
use crate::health::{Limits, Passive};

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
    let told = warn::unwatched(&site).unwrap();
    assert!(told.starts_with("nothing beyond the next hop of fiber, lte is watched"), "{told}");
    let site = parse("weir.toml", &format!("{GOOD}{SHARED}")).unwrap();
    assert_eq!(warn::unwatched(&site), None);
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
