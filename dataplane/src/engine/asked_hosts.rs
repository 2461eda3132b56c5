//! Where hosts of LANs are that uplinks ask for because rules accept it, as the kernel says.
//!
//! Any address of a LAN may be asked for, by anybody, and most of a prefix are nobody's. So a host that
//! is found is not given up for one that is not; the kernel is first asked what it knows; and it looks
//! for few of those that it does not know, so that they do not fill its own table. What waits for an
//! answer is not kept: its sender asks again.

use std::net::IpAddr;

use weir_layout::adjacency::Adjacency;
use weir_layout::control::{Address, ControlHalf, IpAddress, RuleFrom};
use weir_wire::family::{Family, V4};

use super::claims::Owner;
use super::context::Context;
use crate::purpose::Purpose;

/// Hosts of a set: one may stand in any place of its own.
const WAYS: usize = 8;
/// Sets: so many hosts times eight are known.
const SETS: usize = 256;
/// How often the kernel is asked about a host that is asked for, milliseconds: one that is known, and
/// one that is not.
const PERIODS: [u32; 2] = [1000, 200];
/// How long one stays known that nobody asks for, milliseconds.
const KEPT: u32 = 60_000;
/// Hosts that the kernel is asked about in a tick, at most; and of them, those that are not known,
/// however many nobody has.
const QUESTIONS: usize = 32;
const UNKNOWN: usize = QUESTIONS / 2;
/// Hosts that it looks for at a time.
///
/// Each has an entry in its table for three seconds if nobody answers (`mcast_solicit` times
/// `retrans_time_ms`): with the next number sixty at a time, of 1024 (`gc_thresh3`).
const SEARCHES: usize = 4;
/// Ticks in which one may answer.
const PATIENCE: u8 = 10;

/// A host that is asked for.
#[derive(Clone, Copy, Debug, Default)]
struct AskedHost {
    address: Address,
    /// [`Family::index`].
    family: u8,
    /// The LAN port that leads to it.
    port: u8,
    /// A question about it waits, or the kernel looks for it.
    waits: bool,
    /// Where it is, if that is known.
    at: Option<Adjacency>,
    /// When the kernel was last asked, milliseconds.
    asked: u32,
    /// When somebody last asked for it, milliseconds.
    used: u32,
}

impl AskedHost {
    fn is(&self, other: &Self) -> bool {
        (self.address, self.family, self.port) == (other.address, other.family, other.port)
    }

    fn ip(&self) -> IpAddr {
        match usize::from(self.family) == V4::FAMILY.index() {
            true => self.address.to_v4().into(),
            false => self.address.0.into(),
        }
    }

    /// Is its place another's?
    fn gives_way(&self, now: u32) -> bool {
        self.at.is_none() || now.wrapping_sub(self.used) >= KEPT
    }
}

/// Those of a worker.
#[derive(Debug, Default)]
pub(super) struct AskedHosts {
    /// Sets, one behind the other; none while no rule is about uplinks.
    hosts: Box<[AskedHost]>,
    /// Places whose hosts the kernel is to be asked about, and how many.
    questions: ([u16; QUESTIONS], usize),
    /// Places whose hosts it looks for, and for how many ticks yet.
    searches: [Option<(u16, u8)>; SEARCHES],
}

impl AskedHosts {
    /// Another state is published: it may be the first with such rules.
    pub(super) fn refresh(&mut self, half: &ControlHalf) {
        let any = half.rules().iter().any(|rule| rule.is_from(RuleFrom::Uplink));
        if any && self.hosts.is_empty() {
            self.hosts = vec![AskedHost::default(); SETS * WAYS].into();
        }
    }

    /// Where a host is, whose hash is this. The kernel is asked from time to time.
    fn find(&mut self, hash: u64, wanted: AskedHost, now: u32) -> Option<Adjacency> {
        let first = hash as usize % SETS * WAYS;
        let set = self.hosts.get_mut(first..first + WAYS)?;
        let way = match set.iter().position(|host| host.is(&wanted)) {
            Some(way) => way,
            None => {
                let way = set.iter().position(|host| !host.waits && host.gives_way(now))?;
                set[way] = AskedHost { asked: now.wrapping_sub(PERIODS[1]), ..wanted };
                way
            }
        };
        let host = &mut set[way];
        host.used = now;
        let (period, room) = match host.at {
            Some(_) => (PERIODS[0], QUESTIONS),
            None => (PERIODS[1], UNKNOWN),
        };
        let (questions, count) = &mut self.questions;
        if !host.waits && now.wrapping_sub(host.asked) >= period && *count < room {
            host.waits = true;
            questions[*count] = (first + way) as u16;
            *count += 1;
        }
        host.at
    }

