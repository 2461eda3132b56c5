//! Services that have answered lately: they alone are evidence when they do not.
//!
//! Peers of a file-sharing network that are gone, and addresses that somebody scans, never answer by
//! any link. A service that answered somebody, by whichever uplink, should do so again. One that
//! stays silent for `SILENCE_MS` without an answer by any uplink has gone itself, and is evidence no
//! more until it answers.

use weir_wire::family::Family;

use crate::purpose::Purpose;
use weir_wire::key::FlowKey;

/// Services that are remembered; a new one takes the place of one with the same hash.
const PLACES: usize = 1 << 14;
/// How long an answer speaks for a service.
const MEMORY_MS: u32 = 600_000;
/// How long a service that answers nobody is evidence: two windows of what users' connections say.
const SILENCE_MS: u32 = 10_000;

/// What is known of one service.
#[derive(Clone, Copy, Debug, Default)]
struct Service {
    /// Which it is; 0: none.
    tag: u32,
    /// When it last answered.
    answered: u32,
    /// When a flow to it was first seen to be unanswered since then.
    silent: Option<u32>,
}

/// The services that a worker's flows have reached. Times are milliseconds, wrapping.
#[derive(Debug)]
pub struct Services {
    key: [u64; 2],
    places: Box<[Service]>,
}

impl Services {
    /// None yet. The key keeps others from choosing who takes whose place.
    pub fn new(key: [u64; 2]) -> Self {
        Self { key, places: vec![Service::default(); PLACES].into() }
    }

    /// The service that packets of this key lead to: address, port and protocol.
    pub fn of<F: Family>(&self, key: &FlowKey<F>) -> u64 {
        let ([a, b, c, d], [e, f]) = (F::digest(self.key, &key.dst()).to_be_bytes(), key.dport());
        Purpose::Service.hash(self.key, u64::from_be_bytes([a, b, c, d, e, f, 0, key.proto()]))
    }

    /// It answered.
    pub fn answered(&mut self, service: u64, now: u32) {
        let (place, tag) = split(service);
        self.places[place] = Service { tag, answered: now, silent: None };
    }

    /// It did not answer; says whether it should have.
    pub fn silent(&mut self, service: u64, now: u32) -> bool {
        let (place, tag) = split(service);
        let known = &mut self.places[place];
        if known.tag != tag || now.wrapping_sub(known.answered) >= MEMORY_MS {
            return false;
        }
        now.wrapping_sub(*known.silent.get_or_insert(now)) < SILENCE_MS
    }
}

fn split(service: u64) -> (usize, u32) {
    ((service as usize) % PLACES, (service >> 32) as u32 | 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: u64 = 0x1234_5678_9abc_def0;

    #[test]
    fn a_service_that_never_answered_owes_no_answer() {
        let mut services = Services::new([1, 2]);
        assert!(!services.silent(SERVICE, 1));
        services.answered(SERVICE ^ 1 << 63, 1);
        assert!(!services.silent(SERVICE, 1), "another one in its place");
    }

    #[test]
    fn a_service_that_answered_lately_owes_an_answer() {
        let mut services = Services::new([1, 2]);
        services.answered(SERVICE, 5);
        assert!(services.silent(SERVICE, MEMORY_MS + 4));
        services.answered(SERVICE, 5);
        assert!(!services.silent(SERVICE, MEMORY_MS + 5));
    }

    #[test]
    fn a_service_that_stays_silent_is_gone_until_it_answers() {
        let mut services = Services::new([1, 2]);
        services.answered(SERVICE, 1000);
        assert!(services.silent(SERVICE, 2000));
        assert!(services.silent(SERVICE, 2000 + SILENCE_MS - 1));
        assert!(!services.silent(SERVICE, 2000 + SILENCE_MS));
        services.answered(SERVICE, 20_000);
        assert!(services.silent(SERVICE, 30_000));
    }
}
