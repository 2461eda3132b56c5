//! When the gateway tells hosts that it is there (UDA §1.2). Where the address outside is another
//! it is another gateway from then on: nobody subscribes to that, and who sees the number asks
//! again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weir_layout::Family;
use weir_ports::{Outside, Realm, Situation};

use crate::PORT;
use crate::device::Device;
use crate::ssdp::{MAX_AGE_S, Notice};

/// How often it is told at first, for datagrams are lost.
const FIRST: u32 = 3;
/// From one of these to the next, milliseconds.
const FIRST_MS: u64 = 500;
/// From one to the next after these, milliseconds: less than half of what it holds for.
const EACH_MS: u64 = MAX_AGE_S as u64 * 1000 / 3;

/// Where searches are heard, by [`Family`]: the link, and for IPv6 the site, where some clients
/// look.
pub const GROUPS: [&[IpAddr]; Family::COUNT] = [
    &[IpAddr::V4(Ipv4Addr::new(239, 255, 255, 250))],
    &[
        IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xc)),
        IpAddr::V6(Ipv6Addr::new(0xff05, 0, 0, 0, 0, 0, 0, 0xc)),
    ],
];

/// Where hosts of a realm ask: by the first of the gateway's addresses there, of IPv6 by the first
/// global one, if there is one. A host asks from an address like the one that it asks, and opens a
/// port to that: nothing reaches a unique local one (RFC 4193). None: the gateway has none.
pub fn place(realm: &Realm) -> Option<SocketAddr> {
    let of = |is_one: fn(&Ipv6Addr) -> bool| {
        realm.servers.iter().find(|address| match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => is_one(address),
        })
    };
    // 2000::/3 (RFC 4291 §2.4).
    let global = of(|address| address.segments()[0] >> 13 == 1);
    let found = global.or_else(|| of(|address| !address.is_unicast_link_local()));
    found.map(|address| SocketAddr::new(*address, PORT))
}

/// Where descriptions are at a place.
pub fn base(place: SocketAddr) -> String {
    format!("http://{place}")
}

/// In all LANs.
#[derive(Debug, Default)]
pub struct Presence {
    lans: Vec<Lan>,
}

/// What the gateway is to hosts of a LAN.
#[derive(Debug)]
pub struct Lan {
    /// Its interface.
    pub name: String,
    /// What it is.
    pub device: Device,
    /// Since when the address outside is what it is, milliseconds.
    pub since: u64,
    outside: Outside,
    /// What it was when there was an uplink.
    reached: Outside,
    places: [Option<SocketAddr>; Family::COUNT],
    told: u32,
    next: u64,
}

/// Messages for all hosts of a LAN, in a family, from the gateway's address there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notices {
    /// The LAN's interface.
    pub lan: String,
    /// The gateway's address.
    pub from: SocketAddr,
    /// The group.
    pub to: SocketAddr,
    /// The messages.
    pub messages: Vec<String>,
}

impl Presence {
    /// Takes another situation at `now`, which is `day` in seconds since the Unix epoch; what hosts
    /// are told at once. `secret` makes names for LANs and devices.
    pub fn follow(
        &mut self,
        situation: &Situation,
        (now, day): (u64, u32),
        secret: impl Fn(&str, &str) -> [u8; 16],
    ) -> Vec<Notices> {
        let of = |name: &str, family| situation.realm(name, family).filter(|_| situation.upnp);
        let mut notices = self.end(|lan| Family::ALL.iter().all(|it| of(&lan.name, *it).is_none()));
        for realm in situation.realms.iter().filter(|_| situation.upnp) {
            let name = &realm.lan;
            if !self.lans.iter().any(|lan| lan.name == *name) {
                let device = Device::new(day, |device| secret(name, device));
                self.lans.push(Lan::new(name.clone(), device, now));
            }
        }
        for lan in &mut self.lans {
            let of = |family: Family| of(&lan.name, family);
            let places = Family::ALL.map(|family| place(of(family)?));
            if places != lan.places {
                (lan.places, lan.told, lan.next) = (places, 0, now);
            }
            if let Some(realm) = of(Family::V4) {
                notices.extend(lan.follow(&realm.outside, (now, day)));
            }
        }
        notices
    }

    /// What the gateway is in a LAN.
    pub fn lan(&self, name: &str) -> Option<&Lan> {
        self.lans.iter().find(|lan| lan.name == name)
    }

    /// Nobody has heard what hosts of a LAN were told: they are told as if it were new.
    pub fn tell_again(&mut self, lan: &str, now: u64) {
        if let Some(lan) = self.lans.iter_mut().find(|known| known.name == lan) {
            (lan.told, lan.next) = (0, now);
        }
    }

    /// When hosts are told next.
    pub fn deadline(&self) -> Option<u64> {
        self.lans.iter().map(|lan| lan.next).min()
    }

    /// What they are told now.
    pub fn tell(&mut self, now: u64) -> Vec<Notices> {
        let mut notices = Vec::new();
        for lan in self.lans.iter_mut().filter(|lan| lan.next <= now) {
            notices.extend(lan.notices(Notice::Alive));
            lan.told = lan.told.saturating_add(1);
            lan.next = now + if lan.told < FIRST { FIRST_MS } else { EACH_MS };
        }
        notices
    }

    /// It is there no more; what hosts are told.
    pub fn farewell(&mut self) -> Vec<Notices> {
        self.end(|_| true)
    }

    fn end(&mut self, is_over: impl Fn(&Lan) -> bool) -> Vec<Notices> {
        let over: Vec<Lan> = self.lans.extract_if(.., |lan| is_over(lan)).collect();
        over.iter().flat_map(|lan| lan.notices(Notice::ByeBye)).collect()
    }
}

impl Lan {
    fn new(name: String, device: Device, now: u64) -> Self {
        let (outside, places) = (Outside::Nowhere, [None; Family::COUNT]);
        let reached = Outside::Nowhere;
        Self { name, device, since: now, outside, reached, places, told: 0, next: now }
    }

    /// Takes what hosts have outside now. Without an uplink nothing is another until there is one,
    /// and of the first there is nothing to tell.
    fn follow(&mut self, outside: &Outside, (now, day): (u64, u32)) -> Vec<Notices> {
        if self.outside == *outside {
            return Vec::new();
        }
        (self.outside, self.since) = (outside.clone(), now);
        if *outside == Outside::Nowhere || self.reached == *outside {
            return Vec::new();
        }
        if std::mem::replace(&mut self.reached, outside.clone()) == Outside::Nowhere {
            return Vec::new();
        }
        let mut next = self.device.clone();
        next.begin_anew(day);
        let notices = self.notices(Notice::Update(next.boot));
        self.device = next;
        (self.told, self.next) = (0, now);
        notices
    }

    fn notices(&self, notice: Notice) -> Vec<Notices> {
        let of_place = |from: &SocketAddr| {
            let (lan, from) = (self.name.clone(), *from);
            // The first is the link's.
            let to = SocketAddr::new(GROUPS[Family::of(from.ip()).index()][0], PORT);
            let messages = notice.messages(&self.device, &to.to_string(), &base(from));
            Notices { lan, from, to, messages }
        };
        self.places.iter().flatten().map(of_place).collect()
    }
}
