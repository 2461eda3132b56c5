//! A LAN's advertisements: what they say, and when they are sent.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};
use weir_view::Preference;

use crate::told::Told;
use crate::{Advertisement, Offer, Prefixes, RouteInformation, Schedule, VALID_LIMIT_S};

/// What hosts may still have of what they were told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Prefixes that they were offered, and may have addresses of.
    pub prefixes: Vec<Ipv6Net>,
    /// Prefixes that the gateway leads to.
    pub routes: Vec<Ipv6Net>,
    /// Recursive DNS servers.
    pub dns: Vec<Ipv6Addr>,
    /// Domains in which they search names.
    pub search: Vec<String>,
}

/// What a LAN is told beside its prefixes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Hop limit of what hosts send.
    pub hop_limit: u8,
    /// Addresses are to be had by DHCPv6.
    pub managed: bool,
    /// Hosts make addresses of the prefixes.
    pub autonomous: bool,
    /// Other configuration is to be had by DHCPv6.
    pub other: bool,
    /// How long the gateway is a default router where it leads anywhere, seconds.
    pub router_lifetime: u16,
    /// Whether hosts are to take it before others.
    pub preference: Preference,
    /// The gateway's Ethernet address in the LAN.
    pub link_address: [u8; 6],
    /// MTU of the link; none: its usual one.
    pub mtu: Option<u32>,
    /// Prefixes that the gateway leads to, whether it is a default router or not.
    pub routes: Vec<Ipv6Net>,
    /// Recursive DNS servers.
    pub dns: Vec<Ipv6Addr>,
    /// Domains in which names are searched.
    pub search: Vec<String>,
}

/// A LAN's router, as its hosts see it. Times are in milliseconds.
#[derive(Clone, Debug)]
pub struct Advertiser {
    settings: Settings,
    /// The gateway leads somewhere.
    leads: bool,
    prefixes: Prefixes,
    routes: Told<Ipv6Net>,
    dns: Told<Ipv6Addr>,
    search: Told<String>,
    schedule: Schedule,
}

impl Advertiser {
    /// One whose first message is due at once, to hosts that know something from before.
    #[must_use]
    pub fn new(settings: Settings, known: Known, now: u64) -> Self {
        Self {
            settings,
            leads: false,
            prefixes: Prefixes::remember(known.prefixes, now),
            routes: Told::remember(known.routes, now),
            dns: Told::remember(known.dns, now),
            search: Told::remember(known.search, now),
            schedule: Schedule::new(now),
        }
    }

    /// Takes what hosts are to know from `now` on. `leads`: the gateway has a way to the Internet.
    pub fn follow(&mut self, settings: Settings, leads: bool, offers: Vec<Offer>, now: u64) {
        let is_news = self.prefixes.offer(offers, now);
        if is_news || (&self.settings, self.leads) != (&settings, leads) {
            self.schedule.restart(now);
        }
        (self.settings, self.leads) = (settings, leads);
    }

    /// The link has a carrier again: its hosts may be others, and have missed what was sent.
    pub fn reappear(&mut self, now: u64) {
        self.schedule.restart(now);
    }

    /// A host asks; `random` is any number.
    pub fn solicit(&mut self, now: u64, random: u64) {
        self.schedule.solicit(now, random);
    }

    /// Another router offers these prefixes, each for so many seconds.
    pub fn leave(&mut self, prefixes: &[(Ipv6Net, u32)], now: u64) {
        prefixes.iter().for_each(|(prefix, left)| self.prefixes.leave(*prefix, *left, now));
    }

    /// What is offered.
    #[must_use]
    pub fn offers(&self) -> &[Offer] {
        self.prefixes.offers()
    }

    /// Does the gateway lead anywhere?
    #[must_use]
    pub const fn leads(&self) -> bool {
        self.leads
    }

    /// When the next message is due.
    #[must_use]
    pub const fn deadline(&self) -> u64 {
        self.schedule.next()
    }

    /// The message that is sent at `now`, when it is due; `random` is any number. A gateway without
    /// a way to the Internet, or without a prefix, is no default router (RFC 7084 G-4, L-4), and
    /// has no preference as one (RFC 4191 §2.2), but leads to the networks of the site.
    pub fn advertise(&mut self, now: u64, random: u64) -> Advertisement {
        self.schedule.sent(now, random);
        let settings = &self.settings;
        let leads = self.leads && self.prefixes.are_offered(now);
        let router_lifetime = if leads { settings.router_lifetime } else { 0 };
        let is_default = router_lifetime > 0;
        let route = |prefix: Ipv6Net, lifetime| RouteInformation { prefix, lifetime };
        let routes = settings.routes.iter().map(|prefix| route(*prefix, VALID_LIMIT_S));
        let ended_routes = self.routes.update(&settings.routes, VALID_LIMIT_S, now).into_iter();
        Advertisement {
            hop_limit: settings.hop_limit,
            managed: settings.managed,
            other: settings.other,
            router_lifetime,
            preference: if is_default { settings.preference } else { Preference::Medium },
            link_address: Some(settings.link_address),
            mtu: settings.mtu,
            prefixes: self.prefixes.tell(now, settings.autonomous),
            routes: routes.chain(ended_routes.map(|prefix| route(prefix, 0))).collect(),
            ended_dns: self.dns.update(&settings.dns, VALID_LIMIT_S, now),
            ended_search: self.search.update(&settings.search, VALID_LIMIT_S, now),
            dns: settings.dns.clone(),
            search: settings.search.clone(),
            dns_lifetime: VALID_LIMIT_S,
        }
    }

    /// The last message of a LAN that is advertised no more: its hosts look for another router, and
    /// keep their addresses (RFC 4861 §6.2.5).
    #[must_use]
    pub fn farewell(&self) -> Advertisement {
        let link_address = Some(self.settings.link_address);
        Advertisement { link_address, ..Advertisement::default() }
    }

    /// What hosts may have.
    #[must_use]
    pub fn known(&self) -> Known {
        Known {
            prefixes: self.prefixes.told().collect(),
            routes: self.routes.all().copied().collect(),
            dns: self.dns.all().copied().collect(),
            search: self.search.all().cloned().collect(),
        }
    }
}
