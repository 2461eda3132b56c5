//! `weir ra`: what the hosts of LANs are told, in the words of the program that tells them.

use anyhow::{Result, bail};
use clap::ValueEnum;
use weir_api::{AdvertisedView, Query, Response};

use super::{Arguments, advertised, bird, output, radvd};

/// Whose words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// radvd.conf(5), the whole file.
    Radvd,
    /// BIRD 2, a file that bird.conf includes.
    Bird,
}

/// What a LAN is told, or all are. In the words of a program: all that another program sends for.
///
/// # Errors
/// When the control process does not answer, or the LAN is told nothing.
pub fn show(arguments: &Arguments, lan: Option<&str>, format: Option<Format>) -> Result<String> {
    let mut lans = match weir_api::ask(&arguments.socket, &Query::Advertised)? {
        Response::Advertised { lans } => lans,
        _ => bail!("{}", weir_api::ANOTHER_VERSION),
    };
    if let Some(name) = lan {
        lans.retain(|view| view.lan == name);
        if lans.is_empty() {
            bail!("the file gives no LAN {name} that has `ra`");
        }
    }
    Ok(match format {
        _ if arguments.json => output::json("ra", serde_json::to_value(lans)?),
        None => {
            let rest = advertised::rest(&lans).map(|rest| format!("\n{rest}"));
            advertised::lines(&lans) + &rest.unwrap_or_default()
        }
        Some(format) => snippet(&lans, format, lan.is_some()),
    })
}

/// Of LANs that another program sends for, or of the one that was asked for, whoever does. One that
/// was told nothing yet is told nothing by the other program either.
fn snippet(lans: &[AdvertisedView], format: Format, asked: bool) -> String {
    let stanza = match format {
        Format::Radvd => radvd::stanza,
        Format::Bird => bird::stanza,
    };
    let told = lans.iter().filter(|lan| lan.hop_limit > 0 && (lan.by_others || asked));
    let stanzas: String = told.map(stanza).collect();
    format!("# By `weir ra`, which writes it anew at each change.\n{stanzas}")
}

/// What tests put into words.
#[cfg(test)]
pub fn example() -> AdvertisedView {
    use weir_api::{AdvertisedDomain, AdvertisedPrefix, AdvertisedRoute, AdvertisedServer};

    let prefix = |prefix: &str, preferred_s, valid_s| AdvertisedPrefix {
        prefix: prefix.parse().unwrap(),
        on_link: true,
        autonomous: true,
        valid_s,
        preferred_s,
    };
    let route =
        |prefix: &str, lifetime_s| AdvertisedRoute { prefix: prefix.parse().unwrap(), lifetime_s };
    let server =
        |server: &str, lifetime_s| AdvertisedServer { server: server.parse().unwrap(), lifetime_s };
    let domain = |domain: &str, lifetime_s| AdvertisedDomain { domain: domain.into(), lifetime_s };
    AdvertisedView {
        lan: "lan0.10".into(),
        by_others: true,
        hop_limit: 64,
        managed: false,
        other: true,
        router_lifetime_s: 2700,
        preference: weir_view::Preference::High,
        mtu: Some(1480),
        prefixes: vec![
            prefix("2001:2:0:a01::/64", 0, 5400),
            prefix("2001:2:0:b01::/64", 1200, 3000),
            prefix("2001:2:0:c01::/64", 0, 0),
        ],
        routes: vec![route("2001:2:0:300::/56", 5400), route("2001:2:0:400::/56", 0)],
        dns: vec![server("2001:2::53", 5400), server("2001:2::54", 0)],
        search: vec![domain("example.net", 5400), domain("lan", 0)],
        trouble: None,
    }
}

/// The same of a LAN whose hosts have made addresses, and are to lease them now.
#[cfg(test)]
pub fn leased() -> AdvertisedView {
    let mut lan = AdvertisedView { managed: true, ..example() };
    lan.prefixes.truncate(1);
    let of = lan.prefixes[0];
    lan.prefixes[0] = weir_api::AdvertisedPrefix { autonomous: false, preferred_s: 2700, ..of };
    let ended = weir_api::AdvertisedPrefix { on_link: false, valid_s: 0, preferred_s: 0, ..of };
    lan.prefixes.push(ended);
    lan
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lans_that_others_send_for_are_put_into_words_unless_one_is_asked_for() {
        let others = example();
        let own = AdvertisedView { lan: "lan1".into(), by_others: false, ..example() };
        let untold = AdvertisedView { lan: "lan2".into(), hop_limit: 0, ..example() };
        let lans = [others, own.clone(), untold];
        for format in [Format::Radvd, Format::Bird] {
            let text = snippet(&lans, format, false);
            let has = |lan: &str| text.contains(lan);
            assert!(has("lan0.10") && !has("lan1") && !has("lan2"), "{text}");
            assert!(snippet(std::slice::from_ref(&own), format, true).contains("lan1"));
        }
    }
}
