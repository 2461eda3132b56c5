//! Filters of others that do not see what is forwarded without flows.

use serde_json::Value;
use weir_layout::Family;
use weir_publish::{Overrides, derive};
use weir_site::Site;
use weir_view::Kernel;

/// A chain of nftables in the hook `forward` that drops something, perhaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// What nft calls the family of its table: ip, ip6 or inet.
    family: String,
    /// Its table's name.
    table: String,
    /// Its own.
    chain: String,
}

impl Filter {
    fn is_of(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.family == "ip" || self.family == "inet",
            Family::V6 => self.family == "ip6" || self.family == "inet",
        }
    }
}

/// Those of a ruleset, as nft tells it to programs, but for weir's own table: chains that have a rule,
/// or drop what has none.
pub fn of(ruleset: &str, own: &str) -> Vec<Filter> {
    let ruleset: Value = serde_json::from_str(ruleset).unwrap_or_default();
    let all = ruleset["nftables"].as_array().map_or(&[][..], Vec::as_slice);
    let word = |of: &Value, key: &str| of[key].as_str().unwrap_or_default().to_owned();
    let place = |of: &Value, chain: &str| Filter {
        family: word(of, "family"),
        table: word(of, "table"),
        chain: word(of, chain),
    };
    let rules: Vec<_> =
        all.iter().filter_map(|it| it.get("rule")).map(|rule| place(rule, "chain")).collect();
    let chains = all.iter().filter_map(|it| it.get("chain"));
    let chains = chains.filter(|chain| chain["hook"] == "forward" && chain["table"] != own);
    let filters = chains.map(|chain| (chain["policy"] == "drop", place(chain, "name")));
    let filters = filters.filter(|(drops, filter)| *drops || rules.contains(filter));
    filters.map(|(_, filter)| filter).collect()
}

/// Says which of them are not asked, by the families that need no flows.
pub fn unasked(site: &Site, kernel: &Kernel, filters: &[Filter]) -> Vec<String> {
    let half = derive(site, kernel, &Overrides::default(), [&[]; Family::COUNT], None).half;
    let without_flows = Family::ALL.into_iter().filter(|of| half.stateless(*of).is_some());
    let warning = |family: Family| {
        let of = filters.iter().filter(|filter| filter.is_of(family));
        let names: Vec<_> =
            of.map(|of| format!("{} {} {}", of.family, of.table, of.chain)).collect();
        (!names.is_empty()).then(|| {
            format!(
                "{} needs no flows here, so that filters in the hook `forward` see none of it: {}. \
                 Where they are to judge what comes in, say pin = true on the uplinks",
                match family {
                    Family::V4 => "IPv4",
                    Family::V6 => "IPv6",
                },
                names.join(", ")
            )
        })
    };
    without_flows.filter_map(warning).collect()
}

#[cfg(test)]
mod tests {
    use weir_view::Link;

    use super::*;

    /// Docker's chain, an empty one, one that drops by its policy, one of another hook, and weir's.
    const RULESET: &str = r#"{"nftables": [
        {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
        {"table": {"family": "ip6", "name": "filter", "handle": 1}},
        {"chain": {"family": "ip6", "table": "filter", "name": "FORWARD", "handle": 1,
                   "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}},
        {"chain": {"family": "ip6", "table": "filter", "name": "DOCKER", "handle": 2}},
        {"rule": {"family": "ip6", "table": "filter", "chain": "FORWARD", "handle": 3, "expr": []}},
        {"chain": {"family": "ip6", "table": "idle", "name": "FORWARD", "handle": 1,
                   "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"}},
        {"chain": {"family": "inet", "table": "fw", "name": "all", "handle": 1,
                   "type": "filter", "hook": "forward", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "inet", "table": "fw", "name": "in", "handle": 2,
                   "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
        {"chain": {"family": "ip6", "table": "weir", "name": "forward", "handle": 1,
                   "type": "filter", "hook": "forward", "prio": -10, "policy": "drop"}}
    ]}"#;

    fn told(path: &str, ruleset: &str) -> Vec<String> {
        let text = format!(
            "[[lan]]\ninterface = \"lan0\"\nprefixes = [\"2a00:1::/64\"]\n[[uplink]]\n\
             name = \"a\"\ninterface = \"wan0\"\nipv6 = {{ translate = \"none\"{path} }}\n"
        );
        let site = weir_site::parse("weir.toml", &text).unwrap();
        let link = |(index, name): (u32, &str)| Link {
            index,
            name: name.into(),
            forwards: [true; Family::COUNT],
            ..Link::default()
        };
        let links = [(1, "lan0"), (2, "wan0")].map(link).into();
        let kernel = Kernel { links, ..Kernel::default() };
        unasked(&site, &kernel, &of(ruleset, "weir"))
    }

    #[test]
    fn filters_that_are_not_asked_are_told_where_a_family_needs_no_flows() {
        let open = told(", inbound = true", RULESET);
        assert_eq!(open.len(), 1, "{open:?}");
        for part in ["IPv6 needs no flows", ": ip6 filter FORWARD, inet fw all.", "pin = true"] {
            assert!(open[0].contains(part), "{part}: {open:?}");
        }
        assert_eq!(told(", inbound = true, pin = true", RULESET), [""; 0], "flows have entries");
        assert_eq!(told("", RULESET), [""; 0]);
        for nothing in ["", "{}", "nft: no such thing"] {
            assert_eq!(told(", inbound = true", nothing), [""; 0], "{nothing}");
        }
    }
}
