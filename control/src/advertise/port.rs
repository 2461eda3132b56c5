//! A LAN: its socket, what it is told, and what is wrong with it.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use tokio::sync::mpsc;
use weir_api::{AdvertisedPrefix, AdvertisedView};
use weir_publish::Advertised;
use weir_ra::heard::Heard;
use weir_ra::{Advertisement, Advertiser};
use weir_service::Complaint;

use super::socket::{LanSocket, Message};

/// What every link has room for, bytes: 1280 (RFC 8200 §5) without the IPv6 header.
const ROOM: usize = 1240;
/// How long after a failure the next attempt is, milliseconds.
const RETRY_MS: u64 = 1000;
/// Other routers that are told of, in all.
const MAX_ROUTERS: usize = 16;

pub struct Port {
    lan: Advertised,
    advertiser: Advertiser,
    /// None: it is to be opened, at `retry`.
    socket: Option<LanSocket>,
    retry: u64,
    last: Advertisement,
    trouble: Option<String>,
    complaint: Complaint,
    /// Other routers that were told of.
    routers: BTreeSet<Ipv6Addr>,
}

impl Port {
    /// Of a LAN whose hosts were told of some prefixes by an earlier process.
    pub fn new(lan: Advertised, told: Vec<Ipv6Net>, now: u64) -> Self {
        let mut advertiser = Advertiser::new(lan.settings.clone(), told, now);
        advertiser.follow(lan.settings.clone(), lan.leads, lan.offers.clone(), now);
        Self {
            lan,
            advertiser,
            socket: None,
            retry: now,
            last: Advertisement::default(),
            trouble: None,
            complaint: Complaint::default(),
            routers: BTreeSet::new(),
        }
    }

    /// Takes what the LAN is to be told. Without its interface or a carrier nobody is told anything,
    /// least of all that prefixes are gone which the interface has lost with it.
    pub fn follow(&mut self, lan: Advertised, now: u64) {
        if lan.index != self.lan.index {
            self.socket = None;
        }
        if lan.running {
            self.advertiser.follow(lan.settings.clone(), lan.leads, lan.offers.clone(), now);
            if !self.lan.running {
                self.advertiser.reappear(now);
            }
        }
        self.lan = lan;
    }

    /// When there is something to send, or a socket to open; none: its interface comes first.
    pub fn deadline(&self) -> Option<u64> {
        let due = self.advertiser.deadline();
        self.lan.running.then(|| if self.socket.is_some() { due } else { due.max(self.retry) })
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

    /// The prefixes that hosts may have addresses of.
    pub fn told(&self) -> Vec<Ipv6Net> {
        self.advertiser.told().collect()
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
