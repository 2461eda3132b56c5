//! A LAN: its socket, what it is told, and what is wrong with it.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use tokio::sync::mpsc;
use weir_api::{AdvertisedPrefix, AdvertisedView};
use weir_publish::Advertised;
use weir_ra::heard::Heard;
use weir_ra::{Advertisement, Advertiser, Known, Offer};
use weir_service::Complaint;

use super::socket::{LanSocket, Message};

/// What every link has room for, bytes: 1280 (RFC 8200 §5) without the IPv6 header.
const ROOM: usize = 1240;
/// How long after a failure the next attempt is, milliseconds.
const RETRY_MS: u64 = 1000;
/// Other routers that are told of, in all.
const MAX_ROUTERS: usize = 16;
/// How long after the return of a carrier a network manager may take to give the interface what it
/// took away with it, milliseconds.
const SETTLING_MS: u64 = 30_000;

pub struct Port {
    lan: Advertised,
    advertiser: Advertiser,
    /// None: it is to be opened, at `retry`.
    socket: Option<LanSocket>,
    retry: u64,
    last: Advertisement,
    trouble: Option<String>,
    complaint: Complaint,
    /// The carrier is back: until then what the interface lost with it may come back too; none: what
    /// it has is what there is.
    settles: Option<u64>,
    /// Other routers that were told of.
    routers: BTreeSet<Ipv6Addr>,
}

impl Port {
    /// Of a LAN whose hosts know something from an earlier process.
    pub fn new(lan: Advertised, known: Known, now: u64) -> Self {
        let mut advertiser = Advertiser::new(lan.settings.clone(), known, now);
        advertiser.follow(lan.settings.clone(), lan.leads, lan.offers.clone(), now);
        Self {
            lan,
            advertiser,
            socket: None,
            retry: now,
            last: Advertisement::default(),
            trouble: None,
            complaint: Complaint::default(),
            settles: None,
            routers: BTreeSet::new(),
        }
    }

    /// Takes what the LAN is to be told. Without its interface or a carrier nobody is told anything,
    /// least of all that prefixes are gone which the interface has lost with it.
    pub fn follow(&mut self, lan: Advertised, now: u64) {
        if lan.index != self.lan.index {
            self.socket = None;
        }
        if lan.running && !self.lan.running {
            self.advertiser.reappear(now);
            self.settles = Some(now + SETTLING_MS);
        }
        self.lan = lan;
        self.take_over(now);
    }

    /// Has the advertiser follow. What it offered goes on while it may come back.
    fn take_over(&mut self, now: u64) {
        if !self.lan.running {
            return;
        }
        let mut offers = self.lan.offers.clone();
        if self.settles.is_some_and(|end| now < end) {
            let known = self.advertiser.offers();
            let is_missing = |it: &&Offer| offers.iter().all(|offer| offer.prefix != it.prefix);
            let missing: Vec<_> = known.iter().filter(is_missing).copied().collect();
            if missing.is_empty() {
                self.settles = None;
            }
            offers.extend(missing);
        } else {
            self.settles = None;
        }
        let Advertised { settings, leads, .. } = &self.lan;
        let leads = *leads || (self.settles.is_some() && self.advertiser.leads());
        self.advertiser.follow(settings.clone(), leads, offers, now);
    }

    /// When there is something to do: to send, to open a socket, or to say what did not come back.
    /// None: its interface comes first.
    pub fn deadline(&self) -> Option<u64> {
        let due = self.advertiser.deadline();
        let due = if self.socket.is_some() { due } else { due.max(self.retry) };
        self.lan.running.then(|| self.settles.map_or(due, |end| due.min(end)))
    }

    /// Lets time pass.
    pub fn pass(&mut self, now: u64) {
        if self.settles.is_some_and(|end| end <= now) {
            self.take_over(now);
        }
    }

    /// Is there something to send at `now`?
    pub fn is_due(&self, now: u64) -> bool {
        let retry = if self.socket.is_some() { 0 } else { self.retry };
        self.lan.running && self.advertiser.deadline().max(retry) <= now
    }

    /// Sends what is due at `now`.
    pub async fn send(&mut self, hear: &mpsc::Sender<Message>, now: u64, random: u64) {
        let trouble = self.attempt(hear, now, random).await.err();
        let lan = &self.lan.interface;
        self.trouble = trouble.map(|error| error.to_string());
        let text = |trouble| format!("LAN {lan} gets no router advertisements: {trouble}");
        self.complaint.say(self.trouble.as_ref().map(text));
        if self.trouble.is_some() {
            self.socket = None;
            self.retry = now + RETRY_MS;
            // What could not be sent is due again.
            self.advertiser.reappear(now);
        }
    }

