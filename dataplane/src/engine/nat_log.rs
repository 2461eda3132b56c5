//! What the log of NAT allocations is told: which endpoint has which port outside, from when to when.
//!
//! A mapping is an allocation, and so is a connection whose port outside is shared, or a flow without
//! ports, whose address is: of these the log needs the destination too. What began is told once it stands in the table, and what ends before it
//! leaves that; so what a process that ended here had no time to tell, the next one's listing does.
//! A flow that stays inside has no address that anybody outside sees, and is told of where it has a
//! mapping alone.

use weir_layout::control::{ControlHalf, IpAddress, PathId, Translate};
use weir_layout::flow::{GROUP, flag};
use weir_layout::nat_log::{Event, RECORDS, Record};
use weir_layout::protocol;
use weir_layout::set::IndexSet;
use weir_layout::{Family as Ip, NONE};
use weir_shm::flows::Stored;
use weir_shm::nat_log::RingWriter;
use weir_wire::entry::Entry;
use weir_wire::family::Family;
use weir_wire::tcp;

use super::context::Context;
use super::sessions::{Sessions, external_of, uses_port};
use crate::mappings::Mapping;
use crate::nat::{Endpoint, External};

/// Mappings, or slots of a table, that are looked at in a tick.
const SLICE: u32 = 8192;
/// Room that a listing leaves to what begins and ends meanwhile.
const LEFT: usize = RECORDS / 2;

/// The worker's part of the log.
#[derive(Debug)]
pub(super) struct NatLog {
    ring: Option<RingWriter>,
    /// The published state says so.
    on: bool,
    /// Uplinks whose flows of IPv6 have a port of it.
    ports6: IndexSet,
    /// Listings that were asked for, and losses that were told, when the last one began.
    asked: (u64, u64),
    listing: Option<Place>,
}

/// Where a listing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    /// Part of what is listed: [`Part`] of each family in turn.
    part: usize,
    next: u32,
}

/// What is walked over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Mappings,
    Flows,
}

const PARTS: [(Ip, Part); 4] = [
    (Ip::V4, Part::Mappings),
    (Ip::V4, Part::Flows),
    (Ip::V6, Part::Mappings),
    (Ip::V6, Part::Flows),
];

impl NatLog {
    pub(super) const fn new(ring: Option<RingWriter>) -> Self {
        Self { ring, on: false, ports6: IndexSet::EMPTY, asked: (0, 0), listing: None }
    }

    /// Follows the published state. A log that begins, lists; and so does one where other flows are
    /// allocations than before: those that ended with that have no end of their own.
    pub(super) fn follow(&mut self, half: &ControlHalf) {
        let (on, ports6) = (half.nat_log != 0 && self.ring.is_some(), ports6(half));
        if on != self.on {
            (self.on, self.listing) = (on, None);
        } else if ports6 == self.ports6 {
            return;
        }
        self.ports6 = ports6;
        if let Some(ring) = self.ring.as_ref().filter(|_| on) {
            // Another number than was asked for: so it is asked.
            self.asked = (ring.listings().wrapping_sub(1), 0);
        }
    }

    #[inline(always)]
    pub(super) const fn is_on(&self) -> bool {
        self.on
    }

    fn push(&self, record: &Record) {
        if let Some(ring) = &self.ring {
            ring.push(record);
        }
    }

    /// Begins a listing where one is due, once the one before is over, so that each comes to its end;
    /// where it is, and how many of its records there is room for.
    fn go_on(&mut self, workers: u8, now: u32) -> Option<(Place, usize)> {
        let ring = self.ring.as_ref().filter(|_| self.on)?;
        ring.tell_of_loss(now);
        let asked = (ring.listings(), ring.told());
        if self.asked != asked && self.listing.is_none() {
            if !ring.mark(Event::Listing, workers, now) {
                return None;
            }
            (self.asked, self.listing) = (asked, Some(Place { part: 0, next: 0 }));
        }
        let room = ring.room().saturating_sub(LEFT);
        self.listing.filter(|_| room > 0).map(|place| (place, room))
    }

    /// The listing has come to this place.
    fn came_to(&mut self, place: Place, workers: u8, now: u32) {
        self.listing = Some(place);
        let over = place.part == PARTS.len();
        if over && self.ring.as_ref().is_some_and(|ring| ring.mark(Event::Listed, workers, now)) {
            self.listing = None;
        }
    }
}

impl super::Engine {
    /// Lists a slice of what stands, where the log is to have it.
    pub(super) fn list_allocations(&mut self) {
        let Self { context: cx, v4, v6 } = self;
        let (workers, now) = (cx.workers, cx.now);
        let Some((place, room)) = cx.nat_log.go_on(workers, now) else { return };
        let part = PARTS.get(place.part).copied();
        let next = match part {
            Some((Ip::V4, part)) => v4.list(cx, part, place.next, room),
            Some((Ip::V6, part)) => v6.list(cx, part, place.next, room),
            None => Some(0),
        };
        let place = match (part, next) {
            (Some(_), None) => Place { part: place.part + 1, next: 0 },
            (_, next) => Place { next: next.unwrap_or(0), ..place },
        };
        cx.nat_log.came_to(place, workers, now);
    }
}

