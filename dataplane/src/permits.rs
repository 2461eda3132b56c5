//! Who may come in by a mapping, where its uplink lets in more than flows (RFC 4787 §5).
//!
//! A host that sends from a mapping permits whom it sends to, and its flow goes on to do so while
//! it lives: when it begins and by each walk over the table. What is not said again is forgotten, so
//! no permit outlives its flow by more than [`LIFETIME_MS`]. Nothing that comes in permits anything.

use std::collections::HashMap;

use weir_wire::family::Family;

use crate::nat::{Endpoint, External};

/// How long a permit holds that is not renewed, milliseconds: several walks over the table.
pub const LIFETIME_MS: u32 = 60_000;

/// By whose mapping, and who may come in by it; `None`: anybody. As words in memory order.
type Key = (u8, u16, [u8; 16], Option<[u8; 16]>);

/// To whom, and where that is.
#[derive(Clone, Copy, Debug)]
pub struct Permit<F: Family> {
    /// The endpoint, for its external port may be another's by now.
    pub endpoint: Endpoint<F>,
    /// The word of its host's adjacency.
    pub host: u64,
    /// When its flow was last met.
    at: u32,
}

/// The permits of a worker.
#[derive(Debug)]
pub struct Permits<F: Family>(HashMap<Key, Permit<F>>);

impl<F: Family> Default for Permits<F> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<F: Family> Permits<F> {
    /// The endpoint, whose host this is by the word of its adjacency, permits `remote`, or anybody,
    /// to come in by its mapping. Another host that sends as this endpoint takes nothing over while
    /// the permit holds.
    pub fn permit(
        &mut self,
        external: &External<F>,
        remote: Option<F::Address>,
        endpoint: Endpoint<F>,
        host: u64,
        now: u32,
    ) {
        let permit =
            self.0.entry(key(external, remote)).or_insert(Permit { endpoint, host, at: now });
        let same = (permit.endpoint, permit.host) == (endpoint, host);
        if same || permit.endpoint != endpoint || !permit.holds(now) {
            *permit = Permit { endpoint, host, at: now };
        }
    }

    /// What permits `remote`, or anybody, to come in by a mapping.
    pub fn find(
        &self,
        external: &External<F>,
        remote: Option<F::Address>,
        now: u32,
    ) -> Option<Permit<F>> {
        self.0.get(&key(external, remote)).filter(|permit| permit.holds(now)).copied()
    }

    /// Forgets those that hold no more.
    pub fn forget_old(&mut self, now: u32) {
        self.0.retain(|_, permit| permit.holds(now));
    }
}

impl<F: Family> Permit<F> {
    const fn holds(&self, now: u32) -> bool {
        now.wrapping_sub(self.at) < LIFETIME_MS
    }
}

fn key<F: Family>(external: &External<F>, remote: Option<F::Address>) -> Key {
    use weir_layout::control::IpAddress as _;
    let bytes = |address: F::Address| address.to_address().0;
    (external.proto, external.port, bytes(external.address), remote.map(bytes))
}

#[cfg(test)]
mod tests {
    use weir_wire::family::V4;
    use weir_wire::udp;

    use super::*;

    const EXTERNAL: External = External { proto: udp::PROTOCOL, address: [1; 4], port: 7 };
    const ENDPOINT: Endpoint =
        Endpoint { proto: udp::PROTOCOL, policy: 0, address: [10; 4], port: 7 };

    #[test]
    fn a_permit_is_for_its_mapping_and_its_remote_and_ends_when_it_is_not_renewed() {
        let mut permits = Permits::<V4>::default();
        permits.permit(&EXTERNAL, Some([9; 4]), ENDPOINT, 5, 1000);
        let host = |permits: &Permits<V4>, now| {
            permits.find(&EXTERNAL, Some([9; 4]), now).map(|permit| permit.host)
        };
        assert_eq!(host(&permits, 1000), Some(5));
        assert!(permits.find(&EXTERNAL, Some([8; 4]), 1000).is_none());
        assert!(permits.find(&EXTERNAL, None, 1000).is_none());
        let other = External { port: 8, ..EXTERNAL };
        assert!(permits.find(&other, Some([9; 4]), 1000).is_none());
        permits.permit(&EXTERNAL, Some([9; 4]), ENDPOINT, 6, 1000 + LIFETIME_MS - 1);
        assert_eq!(host(&permits, 1000 + LIFETIME_MS - 1), Some(5), "another host");
        permits.permit(&EXTERNAL, Some([9; 4]), ENDPOINT, 5, 1000 + LIFETIME_MS - 1);
        permits.forget_old(1000 + LIFETIME_MS);
        assert_eq!(host(&permits, 1000 + LIFETIME_MS), Some(5));
        assert_eq!(host(&permits, 999 + 2 * LIFETIME_MS), None);
        permits.forget_old(999 + 2 * LIFETIME_MS);
        assert!(permits.0.is_empty());
    }
}
