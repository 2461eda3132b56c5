//! What the file says of load: capacities, thresholds, and what cannot come of them.

use std::ops::Range;

use toml::Spanned;

use super::schema;
use super::{PolicyConfig, UplinkConfig};
use crate::load::parse_rate;
use crate::load::{Balance, Capacity, Spill};

/// Takes what is wrong: where, what, and what to do.
pub type Refuse<'r> = dyn FnMut(Range<usize>, String, &str) + 'r;

/// The capacity of an uplink.
pub fn capacity(given: Option<&schema::Capacity>, refuse: &mut Refuse<'_>) -> Capacity {
    let Some(given) = given else { return [None; 2] };
    [&given.down, &given.up].map(|rate| {
        let rate = rate.as_ref()?;
        let parsed = parse_rate(rate.get_ref());
        parsed.map_err(|(what, help)| refuse(rate.span(), format!("capacity: {what}"), help)).ok()
    })
}

/// The thresholds of an uplink. One whose capacity the file does not tell has them only if it asks:
/// what is learned may surprise.
pub fn spill(
    given: Option<&Spanned<Spill>>,
    capacity: Capacity,
    refuse: &mut Refuse<'_>,
) -> Option<Spill> {
    let Some(given) = given else {
        return capacity.iter().any(Option::is_some).then_some(Spill::DEFAULT);
    };
    let Spill { above, below } = *given.get_ref();
    if !(1..=100).contains(&above) {
        refuse(given.span(), format!("spill.above {above} is out of range"), "use 1 to 100");
    } else if below >= above {
        refuse(
            given.span(),
            format!("spill.below {below} is not below spill.above {above}"),
            "leave room between them, or new flows go to and fro",
        );
    }
    Some(*given.get_ref())
}

