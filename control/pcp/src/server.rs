//! What is answered to a datagram, and what it changes.
//!
//! A mapping is of the host that asks alone. It is open by all uplinks; what is told of is the address
//! outside of one. When that is another, the epoch begins anew and hosts are told: they ask again, and
//! hear the other address for the same port. So it is when a mapping ends, or will, before the time
//! that its host was told (RFC 6887 §8.5, RFC 6886 §3.6): the host asks again, and hears what it may
//! have.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use weir_layout::Family;
use weir_layout::control::MAX_MAPPED_ALLOWED;

use crate::announce::Schedule;
use crate::mapping::{MAX_FILTERS, Mapping, Mappings, TCP, UDP};
use crate::pcp::{Nonce, Refusal, ResultCode};
use crate::realm::{Limits, Outside, Realm, Situation};
use crate::{nat_pmp, pcp};

/// Which ports sockets of the gateway have; none: that is not known.
pub type IsBound<'a> = Option<&'a dyn Fn(u16) -> bool>;

/// All that was granted, and to whom it is told.
#[derive(Debug, Default)]
pub struct Server {
    situation: Situation,
    mappings: Mappings,
    /// One for each realm.
    epochs: Vec<Epoch>,
}

/// Since when mappings of a realm's hosts are what they were told.
#[derive(Debug)]
struct Epoch {
    lan: String,
    family: Family,
    /// What they were told that they have outside.
    outside: Outside,
    /// Milliseconds.
    since: u64,
    schedule: Schedule,
}

/// What is sent back to who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The message.
    pub message: Vec<u8>,
    /// Mappings are others than before: it holds once they are in force.
    pub changes: bool,
}

/// What all hosts of a LAN are told, in a family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// The LAN's interface.
    pub lan: String,
    /// Family.
    pub family: Family,
    /// The messages.
    pub messages: Vec<Vec<u8>>,
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

/// What is asked for, by either protocol.
struct Ask<'a> {
    inside: SocketAddr,
    protocol: u8,
    port: u16,
    lifetime: u32,
    nonce: Option<Nonce>,
    /// What PCP has beside.
    pcp: Option<&'a pcp::Map>,
}

impl Ask<'_> {
    /// Is it that port and address, or none?
    fn is_strict(&self) -> bool {
        self.pcp.is_some_and(|map| map.prefer_failure)
    }
}

struct Granted {
    address: IpAddr,
    port: u16,
    lifetime: u32,
    changes: bool,
}

/// Why not, for how long that will last, seconds, and whether a mapping has ended by it.
struct Denied {
    code: ResultCode,
    lifetime: u32,
    changes: bool,
}

impl From<ResultCode> for Denied {
    fn from(code: ResultCode) -> Self {
        Self { code, lifetime: code.lifetime(), changes: false }
    }
}

impl Server {
    /// With the mappings that an earlier process had. Its hosts are told that it is another.
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

    /// Takes another situation at `now`; says whether mappings ended with it. A LAN that has no
    /// network now, since its cable is out, say, keeps those of its hosts.
    pub fn follow(&mut self, situation: Situation, now: u64) -> bool {
        self.epochs.retain(|epoch| situation.realm(&epoch.lan, epoch.family).is_some());
        for realm in &situation.realms {
            let known = self.epochs.iter_mut().find(|epoch| realm.is(&epoch.lan, epoch.family));
            match known {
                // Where there is no uplink nothing is another until there is one.
                Some(epoch) if realm.outside != Outside::Nowhere => {
                    if epoch.outside != realm.outside {
                        epoch.outside = realm.outside.clone();
                        epoch.begin(now);
                    }
                }
                Some(_) => {}
                None => self.epochs.push(Epoch::of(realm, now)),
            }
        }
        self.situation = situation;
        let (situation, epochs) = (&self.situation, &mut self.epochs);
        let until = now + u64::from(situation.limits.max_lifetime) * 1000;
        self.mappings.cap(until, |mapping| begin_of(epochs, mapping, now));
        self.mappings.retain(|mapping| {
            let keeps = situation.keeps(mapping);
            if !keeps {
                begin_of(epochs, mapping, now);
            }
            keeps
        })
    }

