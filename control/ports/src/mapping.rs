//! Ports that hosts have.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weir_layout::Family;
use weir_layout::protocol::{TCP, UDP};

use crate::realm::{Realm, Situation};
use crate::store::Unavailable;

/// Most filters of a mapping.
pub const MAX_FILTERS: usize = 8;

/// What a client of PCP proves by it that a mapping is its own (RFC 6887 §11.2).
pub type Nonce = [u8; 12];

/// By which protocol a mapping was asked for: by that alone it is renewed and ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owner {
    /// By PCP, by a client of this nonce.
    Pcp(Nonce),
    /// By NAT-PMP.
    NatPmp,
    /// By UPnP, with what its client says that it is for.
    Upnp(String),
}

impl Owner {
    /// The protocol's name.
    pub const fn protocol(&self) -> &'static str {
        match self {
            Self::Pcp(_) => "pcp",
            Self::NatPmp => "nat-pmp",
            Self::Upnp(_) => "upnp",
        }
    }

    /// Is it UPnP? There a mapping is known by its port outside, elsewhere by the one inside.
    pub const fn is_upnp(&self) -> bool {
        matches!(self, Self::Upnp(_))
    }
}

/// A port outside that leads to a port of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// Its number: no other has had it.
    pub id: u32,
    /// The interface of the host's LAN.
    pub lan: String,
    /// The host and its port.
    pub inside: SocketAddr,
    /// IP protocol number: TCP or UDP.
    pub protocol: u8,
    /// The port outside.
    pub port: u16,
    /// Who asked for it.
    pub owner: Owner,
    /// Who may use it; none: everybody.
    pub filters: Vec<IpNet>,
    /// Its end, milliseconds.
    pub until: u64,
}

impl Mapping {
    /// Its name, which no service of the file has.
    pub fn name(&self) -> String {
        format!("{}:{}", self.owner.protocol(), self.id)
    }

    /// Family.
    pub const fn family(&self) -> Family {
        Family::of(self.inside.ip())
    }

    /// Does it lead to a host's port?
    pub fn is_of(&self, inside: SocketAddr, protocol: u8) -> bool {
        (self.inside, self.protocol) == (inside, protocol)
    }

    /// Could it have been granted, by some limits?
    pub fn is_sound(&self) -> bool {
        let fits = |filter: &IpNet| {
            Family::of(filter.addr()) == self.family() && filter.trunc() == *filter
        };
        matches!(self.protocol, TCP | UDP)
            && self.port != 0
            && self.inside.port() != 0
            && self.filters.len() <= MAX_FILTERS
            && self.filters.iter().all(fits)
    }

    /// Would the same port outside be in its way, asked for by a host in a realm? At a shared
    /// address one host has a port for both protocols (RFC 6886 §3.3, RFC 6887 §11.3).
    fn forbids(&self, realm: &Realm, inside: SocketAddr, protocol: u8, port: u16) -> bool {
        let same_host = self.inside.ip() == inside.ip();
        let meets = match (realm.shares_addresses, same_host) {
            (true, false) => self.family() == realm.family,
            (true, true) | (false, true) => self.protocol == protocol,
            (false, false) => false,
        };
        meets && self.port == port
    }
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Mappings {
    all: Vec<Mapping>,
    /// The number of the next.
    next: u32,
}

impl Mappings {
    /// Those that an earlier process had.
    pub fn restore(all: Vec<Mapping>) -> Self {
        let next = all.iter().map(|mapping| mapping.id.wrapping_add(1)).max().unwrap_or(0);
        Self { all, next }
    }

    /// All, in the order in which they were made.
    pub fn all(&self) -> &[Mapping] {
        &self.all
    }

    /// One of them, to be changed.
    pub fn find_mut(&mut self, id: u32) -> Option<&mut Mapping> {
        self.all.iter_mut().find(|mapping| mapping.id == id)
    }

    /// Has none last longer than until then; tells of each that did.
    pub fn cap(&mut self, until: u64, mut tell: impl FnMut(&Mapping)) {
        for mapping in self.all.iter_mut().filter(|mapping| mapping.until > until) {
            mapping.until = until;
            tell(mapping);
        }
    }

    /// Ends those that are not to be kept; says whether there were any.
    pub fn retain(&mut self, keep: impl FnMut(&Mapping) -> bool) -> bool {
        let before = self.all.len();
        self.all.retain(keep);
        self.all.len() != before
    }

    /// Adds one, and numbers it; its number.
    pub fn add(&mut self, mapping: Mapping) -> u32 {
        let id = self.next;
        self.all.push(Mapping { id, ..mapping });
        self.next = id.wrapping_add(1);
        id
    }

    /// When the first of them ends.
    pub fn deadline(&self) -> Option<u64> {
        self.all.iter().map(|mapping| mapping.until).min()
    }

