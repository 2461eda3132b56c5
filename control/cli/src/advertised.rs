//! What the hosts of LANs are told by router advertisements.

use std::fmt::Display;

use serde_json::{Value, json};
use weir_api::{AdvertisedView, Query, Response, time};
use weir_view::Preference;

use super::Arguments;
use super::table::table;

/// Of each LAN that gets some, if the control process answers.
pub fn lans(arguments: &Arguments) -> Vec<AdvertisedView> {
    match weir_api::ask(&arguments.socket, &Query::Advertised) {
        Ok(Response::Advertised { lans }) => lans,
        _ => Vec::new(),
    }
}

/// A table with a line for each prefix of a LAN, or for what is wrong with it.
pub fn lines(lans: &[AdvertisedView]) -> String {
    let lines: Vec<Value> = lans.iter().flat_map(of_lan).collect();
    table(
        &lines,
        &["lan", "sender", "router", "prefix", "autonomous", "preferred", "valid", "trouble"],
    )
}

/// A table of what LANs are told beside prefixes; none: nothing.
pub fn rest(lans: &[AdvertisedView]) -> Option<String> {
    let lines: Vec<Value> = lans.iter().flat_map(rest_of).collect();
    (!lines.is_empty()).then(|| table(&lines, &["lan", "what", "told", "lifetime"]))
}

fn rest_of(lan: &AdvertisedView) -> Vec<Value> {
    let line = |what: &str, told: &dyn Display, lifetime_s: Option<u32>| {
        json!({
            "lan": lan.lan,
            "what": what,
            "told": told.to_string(),
            "lifetime": lifetime_s.map(lifetime),
        })
    };
    let mut lines = Vec::new();
    lines.extend(preference(lan.preference).map(|it| line("preference", &it, None)));
    lines.extend(lan.mtu.map(|mtu| line("mtu", &mtu, None)));
    lines.extend(lan.routes.iter().map(|it| line("route", &it.prefix, Some(it.lifetime_s))));
    lines.extend(lan.dns.iter().map(|it| line("dns", &it.server, Some(it.lifetime_s))));
    lines.extend(lan.search.iter().map(|it| line("search", &it.domain, Some(it.lifetime_s))));
    lines
}

/// In a word; none: as any other router's, also where nothing is said.
pub const fn preference(preference: Preference) -> Option<&'static str> {
    match preference {
        Preference::Low => Some("low"),
        Preference::Medium => None,
        Preference::High => Some("high"),
    }
}

fn lifetime(seconds: u32) -> String {
    match seconds {
        0 => "no".into(),
        seconds => time::duration(seconds.into()),
    }
}

fn of_lan(lan: &AdvertisedView) -> Vec<Value> {
    let line = |prefix: Option<&weir_api::AdvertisedPrefix>| {
        json!({
            "lan": lan.lan,
            "sender": if lan.by_others { "others" } else { "weir" },
            "router": lifetime(lan.router_lifetime_s.into()),
            "prefix": prefix.map(|it| it.prefix.to_string()),
            "autonomous": prefix.map(|it| it.autonomous),
            "preferred": prefix.map(|it| lifetime(it.preferred_s)),
            "valid": prefix.map(|it| lifetime(it.valid_s)),
            "trouble": lan.trouble,
        })
    };
    match lan.prefixes.is_empty() {
        true => vec![line(None)],
        false => lan.prefixes.iter().map(|prefix| line(Some(prefix))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_lan_is_told_beside_prefixes_has_a_line_each_with_how_long_it_holds() {
        let text = rest(&[crate::ra::example()]).unwrap();
        let lines: Vec<Vec<_>> = text.lines().map(|it| it.split_whitespace().collect()).collect();
        let wanted = [
            vec!["LAN", "WHAT", "TOLD", "LIFETIME"],
            vec!["lan0.10", "preference", "high", "-"],
            vec!["lan0.10", "mtu", "1480", "-"],
            vec!["lan0.10", "route", "2001:2:0:300::/56", "1h", "30m"],
            vec!["lan0.10", "route", "2001:2:0:400::/56", "no"],
            vec!["lan0.10", "dns", "2001:2::53", "1h", "30m"],
            vec!["lan0.10", "dns", "2001:2::54", "no"],
            vec!["lan0.10", "search", "example.net", "1h", "30m"],
            vec!["lan0.10", "search", "lan", "no"],
        ];
        assert_eq!(lines, wanted, "{text}");
        let nothing = AdvertisedView {
            preference: Preference::Medium,
            mtu: None,
            routes: Vec::new(),
            dns: Vec::new(),
            search: Vec::new(),
            ..crate::ra::example()
        };
        assert_eq!(rest(&[nothing]), None);
    }
}