    /// Ends the mappings whose time is over; says whether there were any.
    pub fn expire(&mut self, now: u64) -> bool {
        self.mappings.retain(|mapping| mapping.until > now)
    }

    /// Ends the mapping of this name at `now`; says whether there was one.
    pub fn remove(&mut self, name: &str, now: u64) -> bool {
        let epochs = &mut self.epochs;
        self.mappings.retain(|mapping| {
            let keeps = mapping.name() != name;
            if !keeps {
                begin_of(epochs, mapping, now);
            }
            keeps
        })
    }

    /// When [`Self::expire`] or [`Self::announce`] has something to do next.
    pub fn deadline(&self) -> Option<u64> {
        let told = self.epochs.iter().filter_map(|epoch| epoch.schedule.deadline());
        told.chain(self.mappings.deadline()).min()
    }

    /// What hosts are to be told now.
    pub fn announce(&mut self, now: u64) -> Vec<Announcement> {
        let due = self.epochs.iter_mut().filter_map(|epoch| {
            let due = epoch.schedule.take(now);
            due.then(|| epoch.announcement(now))
        });
        due.collect()
    }

    /// The answer to a datagram; none: it has none.
    pub fn answer(
        &mut self,
        datagram: &[u8],
        asker: Asker<'_>,
        is_bound: IsBound<'_>,
    ) -> Option<Answer> {
        let Asker { lan, from, now } = asker;
        let realm = self.situation.realm(lan, crate::mapping::family(from))?.clone();
        if !realm.holds(from) {
            return None;
        }
        let epoch = self.epochs.iter().find(|epoch| realm.is(&epoch.lan, epoch.family))?.at(now);
        match (datagram.first(), from) {
            (Some(&nat_pmp::VERSION), IpAddr::V4(_)) => {
                self.answer_nat_pmp(datagram, &realm, asker, epoch, is_bound)
            }
            _ => self.answer_pcp(datagram, &realm, asker, epoch, is_bound),
        }
    }

    fn answer_pcp(
        &mut self,
        datagram: &[u8],
        realm: &Realm,
        asker: Asker<'_>,
        epoch: u32,
        is_bound: IsBound<'_>,
    ) -> Option<Answer> {
        let done = match pcp::read(datagram, asker.from) {
            Ok(pcp::Request::Announce) => return Some(Answer::of(pcp::announcement(epoch), false)),
            Ok(pcp::Request::Map(map)) => {
                let ask = Ask {
                    inside: SocketAddr::new(asker.from, map.inside_port),
                    protocol: map.protocol,
                    port: map.outside_port,
                    lifetime: map.lifetime,
                    nonce: Some(map.nonce),
                    pcp: Some(&map),
                };
                let granted = self.map(realm, &ask, asker, is_bound);
                granted.map(|of| {
                    let message = pcp::grant(&map, of.address, of.port, of.lifetime, epoch);
                    Answer::of(message, of.changes)
                })
            }
            Err(Refusal::Silent) => return None,
            Err(Refusal::Code(code)) => Err(code.into()),
        };
        let refuse = |Denied { code, lifetime, changes }| {
            Answer::of(pcp::refuse(datagram, code, lifetime, epoch), changes)
        };
        Some(done.unwrap_or_else(refuse))
    }

