//! What the kernel's events mean for the view of it: which parts of the view are out of date.
//!
//! `linux/rtnetlink.h`, `linux/if_link.h`; numbers are in the machine's byte order.

use std::collections::HashSet;

use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;
use weir_layout::Family;

/// Bytes of an event that tell what it means, and all of one about a neighbour.
pub const ENOUGH: usize = 256;

/// Bytes of an event that tell what kind it is.
pub const HEAD_LEN: usize = FLAGS_AT + 4;

/// `struct nlmsghdr`: the type of the message.
const KIND_AT: usize = 4;
/// `struct rtmsg` and `struct ifaddrmsg` behind it: the address family.
const FAMILY_AT: usize = 16;
/// `struct rtmsg`: the length of the destination's prefix.
const LENGTH_AT: usize = 17;
/// `struct ifinfomsg` behind it: the interface, and its flags.
const INDEX_AT: usize = 20;
const FLAGS_AT: usize = 24;
/// `AF_INET6`.
const INET6: u8 = 10;
/// Set up by the operator.
const IFF_UP: u32 = 1;
/// With a carrier.
const IFF_LOWER_UP: u32 = 1 << 16;

/// An event, by its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An interface, which is set up or not, and has a carrier or not; one that is gone has neither.
    Link {
        /// Its kernel index.
        index: u32,
        /// Whether it is set up.
        up: bool,
        /// Whether it has a carrier too.
        running: bool,
    },
    /// An address of a family.
    Address(Family),
    /// A route.
    Route {
        /// Its family.
        family: Family,
        /// Whether it is a default route.
        default: bool,
    },
    /// A neighbour.
    Neighbour,
    /// A rule.
    Rule,
    /// A setting of an interface, such as whether what comes in by it is forwarded.
    Setting,
    /// Any: it was lost, or is not understood.
    Unknown,
}

impl Event {
    /// Reads the head of a message, [`HEAD_LEN`] bytes of it where there are as many.
    pub fn of(head: &[u8]) -> Self {
        let number = |at: usize| {
            let bytes = head.get(at..at + 4)?.try_into().ok()?;
            Some(u32::from_ne_bytes(bytes))
        };
        let kind = head.get(KIND_AT..KIND_AT + 2).and_then(|kind| kind.try_into().ok());
        let is_v6 = head.get(FAMILY_AT) == Some(&INET6);
        let family = if is_v6 { Family::V6 } else { Family::V4 };
        match (kind.map(u16::from_ne_bytes), number(INDEX_AT), number(FLAGS_AT)) {
            (Some(16), Some(index), Some(flags)) => {
                let up = flags & IFF_UP != 0;
                Self::Link { index, up, running: up && flags & IFF_LOWER_UP != 0 }
            }
            (Some(17), Some(index), _) => Self::Link { index, up: false, running: false },
            (Some(20 | 21), ..) => Self::Address(family),
            (Some(24 | 25), ..) => {
                let default = head.get(LENGTH_AT).is_none_or(|length| *length == 0);
                Self::Route { family, default }
            }
            (Some(28 | 29), ..) => Self::Neighbour,
            (Some(32 | 33), ..) => Self::Rule,
            (Some(80 | 81), ..) => Self::Setting,
            _ => Self::Unknown,
        }
    }
}

/// The neighbour that an event tells of, unless it is gone; `None` too of what is cut off.
pub fn neighbour(event: &[u8]) -> Option<NeighbourMessage> {
    match message(event)? {
        RouteNetlinkMessage::NewNeighbour(message) => Some(message),
        _ => None,
    }
}

/// The message of an event; `None` where it is cut off, or not understood.
pub fn message(event: &[u8]) -> Option<RouteNetlinkMessage> {
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(event).ok()?;
    match message.payload {
        NetlinkPayload::InnerMessage(message) => Some(message),
        _ => None,
    }
}

