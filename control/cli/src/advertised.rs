//! What the hosts of LANs are told by router advertisements.

use serde_json::{Value, json};
use weir_api::{AdvertisedView, Query, Response, time};

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

fn of_lan(lan: &AdvertisedView) -> Vec<Value> {
    let lifetime = |seconds: u32| match seconds {
        0 => "no".into(),
        seconds => time::duration(seconds.into()),
    };
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
