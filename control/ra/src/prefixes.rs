//! Lifetimes: of prefixes that a LAN is offered, and of those that it was offered before.
//!
//! A host keeps an address until the valid lifetime ends that it heard of last, or, where that was
//! shorter than what was left, until the one before does (RFC 4862 §5.5.3 e). So a prefix that is no
//! more is told with lifetimes of 0 for as long as any host may have it, however often the prefix has
//! changed since (RFC 9096 §3.5). Prefixes are what is remembered, not addresses: one that comes back
//! is an offer as before.
//!
//! Only where a prefix is told with the flag A do hosts make addresses of it, and obey its lifetimes
//! (RFC 4862 §5.5.3 a). Addresses that they made before it was told without are ended with that flag,
//! beside the prefix as it is now.
//!
//! What another router offers is not ended meanwhile. Anyone in the LAN can say so, and once it is
//! over this router's duty is what it was.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv6Net;

use crate::PrefixInformation;
use crate::told::Told;

/// Longest preferred lifetime, seconds (`ND_PREFERRED_LIMIT`, RFC 9096 §4).
pub const PREFERRED_LIMIT_S: u32 = 2700;
/// Longest valid lifetime, seconds (`ND_VALID_LIMIT`, RFC 9096 §4).
pub const VALID_LIMIT_S: u32 = 5400;

/// A prefix that a LAN is offered: it is on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The prefix.
    pub prefix: Ipv6Net,
    /// When it ends, milliseconds; none: it has no end.
    pub valid_until: Option<u64>,
    /// When new connections should not be made from it any more, likewise.
    pub preferred_until: Option<u64>,
    /// New connections may be made from it: its provider takes them. Where not, its addresses stay
    /// valid, for what goes on inside, and for when the provider is back (RFC 8475 §3.1.2).
    pub usable: bool,
}

impl Offer {
    fn lifetimes(&self, now: u64) -> Lifetimes {
        let left = |until: Option<u64>, limit: u32| match until {
            None => limit,
            Some(until) => (until.saturating_sub(now) / 1000).min(limit.into()) as u32,
        };
        let valid = left(self.valid_until, VALID_LIMIT_S);
        let preferred = if self.usable { left(self.preferred_until, PREFERRED_LIMIT_S) } else { 0 };
        Lifetimes { valid, preferred: preferred.min(valid) }
    }
}

/// In seconds.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Lifetimes {
    valid: u32,
    preferred: u32,
}

/// A prefix as it was told. Hosts may have made addresses of it, or not.
type As = (Ipv6Net, bool);

/// The prefixes that a LAN is offered, and those that it was.
#[derive(Clone, Debug, Default)]
pub struct Prefixes {
    offers: Vec<Offer>,
    /// Those that hosts may know.
    told: Told<As>,
    /// Of these, until when another router offers them, milliseconds.
    others: BTreeMap<Ipv6Net, u64>,
}

impl Prefixes {
    /// Hosts were told of these until `now`, by an earlier process, and may have made addresses.
    pub fn remember(told: impl IntoIterator<Item = Ipv6Net>, now: u64) -> Self {
        let told = told.into_iter().map(|prefix| (prefix, true));
        Self { told: Told::remember(told, now), ..Self::default() }
    }

    /// Takes what is offered from `now` on; says whether hosts are to be told something else than
    /// what the time makes of it.
    pub fn offer(&mut self, mut offers: Vec<Offer>, now: u64) -> bool {
        offers.sort_by_key(|offer| offer.prefix);
        offers.dedup_by_key(|offer| offer.prefix);
        let tell = |offers: &[Offer]| -> Vec<_> {
            offers.iter().map(|offer| (offer.prefix, offer.lifetimes(now))).collect()
        };
        let is_news = tell(&self.offers) != tell(&offers);
        self.offers = offers;
        is_news
    }

    /// What is offered.
    #[must_use]
    pub fn offers(&self) -> &[Offer] {
        &self.offers
    }

    /// Another router offers this prefix from `now` on, for so many seconds: until then what hosts
    /// have of it is not for this one to end.
    pub fn leave(&mut self, prefix: Ipv6Net, preferred_s: u32, now: u64) {
        if self.told.contains(&(prefix, true)) {
            let lifetime = u64::from(preferred_s.min(VALID_LIMIT_S)) * 1000;
            self.others.insert(prefix, now + lifetime);
        }
    }

    /// Is anything offered that has not ended?
    #[must_use]
    pub fn are_offered(&self, now: u64) -> bool {
        self.offers.iter().any(|offer| offer.lifetimes(now).valid > 0)
    }

    /// What hosts are told at `now`: the offers, of which they make addresses or not, and that what
    /// else they may have is no more.
    pub fn tell(&mut self, now: u64, autonomous: bool) -> Vec<PrefixInformation> {
        let mut all = Vec::new();
        for offer in &self.offers {
            let Lifetimes { valid, preferred } = offer.lifetimes(now);
            if valid > 0 {
                let prefix = offer.prefix;
                self.told.tell(&(prefix, autonomous), valid, now);
                all.push(PrefixInformation { prefix, on_link: true, autonomous, valid, preferred });
            }
        }
        self.others.retain(|_, until| *until > now);
        let is_offered = |prefix: &_| all.iter().any(|it| it.prefix == *prefix);
        let others = &self.others;
        let is_no_more = |(prefix, made): &As| {
            (!is_offered(prefix) || *made && !autonomous) && !others.contains_key(prefix)
        };
        let stale = self.told.stale(now, is_no_more);
        let ended = |(prefix, autonomous): &As| PrefixInformation {
            prefix: *prefix,
            on_link: !is_offered(prefix),
            autonomous: *autonomous,
            valid: 0,
            preferred: 0,
        };
        // Addresses and all ends what was told of a prefix both ways.
        let is_said = |(prefix, made): &As| !made && stale.contains(&(*prefix, true));
        let ended: Vec<_> = stale.iter().filter(|it| !is_said(it)).map(ended).collect();
        all.into_iter().chain(ended).collect()
    }

    /// The prefixes that hosts may know.
    pub fn told(&self) -> impl Iterator<Item = Ipv6Net> {
        let all: BTreeSet<_> = self.told.all().map(|(prefix, _)| *prefix).collect();
        all.into_iter()
    }
}