    /// How many of something a host of a LAN has, where each mapping has so many.
    pub fn share(&self, lan: &str, host: IpAddr, each: impl Fn(&Mapping) -> usize) -> Share {
        let mut share = Share { host: 0, lan: 0, all: 0 };
        for mapping in &self.all {
            let count = each(mapping);
            share.all += count;
            share.lan += if mapping.lan == lan { count } else { 0 };
            share.host += if mapping.inside.ip() == host { count } else { 0 };
        }
        share
    }

    /// A port outside for a host's: the one that it would like, the same as inside, or another;
    /// with `exactly`, the first or none. Which other follows from the ends inside: so a host has
    /// the same again when nothing is known of it any more. `is_bound` says which ports are not to
    /// be had because sockets of the gateway have them.
    ///
    /// # Errors
    /// What keeps it from the one that it would like.
    pub fn choose(
        &self,
        situation: &Situation,
        realm: &Realm,
        (inside, protocol): (SocketAddr, u8),
        (suggested, exactly): (u16, bool),
        is_bound: &dyn Fn(u16) -> bool,
    ) -> Result<u16, Unavailable> {
        let check = |port| self.check(situation, realm, (inside, protocol), port, is_bound);
        if exactly && suggested != 0 {
            return check(suggested).map(|()| suggested);
        }
        if !realm.shares_addresses {
            return check(inside.port()).map(|()| inside.port());
        }
        let (first, last) = situation.limits.ports;
        let mut hasher = DefaultHasher::new();
        (inside, protocol).hash(&mut hasher);
        let count = u64::from(last - first) + 1;
        let middle = first + (hasher.finish() % count) as u16;
        let others = (middle..=last).chain(first..middle);
        let mut wishes = [suggested, inside.port()].into_iter().chain(others);
        wishes.find(|port| check(*port).is_ok()).ok_or(Unavailable::Taken)
    }

    /// Is a port outside to be had for a host's?
    ///
    /// # Errors
    /// What keeps it from that.
    pub fn check(
        &self,
        situation: &Situation,
        realm: &Realm,
        (inside, protocol): (SocketAddr, u8),
        port: u16,
        is_bound: &dyn Fn(u16) -> bool,
    ) -> Result<(), Unavailable> {
        let shared = realm.shares_addresses;
        if port == 0 || !situation.limits.allows(port, shared) {
            Err(Unavailable::Forbidden)
        } else if !shared && port != inside.port() {
            Err(Unavailable::NotTheSame)
        } else if is_bound(port) || situation.is_reserved(realm, inside.ip(), protocol, port) {
            Err(Unavailable::Reserved)
        } else if self.all.iter().any(|other| other.forbids(realm, inside, protocol, port)) {
            Err(Unavailable::Taken)
        } else {
            Ok(())
        }
    }
}

impl Situation {
    /// May a mapping stay? A LAN without a network now keeps those of its hosts.
    pub fn keeps(&self, mapping: &Mapping) -> bool {
        let Some(realm) = self.realm(&mapping.lan, mapping.family()) else { return false };
        let (host, shared) = (mapping.inside.ip(), realm.shares_addresses);
        (realm.networks.is_empty() || realm.holds(host))
            && (self.upnp || !mapping.owner.is_upnp())
            && (shared || mapping.port == mapping.inside.port())
            && self.limits.allows(mapping.port, shared)
            && !self.is_reserved(realm, host, mapping.protocol, mapping.port)
    }

    /// Is a port the file's, for a host in a realm?
    pub fn is_reserved(&self, realm: &Realm, host: IpAddr, protocol: u8, port: u16) -> bool {
        self.reserved.iter().any(|of| {
            (of.family, of.protocol) == (realm.family, protocol)
                && (of.ports.0..=of.ports.1).contains(&port)
                && (realm.shares_addresses || of.host.is_none_or(|other| other == host))
        })
    }

    /// Is there another LAN whose hosts may ask?
    pub fn has_others(&self, lan: &str) -> bool {
        self.realms.iter().any(|realm| realm.lan != lan)
    }
}

/// How many of something there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// Of a host.
    pub host: usize,
    /// Of its LAN.
    pub lan: usize,
    /// Of all.
    pub all: usize,
}

impl Share {
    /// The same with so many more of the host.
    pub const fn with(self, more: usize) -> Self {
        Self { host: self.host + more, lan: self.lan + more, all: self.all + more }
    }

    /// May the host have one more of `total`? It leaves as many to others as it has.
    pub const fn host_has_room(self, total: usize) -> bool {
        self.host < total.saturating_sub(self.all)
    }

    /// May the LAN? It leaves as many to others, where there are `others`, as it has.
    pub const fn lan_has_room(self, total: usize, others: bool) -> bool {
        let own = if others { self.lan } else { 0 };
        own < total.saturating_sub(self.all)
    }
}