/// What is allowed but cannot do what it says.
pub fn warnings(uplinks: &[UplinkConfig], policies: &[PolicyConfig]) -> Vec<String> {
    let mut warnings = Vec::new();
    let untold = |uplink: &UplinkConfig| uplink.capacity[0].is_none();
    let unprobed = |uplink: &UplinkConfig| uplink.health.targets.is_empty();
    for uplink in uplinks {
        let name = &uplink.name;
        if uplink.spill.is_some() && uplink.capacity == [None; 2] && unprobed(uplink) {
            warnings.push(format!(
                "uplink {name} never spills: its capacity is not given, and it has no \
                 health.targets to learn it by"
            ));
        }
    }
    for policy in policies {
        let members = policy.members.iter().filter_map(|m| uplinks.get(usize::from(m.uplink)));
        let names = |wanted: &dyn Fn(&UplinkConfig) -> bool| -> Vec<&str> {
            members.clone().filter(|u| wanted(u)).map(|u| u.name.as_str()).collect()
        };
        let until = names(&untold).join(", ");
        let never = names(&|u| untold(u) && unprobed(u)).join(", ");
        let blind = names(&unprobed).join(", ");
        let name = &policy.name;
        match policy.balance {
            Balance::LeastLoaded if !never.is_empty() => warnings.push(format!(
                "policy {name} goes by weights and not by load in tiers with {never}: give \
                 capacity.down, or health.targets to learn it by"
            )),
            Balance::LeastLoaded if !until.is_empty() => warnings.push(format!(
                "policy {name} goes by weights and not by load until the capacity of {until} is \
                 learned: give capacity.down"
            )),
            Balance::LowestLatency if !blind.is_empty() => warnings.push(format!(
                "policy {name} uses {blind} only if no other uplink has a round-trip time: give \
                 health.targets"
            )),
            _ => {}
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::super::{Site, parse};
    use super::*;

    const TARGET: &str = "health = { targets = [\
        { name = \"t\", probe = \"icmp\", address = \"192.0.2.1\" }, \
        { name = \"u\", probe = \"icmp\", address = \"198.51.100.1\" }] }";

    /// A site of two uplinks and a policy, with more lines for the first uplink and the policy.
    fn text(fiber: &str, policy: &str) -> String {
        format!(
            "[[lan]]\ninterface = \"lan0\"\n\
             [[uplink]]\nname = \"fiber\"\ninterface = \"wan0\"\n{fiber}\n\
             [[uplink]]\nname = \"lte\"\ninterface = \"wan1\"\n\
             [[policy]]\nname = \"all\"\n{policy}\n"
        )
    }

    fn site(fiber: &str, policy: &str) -> Site {
        parse("weir.toml", &text(fiber, policy)).unwrap()
    }

    #[test]
    fn a_capacity_has_thresholds_and_the_rest_has_none() {
        let site = site("capacity = { down = \"200M\", up = \"20M\" }", "");
        assert_eq!(site.uplinks[0].capacity, [Some(200_000_000), Some(20_000_000)]);
        assert_eq!(site.uplinks[0].spill, Some(Spill { above: 80, below: 60 }));
        assert_eq!((site.uplinks[1].capacity, site.uplinks[1].spill), ([None; 2], None));
        assert_eq!((site.policies[0].balance, site.policies[0].spillover), (Balance::Hash, true));
    }

    #[test]
    fn thresholds_balance_and_spillover_can_be_set() {
        let spill = format!("spill = {{ above = 70, below = 50 }}\n{TARGET}");
        let site = site(&spill, "balance = \"lowest-latency\"\nspillover = false");
        assert_eq!(site.uplinks[0].spill, Some(Spill { above: 70, below: 50 }));
        let policy = &site.policies[0];
        assert_eq!((policy.balance, policy.spillover), (Balance::LowestLatency, false));
    }

    #[test]
    fn what_makes_no_sense_is_refused_where_it_stands() {
        for (line, place, wanted) in [
            ("capacity = { down = \"200\" }", 21, "capacity: \"200\" is no rate"),
            ("capacity = { up = \"1K\" }", 19, "capacity: \"1K\" is out of range"),
            ("capacity = { upp = \"1M\" }", 14, "did you mean `up`?"),
            ("spill = { above = 0, below = 0 }", 9, "spill.above 0 is out of range"),
            ("spill = { above = 101, below = 0 }", 9, "spill.above 101 is out of range"),
            ("spill = { above = 80, below = 80 }", 9, "spill.below 80 is not below spill.above 80"),
            ("spill = { above = 80 }", 9, "missing field `below`"),
        ] {
            let problems = parse("weir.toml", &text(line, "")).unwrap_err();
            assert_eq!(problems.len(), 1, "{problems:#?}");
            let told = problems[0].to_string();
            assert!(told.starts_with(&format!("weir.toml:6:{place}: ")), "{told}");
            assert!(told.contains(wanted), "{told}");
        }
        let problems = parse("weir.toml", &text("", "balance = \"least\"")).unwrap_err();
        let told = problems[0].to_string();
        assert!(told.contains("`hash`, `least-loaded`, `lowest-latency`"), "{told}");
    }

    #[test]
    fn what_cannot_come_of_the_settings_is_told() {
        let known = format!("capacity = {{ down = \"1G\" }}\n{TARGET}");
        for (fiber, policy, wanted) in [
            ("", "", None),
            ("capacity = { down = \"1G\" }", "", None),
            ("spill = { above = 80, below = 60 }", "", Some("uplink fiber never spills")),
            (TARGET, "balance = \"least-loaded\"", Some("in tiers with lte:")),
            (&known, "balance = \"least-loaded\"", Some("in tiers with lte:")),
            (
                TARGET,
                "balance = \"least-loaded\"\nmembers = [{ uplink = \"fiber\" }]",
                Some("until the capacity of fiber is learned"),
            ),
            (&known, "balance = \"lowest-latency\"", Some("uses lte only if")),
            (&known, "balance = \"lowest-latency\"\nmembers = [{ uplink = \"fiber\" }]", None),
        ] {
            let mut warnings = site(fiber, policy).warnings;
            warnings.retain(|warning| !warning.contains("is in no policy"));
            match wanted {
                None => assert_eq!(warnings, [""; 0], "{fiber} {policy}"),
                Some(wanted) => {
                    assert!(warnings.len() == 1 && warnings[0].contains(wanted), "{warnings:?}");
                }
            }
        }
    }
}
