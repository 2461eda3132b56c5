//! What is granted, renewed and ended. A mapping is of the host that asks alone.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use weir_layout::Family;
use weir_layout::control::MAX_MAPPED_ALLOWED;
use weir_layout::protocol::{TCP, UDP};

use crate::mapping::{MAX_FILTERS, Mapping, Mappings, Owner};
use crate::realm::{Limits, Realm, Situation};

/// Which ports sockets of the gateway have; none: that is not known.
pub type IsBound<'a> = Option<&'a dyn Fn(u16) -> bool>;

/// All that was granted, and what decides of it.
#[derive(Debug, Default)]
pub struct Store {
    situation: Situation,
    mappings: Mappings,
}

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// The interface of the LAN by which it does.
    pub lan: &'a str,
    /// Its address.
    pub from: IpAddr,
    /// Milliseconds.
    pub now: u64,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wish<'a> {
    /// The host that asks, and its port.
    pub inside: SocketAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// The port outside that it would like; 0: any.
    pub port: u16,
    /// The address outside that it would like; none: any.
    pub address: Option<IpAddr>,
    /// It is to be that port and address, or none.
    pub exactly: bool,
    /// For how long it is granted, seconds.
    pub lifetime: u32,
    /// By whom.
    pub owner: Owner,
    /// Who may use it.
    pub filters: Filters<'a>,
}

/// Who may use a mapping; without any, everybody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filters<'a> {
    /// Those that are there already go.
    pub clears: bool,
    /// Those that come.
    pub add: &'a [IpNet],
}

impl Wish<'_> {
    /// Is a mapping the one that is asked for again? UPnP knows it by the port outside, PCP and
    /// NAT-PMP by the one inside.
    fn is_for(&self, mapping: &Mapping) -> bool {
        let of_host = mapping.inside.ip() == self.inside.ip() && mapping.protocol == self.protocol;
        match (self.owner.is_upnp(), mapping.owner.is_upnp()) {
            (true, true) => of_host && mapping.port == self.port,
            (false, false) => mapping.is_of(self.inside, self.protocol),
            _ => false,
        }
    }

    /// Where the mapping leads and whose it is differs from what is there.
    fn differs(&self, known: &Mapping, filters: &[IpNet]) -> bool {
        known.filters != filters || known.owner != self.owner || known.inside != self.inside
    }
}

/// What a host has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The mapping's number.
    pub id: u32,
    /// The address outside.
    pub address: IpAddr,
    /// The port outside.
    pub port: u16,
    /// Mappings are others than before.
    pub changes: bool,
}

/// Why a host has it not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// Such a mapping is another client's, for so many seconds.
    Owned(u32),
    /// What has no ports cannot be mapped, nor can port 0.
    Protocol,
    /// No uplink takes new flows.
    NoUplink,
    /// It is another address outside.
    Address,
    /// The port is not to be had.
    Port(Unavailable),
    /// Nobody can have any more, or the kernel does not say what sockets have.
    NoRoom,
    /// A filter is of another family than the host.
    FilterFamily,
    /// The host has its share.
    Quota,
    /// It has its share of filters.
    FilterQuota,
}

/// Why a port outside is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// It is not for hosts.
    Forbidden,
    /// The host has an address of its own outside, and another port inside.
    NotTheSame,
    /// It is the file's, or a socket's of the gateway.
    Reserved,
    /// It is another mapping's.
    Taken,
}

/// Why not, and whether a mapping has ended by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denied {
    /// Why.
    pub why: Denial,
    /// Mappings are others than before.
    pub changes: bool,
}

impl From<Denial> for Denied {
    fn from(why: Denial) -> Self {
        Self { why, changes: false }
    }
}

impl Store {
    /// With the mappings that an earlier process had.
    pub fn new(mappings: Vec<Mapping>) -> Self {
        Self { mappings: Mappings::restore(mappings), ..Self::default() }
    }

    /// The mappings, in the order in which they were made.
    pub fn mappings(&self) -> &[Mapping] {
        self.mappings.all()
    }

    /// What decides what hosts may have.
    pub const fn situation(&self) -> &Situation {
        &self.situation
    }

