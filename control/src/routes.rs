//! When the kernel's routes are read anew.
//!
//! All else that the view is made of is small. Routes may be a million, and change many times a
//! second: they are read when an event says that they changed, and then no more often than costs a
//! twentieth of the time; but at once where a default route changed, or what routes depend on.

use std::time::{Duration, Instant};

/// A reading may take this part of the time.
const SHARE: u32 = 20;
/// `struct nlmsghdr`: the type of the message.
const KIND_AT: usize = 4;
/// `struct rtmsg` behind it: the length of the destination's prefix.
const LENGTH_AT: usize = 17;
/// Bytes of an event that tell what it means for routes.
pub const EVENT_LEN: usize = LENGTH_AT + 1;

/// What is known of the newest reading.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// What was read is out of date.
    stale: bool,
    /// And that cannot wait.
    urgent: bool,
    /// When the next reading is due, if it can wait.
    due: Instant,
}

/// What an event means for routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Route {
        default: bool,
    },
    /// A link or an address: its routes went or came, and not all of them say so.
    Ground,
    Other,
}

impl Reading {
    /// None yet.
    pub fn none(now: Instant) -> Self {
        Self { stale: true, urgent: true, due: now }
    }

    /// An event was lost: it may have been any.
    pub fn lost(&mut self) {
        (self.stale, self.urgent) = (true, true);
    }

    /// Takes note of an event, of which [`EVENT_LEN`] bytes are enough. Says whether it is about a
    /// route that can wait.
    pub fn hear(&mut self, event: &[u8]) -> bool {
        let event = of(event);
        self.stale |= event != Event::Other;
        self.urgent |= matches!(event, Event::Ground | Event::Route { default: true });
        event == Event::Route { default: false }
    }

    /// Are routes to be read now?
    pub fn is_due(&self, now: Instant) -> bool {
        self.stale && (self.urgent || now >= self.due)
    }

    /// They are read from now on: what is heard meanwhile is for the next time.
    pub fn begin(&mut self) {
        (self.stale, self.urgent) = (false, false);
    }

    /// They were read, which took so long.
    pub fn end(&mut self, now: Instant, took: Duration) {
        self.due = now + took * SHARE;
    }
}

/// Reads the head of a message: `linux/rtnetlink.h`.
fn of(event: &[u8]) -> Event {
    const LINKS_AND_ADDRESSES: [u16; 4] = [16, 17, 20, 21];
    const ROUTES: [u16; 2] = [24, 25];
    let kind = event.get(KIND_AT..KIND_AT + 2).and_then(|kind| kind.try_into().ok());
    match kind.map(u16::from_ne_bytes) {
        Some(kind) if ROUTES.contains(&kind) => {
            Event::Route { default: event.get(LENGTH_AT).is_none_or(|length| *length == 0) }
        }
        Some(kind) if LINKS_AND_ADDRESSES.contains(&kind) => Event::Ground,
        Some(_) => Event::Other,
        // Cut off before its type.
        None => Event::Ground,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: u16, prefix_len: u8) -> Vec<u8> {
        let mut event = vec![0; 28];
        event[KIND_AT..KIND_AT + 2].copy_from_slice(&kind.to_ne_bytes());
        event[LENGTH_AT] = prefix_len;
        event
    }

    /// A reading that took a tenth of a second and has just ended.
    fn read(now: Instant) -> Reading {
        let mut reading = Reading::none(now);
        reading.begin();
        reading.end(now, Duration::from_millis(100));
        reading
    }

    #[test]
    fn without_an_event_about_them_routes_are_not_read_again() {
        let now = Instant::now();
        let mut reading = read(now);
        assert!(!reading.hear(&event(28, 0)), "a neighbour");
        assert!(!reading.is_due(now + Duration::from_secs(3600)));
    }

    #[test]
    fn readings_of_routes_that_change_all_the_time_cost_a_twentieth_of_it() {
        let now = Instant::now();
        let mut reading = read(now);
        assert!(reading.hear(&event(24, 24)));
        assert!(!reading.is_due(now + Duration::from_millis(1999)));
        assert!(reading.is_due(now + Duration::from_millis(2000)));
    }

    #[test]
    fn a_default_route_a_link_and_an_address_are_obeyed_at_once() {
        let now = Instant::now();
        for event in [event(25, 0), event(16, 0), event(21, 24), vec![]] {
            let mut reading = read(now);
            assert!(!reading.hear(&event));
            assert!(reading.is_due(now), "{event:?}");
        }
        let mut reading = read(now);
        reading.lost();
        assert!(reading.is_due(now));
    }

    #[test]
    fn what_is_heard_during_a_reading_is_for_the_next_one() {
        let now = Instant::now();
        let mut reading = Reading::none(now);
        reading.begin();
        reading.hear(&event(24, 0));
        reading.end(now, Duration::ZERO);
        assert!(reading.is_due(now));
    }
}
