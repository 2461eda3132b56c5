//! What a LAN was told last, for who asks.

use weir_api::{
    AdvertisedDomain, AdvertisedPrefix, AdvertisedRoute, AdvertisedServer, AdvertisedView,
};
use weir_publish::Advertised;
use weir_ra::{Advertisement, PrefixInformation, RouteInformation};

/// Of this LAN, by this message.
pub fn view(lan: &Advertised, last: &Advertisement, trouble: Option<String>) -> AdvertisedView {
    let prefix = |it: &PrefixInformation| AdvertisedPrefix {
        prefix: it.prefix,
        on_link: it.on_link,
        autonomous: it.autonomous,
        valid_s: it.valid,
        preferred_s: it.preferred,
    };
    let route =
        |it: &RouteInformation| AdvertisedRoute { prefix: it.prefix, lifetime_s: it.lifetime };
    let lasting = last.dns.iter().map(|server| (*server, last.dns_lifetime));
    let servers = lasting.chain(last.ended_dns.iter().map(|server| (*server, 0)));
    let lasting = last.search.iter().map(|domain| (domain, last.dns_lifetime));
    let domains = lasting.chain(last.ended_search.iter().map(|domain| (domain, 0)));
    AdvertisedView {
        lan: lan.interface.clone(),
        by_others: lan.by_others,
        hop_limit: last.hop_limit,
        managed: last.managed,
        other: last.other,
        router_lifetime_s: last.router_lifetime,
        preference: last.preference,
        mtu: last.mtu,
        prefixes: last.prefixes.iter().map(prefix).collect(),
        routes: last.routes.iter().map(route).collect(),
        dns: servers.map(|(server, lifetime_s)| AdvertisedServer { server, lifetime_s }).collect(),
        search: domains
            .map(|(domain, lifetime_s)| AdvertisedDomain { domain: domain.clone(), lifetime_s })
            .collect(),
        trouble,
    }
}