    async fn attempt(
        &mut self,
        hear: &mpsc::Sender<Message>,
        now: u64,
        random: u64,
    ) -> std::io::Result<()> {
        let Some(index) = self.lan.index else { return Ok(()) };
        let name = &self.lan.interface;
        let socket = match self.socket.take().filter(LanSocket::is_current) {
            Some(socket) => socket,
            None => LanSocket::open(name, index, hear.clone())?,
        };
        let socket = self.socket.insert(socket);
        let advertisement = self.advertiser.advertise(now, random);
        for message in advertisement.encode(ROOM) {
            socket.send(&message).await?;
        }
        self.last = advertisement;
        Ok(())
    }

    /// Takes what was heard.
    pub fn hear(&mut self, message: &Message, now: u64, random: u64) {
        match &message.heard {
            Heard::Solicitation => self.advertiser.solicit(now, random),
            Heard::Advertisement { router_lifetime, prefixes } => {
                self.advertiser.leave(prefixes, now);
                if *router_lifetime > 0
                    && self.routers.len() < MAX_ROUTERS
                    && self.routers.insert(message.from)
                {
                    tracing::warn!(
                        "{} advertises itself as a router in LAN {} too: its hosts may send by \
                         either",
                        message.from,
                        self.lan.interface
                    );
                }
            }
        }
    }

    /// Tells the hosts that this is no router any more, if it can.
    pub async fn leave(self) {
        if let Some(socket) = &self.socket {
            for message in self.advertiser.farewell().encode(ROOM) {
                let _ = socket.send(&message).await;
            }
        }
    }

    /// What hosts may have.
    pub fn known(&self) -> Known {
        self.advertiser.known()
    }

    /// What was told last.
    pub fn view(&self) -> AdvertisedView {
        let prefix = |it: &weir_ra::PrefixInformation| AdvertisedPrefix {
            prefix: it.prefix,
            valid_s: it.valid,
            preferred_s: it.preferred,
        };
        AdvertisedView {
            lan: self.lan.interface.clone(),
            router_lifetime_s: self.last.router_lifetime,
            prefixes: self.last.prefixes.iter().map(prefix).collect(),
            trouble: self.trouble.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use weir_ra::{Settings, VALID_LIMIT_S};

    use super::*;

    /// A LAN that has these subnets, whose interface has a carrier or not.
    fn lan(subnets: &[u16], running: bool) -> Advertised {
        let prefix = |subnet: &u16| format!("2001:2:0:{subnet:x}::/64").parse().unwrap();
        let offer = |subnet| Offer {
            prefix: prefix(subnet),
            valid_until: None,
            preferred_until: None,
            usable: true,
        };
        Advertised {
            interface: "lan0".into(),
            index: Some(1),
            running,
            settings: Settings { router_lifetime: 2700, ..Settings::default() },
            leads: !subnets.is_empty(),
            offers: subnets.iter().map(offer).collect(),
        }
    }

    /// The subnets that are valid, those that are ended, and the router's lifetime.
    fn told(port: &mut Port, now: u64) -> (Vec<u16>, Vec<u16>, u16) {
        let told = port.advertiser.advertise(now, 0);
        let subnets = |is_valid: bool| {
            let of = told.prefixes.iter().filter(|it| (it.valid > 0) == is_valid);
            of.map(|it| it.prefix.network().segments()[3]).collect()
        };
        assert!(told.prefixes.iter().all(|it| [0, VALID_LIMIT_S].contains(&it.valid)));
        (subnets(true), subnets(false), told.router_lifetime)
    }

    /// One that has told its hosts, and has lost its carrier and its addresses for a minute.
    fn back(now: u64) -> Port {
        let mut port = Port::new(lan(&[1, 2], true), Known::default(), 0);
        told(&mut port, 0);
        port.follow(lan(&[1, 2], false), 1000);
        port.follow(lan(&[], false), 2000);
        port.follow(lan(&[], true), now);
        port
    }

    #[test]
    fn what_an_interface_has_lost_with_its_carrier_is_not_ended_while_it_may_come_back() {
        let mut port = back(60_000);
        assert_eq!(told(&mut port, 60_000), (vec![1, 2], vec![], 2700));
        port.follow(lan(&[1], true), 61_000);
        assert_eq!(told(&mut port, 63_000), (vec![1, 2], vec![], 2700));
        port.follow(lan(&[1, 2], true), 64_000);
        assert_eq!(port.settles, None, "all is back");
        port.follow(lan(&[2], true), 65_000);
        assert_eq!(told(&mut port, 66_000), (vec![2], vec![1], 2700), "as at any time");
    }

    #[test]
    fn what_does_not_come_back_with_the_carrier_is_ended_half_a_minute_later() {
        let mut port = back(60_000);
        port.follow(lan(&[1, 3], true), 61_000);
        assert_eq!(told(&mut port, 62_000), (vec![1, 2, 3], vec![], 2700));
        port.pass(89_999);
        assert_eq!(told(&mut port, 89_999), (vec![1, 2, 3], vec![], 2700));
        assert_eq!(port.deadline(), Some(90_000));
        port.pass(90_000);
        assert_eq!(told(&mut port, 90_000), (vec![1, 3], vec![2], 2700));
    }
}