    /// What the gateway has for who asks; none: it may not.
    pub fn realm(&self, asker: Asker<'_>) -> Option<&Realm> {
        let realm = self.situation.realm(asker.lan, Family::of(asker.from))?;
        realm.holds(asker.from).then_some(realm)
    }

    /// Takes another situation at `now`; says whether mappings ended with it, and tells of each
    /// that did, or will end before the time that its host heard. A LAN that has no network now,
    /// since its cable is out, say, keeps those of its hosts.
    pub fn follow(
        &mut self,
        situation: Situation,
        now: u64,
        mut tell: impl FnMut(&Mapping),
    ) -> bool {
        self.situation = situation;
        let situation = &self.situation;
        self.mappings.cap(now + u64::from(situation.limits.max_lifetime) * 1000, &mut tell);
        self.mappings.retain(|mapping| {
            let keeps = situation.keeps(mapping);
            if !keeps {
                tell(mapping);
            }
            keeps
        })
    }

    /// Ends the mappings whose time is over; says whether there were any.
    pub fn expire(&mut self, now: u64) -> bool {
        self.mappings.retain(|mapping| mapping.until > now)
    }

    /// When [`Self::expire`] has something to do next.
    pub fn deadline(&self) -> Option<u64> {
        self.mappings.deadline()
    }

    /// Ends the mapping of this name, and gives it back, if there was one.
    pub fn remove(&mut self, name: &str) -> Option<Mapping> {
        let mapping = self.mappings().iter().find(|mapping| mapping.name() == name)?.clone();
        self.mappings.retain(|of| of.id != mapping.id);
        Some(mapping)
    }

    /// Ends those that are not to be kept; says whether there were any.
    pub fn retain(&mut self, keep: impl FnMut(&Mapping) -> bool) -> bool {
        self.mappings.retain(keep)
    }

    /// Is a port outside to be had, for a host's?
    ///
    /// # Errors
    /// What keeps it from that.
    pub fn check(
        &self,
        realm: &Realm,
        ends: (SocketAddr, u8),
        port: u16,
        is_bound: IsBound<'_>,
    ) -> Result<(), Unavailable> {
        let is_bound = is_bound.filter(|_| realm.shares_addresses).unwrap_or(&|_| false);
        self.mappings.check(&self.situation, realm, ends, port, is_bound)
    }

    /// The mapping that a wish is for, if there is one.
    ///
    /// # Errors
    /// [`Denial::Protocol`] and [`Denial::Owned`].
    fn known(&self, wish: &Wish<'_>, now: u64) -> Result<Option<Mapping>, Denied> {
        if wish.inside.port() == 0 || !matches!(wish.protocol, TCP | UDP) {
            return Err(Denial::Protocol.into());
        }
        let known = self.mappings().iter().find(|mapping| wish.is_for(mapping));
        // What PCP made is ended and renewed by who knows the nonce (RFC 6887 §11.2).
        match known {
            Some(Mapping { owner: owner @ Owner::Pcp(_), until, .. }) if *owner != wish.owner => {
                Err(Denial::Owned((until.saturating_sub(now) / 1000) as u32).into())
            }
            known => Ok(known.cloned()),
        }
    }

    /// Ends what is asked for; if there is none, that is as good. Says whether there was one.
    ///
    /// # Errors
    /// Where it is another client's, or there can be none.
    pub fn end(&mut self, wish: &Wish<'_>, now: u64) -> Result<bool, Denied> {
        let known = self.known(wish, now)?;
        Ok(known.is_some_and(|known| self.mappings.retain(|mapping| mapping.id != known.id)))
    }

