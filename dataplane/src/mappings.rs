//! The endpoint-independent mappings of one worker: UDP endpoints and ICMP queries.
//!
//! What an external port belongs to stands in an array by port, one for each address and protocol;
//! endpoints find their port by an index of numbers into those arrays. That is 12 bytes a port and
//! 6 to 11 a mapping, and no mapping ever moves.

use hashbrown::HashTable;
use weir_wire::hash::hash2;
use zerocopy::FromZeros;

use crate::nat::{Endpoint, External};

const PORTS: usize = 1 << 16;

/// An endpoint's mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Uplink index.
    pub uplink: u8,
    /// What the endpoint looks like outside.
    pub external: External,
}

/// What an external port belongs to.
#[derive(Clone, Copy, Debug, FromZeros)]
struct Record {
    address: [u8; 4],
    port: u16,
    policy: u8,
    uplink: u8,
    /// Flows that use the port; 0: it is free.
    flows: u32,
}

/// The ports of one address, for one protocol.
#[derive(Debug)]
struct Block {
    proto: u8,
    address: [u8; 4],
    records: Vec<Record>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Mappings {
    key: [u64; 2],
    blocks: Vec<Block>,
    /// Block and port of each endpoint's mapping.
    index: HashTable<u32>,
}

impl Mappings {
    /// Room for `capacity` mappings before the index grows; `key` is a secret.
    pub fn new(key: [u64; 2], capacity: usize) -> Self {
        Self { key, blocks: Vec::new(), index: HashTable::with_capacity(capacity) }
    }

    /// The endpoint's mapping.
    pub fn get(&self, endpoint: &Endpoint) -> Option<Mapping> {
        let number = *self.index.find(hash(self.key, endpoint), |n| self.is(*n, endpoint))?;
        let (block, record) = self.at(number);
        let external = External { proto: block.proto, address: block.address, port: number as u16 };
        Some(Mapping { uplink: record.uplink, external })
    }

    /// Is the external port unused?
    pub fn is_free(&self, external: &External) -> bool {
        self.block(external)
            .is_none_or(|block| self.blocks[block].records[usize::from(external.port)].flows == 0)
    }

    /// Counts a flow on the endpoint's mapping, which is made if there is none.
    pub fn hold(&mut self, endpoint: Endpoint, uplink: u8, external: External) {
        let block = self.block(&external).unwrap_or_else(|| self.add_block(&external));
        let record = &mut self.blocks[block].records[usize::from(external.port)];
        record.flows += 1;
        if record.flows > 1 {
            return;
        }
        (record.address, record.port) = (endpoint.address, endpoint.port);
        (record.policy, record.uplink) = (endpoint.policy, uplink);
        let number = (block as u32) << 16 | u32::from(external.port);
        let (key, blocks) = (self.key, &self.blocks);
        self.index.insert_unique(hash(key, &endpoint), number, |n| hash(key, &owner(blocks, *n)));
    }

    /// Forgets a flow; the mapping goes with its last one.
    pub fn release(&mut self, external: &External) {
        let Some(block) = self.block(external) else { return };
        let record = &mut self.blocks[block].records[usize::from(external.port)];
        record.flows = record.flows.saturating_sub(1);
        if record.flows == 0 {
            let number = (block as u32) << 16 | u32::from(external.port);
            let endpoint = owner(&self.blocks, number);
            self.forget(&endpoint, |n| n == number);
        }
    }

    /// Detaches the endpoint from its mapping, so that its next flow gets a new one; flows that
    /// still use the old external port keep it until they end.
    pub fn detach(&mut self, endpoint: &Endpoint) {
        self.forget(endpoint, |_| true);
    }

    /// Number of mappings.
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// No mapping at all?
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    fn forget(&mut self, endpoint: &Endpoint, which: impl Fn(u32) -> bool) {
        let blocks = &self.blocks;
        let found = self
            .index
            .find_entry(hash(self.key, endpoint), |n| which(*n) && owner(blocks, *n) == *endpoint);
        if let Ok(entry) = found {
            entry.remove();
        }
    }

    fn is(&self, number: u32, endpoint: &Endpoint) -> bool {
        owner(&self.blocks, number) == *endpoint
    }

    fn at(&self, number: u32) -> (&Block, &Record) {
        let block = &self.blocks[(number >> 16) as usize];
        (block, &block.records[number as usize % PORTS])
    }

    /// A handful of addresses: as quick as any map.
    fn block(&self, external: &External) -> Option<usize> {
        self.blocks.iter().position(|b| b.address == external.address && b.proto == external.proto)
    }

    fn add_block(&mut self, external: &External) -> usize {
        // Zeroed pages that no port has touched take no memory.
        let records = Record::new_vec_zeroed(PORTS).expect("memory for the ports of an address");
        self.blocks.push(Block { proto: external.proto, address: external.address, records });
        self.blocks.len() - 1
    }
}

/// Whose mapping it is.
fn owner(blocks: &[Block], number: u32) -> Endpoint {
    let block = &blocks[(number >> 16) as usize];
    let record = &block.records[number as usize % PORTS];
    Endpoint {
        proto: block.proto,
        policy: record.policy,
        address: record.address,
        port: record.port,
    }
}

fn hash(key: [u64; 2], endpoint: &Endpoint) -> u64 {
    let [a, b, c, d] = endpoint.address;
    let [lo, hi] = endpoint.port.to_le_bytes();
    let word = u64::from_le_bytes([a, b, c, d, lo, hi, endpoint.proto, endpoint.policy]);
    hash2(key, word, 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENDPOINT: Endpoint =
        Endpoint { proto: 17, policy: 0, address: [10, 0, 0, 1], port: 5000 };
    const OUTSIDE: External = External { proto: 17, address: [192, 0, 2, 1], port: 5000 };

    #[test]
    fn a_mapping_lives_as_long_as_its_last_flow() {
        let mut mappings = Mappings::new([1, 2], 4);
        mappings.hold(ENDPOINT, 2, OUTSIDE);
        mappings.hold(ENDPOINT, 2, OUTSIDE);
        mappings.release(&OUTSIDE);
        assert_eq!(mappings.get(&ENDPOINT), Some(Mapping { uplink: 2, external: OUTSIDE }));
        mappings.release(&OUTSIDE);
        assert_eq!(mappings.get(&ENDPOINT), None);
        assert!(mappings.is_free(&OUTSIDE) && mappings.is_empty());
    }

    #[test]
    fn a_detached_endpoint_maps_anew_and_its_old_port_stays_taken_while_used() {
        let mut mappings = Mappings::new([1, 2], 4);
        mappings.hold(ENDPOINT, 2, OUTSIDE);
        mappings.detach(&ENDPOINT);
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
        let mut mappings = Mappings::new([1, 2], 4);
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
        ];
        for (port, endpoint) in (6000..).zip(endpoints) {
            let external = External { proto: endpoint.proto, port, ..OUTSIDE };
            mappings.hold(endpoint, 0, external);
        }
        for (port, endpoint) in (6000..).zip(endpoints) {
            assert_eq!(mappings.get(&endpoint).unwrap().external.port, port);
        }
        assert_eq!(mappings.len(), endpoints.len());
    }

    #[test]
    fn a_great_many_mappings_are_all_found() {
        let mut mappings = Mappings::new([1, 2], 4);
        let endpoint = |port| Endpoint { port, ..ENDPOINT };
        for port in 0..=u16::MAX {
            mappings.hold(endpoint(port), 0, External { port: !port, ..OUTSIDE });
        }
        assert!((0..=u16::MAX).all(|p| mappings.get(&endpoint(p)).unwrap().external.port == !p));
    }
}