    fn answer_nat_pmp(
        &mut self,
        datagram: &[u8],
        realm: &Realm,
        asker: Asker<'_>,
        epoch: u32,
        is_bound: IsBound<'_>,
    ) -> Option<Answer> {
        let map = match nat_pmp::read(datagram)? {
            nat_pmp::Request::Address => {
                let message = nat_pmp::address(outside_v4(&realm.outside, asker.from), epoch);
                return Some(Answer::of(message, false));
            }
            nat_pmp::Request::Unknown(opcode) => {
                return Some(Answer::of(nat_pmp::unknown(opcode, epoch), false));
            }
            nat_pmp::Request::Map(map) => map,
        };
        if map.inside_port == 0 && map.lifetime == 0 {
            // All of its ports of the protocol (RFC 6886 §3.4).
            let changes = self.mappings.retain(|mapping| {
                let is_its = mapping.inside.ip() == asker.from && mapping.nonce.is_none();
                !(is_its && mapping.protocol == map.protocol)
            });
            return Some(Answer::of(nat_pmp::grant(&map, 0, 0, epoch), changes));
        }
        let ask = Ask {
            inside: SocketAddr::new(asker.from, map.inside_port),
            protocol: map.protocol,
            port: map.outside_port,
            lifetime: map.lifetime,
            nonce: None,
            pcp: None,
        };
        Some(match self.map(realm, &ask, asker, is_bound) {
            Ok(of) => {
                // An end has no port (§3.4).
                let port = if of.lifetime == 0 { 0 } else { of.port };
                Answer::of(nat_pmp::grant(&map, port, of.lifetime, epoch), of.changes)
            }
            Err(Denied { code, changes, .. }) => {
                let code = match code {
                    ResultCode::NetworkFailure => nat_pmp::ResultCode::NetworkFailure,
                    ResultCode::NotAuthorized | ResultCode::UnsupportedProtocol => {
                        nat_pmp::ResultCode::NotAuthorized
                    }
                    _ => nat_pmp::ResultCode::OutOfResources,
                };
                Answer::of(nat_pmp::refuse(&map, code, epoch), changes)
            }
        })
    }

    /// Makes, renews or ends a mapping.
    fn map(
        &mut self,
        realm: &Realm,
        ask: &Ask<'_>,
        asker: Asker<'_>,
        is_bound: IsBound<'_>,
    ) -> Result<Granted, Denied> {
        if ask.inside.port() == 0 || !matches!(ask.protocol, TCP | UDP) {
            return Err(ResultCode::UnsupportedProtocol.into());
        }
        let known = self.mappings.find(ask.inside, ask.protocol);
        // What PCP made is ended and renewed by who knows the nonce (RFC 6887 §11.2).
        if let Some(known) =
            known.filter(|it| it.nonce.is_some_and(|nonce| ask.nonce != Some(nonce)))
        {
            let lifetime = (known.until.saturating_sub(asker.now) / 1000) as u32;
            return Err(Denied { lifetime, ..ResultCode::NotAuthorized.into() });
        }
        if ask.lifetime == 0 {
            return Ok(self.end(ask));
        }
        let Some(address) = realm.outside.of(ask.inside.ip()) else {
            return Err(ResultCode::NetworkFailure.into());
        };
        let suggested = ask.pcp.and_then(|map| map.outside_address);
        if ask.is_strict() && suggested.is_some_and(|suggested| suggested != address) {
            return Err(ResultCode::CannotProvideExternal.into());
        }
        let is_bound: &dyn Fn(u16) -> bool = match (realm.shares_addresses, is_bound) {
            // Those are at other addresses.
            (false, _) => &|_| false,
            (true, Some(is_bound)) => is_bound,
            (true, None) => return Err(ResultCode::NoResources.into()),
        };
        if known.is_some_and(|known| is_bound(known.port)) {
            // What a socket of the gateway has is no host's, even if the host had it before.
            self.end(ask);
            return Err(Denied { changes: true, ..ResultCode::CannotProvideExternal.into() });
        }
        let filters = self.filters(realm, ask, known.map_or(&[], |known| &known.filters))?;
        let lifetime = self.situation.limits.lifetime(ask.lifetime);
        let until = asker.now + u64::from(lifetime) * 1000;
        let (port, changes) = match self.mappings.find_mut(ask.inside, ask.protocol) {
            Some(known) => {
                if ask.is_strict() && ask.port != 0 && ask.port != known.port {
                    return Err(ResultCode::CannotProvideExternal.into());
                }
                let changes = filters != known.filters || known.nonce != ask.nonce;
                (known.nonce, known.filters) = (ask.nonce, filters);
                known.until = until;
                (known.port, changes)
            }
            None => (self.make(realm, ask, filters, until, is_bound)?, true),
        };
        Ok(Granted { address, port, lifetime, changes })
    }

