//! Events: what they make stale.

use std::io;
use std::net::IpAddr;
use std::time::Instant;

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt};
use weir_layout::Family;

use super::{Ipv6, Watcher};
use crate::events::{self, Event};
use crate::message::{self, Fitness};
use crate::socket::is_overrun;

impl Watcher {
    /// Returns when something changed since the last [`read`](Self::read) began that is to be read
    /// now.
    pub async fn changed(&mut self) {
        let mut event = Vec::with_capacity(events::ENOUGH);
        let mut event6 = Vec::with_capacity(events::ENOUGH);
        loop {
            event.clear();
            event6.clear();
            let (family, heard) = tokio::select! {
                heard = self.events.recv(&mut event) => (Family::V4, heard),
                heard = hear(&mut self.ipv6, &mut event6) => (Family::V6, heard),
            };
            let event = if family == Family::V6 { &event6 } else { &event };
            match heard {
                Ok(()) => {
                    if !self.on_event(event) || self.is_due(Instant::now()) {
                        return;
                    }
                }
                Err(error) if is_overrun(&error) => return self.lost(family),
                Err(error) => {
                    tracing::error!("no more netlink events, changes are seen late: {error}");
                    return std::future::pending().await;
                }
            }
        }
    }

    /// Takes note of an event; says whether it can wait.
    fn on_event(&mut self, message: &[u8]) -> bool {
        let event = Event::of(message);
        let is_news = match event {
            Event::Neighbour => !self.take_known(message),
            Event::Address(Family::V6) | Event::Route { family: Family::V6, .. } => {
                !events::message(message)
                    .is_some_and(|it| message::is_of_a_link_alone(&it) || self.has_address(&it))
            }
            _ => true,
        };
        if !is_news {
            return true;
        }
        self.stale.mark(event);
        self.readings.each_mut().map(|reading| reading.on_event(event)).contains(&true)
    }

    /// Takes over how fresh a neighbour is that has the hardware address it had; `false`: it is another,
    /// or has another. The kernel tells each time that it begins or ends to doubt one.
    fn take_known(&mut self, message: &[u8]) -> bool {
        let Some((key, entry)) = events::neighbour(message).as_ref().and_then(message::neighbour)
        else {
            return false;
        };
        let known = self.view.neighbours.get_mut(&key);
        let known = entry.zip(known).filter(|(entry, known)| entry.mac == known.mac);
        known.map(|(entry, known)| *known = entry).is_some()
    }

    /// What an address is good for, as it is known.
    fn fitness(&self, at: &(u32, IpAddr)) -> Fitness {
        match (self.view.unfit.contains(at), self.view.deprecated.contains(at)) {
            (false, _) => Fitness::Fit,
            (true, true) => Fitness::Deprecated,
            (true, false) => Fitness::Unfit,
        }
    }

    /// Does it tell of an address that the view has, as it has it? The kernel tells of each that a
    /// router advertises each time that one does.
    fn has_address(&self, message: &RouteNetlinkMessage) -> bool {
        let RouteNetlinkMessage::NewAddress(message) = message else { return false };
        message::address(message).is_some_and(|(interface, net)| {
            let at = (interface, net.addr());
            self.view.addresses.contains(&(interface, net))
                && message::fitness(message) == self.fitness(&at)
                && message::is_advertised(message) == self.view.advertised.contains(&at)
        })
    }

    /// An event was lost, of a socket that hears everything or of IPv6's.
    pub(super) fn lost(&mut self, family: Family) {
        match family {
            Family::V4 => _ = self.on_event(&[]),
            Family::V6 => self.lost_ipv6(),
        }
    }

    /// All of IPv6's is to be read.
    pub(super) fn lost_ipv6(&mut self) {
        self.stale.addresses = true;
        self.readings[Family::V6.index()].on_event(Event::Unknown);
    }

    /// Drops what has arrived, so that a burst of changes causes one reading of the view.
    pub(super) fn forget_events(&mut self) {
        for family in Family::ALL {
            while let Some(heard) = self.take_event(family) {
                match heard {
                    Ok(event) => _ = self.on_event(&event),
                    Err(error) if is_overrun(&error) => self.lost(family),
                    Err(_) => break,
                }
            }
        }
    }

    /// The next event that has arrived by a family's socket; none: it has none.
    fn take_event(&self, family: Family) -> Option<io::Result<Vec<u8>>> {
        let socket = match family {
            Family::V4 => &self.events,
            Family::V6 => &self.ipv6.as_ref()?.events,
        };
        let mut event = vec![0; events::ENOUGH];
        // Past the runtime, whose cooperative budget would end the loop too soon.
        let length = socket.socket_ref().recv(&mut &mut event[..], 0);
        Some(length.map(|length| {
            event.truncate(length);
            event
        }))
    }
}

/// The next event of IPv6; never one where it is not followed.
async fn hear(ipv6: &mut Option<Ipv6>, event: &mut Vec<u8>) -> io::Result<()> {
    match ipv6 {
        Some(ipv6) => ipv6.events.recv(event).await,
        None => std::future::pending().await,
    }
}