impl<F: Stored> Sessions<F> {
    /// Lists so many at most from one on; where the next slice begins, if there is one.
    fn list(&self, cx: &Context, part: Part, from: u32, room: usize) -> Option<u32> {
        let end = match part {
            Part::Mappings => self.mappings.numbers(),
            Part::Flows => self.table.capacity(),
        };
        let (mut at, mut told) = (from, 0);
        while at < end && at - from < SLICE && told < room {
            if part == Part::Flows && at.is_multiple_of(GROUP) && self.table.is_group_free(at) {
                at += GROUP;
                continue;
            }
            let record = match part {
                Part::Mappings => self.mappings.numbered(at).map(|(endpoint, mapping)| {
                    of_mapping::<F>(cx, Event::Held, &endpoint, &mapping)
                }),
                Part::Flows => self.own_flow(cx, at).map(|flow| of_flow(cx, Event::Held, &flow)),
            };
            if let Some(record) = record {
                cx.nat_log.push(&record);
                told += 1;
            }
            at += 1;
        }
        (at < end).then_some(at)
    }

    /// The flow of the worker in this forward slot, if it is an allocation by itself.
    fn own_flow(&self, cx: &Context, slot: u32) -> Option<Entry<F>> {
        let of = self.table.slot(slot);
        if !of.is_valid() {
            return None;
        }
        let meta = of.meta();
        let forward = meta.flags & flag::INITIATED != 0 && meta.worker == cx.id;
        if !forward || meta.is_mapped || !shares(meta.proto) {
            return None;
        }
        of.read().filter(|entry| is_allocation(cx, entry))
    }

    /// A mapping was made for an endpoint.
    #[cold]
    pub(super) fn tell_of_mapping(
        &self,
        cx: &Context,
        endpoint: &Endpoint<F>,
        uplink: u8,
        external: External<F>,
    ) {
        let mapping = Mapping { uplink, external };
        cx.nat_log.push(&of_mapping(cx, Event::Begin, endpoint, &mapping));
    }

    /// A mapping is about to end.
    #[cold]
    pub(super) fn tell_of_end(&self, cx: &Context, endpoint: &Endpoint<F>, mapping: &Mapping<F>) {
        cx.nat_log.push(&of_mapping(cx, Event::End, endpoint, mapping));
    }

    /// The flow in this forward slot has begun or is about to end, which has no mapping.
    #[cold]
    pub(super) fn tell_of_flow(&self, cx: &Context, event: Event, slot: u32) {
        if let Some(flow) = self.own_flow(cx, slot) {
            cx.nat_log.push(&of_flow(cx, event, &flow));
        }
    }
}

/// Uplinks whose flows of IPv6 are allocations: of NAT66. Entries do not say what prefix translation has
/// made of them.
fn ports6(half: &ControlHalf) -> IndexSet {
    let translation =
        |uplink| half.path(PathId::new(uplink, Ip::V6)).map(|path| path.translation());
    let uplinks = 0..half.uplinks.len() as u8;
    uplinks.filter(|uplink| translation(*uplink) == Some(Translate::Napt)).collect()
}

/// Do flows of the protocol that have no mapping share what they have outside, each with one remote?
fn shares(proto: u8) -> bool {
    proto == tcp::PROTOCOL || protocol::is_portless(proto)
}

/// Is a flow that shares what it has outside an allocation, given its forward entry?
fn is_allocation<F: Family>(cx: &Context, forward: &Entry<F>) -> bool {
    uses_port(forward.flags)
        && forward.uplink != NONE
        && (F::FAMILY == Ip::V4 || cx.nat_log.ports6.contains(forward.uplink))
}

fn of_mapping<F: Family>(
    cx: &Context,
    event: Event,
    endpoint: &Endpoint<F>,
    mapping: &Mapping<F>,
) -> Record {
    Record {
        family: if F::FAMILY == Ip::V4 { 4 } else { 6 },
        protocol: endpoint.proto,
        uplink: mapping.uplink,
        inside: bytes::<F>(endpoint.address),
        outside: bytes::<F>(mapping.external.address),
        inside_port: endpoint.port,
        outside_port: mapping.external.port,
        ..Record::new(event, cx.now)
    }
}

fn of_flow<F: Family>(cx: &Context, event: Event, forward: &Entry<F>) -> Record {
    let (key, proto) = (&forward.key, forward.key.proto());
    let endpoint =
        Endpoint { proto, policy: 0, address: key.src(), port: u16::from_be_bytes(key.sport()) };
    let external = external_of::<F>(proto, &forward.rewrite);
    let mapping = Mapping { uplink: forward.uplink, external };
    Record {
        remote: bytes::<F>(key.dst()),
        remote_port: u16::from_be_bytes(key.dport()),
        ..of_mapping::<F>(cx, event, &endpoint, &mapping)
    }
}

fn bytes<F: Family>(address: F::Address) -> [u8; 16] {
    address.to_address().0
}
