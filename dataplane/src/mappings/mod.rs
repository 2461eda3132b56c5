//! The endpoint-independent mappings of one worker: UDP endpoints and ICMP queries, and TCP endpoints
//! where an uplink maps those.
//!
//! Mappings are numbered; two indices of their numbers find them, by endpoint and by external port.
//! That is 16 bytes an IPv4 mapping and 5 for each index, however many addresses there are, and a look-up
//! touches a line of an index, and the mapping's if there is one. Both can be asked for in advance.

mod index;
mod records;

use index::Index;
use records::{Record, Records};
use weir_layout::MAX_UPLINKS;
use weir_layout::control::{Address, IpAddress};
use weir_shm::map::prefetch;
use weir_wire::family::{Family, V4};
use weir_wire::protocol;

use crate::nat::{Endpoint, External};
use crate::purpose::Purpose;

/// An endpoint's mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping<F: Family = V4> {
    /// Uplink index.
    pub uplink: u8,
    /// What the endpoint looks like outside.
    pub external: External<F>,
}

/// What mappings are found by, with its hash: a new flow looks for its endpoint and its external
/// port several times. Of a protocol that [has no mappings](Mappings::maps) it is none.
#[derive(Clone, Copy, Debug)]
pub struct Hashed<T> {
    /// Itself.
    pub of: T,
    hash: u64,
}

/// See the module's text.
#[derive(Debug)]
pub struct Mappings<F: Family = V4> {
    key: [u64; 2],
    /// Endpoints of TCP may have mappings.
    tcp: bool,
    records: Records<F>,
    by_endpoint: Index,
    by_external: Index,
    taken: [TakenPorts<F>; MAX_UPLINKS],
}

/// Ports of an uplink's addresses that are taken.
#[derive(Debug)]
struct TakenPorts<F: Family> {
    by_address: Vec<Taken<F>>,
    /// Of each protocol, at all addresses.
    of_all: Vec<(u8, u32)>,
}

/// Ports of an address that are taken, by protocol. An uplink has a few addresses.
#[derive(Debug)]
struct Taken<F: Family> {
    proto: u8,
    address: F::Address,
    ports: u32,
}

impl<F: Family> Mappings<F> {
    /// Room for `capacity` mappings before anything grows; `key` is a secret.
    pub fn new(key: [u64; 2], capacity: usize) -> Self {
        Self {
            key,
            tcp: false,
            records: Records::new(),
            by_endpoint: Index::new(capacity),
            by_external: Index::new(capacity),
            taken: std::array::from_fn(|_| TakenPorts::default()),
        }
    }

    /// Makes room for so many mappings: an index that grew under load would hold up a batch while it
    /// moves.
    pub fn reserve(&mut self, capacity: usize) {
        let (key, records) = (self.key, &self.records);
        let of_endpoint = |n| of_endpoint(key, &records.at(n).endpoint());
        let of_external = |n| of_external(key, &records.at(n).external());
        self.by_endpoint.reserve(capacity, of_endpoint);
        self.by_external.reserve(capacity, of_external);
    }

    /// From now on endpoints of TCP may have mappings.
    pub fn map_tcp(&mut self) {
        self.tcp = true;
    }

    /// May endpoints of the protocol have mappings?
    #[inline]
    pub fn maps(&self, proto: u8) -> bool {
        if proto == protocol::TCP { self.tcp } else { protocol::is_mapped(proto) }
    }

    /// An endpoint to look for.
    #[inline]
    pub fn endpoint(&self, endpoint: Endpoint<F>) -> Hashed<Endpoint<F>> {
        let hash = if self.maps(endpoint.proto) { of_endpoint(self.key, &endpoint) } else { 0 };
        Hashed { of: endpoint, hash }
    }

    /// An external port to look for.
    #[inline]
    pub fn external(&self, external: External<F>) -> Hashed<External<F>> {
        let hash = if self.maps(external.proto) { of_external(self.key, &external) } else { 0 };
        Hashed { of: external, hash }
    }

    /// Asks for what [`Self::get`] looks at first.
    #[inline]
    pub fn prefetch(&self, endpoint: &Hashed<Endpoint<F>>) {
        self.by_endpoint.prefetch(endpoint.hash);
    }

