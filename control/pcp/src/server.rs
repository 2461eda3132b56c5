//! What is answered to a datagram, and what it changes.
//!
//! A mapping is open by all uplinks; what is told of is the address outside of one. When that is
//! another, the epoch begins anew and hosts are told: they ask again, and hear the other address
//! for the same port. So it is when a mapping ends, or will, before the time that its host was told
//! (RFC 6887 §8.5, RFC 6886 §3.6): the host asks again, and hears what it may have.

use std::net::{IpAddr, SocketAddr};

use weir_layout::Family;
use weir_ports::{
    Asker, Denial, Denied, Filters, IsBound, Mapping, Outside, Owner, Realm, Situation, Store, Wish,
};

use crate::announce::Schedule;
use crate::pcp::{Refusal, ResultCode};
use crate::{nat_pmp, pcp};

/// To whom it is told what, and since when that holds.
#[derive(Debug, Default)]
pub struct Server {
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

impl Server {
    /// Takes another situation at `now`. Hosts of a realm that is new are told.
    pub fn follow(&mut self, situation: &Situation, now: u64) {
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
    }

    /// A mapping is not what its host was told any more: the epoch of its realm, if that is still
    /// there, begins anew.
    pub fn lose(&mut self, mapping: &Mapping, now: u64) {
        let of = |epoch: &&mut Epoch| epoch.lan == mapping.lan && epoch.family == mapping.family();
        if let Some(epoch) = self.epochs.iter_mut().find(of)
            && !mapping.owner.is_upnp()
        {
            epoch.begin(now);
        }
    }

    /// When [`Self::announce`] has something to do next.
    pub fn deadline(&self) -> Option<u64> {
        self.epochs.iter().filter_map(|epoch| epoch.schedule.deadline()).min()
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
        &self,
        store: &mut Store,
        datagram: &[u8],
        asker: Asker<'_>,
        is_bound: IsBound<'_>,
    ) -> Option<Answer> {
        let realm = store.realm(asker)?.clone();
        let of_realm = |epoch: &&Epoch| realm.is(&epoch.lan, epoch.family);
        let epoch = self.epochs.iter().find(of_realm)?.at(asker.now);
        let call = Call { store, realm: &realm, asker, epoch, is_bound };
        match (datagram.first(), asker.from) {
            (Some(&nat_pmp::VERSION), IpAddr::V4(_)) => call.answer_nat_pmp(datagram),
            _ => call.answer_pcp(datagram),
        }
    }
}

/// One that is answered.
struct Call<'a> {
    store: &'a mut Store,
    realm: &'a Realm,
    asker: Asker<'a>,
    epoch: u32,
    is_bound: IsBound<'a>,
}