/// Which parts of the view are out of date, but for routes: when those are read is
/// `Reading`'s.
#[derive(Clone, Debug)]
pub struct Stale {
    /// Interfaces.
    pub links: bool,
    /// Addresses.
    pub addresses: bool,
    /// Rules.
    pub rules: bool,
    /// Neighbours, by an event; see [`Watcher`](crate::watch::Watcher) for what is none.
    pub neighbours: bool,
    /// Interfaces that changed since they were asked what they can do.
    pub devices: HashSet<u32>,
}

impl Stale {
    /// Nothing is known yet.
    pub fn all() -> Self {
        let devices = HashSet::new();
        Self { links: true, addresses: true, rules: true, neighbours: true, devices }
    }

    /// All is as it was read.
    pub fn none() -> Self {
        let devices = HashSet::new();
        Self { links: false, addresses: false, rules: false, neighbours: false, devices }
    }

    /// Takes note of an event.
    pub fn mark(&mut self, event: Event) {
        match event {
            Event::Link { index, .. } => {
                self.links = true;
                self.devices.insert(index);
            }
            Event::Setting => self.links = true,
            Event::Address(_) => self.addresses = true,
            Event::Rule => self.rules = true,
            Event::Neighbour => self.neighbours = true,
            Event::Route { .. } => {}
            Event::Unknown => {
                (self.links, self.addresses, self.rules) = (true, true, true);
                self.neighbours = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message of this type about interface 7, with its flags.
    fn message(kind: u16, flags: u32) -> Vec<u8> {
        let mut message = vec![0; HEAD_LEN];
        message[KIND_AT..KIND_AT + 2].copy_from_slice(&kind.to_ne_bytes());
        message[INDEX_AT..INDEX_AT + 4].copy_from_slice(&7u32.to_ne_bytes());
        message[FLAGS_AT..FLAGS_AT + 4].copy_from_slice(&flags.to_ne_bytes());
        message
    }

    #[test]
    fn an_interface_is_set_up_or_not_and_is_not_when_it_is_gone() {
        let link = |up, running| Event::Link { index: 7, up, running };
        assert_eq!(Event::of(&message(16, 0x1_1043)), link(true, true));
        assert_eq!(Event::of(&message(16, 0x1003)), link(true, false), "without carrier");
        assert_eq!(Event::of(&message(16, 0x1_1042)), link(false, false));
        assert_eq!(Event::of(&message(17, 0x1_1043)), link(false, false));
    }

    #[test]
    fn a_route_without_a_prefix_is_a_default() {
        let mut route = message(24, 0);
        let told = |family, default| Event::Route { family, default };
        assert_eq!(Event::of(&route), told(Family::V4, true));
        route[LENGTH_AT] = 24;
        assert_eq!(Event::of(&route), told(Family::V4, false));
        route[FAMILY_AT] = INET6;
        assert_eq!(Event::of(&route), told(Family::V6, false));
    }

    #[test]
    fn what_is_cut_off_or_strange_may_be_anything() {
        for strange in [vec![], message(16, 1)[..20].to_vec(), message(99, 0)] {
            let mut stale = Stale::none();
            assert_eq!(Event::of(&strange), Event::Unknown);
            stale.mark(Event::of(&strange));
            assert!(stale.links && stale.addresses && stale.rules && stale.neighbours);
        }
    }

    #[test]
    fn an_event_makes_out_of_date_what_it_is_about_and_no_more() {
        let parts = |kind| {
            let mut stale = Stale::none();
            stale.mark(Event::of(&message(kind, 0)));
            let [links, devices] = [stale.links, stale.devices.contains(&7)];
            [links, devices, stale.addresses, stale.rules, stale.neighbours]
        };
        assert_eq!(parts(16), [true, true, false, false, false]);
        assert_eq!(parts(20), [false, false, true, false, false]);
        assert_eq!(parts(24), [false; 5]);
        assert_eq!(parts(28), [false, false, false, false, true]);
        assert_eq!(parts(33), [false, false, false, true, false]);
        assert_eq!(parts(80), [true, false, false, false, false], "forwarding, for one");
    }
}
