//! How often a host may ask. Who asks too often is not answered, and takes nothing from others but
//! those few that share its place: where that is follows from a number that nobody outside knows.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

/// Places, a power of two.
const PLACES: usize = 1024;
/// Requests of a host at once: as many as it may have mappings, and some.
const BURST: u32 = 64;
/// From one more to the next, milliseconds.
const EACH_MS: u64 = 100;

/// Of the hosts of a LAN, in a family.
#[derive(Debug)]
pub struct Limiter {
    secret: u64,
    places: Box<[Place; PLACES]>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    left: u32,
    since: u64,
}

impl Limiter {
    /// By a secret.
    pub fn new(secret: u64) -> Self {
        Self { secret, places: Box::new([Place { left: BURST, since: 0 }; PLACES]) }
    }

    /// May a host ask now?
    pub fn admit(&mut self, host: IpAddr, now: u64) -> bool {
        let mut hasher = DefaultHasher::new();
        (self.secret, host).hash(&mut hasher);
        let place = &mut self.places[hasher.finish() as usize & (PLACES - 1)];
        let more = now.saturating_sub(place.since) / EACH_MS;
        if more > 0 {
            place.left = u64::from(BURST).min(u64::from(place.left).saturating_add(more)) as u32;
            place.since = now;
        }
        let admitted = place.left > 0;
        place.left -= u32::from(admitted);
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_that_asks_too_often_is_not_answered_and_others_are() {
        let mut limiter = Limiter::new(7);
        let [one, other] = ["10.0.0.5", "10.0.0.6"].map(|ip| ip.parse().unwrap());
        let admitted = (0..100_000).filter(|_| limiter.admit(one, 5000)).count();
        assert_eq!(admitted, BURST as usize);
        assert!(limiter.admit(other, 5000));
        let later = (0..100_000).filter(|_| limiter.admit(one, 5000 + 10 * EACH_MS)).count();
        assert_eq!(later, 10);
        let much_later = (0..100_000).filter(|_| limiter.admit(one, u64::MAX)).count();
        assert_eq!(much_later, BURST as usize);
    }
}