    /// Makes a mapping; its port.
    fn make(
        &mut self,
        realm: &Realm,
        ask: &Ask<'_>,
        filters: Vec<IpNet>,
        until: u64,
        is_bound: &dyn Fn(u16) -> bool,
    ) -> Result<u16, Denied> {
        let share = self.mappings.share(&realm.lan, ask.inside.ip(), |_| 1);
        if !share.lan_has_room(Limits::TOTAL, self.situation.has_others(&realm.lan)) {
            return Err(ResultCode::NoResources.into());
        }
        if share.host >= self.situation.limits.per_host || !share.host_has_room(Limits::TOTAL) {
            return Err(ResultCode::QuotaExceeded.into());
        }
        let ends = (ask.inside, ask.protocol);
        let wanted = (ask.port, ask.is_strict());
        let port = self.mappings.choose(&self.situation, realm, ends, wanted, is_bound);
        let port = port.ok_or(ResultCode::CannotProvideExternal)?;
        self.mappings.add(Mapping {
            id: 0,
            lan: realm.lan.clone(),
            inside: ask.inside,
            protocol: ask.protocol,
            port,
            nonce: ask.nonce,
            filters,
            until,
        });
        Ok(port)
    }

    /// The filters of a mapping that has the known ones, with what is asked for. Of them a host and a
    /// LAN have a share, as of ports.
    fn filters(&self, realm: &Realm, ask: &Ask<'_>, known: &[IpNet]) -> Result<Vec<IpNet>, Denied> {
        let Some(map) = ask.pcp else { return Ok(known.to_vec()) };
        let mut filters = if map.clears_filters { Vec::new() } else { known.to_vec() };
        for filter in &map.filters {
            if !filters.contains(filter) {
                filters.push(*filter);
            }
        }
        let more = filters.len().saturating_sub(known.len());
        let has_room = more == 0 || {
            let share = self.mappings.share(&realm.lan, ask.inside.ip(), |of| of.filters.len());
            let before_last = share.with(more - 1);
            before_last.host_has_room(MAX_MAPPED_ALLOWED)
                && before_last
                    .lan_has_room(MAX_MAPPED_ALLOWED, self.situation.has_others(&realm.lan))
        };
        if filters.len() > MAX_FILTERS || !has_room {
            return Err(ResultCode::ExcessiveRemotePeers.into());
        }
        Ok(filters)
    }

    /// Ends a mapping; if there is none, that is as good. What was suggested is sent back (RFC 6887
    /// §15).
    fn end(&mut self, ask: &Ask<'_>) -> Granted {
        let changes = self.mappings.retain(|known| !known.is_of(ask.inside, ask.protocol));
        let unspecified = match ask.inside.ip() {
            IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        let address = ask.pcp.and_then(|map| map.outside_address).unwrap_or(unspecified);
        Granted { address, port: ask.port, lifetime: 0, changes }
    }
}

fn outside_v4(outside: &Outside, host: IpAddr) -> Option<std::net::Ipv4Addr> {
    match outside.of(host)? {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

impl Answer {
    const fn of(message: Vec<u8>, changes: bool) -> Self {
        Self { message, changes }
    }
}

/// A mapping is not what its host was told any more: the epoch of its realm, if that is still there,
/// begins anew.
fn begin_of(epochs: &mut [Epoch], mapping: &Mapping, now: u64) {
    let of = |epoch: &&mut Epoch| epoch.lan == mapping.lan && epoch.family == mapping.family();
    if let Some(epoch) = epochs.iter_mut().find(of) {
        epoch.begin(now);
    }
}

impl Epoch {
    /// Of a realm that begins now. Its hosts are told.
    fn of(realm: &Realm, now: u64) -> Self {
        let mut schedule = Schedule::default();
        schedule.begin(now);
        let (lan, outside) = (realm.lan.clone(), realm.outside.clone());
        Self { lan, family: realm.family, outside, since: now, schedule }
    }

    /// What hosts were told holds no more. They are told that.
    const fn begin(&mut self, now: u64) {
        self.since = now;
        self.schedule.begin(now);
    }

    /// Its time in seconds.
    const fn at(&self, now: u64) -> u32 {
        (now.saturating_sub(self.since) / 1000) as u32
    }

    fn announcement(&self, now: u64) -> Announcement {
        let epoch = self.at(now);
        let mut messages = vec![pcp::announcement(epoch)];
        // Of NAT-PMP there is an address to tell of where all hosts have one.
        if let Outside::Shared(IpAddr::V4(address)) = self.outside {
            messages.push(nat_pmp::address(Some(address), epoch));
        }
        Announcement { lan: self.lan.clone(), family: self.family, messages }
    }
}