    /// Asks for what [`Self::is_free`] looks at first.
    #[inline]
    pub fn prefetch_external(&self, external: &Hashed<External<F>>) {
        self.by_external.prefetch(external.hash);
    }

    /// Asks for the endpoint's mapping itself, for which [`Self::prefetch`] has asked long enough ago.
    #[inline]
    pub fn prefetch_mapping(&self, endpoint: &Hashed<Endpoint<F>>) {
        if let Some(number) = self.by_endpoint.candidate(endpoint.hash) {
            prefetch(self.records.at(number));
        }
    }

    /// The endpoint's mapping.
    pub fn get(&self, endpoint: &Hashed<Endpoint<F>>) -> Option<Mapping<F>> {
        let same = |n: u32| self.records.at(n).endpoint() == endpoint.of;
        let number = self.by_endpoint.find(endpoint.hash, same)?;
        let record = self.records.at(number);
        Some(Mapping { uplink: record.uplink(), external: record.external() })
    }

    /// The endpoint that has the external port; none whose mapping was [detached](Self::detach).
    pub fn inside(&self, external: &Hashed<External<F>>) -> Option<Hashed<Endpoint<F>>> {
        let endpoint = self.endpoint(self.records.at(self.number_of(external)?).endpoint());
        let mapping = self.get(&endpoint)?;
        (mapping.external == external.of).then_some(endpoint)
    }

    /// Is the external port unused, and room for a mapping to it?
    pub fn is_free(&self, external: &Hashed<External<F>>) -> bool {
        self.number_of(external).is_none() && self.records.has_room()
    }

    /// Counts a flow on the endpoint's mapping, which is made if there is none; says whether it was.
    pub fn hold(
        &mut self,
        endpoint: &Hashed<Endpoint<F>>,
        uplink: u8,
        external: &Hashed<External<F>>,
    ) -> bool {
        let number = self.number_of(external);
        match number {
            Some(number) => self.records.at_mut(number).hold(),
            None => self.make(endpoint, uplink, external),
        }
        number.is_none()
    }

    /// Makes a mapping to an external port that [is free](Self::is_free), for its first flow.
    pub fn make(
        &mut self,
        endpoint: &Hashed<Endpoint<F>>,
        uplink: u8,
        external: &Hashed<External<F>>,
    ) {
        self.enter(Record::new(endpoint.of, uplink, external.of), endpoint, external);
    }

    /// Counts a flow on the mapping of an endpoint to the port of a service that leads to it, and that it
    /// [may have](Self::may_have): made if there is none, which this says, and attached again if it was
    /// detached.
    pub fn hold_service(
        &mut self,
        endpoint: &Hashed<Endpoint<F>>,
        uplink: u8,
        external: &Hashed<External<F>>,
    ) -> bool {
        let Some(number) = self.number_of(external) else {
            let record = Record::of_service(endpoint.of, uplink, external.of);
            self.enter(record, endpoint, external);
            return true;
        };
        self.records.at_mut(number).hold();
        if self.get(endpoint).is_none() && self.records.at(number).endpoint() == endpoint.of {
            self.attach(number, endpoint);
        }
        false
    }

    /// May the endpoint have the port of a service that leads to it? Not while another has a mapping to
    /// it, from before; one under another policy is the same.
    pub fn may_have(&self, inside: (F::Address, u16), external: &Hashed<External<F>>) -> bool {
        let Some(number) = self.number_of(external) else { return self.records.has_room() };
        let Endpoint { address, port, .. } = self.records.at(number).endpoint();
        (address, port) == inside
    }

    fn enter(
        &mut self,
        record: Record<F>,
        endpoint: &Hashed<Endpoint<F>>,
        external: &Hashed<External<F>>,
    ) {
        let number = self.records.add(record);
        if !record.is_of_service() {
            self.taken[usize::from(record.uplink())].add(&external.of);
        }
        let (key, records) = (self.key, &self.records);
        let of_external = |n| of_external(key, &records.at(n).external());
        self.by_external.insert(number, external.hash, of_external);
        self.attach(number, endpoint);
    }

    fn attach(&mut self, number: u32, endpoint: &Hashed<Endpoint<F>>) {
        let (key, records) = (self.key, &self.records);
        let of_endpoint = |n| of_endpoint(key, &records.at(n).endpoint());
        self.by_endpoint.insert(number, endpoint.hash, of_endpoint);
    }