    /// Makes or renews a mapping.
    ///
    /// # Errors
    /// Why the host has it not.
    pub fn grant(
        &mut self,
        realm: &Realm,
        wish: &Wish<'_>,
        now: u64,
        is_bound: IsBound<'_>,
    ) -> Result<Granted, Denied> {
        let known = self.known(wish, now)?;
        let address = realm.outside.of(wish.inside.ip()).ok_or(Denial::NoUplink)?;
        if wish.exactly && wish.address.is_some_and(|wanted| wanted != address) {
            return Err(Denial::Address.into());
        }
        let is_bound: &dyn Fn(u16) -> bool = match (realm.shares_addresses, is_bound) {
            // Those are at other addresses.
            (false, _) => &|_| false,
            (true, Some(is_bound)) => is_bound,
            (true, None) => return Err(Denial::NoRoom.into()),
        };
        if let Some(known) = known.as_ref().filter(|known| is_bound(known.port)) {
            // What a socket of the gateway has is no host's, even if the host had it before.
            let changes = self.mappings.retain(|mapping| mapping.id != known.id);
            return Err(Denied { why: Denial::Port(Unavailable::Reserved), changes });
        }
        let filters = self.filters(realm, wish, known.as_ref().map_or(&[], |it| &it.filters))?;
        let until = now + u64::from(wish.lifetime) * 1000;
        let (id, port, changes) = match known {
            Some(known) => {
                if wish.exactly && wish.port != 0 && wish.port != known.port {
                    return Err(Denial::Port(Unavailable::Taken).into());
                }
                if !realm.shares_addresses && wish.inside.port() != known.port {
                    return Err(Denial::Port(Unavailable::NotTheSame).into());
                }
                let changes = wish.differs(&known, &filters);
                self.renew(known.id, wish, filters, until);
                (known.id, known.port, changes)
            }
            None => {
                let (id, port) = self.make(realm, wish, filters, until, is_bound)?;
                (id, port, true)
            }
        };
        Ok(Granted { id, address, port, changes })
    }

    fn renew(&mut self, id: u32, wish: &Wish<'_>, filters: Vec<IpNet>, until: u64) {
        if let Some(known) = self.mappings.find_mut(id) {
            known.inside = wish.inside;
            known.owner = wish.owner.clone();
            known.filters = filters;
            known.until = until;
        }
    }

    /// Makes a mapping; its number and its port.
    fn make(
        &mut self,
        realm: &Realm,
        wish: &Wish<'_>,
        filters: Vec<IpNet>,
        until: u64,
        is_bound: &dyn Fn(u16) -> bool,
    ) -> Result<(u32, u16), Denied> {
        let share = self.mappings.share(&realm.lan, wish.inside.ip(), |_| 1);
        if !share.lan_has_room(Limits::TOTAL, self.situation.has_others(&realm.lan)) {
            return Err(Denial::NoRoom.into());
        }
        if share.host >= self.situation.limits.per_host || !share.host_has_room(Limits::TOTAL) {
            return Err(Denial::Quota.into());
        }
        let ends = (wish.inside, wish.protocol);
        let wanted = (wish.port, wish.exactly);
        let port = self.mappings.choose(&self.situation, realm, ends, wanted, is_bound);
        let port = port.map_err(Denial::Port)?;
        let id = self.mappings.add(Mapping {
            id: 0,
            lan: realm.lan.clone(),
            inside: wish.inside,
            protocol: wish.protocol,
            port,
            owner: wish.owner.clone(),
            filters,
            until,
        });
        Ok((id, port))
    }

    /// The filters of a mapping that has the known ones, with what is asked for. Of them a host and
    /// a LAN have a share, as of ports.
    fn filters(
        &self,
        realm: &Realm,
        wish: &Wish<'_>,
        known: &[IpNet],
    ) -> Result<Vec<IpNet>, Denied> {
        // By a service's family one of another would be of nobody, and a service of nobody is open
        // to all.
        let of_host = Family::of(wish.inside.ip());
        if wish.filters.add.iter().any(|filter| Family::of(filter.addr()) != of_host) {
            return Err(Denial::FilterFamily.into());
        }
        let mut filters = if wish.filters.clears { Vec::new() } else { known.to_vec() };
        for filter in wish.filters.add {
            if !filters.contains(filter) {
                filters.push(*filter);
            }
        }
        let more = filters.len().saturating_sub(known.len());
        let has_room = more == 0 || {
            let share = self.mappings.share(&realm.lan, wish.inside.ip(), |of| of.filters.len());
            let before_last = share.with(more - 1);
            before_last.host_has_room(MAX_MAPPED_ALLOWED)
                && before_last
                    .lan_has_room(MAX_MAPPED_ALLOWED, self.situation.has_others(&realm.lan))
        };
        if filters.len() > MAX_FILTERS || !has_room {
            return Err(Denial::FilterQuota.into());
        }
        Ok(filters)
    }
}
