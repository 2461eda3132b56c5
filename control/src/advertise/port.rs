//! A LAN: its socket, what it is told, and what is wrong with it.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use tokio::sync::mpsc;
use weir_api::AdvertisedView;
use weir_publish::Advertised;
use weir_ra::heard::Heard;
use weir_ra::{Advertisement, Advertiser, Known, Offer};
use weir_service::Complaint;

use super::socket::{LanSocket, Message};
use super::view::view;

/// What every link has room for, bytes: 1280 (RFC 8200 §5) without the IPv6 header.
const ROOM: usize = 1240;
/// How long after a failure the next attempt is, milliseconds.
const RETRY_MS: u64 = 1000;
/// Other routers that are told of, in all.
const MAX_ROUTERS: usize = 16;
/// How long another sender on this machine counts as one from its last message on, milliseconds: the
/// longest time between two (RFC 4861 §6.2.1), and as long again.
const SECOND_MS: u64 = 3_600_000;
/// How long after the return of a carrier a network manager may take to give the interface what it
/// took away with it, milliseconds.
const SETTLING_MS: u64 = 30_000;

/// What is said of another sender on this machine.
const SECOND: &str = "another program of the gateway's sends router advertisements too (radvd, \
                      dnsmasq, odhcpd, systemd-networkd), and hosts believe whichever came last: \
                      stop it there, or say `ra = \"others\"`";