    /// Takes the questions about hosts that are known, or about the others.
    fn take_questions(&mut self, known: bool, now: u32) -> impl Iterator<Item = u16> + use<> {
        let (questions, count) = std::mem::take(&mut self.questions);
        let mut taken = ([0; QUESTIONS], 0);
        for place in &questions[..count] {
            let host = &mut self.hosts[usize::from(*place)];
            let (to, count) = match host.at.is_some() == known {
                true => &mut taken,
                false => &mut self.questions,
            };
            to[*count] = *place;
            *count += 1;
            if host.at.is_some() == known {
                (host.waits, host.asked) = (false, now);
            }
        }
        taken.0.into_iter().take(taken.1)
    }

    /// The kernel does not know the host in a place: it looks for it, if not for too many others.
    fn search(&mut self, place: u16) {
        if let Some(free) = self.searches.iter_mut().find(|search| search.is_none()) {
            *free = Some((place, PATIENCE));
            self.hosts[usize::from(place)].waits = true;
        }
    }
}

impl Context {
    /// Where a host of a LAN is. If that is not known, the kernel will be asked.
    pub(super) fn find_asked_host<F: Family>(&mut self, host: F::Address) -> Option<Adjacency> {
        let port = self.snapshot.half.port_behind(host)?;
        let hash = Purpose::AskedHost.of_address(self.key, port, host.into());
        let family = F::FAMILY.index() as u8;
        let wanted = AskedHost { address: host.to_address(), family, port, ..Default::default() };
        self.asked_hosts.find(hash, wanted, self.now)
    }

    /// Asks whether hosts are still where they were, and for those that the kernel does not know: see
    /// [`Engine::settle_claims`](super::Engine::settle_claims).
    pub(super) fn search_asked_hosts(&mut self, ask: &mut impl FnMut(u32, IpAddr) -> Owner) {
        for place in self.asked_hosts.take_questions(true, self.now) {
            match self.ask_for(place, ask) {
                Owner::At(_) | Owner::Asked | Owner::Unknown => {}
                Owner::Nobody => self.asked_hosts.hosts[usize::from(place)].at = None,
            }
        }
        for at in 0..SEARCHES {
            let Some((place, left)) = self.asked_hosts.searches[at] else { continue };
            let owner = self.ask_for(place, ask);
            // The entry of one that did not answer before may say so yet.
            let goes_on = !matches!(owner, Owner::At(_)) && left > 1;
            self.asked_hosts.searches[at] = goes_on.then_some((place, left - 1));
            self.asked_hosts.hosts[usize::from(place)].waits = goes_on;
        }
    }

    /// Asks what the kernel knows of the others: see
    /// [`Engine::ask_about_hosts`](super::Engine::ask_about_hosts).
    pub(super) fn ask_about_asked_hosts(&mut self, ask: &mut impl FnMut(u32, IpAddr) -> Owner) {
        for place in self.asked_hosts.take_questions(false, self.now) {
            match self.ask_for(place, ask) {
                Owner::At(_) | Owner::Unknown => {}
                Owner::Asked | Owner::Nobody => self.asked_hosts.search(place),
            }
        }
    }

    /// Asks for the host in a place, which is there if the kernel says where.
    fn ask_for(&mut self, place: u16, ask: &mut impl FnMut(u32, IpAddr) -> Owner) -> Owner {
        let host = &mut self.asked_hosts.hosts[usize::from(place)];
        let owner = ask(self.snapshot.half.ports[usize::from(host.port)].ifindex, host.ip());
        if let Owner::At(mac) = owner {
            host.at = Some(Adjacency { mac, port: host.port });
        }
        owner
    }
}