    /// Forgets a flow; the mapping goes with its last one, and is returned then.
    pub fn release(&mut self, external: &Hashed<External<F>>) -> Option<(Endpoint<F>, Mapping<F>)> {
        let number = self.number_of(external)?;
        if !self.records.at_mut(number).release() {
            return None;
        }
        let record = self.records.at(number);
        let (endpoint, uplink) = (record.endpoint(), record.uplink());
        if !record.is_of_service() {
            self.taken[usize::from(uplink)].remove(&external.of);
        }
        self.forget(number);
        self.by_external.remove(external.hash, |n| n == number);
        self.records.free(number);
        Some((endpoint, Mapping { uplink, external: external.of }))
    }

    /// Mappings have numbers below this one.
    pub fn numbers(&self) -> u32 {
        self.records.numbers()
    }

    /// The mapping with this number, attached to its endpoint or not, if there is one.
    pub fn numbered(&self, number: u32) -> Option<(Endpoint<F>, Mapping<F>)> {
        let record = self.records.at(number);
        let mapping = Mapping { uplink: record.uplink(), external: record.external() };
        (!record.is_free()).then(|| (record.endpoint(), mapping))
    }

    /// Detaches the mapping from its endpoint, whose next flow gets another one; flows that still
    /// use the external port keep it until they end.
    pub fn detach(&mut self, external: &Hashed<External<F>>) {
        if let Some(number) = self.number_of(external) {
            self.forget(number);
        }
    }

    /// Ports of the protocol that mappings by the uplink have, of all its addresses but these, and without
    /// those of services.
    pub fn taken(&self, uplink: u8, proto: u8, but: &[Address]) -> u32 {
        self.taken.get(usize::from(uplink)).map_or(0, |taken| taken.count(proto, but))
    }

    /// Number of endpoints with a mapping.
    pub fn len(&self) -> usize {
        self.by_endpoint.len()
    }

    /// No mapping at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn number_of(&self, external: &Hashed<External<F>>) -> Option<u32> {
        let same = |n: u32| self.records.at(n).external() == external.of;
        self.by_external.find(external.hash, same)
    }

    fn forget(&mut self, number: u32) {
        let endpoint = self.records.at(number).endpoint();
        self.by_endpoint.remove(of_endpoint(self.key, &endpoint), |n| n == number);
    }
}

impl<F: Family> Default for TakenPorts<F> {
    fn default() -> Self {
        Self { by_address: Vec::new(), of_all: Vec::new() }
    }
}

impl<F: Family> TakenPorts<F> {
    fn count(&self, proto: u8, but: &[Address]) -> u32 {
        let of_all = self.of_all.iter().find(|of| of.0 == proto).map_or(0, |of| of.1);
        // As a rule there are none.
        let of_those = but.iter().map(|address| {
            let is_of =
                |taken: &&Taken<F>| taken.proto == proto && taken.address.to_address() == *address;
            self.by_address.iter().find(is_of).map_or(0, |taken| taken.ports)
        });
        of_all.saturating_sub(of_those.sum())
    }

    fn add(&mut self, external: &External<F>) {
        let External { proto, address, .. } = *external;
        match self.by_address.iter_mut().find(|taken| taken.is_of(external)) {
            Some(taken) => taken.ports += 1,
            None => self.by_address.push(Taken { proto, address, ports: 1 }),
        }
        match self.of_all.iter_mut().find(|of| of.0 == proto) {
            Some(of) => of.1 += 1,
            None => self.of_all.push((proto, 1)),
        }
    }

    fn remove(&mut self, external: &External<F>) {
        let mut taken = self.by_address.iter();
        let Some(at) = taken.position(|taken| taken.is_of(external)) else { return };
        self.by_address[at].ports -= 1;
        if self.by_address[at].ports == 0 {
            self.by_address.swap_remove(at);
        }
        if let Some(of) = self.of_all.iter_mut().find(|of| of.0 == external.proto) {
            of.1 -= 1;
        }
    }
}

impl<F: Family> Taken<F> {
    fn is_of(&self, external: &External<F>) -> bool {
        self.proto == external.proto && self.address == external.address
    }
}

