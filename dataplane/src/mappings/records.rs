//! Mappings by number.

use weir_layout::{MAX_POLICIES, MAX_UPLINKS};
use weir_wire::family::{Family, V4};
use weir_wire::{tcp, udp};

use super::index::MOST;
use crate::nat::{Endpoint, External};

/// A mapping as it is kept.
#[derive(Clone, Copy, Debug)]
pub struct Record<F: Family> {
    inside: F::Address,
    outside: F::Address,
    inside_port: u16,
    outside_port: u16,
    /// From the top: 6 bits of the uplink, 5 of the policy, one that says ICMP, one that says TCP, one that
    /// says that the port is a service's, and in [`FLOWS`] the number of flows that use the mapping; 0: the record is free.
    state: u32,
}

const FLOWS: u32 = (1 << 18) - 1;
const UPLINK: u32 = 26;
const POLICY: u32 = 21;
const ICMP: u32 = 1 << 20;
const TCP: u32 = 1 << 19;
const SERVICE: u32 = 1 << 18;
const _: () = {
    assert!(size_of::<Record<V4>>() == 16);
    assert!(MAX_UPLINKS <= 1 << (32 - UPLINK));
    // A remainder by it leaves the bits of the uplink out.
    assert!(MAX_POLICIES <= 1 << (UPLINK - POLICY) && MAX_POLICIES.is_power_of_two());
};

impl<F: Family> Record<F> {
    pub fn new(endpoint: Endpoint<F>, uplink: u8, external: External<F>) -> Self {
        let proto = match endpoint.proto {
            tcp::PROTOCOL => TCP,
            proto if proto == F::ICMP => ICMP,
            _ => 0,
        };
        let uplink = u32::from(uplink) % MAX_UPLINKS as u32;
        let policy = u32::from(endpoint.policy) % MAX_POLICIES as u32;
        Self {
            inside: endpoint.address,
            outside: external.address,
            inside_port: endpoint.port,
            outside_port: external.port,
            state: uplink << UPLINK | policy << POLICY | proto | 1,
        }
    }

    /// The same, to the port of a service that leads to the endpoint.
    pub fn of_service(endpoint: Endpoint<F>, uplink: u8, external: External<F>) -> Self {
        let record = Self::new(endpoint, uplink, external);
        Self { state: record.state | SERVICE, ..record }
    }

    /// Was the port a service's when the mapping was made?
    pub fn is_of_service(&self) -> bool {
        self.state & SERVICE != 0
    }

    pub fn uplink(&self) -> u8 {
        (self.state >> UPLINK) as u8
    }

    pub fn proto(&self) -> u8 {
        match self.state & (ICMP | TCP) {
            0 => udp::PROTOCOL,
            TCP => tcp::PROTOCOL,
            _ => F::ICMP,
        }
    }

    pub fn endpoint(&self) -> Endpoint<F> {
        let (address, port) = (self.inside, self.inside_port);
        let policy = (self.state >> POLICY) as u8 % MAX_POLICIES as u8;
        Endpoint { proto: self.proto(), policy, address, port }
    }

    pub fn external(&self) -> External<F> {
        External { proto: self.proto(), address: self.outside, port: self.outside_port }
    }

    /// Does nothing use it?
    pub fn is_free(&self) -> bool {
        self.state & FLOWS == 0
    }

    /// One flow more. A mapping with a quarter of a million of them is never forgotten.
    pub fn hold(&mut self) {
        self.state += u32::from(self.state & FLOWS != FLOWS);
    }

    /// One flow less; says whether it was the last.
    pub fn release(&mut self) -> bool {
        let flows = self.state & FLOWS;
        self.state -= u32::from(flows != 0 && flows != FLOWS);
        self.state & FLOWS == 0
    }
}

/// Records by number, in chunks, so that there is room for one more without moving any.
#[derive(Debug)]
pub struct Records<F: Family> {
    chunks: Vec<Vec<Record<F>>>,
    free: Vec<u32>,
}

const CHUNK: usize = 4096;

impl<F: Family> Records<F> {
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), free: Vec::new() }
    }

    /// Numbers below this one may have a record.
    pub fn numbers(&self) -> u32 {
        let last = self.chunks.last().map_or(0, Vec::len);
        (self.chunks.len().saturating_sub(1) * CHUNK + last) as u32
    }

    /// Is there a number left?
    pub fn has_room(&self) -> bool {
        !self.free.is_empty() || self.chunks.len() * CHUNK < MOST
    }

    pub fn add(&mut self, record: Record<F>) -> u32 {
        if let Some(number) = self.free.pop() {
            *self.at_mut(number) = record;
            return number;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let before = (self.chunks.len() - 1) * CHUNK;
        let chunk = self.chunks.last_mut().expect("one was pushed if there was none");
        chunk.push(record);
        (before + chunk.len() - 1) as u32
    }

    /// The number is another's to have. Its record says itself that nothing uses it.
    pub fn free(&mut self, number: u32) {
        self.free.push(number);
    }

    #[inline]
    pub fn at(&self, number: u32) -> &Record<F> {
        &self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }

    pub fn at_mut(&mut self, number: u32) -> &mut Record<F> {
        &mut self.chunks[number as usize / CHUNK][number as usize % CHUNK]
    }
}