pub struct Port {
    lan: Advertised,
    advertiser: Advertiser,
    /// None: it is to be opened, at `retry`, unless another program sends.
    socket: Option<LanSocket>,
    retry: u64,
    last: Advertisement,
    /// What another program is to send, and since when; none: nothing yet.
    given: Option<(Advertisement, u64)>,
    /// When that ends of itself, in part.
    given_until: Option<u64>,
    /// That is another than before, and nobody was told yet.
    is_news: bool,
    trouble: Option<String>,
    complaint: Complaint,
    /// Of prefixes that the kernel has not on the link.
    lost: Complaint,
    /// The carrier is back: until then what the interface lost with it may come back too; none: what
    /// it has is what there is.
    settles: Option<u64>,
    /// Other routers that were told of.
    routers: BTreeSet<Ipv6Addr>,
    /// Until when another program of this machine counts as a sender; none: there is no other.
    second: Option<u64>,
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
            given: None,
            given_until: None,
            is_news: false,
            trouble: None,
            complaint: Complaint::default(),
            lost: Complaint::default(),
            settles: None,
            routers: BTreeSet::new(),
            second: None,
        }
    }

    /// Takes what the LAN is to be told. Without its interface or a carrier nobody is told anything,
    /// least of all that prefixes are gone which the interface has lost with it.
    pub fn follow(&mut self, lan: Advertised, now: u64) {
        if lan.index != self.lan.index {
            self.socket = None;
        }
        if lan.by_others != self.lan.by_others {
            self.change_sender(now);
        }
        if lan.running && !self.lan.running {
            self.advertiser.reappear(now);
            self.settles = Some(now + SETTLING_MS);
        }
        self.lan = lan;
        let interface = &self.lan.interface;
        self.lost.say(unconnected(&self.lan).map(|text| format!("LAN {interface}: {text}")));
        self.take_over(now);
    }

    /// Another program sends from now on, or no other does any more. The router stays the same, so
    /// that there is no farewell.
    fn change_sender(&mut self, now: u64) {
        self.is_news = self.lan.by_others;
        (self.socket, self.given, self.given_until) = (None, None, None);
        (self.retry, self.trouble) = (now, None);
        self.complaint.say(None);
        self.advertiser.reappear(now);
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
        let due = self.due();
        self.lan.running.then(|| self.settles.map_or(due, |end| due.min(end)))
    }

    /// When there is something to send.
    fn due(&self) -> u64 {
        let due = self.advertiser.deadline();
        let due = self.given_until.map_or(due, |end| due.min(end));
        if self.socket.is_some() || self.lan.by_others { due } else { due.max(self.retry) }
    }

    /// Lets time pass; says whether something else is wrong with the LAN.
    pub fn pass(&mut self, now: u64) -> bool {
        if self.settles.is_some_and(|end| end <= now) {
            self.take_over(now);
        }
        self.second.take_if(|end| *end <= now).is_some()
    }

    /// Is there something to send at `now`?
    pub fn is_due(&self, now: u64) -> bool {
        self.lan.running && self.due() <= now
    }

    /// Sends what is due at `now`.
    pub async fn send(&mut self, hear: &mpsc::Sender<Message>, now: u64, random: u64) {
        if self.lan.by_others {
            return self.give(now, random);
        }
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

    /// Has another program send what is due. It repeats by itself what goes on.
    fn give(&mut self, now: u64, random: u64) {
        self.last = self.advertiser.advertise(now, random);
        let goes_on = |(before, since): &(Advertisement, u64)| {
            self.last.continues(before, (now - since) / 1000)
        };
        if !self.given.as_ref().is_some_and(goes_on) {
            self.given = Some((self.last.clone(), now));
            self.is_news = true;
        }
        let ends = self.last.prefixes.iter().flat_map(|it| [it.valid, it.preferred]);
        let first = ends.filter(|seconds| *seconds > 0).min();
        self.given_until = first.map(|seconds| now + u64::from(seconds) * 1000);
    }

    /// Who tells the other program is another, and was told nothing yet.
    pub const fn give_again(&mut self) {
        self.is_news |= self.given.is_some();
    }

    /// Does another program send?
    pub const fn is_by_others(&self) -> bool {
        self.lan.by_others
    }

    /// Is another program to send something else than when this was last asked?
    pub const fn take_news(&mut self) -> bool {
        std::mem::replace(&mut self.is_news, false)
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

    /// Takes what was heard; says whether something else is wrong with the LAN.
    pub fn hear(&mut self, message: &Message, now: u64, random: u64) -> bool {
        let was = self.second.is_some();
        match &message.heard {
            Heard::Solicitation => self.advertiser.solicit(now, random),
            Heard::Advertisement { router_lifetime, prefixes } => {
                self.advertiser.leave(prefixes, now);
                if self.socket.as_ref().is_some_and(|socket| socket.is_from(message.from)) {
                    self.hear_second(self.last.says(*router_lifetime, prefixes), now);
                } else if *router_lifetime > 0
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
        was != self.second.is_some()
    }

    /// A program of this machine sends too: what this process sends it does not hear. Unless it says
    /// the `same`, hosts are told anew: its last message takes the router from them when it is
    /// stopped. One that a bridge has sent back is no reason for another.
    fn hear_second(&mut self, same: bool, now: u64) {
        if self.second.replace(now + SECOND_MS).is_none() {
            tracing::warn!("LAN {}: {SECOND}", self.lan.interface);
        }
        if !same {
            self.advertiser.reappear(now);
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
        let second = || self.second.map(|_| SECOND.to_owned());
        let trouble = self.trouble.clone().or_else(second);
        let trouble = trouble.or_else(|| unconnected(&self.lan));
        let trouble = trouble.or_else(|| useless(&self.lan.useless));
        view(&self.lan, &self.last, trouble)
    }
}

/// What is wrong with prefixes that hosts are told and that the kernel has not on their link.
fn unconnected(lan: &Advertised) -> Option<String> {
    let names: Vec<_> = lan.unconnected.iter().map(ToString::to_string).collect();
    let (names, interface) = (names.join(", "), &lan.interface);
    let told = format!(
        "the gateway has no address of {names} on {interface}: what is for hosts of it gets lost, \
         see `weir check`"
    );
    (!names.is_empty()).then_some(told)
}

/// What is wrong with networks that hosts can make no addresses of.
fn useless(networks: &[Ipv6Net]) -> Option<String> {
    let names: Vec<_> = networks.iter().map(ToString::to_string).collect();
    let told = format!("hosts make no addresses of {}, see `weir check`", names.join(", "));
    (!names.is_empty()).then_some(told)
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
            by_others: false,
            settings: Settings { router_lifetime: 2700, autonomous: true, ..Settings::default() },
            leads: !subnets.is_empty(),
            offers: subnets.iter().map(offer).collect(),
            useless: Vec::new(),
            unconnected: Vec::new(),
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

    #[test]
    fn what_another_sender_says_in_the_gateways_name_is_answered_and_the_same_is_not() {
        let mut port = Port::new(lan(&[1], true), Known::default(), 0);
        for _ in 0..3 {
            let now = port.deadline().unwrap();
            port.last = port.advertiser.advertise(now, 0);
        }
        let (sent, next) = (6000, port.deadline().unwrap());
        assert!(next > sent + 60_000, "{next}: the changes of the start are told");
        let own: Vec<_> = port.last.prefixes.iter().map(|it| (it.prefix, it.preferred)).collect();
        port.hear_second(port.last.says(2700, &own), sent + 1000);
        assert_eq!(port.deadline(), Some(next), "its own, that a bridge has sent back");
        port.hear_second(port.last.says(0, &own), sent + 1000);
        assert_eq!(port.deadline(), Some(sent + 3000), "a farewell");
        port.last = port.advertiser.advertise(sent + 3000, 0);
        port.hear_second(port.last.says(2700, &[(own[0].0, 0)]), sent + 9000);
        assert_eq!(port.deadline(), Some(sent + 6000), "the second of three");
    }

    #[test]
    fn a_prefix_that_the_interface_has_lost_is_still_told_and_named() {
        let mut port = Port::new(lan(&[1], true), Known::default(), 0);
        assert_eq!(port.view().trouble, None);
        let unconnected = vec!["2001:2:0:1::/64".parse().unwrap()];
        port.follow(Advertised { unconnected, ..lan(&[1], true) }, 1000);
        let trouble = port.view().trouble.unwrap_or_default();
        assert!(trouble.contains("no address of 2001:2:0:1::/64 on lan0"), "{trouble}");
        assert_eq!(told(&mut port, 1000), (vec![1], vec![], 2700));
        port.follow(lan(&[1], true), 2000);
        assert_eq!(port.view().trouble, None);
    }

    /// A LAN that another program sends for, with one prefix that ends.
    fn by_others(valid_until: Option<u64>, usable: bool) -> Advertised {
        let lan = lan(&[1], true);
        let offer = Offer { valid_until, preferred_until: valid_until, usable, ..lan.offers[0] };
        Advertised { by_others: true, offers: vec![offer], ..lan }
    }

    /// Lets time pass; when there was something else to be sent.
    fn news(port: &mut Port, until: u64) -> Vec<u64> {
        let mut news = Vec::new();
        while let Some(now) = port.deadline().filter(|now| *now <= until) {
            assert!(port.is_due(now));
            port.give(now, now * 31);
            if port.take_news() {
                news.push(now);
            }
        }
        news
    }

    #[test]
    fn another_program_is_given_each_change_once() {
        let mut port = Port::new(by_others(None, true), Known::default(), 0);
        assert_eq!(news(&mut port, 3_600_000), [0]);
        port.follow(by_others(None, false), 3_600_000);
        port.follow(by_others(None, false), 3_600_500);
        let [at] = news(&mut port, 7_200_000)[..] else { panic!("one change") };
        assert!((3_600_000..3_604_000).contains(&at), "{at}");
        assert_eq!(port.last.prefixes[0].preferred, 0);
        port.give_again();
        assert!(port.take_news(), "to hooks of another directory");
    }

    #[test]
    fn what_counts_down_is_given_when_the_count_begins_and_when_it_ends() {
        let mut port = Port::new(by_others(Some(6_000_000), true), Known::default(), 0);
        let news = news(&mut port, 6_000_000);
        let [0, valid_counts, preferred_counts, 6_000_000] = news[..] else { panic!("{news:?}") };
        assert!((600_000..=1_200_000).contains(&valid_counts), "{news:?}");
        assert!((3_300_000..=3_900_000).contains(&preferred_counts), "{news:?}");
        assert_eq!((port.last.prefixes.len(), port.last.router_lifetime), (0, 0));
    }

    #[test]
    fn who_sends_may_change_and_the_other_program_is_told_both_times() {
        let mut port = Port::new(lan(&[1], true), Known::default(), 0);
        told(&mut port, 0);
        assert!(!port.take_news() && !port.view().by_others);
        port.follow(by_others(None, true), 1000);
        assert_eq!((news(&mut port, 60_000), port.view().by_others), (vec![3000], true));
        port.follow(lan(&[1], true), 60_000);
        assert!(port.take_news() && !port.take_news() && !port.view().by_others);
        assert_eq!(port.deadline(), Some(60_000), "hosts are told at once");
    }
}