fn of_endpoint<F: Family>(key: [u64; 2], endpoint: &Endpoint<F>) -> u64 {
    let [lo, hi] = endpoint.port.to_le_bytes();
    let rest = u32::from_le_bytes([lo, hi, endpoint.proto, endpoint.policy]);
    Purpose::Endpoint.hash(key, word::<F>(key, &endpoint.address, rest))
}

fn of_external<F: Family>(key: [u64; 2], external: &External<F>) -> u64 {
    let [lo, hi] = external.port.to_le_bytes();
    let rest = u32::from_le_bytes([lo, hi, external.proto, 0]);
    Purpose::External.hash(key, word::<F>(key, &external.address, rest))
}

fn word<F: Family>(key: [u64; 2], address: &F::Address, rest: u32) -> u64 {
    u64::from(F::digest(key, address)) | u64::from(rest) << 32
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use weir_wire::family::V6;
    use weir_wire::udp;

    const ENDPOINT: Endpoint =
        Endpoint { proto: 17, policy: 0, address: [10, 0, 0, 1], port: 5000 };
    const OUTSIDE: External = External { proto: 17, address: [192, 0, 2, 1], port: 5000 };

    /// Mappings that hash what they are asked for themselves.
    struct Plain(Mappings);

    impl Plain {
        fn new(key: [u64; 2], capacity: usize) -> Self {
            Self(Mappings::new(key, capacity))
        }

        fn get(&self, endpoint: &Endpoint) -> Option<Mapping> {
            self.0.get(&self.0.endpoint(*endpoint))
        }

        fn is_free(&self, external: &External) -> bool {
            self.0.is_free(&self.0.external(*external))
        }

        fn hold(&mut self, endpoint: Endpoint, uplink: u8, external: External) {
            let (endpoint, external) = (self.0.endpoint(endpoint), self.0.external(external));
            self.0.hold(&endpoint, uplink, &external);
        }

        fn release(&mut self, external: &External) {
            self.0.release(&self.0.external(*external));
        }

        fn detach(&mut self, external: &External) {
            self.0.detach(&self.0.external(*external));
        }
    }

    #[test]
    fn ipv6_endpoints_have_mappings_of_their_own_kind() {
        let mut mappings = Mappings::<V6>::new([1, 2], 4);
        let address = |last: u8| {
            let mut address = [0x20; 16];
            address[15] = last;
            address
        };
        for last in 0..200 {
            for proto in [udp::PROTOCOL, V6::ICMP] {
                let (address, port) = (address(last), 5000);
                let endpoint = mappings.endpoint(Endpoint { proto, policy: 0, address, port });
                let external = mappings.external(External { proto, address, port });
                assert!(mappings.get(&endpoint).is_none() && mappings.is_free(&external));
                mappings.make(&endpoint, 3, &external);
            }
        }
        assert_eq!(mappings.len(), 400);
        for last in 0..200 {
            let (address, port) = (address(last), 5000);
            let endpoint =
                mappings.endpoint(Endpoint { proto: V6::ICMP, policy: 0, address, port });
            let mapping = mappings.get(&endpoint).unwrap();
            assert_eq!((mapping.external.address, mapping.external.proto), (address, V6::ICMP));
            mappings.release(&mappings.external(mapping.external));
            assert_eq!(mappings.get(&endpoint), None);
        }
        assert_eq!(mappings.len(), 200);
    }

    #[test]
    fn a_mapping_lives_as_long_as_its_last_flow() {
        let mut mappings = Plain::new([1, 2], 4);
        mappings.hold(ENDPOINT, 2, OUTSIDE);
        mappings.hold(ENDPOINT, 2, OUTSIDE);
        mappings.release(&OUTSIDE);
        assert_eq!(mappings.get(&ENDPOINT), Some(Mapping { uplink: 2, external: OUTSIDE }));
        mappings.release(&OUTSIDE);
        assert_eq!(mappings.get(&ENDPOINT), None);
        assert!(mappings.is_free(&OUTSIDE) && mappings.0.is_empty());
    }

    #[test]
    fn a_detached_endpoint_maps_anew_and_its_old_port_stays_taken_while_used() {
        let mut mappings = Plain::new([1, 2], 4);
        mappings.hold(ENDPOINT, 2, OUTSIDE);
        mappings.detach(&OUTSIDE);
        assert_eq!(mappings.get(&ENDPOINT), None);
        let elsewhere = External { address: [203, 0, 113, 1], ..OUTSIDE };
        mappings.hold(ENDPOINT, 1, elsewhere);
        assert!(!mappings.is_free(&OUTSIDE));
        mappings.release(&OUTSIDE);
        assert!(mappings.is_free(&OUTSIDE));
        assert_eq!(mappings.get(&ENDPOINT).unwrap().external, elsewhere);
    }

    #[test]
    fn endpoints_policies_and_protocols_are_apart() {
        let mut mappings = Plain::new([1, 2], 4);
        mappings.0.map_tcp();
        let other = |change: &dyn Fn(&mut Endpoint)| {
            let mut endpoint = ENDPOINT;
            change(&mut endpoint);
            endpoint
        };
        let endpoints = [
            ENDPOINT,
            other(&|e| e.policy = 1),
            other(&|e| e.port = 5001),
            other(&|e| e.address = [10, 0, 0, 2]),
            other(&|e| e.proto = 1),
            other(&|e| e.proto = protocol::TCP),
        ];
        for (port, endpoint) in (6000..).zip(endpoints) {
            let external = External { proto: endpoint.proto, port, ..OUTSIDE };
            mappings.hold(endpoint, 0, external);
        }
        for (port, endpoint) in (6000..).zip(endpoints) {
            assert_eq!(mappings.get(&endpoint).unwrap().external.port, port);
        }
        assert_eq!(mappings.0.len(), endpoints.len());
    }

    #[test]
    fn a_great_many_mappings_are_all_found() {
        let mut mappings = Plain::new([1, 2], 4);
        let endpoint = |port| Endpoint { port, ..ENDPOINT };
        for port in 0..=u16::MAX {
            mappings.hold(endpoint(port), 0, External { port: !port, ..OUTSIDE });
        }
        assert!((0..=u16::MAX).all(|p| mappings.get(&endpoint(p)).unwrap().external.port == !p));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Hold(u16),
        Release(u16),
        Detach(u16),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = (0u16..60, 0..5).prop_map(|(port, what)| match what {
            0..=2 => Step::Hold(port),
            3 => Step::Release(port),
            _ => Step::Detach(port),
        });
        prop::collection::vec(step, 0..400)
    }

    proptest! {
        /// An endpoint's external port is its own plus 1000, until it is detached.
        #[test]
        fn mappings_are_what_a_plain_map_says(steps in steps(), capacity in 0usize..40) {
            let mut mappings = Plain::new([1, 2], capacity);
            let mut flows: HashMap<u16, u32> = HashMap::new();
            let mut attached: HashMap<u16, bool> = HashMap::new();
            let endpoint = |port| Endpoint { port, ..ENDPOINT };
            let external = |port| External { port: port + 1000, ..OUTSIDE };
            for step in steps {
                match step {
                    Step::Hold(port) => {
                        mappings.hold(endpoint(port), 3, external(port));
                        let count = flows.entry(port).or_default();
                        *count += 1;
                        if *count == 1 {
                            attached.insert(port, true);
                        }
                    }
                    Step::Release(port) => {
                        mappings.release(&external(port));
                        let count = flows.entry(port).or_default();
                        *count = count.saturating_sub(1);
                        if *count == 0 {
                            attached.insert(port, false);
                        }
                    }
                    Step::Detach(port) => {
                        mappings.detach(&external(port));
                        attached.insert(port, false);
                    }
                }
            }
            for port in 0..60 {
                let there = attached.get(&port).copied().unwrap_or(false);
                let expected = there.then(|| Mapping { uplink: 3, external: external(port) });
                prop_assert_eq!(mappings.get(&endpoint(port)), expected);
                let held = flows.get(&port).copied().unwrap_or(0) > 0;
                prop_assert_eq!(mappings.is_free(&external(port)), !held);
            }
            let held = flows.values().filter(|flows| **flows > 0).count();
            prop_assert_eq!(mappings.0.taken(3, external(0).proto, &[]) as usize, held);
            prop_assert_eq!(mappings.0.len(), attached.values().filter(|there| **there).count());
        }
    }
}
