//! A LAN's advertisements: what they say, and when they are sent.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use crate::{Advertisement, Offer, Prefixes, RouteInformation, Schedule, VALID_LIMIT_S};

/// What a LAN is told beside its prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Hop limit of what hosts send.
    pub hop_limit: u8,
    /// Addresses are to be had by DHCPv6.
    pub managed: bool,
    /// Other configuration is to be had by DHCPv6.
    pub other: bool,
    /// How long the gateway is a default router where it leads anywhere, seconds.
    pub router_lifetime: u16,
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
    schedule: Schedule,
}

impl Advertiser {
    /// One whose first message is due at once. `told` are prefixes that hosts may have from before.
    pub fn new(settings: Settings, told: impl IntoIterator<Item = Ipv6Net>, now: u64) -> Self {
        let (prefixes, schedule) = (Prefixes::remember(told, now), Schedule::new(now));
        Self { settings, leads: false, prefixes, schedule }
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

    /// When the next message is due.
    #[must_use]
    pub const fn deadline(&self) -> u64 {
        self.schedule.next()
    }

    /// The message that is sent at `now`, when it is due; `random` is any number. A gateway without
    /// a way to the Internet, or without a prefix, is no default router (RFC 7084 G-4, L-4), but
    /// leads to the networks of the site.
    pub fn advertise(&mut self, now: u64, random: u64) -> Advertisement {
        self.schedule.sent(now, random);
        let leads = self.leads && self.prefixes.are_offered(now);
        let settings = &self.settings;
        let route =
            |prefix: &Ipv6Net| RouteInformation { prefix: *prefix, lifetime: VALID_LIMIT_S };
        Advertisement {
            hop_limit: settings.hop_limit,
            managed: settings.managed,
            other: settings.other,
            router_lifetime: if leads { settings.router_lifetime } else { 0 },
            link_address: Some(settings.link_address),
            mtu: settings.mtu,
            prefixes: self.prefixes.tell(now),
            routes: settings.routes.iter().map(route).collect(),
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

    /// The prefixes that hosts may have addresses of.
    pub fn told(&self) -> impl Iterator<Item = Ipv6Net> {
        self.prefixes.told()
    }
}
