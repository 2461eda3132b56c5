//! New flows that nobody answers, by uplink: what tells a link that is dead for users from one whose
//! probes answer. Only what should have been answered counts, see [`Services`] and
//! `engine/known_hosts.rs`.
//!
//! Flows wait in a ring until they are a second old; then each is judged by whether its other
//! direction has been seen. A hardware address has at most so many places in it, and while the ring
//! is full, new flows are not judged: of some thousands a second, it is a sample, and no scanner's
//! alone.

use std::collections::VecDeque;

use weir_layout::MAX_UPLINKS;
use weir_layout::control::PathId;
use weir_layout::flow::flag;
use weir_layout::observations::{Interval, JUDGED_AFTER_MS, NewFlows};
use weir_shm::flows::{FlowTable, Stored};
use weir_shm::observations::Observations;
use weir_wire::family::Family;
use weir_wire::{tcp, udp};

use crate::purpose::Purpose;
use crate::services::Services;
use weir_wire::key::FlowKey;

/// Flows that wait for judgement at a time.
const WAITING: usize = 4096;

/// Those of one hardware address at most.
const OF_ONE: u16 = (WAITING / 16) as u16;

/// A flow that waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    slot: u32,
    generation: u32,
    made: u32,
    /// Its host's place in [`Observer::shares`].
    host: u8,
}

/// A worker's view of its new flows.
#[derive(Debug)]
pub struct Observer {
    worker: u8,
    family: weir_layout::Family,
    key: [u64; 2],
    waiting: VecDeque<Waiting>,
    /// How many of them each host has, by a keyed hash.
    shares: Box<[u16; 256]>,
    /// The interval under way, by uplink.
    intervals: Box<[Interval; MAX_UPLINKS]>,
    number: u64,
    observations: Observations,
    services: Services,
}

impl Observer {
    /// Of a worker that has seen nothing, for flows of a family; `key` is that of the flow hash.
    pub fn new(
        worker: u8,
        family: weir_layout::Family,
        key: [u64; 2],
        observations: Observations,
    ) -> Self {
        Self {
            worker,
            family,
            key,
            waiting: VecDeque::with_capacity(WAITING),
            shares: Box::new([0; 256]),
            intervals: Box::new([Interval::default(); MAX_UPLINKS]),
            number: 0,
            observations,
            services: Services::new(key),
        }
    }

    /// Is there room for one more flow of the host with this index in the table of adjacencies?
    #[inline]
    pub fn has_room(&self, host: u16) -> bool {
        self.waiting.len() < WAITING && self.shares[usize::from(self.share_of(host))] < OF_ONE
    }

    fn share_of(&self, host: u16) -> u8 {
        Purpose::Share.hash(self.key, host.into()) as u8
    }

    /// Takes note of a flow that was made now, given its forward slot and its host's index, if there
    /// is room.
    #[inline]
    pub fn observe<F: Stored>(&mut self, table: &FlowTable<F>, slot: u32, host: u16, now: u32) {
        if self.has_room(host) {
            let host = self.share_of(host);
            self.shares[usize::from(host)] += 1;
            let generation = table.slot(slot).generation();
            self.waiting.push_back(Waiting { slot, generation, made: now, host });
        }
    }

    /// Judges what is old enough, and writes the interval when it is over. `now_ms` is
    /// CLOCK_MONOTONIC.
    pub fn judge<F: Stored>(&mut self, table: &FlowTable<F>, now_ms: u64) {
        let number = Observations::number(now_ms);
        if number != self.number {
            self.write();
            self.number = number;
        }
        let old = |flow: &Waiting| (now_ms as u32).wrapping_sub(flow.made) >= JUDGED_AFTER_MS;
        while let Some(flow) = self.waiting.pop_front_if(|flow| old(flow)) {
            self.shares[usize::from(flow.host)] -= 1;
            let slot = table.slot(flow.slot);
            if let Some(entry) = slot.read().filter(|_| slot.generation() == flow.generation) {
                let back = table.slot(entry.peer).action();
                let answered = back.flags & flag::SEEN != 0;
                let (key, uplink) = (&entry.key, entry.uplink);
                self.count::<F>(key, uplink, back.adjacency, answered, now_ms as u32);
            }
        }
    }

    /// Counts a flow on an uplink, given its first packet's key and the index of its LAN host, if it
    /// was answered or should have been.
    pub fn count<F: Family>(
        &mut self,
        key: &FlowKey<F>,
        uplink: u8,
        host: u16,
        answered: bool,
        now: u32,
    ) {
        let Some(interval) = self.intervals.get_mut(usize::from(uplink)) else { return };
        let flows = match key.proto() {
            tcp::PROTOCOL => &mut interval.tcp,
            udp::PROTOCOL => &mut interval.udp,
            _ => return,
        };
        let service = self.services.of::<F>(key);
        if answered {
            self.services.answered(service, now);
        } else if !self.services.silent(service, now) {
            return;
        }
        // A host is its hardware address, however many others it sends from.
        let (remote, local) = (
            bit(self.key, F::digest(self.key, &key.dst()).into(), Purpose::Remote),
            bit(self.key, u64::from(host), Purpose::User),
        );
        flows.flows += 1;
        remote.enter(&mut flows.remotes);
        local.enter(&mut flows.users);
        if !answered {
            flows.unanswered += 1;
            remote.enter(&mut flows.silent);
            local.enter(&mut flows.askers);
        }
    }

    fn write(&mut self) {
        for (uplink, interval) in self.intervals.iter_mut().enumerate() {
            if interval.tcp != NewFlows::default() || interval.udp != NewFlows::default() {
                interval.number = self.number;
                let path = PathId::new(uplink as u8, self.family);
                self.observations.write(self.worker, path, interval);
                *interval = Interval::default();
            }
        }
    }
}

/// A host's place in a set.
struct Bit(u8);

fn bit(key: [u64; 2], host: u64, purpose: Purpose) -> Bit {
    Bit(purpose.hash(key, host) as u8)
}

impl Bit {
    fn enter(&self, set: &mut [u64; 4]) {
        set[usize::from(self.0 / 64)] |= 1 << (self.0 % 64);
    }
}