impl Call<'_> {
    fn answer_pcp(self, datagram: &[u8]) -> Option<Answer> {
        let epoch = self.epoch;
        let refuse = |code: ResultCode, lifetime| pcp::refuse(datagram, code, lifetime, epoch);
        match pcp::read(datagram, self.asker.from) {
            Ok(pcp::Request::Announce) => Some(Answer::of(pcp::announcement(epoch), false)),
            Ok(pcp::Request::Map(map)) => Some(match self.map_by_pcp(&map) {
                Ok(answer) => answer,
                Err(denied) => {
                    let code = ResultCode::from(denied.why);
                    let lifetime = match denied.why {
                        Denial::Owned(left) => left,
                        _ => code.lifetime(),
                    };
                    Answer::of(refuse(code, lifetime), denied.changes)
                }
            }),
            Err(Refusal::Silent) => None,
            Err(Refusal::Code(code)) => Some(Answer::of(refuse(code, code.lifetime()), false)),
        }
    }

    fn map_by_pcp(self, map: &pcp::Map) -> Result<Answer, Denied> {
        let wish = Wish {
            inside: SocketAddr::new(self.asker.from, map.inside_port),
            protocol: map.protocol,
            port: map.outside_port,
            address: map.outside_address,
            exactly: map.prefer_failure,
            lifetime: self.store.situation().limits.lifetime(map.lifetime),
            owner: Owner::Pcp(map.nonce),
            filters: Filters { clears: map.clears_filters, add: &map.filters },
        };
        if map.lifetime == 0 {
            // What was suggested is sent back (RFC 6887 §15).
            let changes = self.store.end(&wish, self.asker.now)?;
            let address = map.outside_address.unwrap_or(unspecified(self.asker.from));
            let message = pcp::grant(map, address, map.outside_port, 0, self.epoch);
            return Ok(Answer::of(message, changes));
        }
        let of = self.store.grant(self.realm, &wish, self.asker.now, self.is_bound)?;
        let message = pcp::grant(map, of.address, of.port, wish.lifetime, self.epoch);
        Ok(Answer::of(message, of.changes))
    }

    fn answer_nat_pmp(self, datagram: &[u8]) -> Option<Answer> {
        let (from, epoch) = (self.asker.from, self.epoch);
        let map = match nat_pmp::read(datagram)? {
            nat_pmp::Request::Address => {
                let message = nat_pmp::address(outside_v4(&self.realm.outside, from), epoch);
                return Some(Answer::of(message, false));
            }
            nat_pmp::Request::Unknown(opcode) => {
                return Some(Answer::of(nat_pmp::unknown(opcode, epoch), false));
            }
            nat_pmp::Request::Map(map) => map,
        };
        if map.inside_port == 0 && map.lifetime == 0 {
            // All of its ports of the protocol (RFC 6886 §3.4).
            let changes = self.store.retain(|mapping| {
                let is_its = mapping.inside.ip() == from && mapping.owner == Owner::NatPmp;
                !(is_its && mapping.protocol == map.protocol)
            });
            return Some(Answer::of(nat_pmp::grant(&map, 0, 0, epoch), changes));
        }
        Some(self.map_by_nat_pmp(&map).unwrap_or_else(|Denied { why, changes }| {
            Answer::of(nat_pmp::refuse(&map, why.into(), epoch), changes)
        }))
    }

    fn map_by_nat_pmp(self, map: &nat_pmp::Map) -> Result<Answer, Denied> {
        let wish = Wish {
            inside: SocketAddr::new(self.asker.from, map.inside_port),
            protocol: map.protocol,
            port: map.outside_port,
            address: None,
            exactly: false,
            lifetime: self.store.situation().limits.lifetime(map.lifetime),
            owner: Owner::NatPmp,
            filters: Filters::default(),
        };
        if map.lifetime == 0 {
            // An end has no port (§3.4).
            let changes = self.store.end(&wish, self.asker.now)?;
            return Ok(Answer::of(nat_pmp::grant(map, 0, 0, self.epoch), changes));
        }
        let of = self.store.grant(self.realm, &wish, self.asker.now, self.is_bound)?;
        let message = nat_pmp::grant(map, of.port, wish.lifetime, self.epoch);
        Ok(Answer::of(message, of.changes))
    }
}

impl From<Denial> for ResultCode {
    fn from(why: Denial) -> Self {
        match why {
            Denial::Owned(_) => Self::NotAuthorized,
            Denial::Protocol => Self::UnsupportedProtocol,
            Denial::NoUplink => Self::NetworkFailure,
            Denial::Address | Denial::Port(_) => Self::CannotProvideExternal,
            Denial::FilterFamily => Self::MalformedOption,
            Denial::NoRoom => Self::NoResources,
            Denial::Quota => Self::QuotaExceeded,
            Denial::FilterQuota => Self::ExcessiveRemotePeers,
        }
    }
}

impl From<Denial> for nat_pmp::ResultCode {
    fn from(why: Denial) -> Self {
        match why {
            Denial::NoUplink => Self::NetworkFailure,
            Denial::Owned(_) | Denial::Protocol => Self::NotAuthorized,
            _ => Self::OutOfResources,
        }
    }
}

fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
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
