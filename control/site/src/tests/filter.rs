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
