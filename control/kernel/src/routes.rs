//! When the kernel's routes are read anew.
//!
//! All else that the view is made of is small. Routes may be a million, and change many times a
//! second: they are read when an event says that they changed, and then no more often than costs a
//! twentieth of the time; but at once where a default route changed, or what routes depend on: an
//! address, or an interface that is set up or down. A carrier takes no route with it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use weir_layout::Family;

use crate::events::Event;

/// A reading may take this part of the time.
const SHARE: u32 = 20;

/// What is known of the newest reading of a family's routes.
#[derive(Clone, Debug)]
pub struct Reading {
    family: Family,
    /// What was read is out of date.
    stale: bool,
    /// And that cannot wait.
    urgent: bool,
    /// When the next reading is due, if it can wait.
    due: Instant,
    /// Interfaces that are set up; others have no routes.
    up: HashSet<u32>,
}

impl Reading {
    /// None yet.
    pub fn none(family: Family, now: Instant) -> Self {
        Self { family, stale: true, urgent: true, due: now, up: HashSet::new() }
    }

    /// Takes note of an event. Says whether it is about a route that can wait.
    pub fn on_event(&mut self, event: Event) -> bool {
        let urgent = match event {
            Event::Link { index, up: true, .. } => self.up.insert(index),
            Event::Link { index, up: false, .. } => self.up.remove(&index),
            Event::Address(family) => family == self.family,
            Event::Unknown => true,
            Event::Route { family, default } => {
                self.stale |= family == self.family;
                family == self.family && default
            }
            Event::Neighbour | Event::Rule | Event::Setting => false,
        };
        self.stale |= urgent;
        self.urgent |= urgent;
        matches!(event, Event::Route { default: false, .. })
    }

    /// Takes note of the interfaces that are set up, as they were read. One that is not as events
    /// have told so far is news: its own event is yet to come.
    pub fn know(&mut self, up: HashSet<u32>) {
        if up != self.up {
            (self.stale, self.urgent) = (true, true);
            self.up = up;
        }
    }

    /// Are routes to be read now?
    pub fn is_due(&self, now: Instant) -> bool {
        self.stale && (self.urgent || now >= self.due)
    }

    /// They are read from now on: what is heard meanwhile is for the next time.
    pub fn begin(&mut self) {
        (self.stale, self.urgent) = (false, false);
    }

    /// They could not be read, after so long: they are tried again when that costs a twentieth.
    pub fn fail(&mut self, now: Instant, took: Duration) {
        self.stale = true;
        self.end(now, took);
    }

    /// They were read, which took so long.
    pub fn end(&mut self, now: Instant, took: Duration) {
        self.due = now + took * SHARE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTE: Event = Event::Route { family: Family::V4, default: false };

    /// A reading that took a tenth of a second and has just ended.
    fn read(now: Instant) -> Reading {
        let mut reading = Reading::none(Family::V4, now);
        reading.begin();
        reading.end(now, Duration::from_millis(100));
        reading
    }

    #[test]
    fn without_an_event_about_them_routes_are_not_read_again() {
        let now = Instant::now();
        let mut reading = read(now);
        assert!(!reading.on_event(Event::Neighbour));
        assert!(!reading.is_due(now + Duration::from_secs(3600)));
    }

    #[test]
    fn readings_of_routes_that_change_all_the_time_cost_a_twentieth_of_it() {
        let now = Instant::now();
        let mut reading = read(now);
        assert!(reading.on_event(ROUTE));
        assert!(!reading.is_due(now + Duration::from_millis(1999)));
        assert!(reading.is_due(now + Duration::from_millis(2000)));
    }

    #[test]
    fn a_default_route_a_link_and_an_address_are_obeyed_at_once() {
        let now = Instant::now();
        let up = Event::Link { index: 3, up: true, running: false };
        let default = Event::Route { family: Family::V4, default: true };
        for event in [default, up, Event::Address(Family::V4), Event::Unknown] {
            let mut reading = read(now);
            assert!(!reading.on_event(event));
            assert!(reading.is_due(now), "{event:?}");
        }
    }

    #[test]
    fn a_carrier_that_goes_or_comes_takes_and_brings_no_routes() {
        let now = Instant::now();
        let mut reading = Reading::none(Family::V4, now);
        reading.know([3].into());
        reading.begin();
        reading.end(now, Duration::ZERO);
        reading.on_event(Event::Link { index: 3, up: true, running: false });
        assert!(!reading.is_due(now), "it stays set up");
        reading.on_event(Event::Link { index: 3, up: false, running: false });
        assert!(reading.is_due(now), "what it is set down takes is not told one by one");
    }

    #[test]
    fn an_interface_that_is_found_set_down_before_its_event_came_is_obeyed() {
        let now = Instant::now();
        let mut reading = Reading::none(Family::V4, now);
        reading.know([3].into());
        reading.begin();
        reading.end(now, Duration::ZERO);
        reading.know(HashSet::new());
        assert!(reading.is_due(now));
    }

    #[test]
    fn what_is_heard_during_a_reading_is_for_the_next_one() {
        let now = Instant::now();
        let mut reading = Reading::none(Family::V4, now);
        reading.begin();
        reading.on_event(ROUTE);
        reading.end(now, Duration::ZERO);
        assert!(reading.is_due(now));
    }

    #[test]
    fn a_reading_that_failed_is_tried_again_but_costs_no_more_than_others() {
        let now = Instant::now();
        let mut reading = Reading::none(Family::V6, now);
        reading.begin();
        reading.fail(now, Duration::from_secs(1));
        assert!(!reading.is_due(now + Duration::from_secs(19)));
        assert!(reading.is_due(now + Duration::from_secs(20)));
    }

    #[test]
    fn routes_of_one_family_are_not_read_for_what_changes_in_the_other() {
        let now = Instant::now();
        let mut reading = read(now);
        reading.on_event(Event::Route { family: Family::V6, default: true });
        reading.on_event(Event::Address(Family::V6));
        assert!(!reading.is_due(now + Duration::from_secs(3600)));
    }
}
