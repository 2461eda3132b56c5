//! The log of NAT allocations on its way from workers to the control process, which writes it.
//!
//! Each worker has a ring: it writes record *n* at `n % RECORDS` and then, release, the number of
//! records that it ever wrote. The control process stores, in a region of its own, how many it has
//! written to the file. A record that finds the ring full is lost, and counted; the next that finds
//! room is preceded by one that says so.
//!
//! What stands when a log begins, a process starts or records were lost is listed: between
//! [`Event::Listing`] and [`Event::Listed`] of a worker each of its allocations is named. What was
//! there before and is not named has ended.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::{Family, MAX_WORKERS, RegionHeader};

/// Records of a ring.
pub const RECORDS: usize = 8192;

/// What a record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Event {
    /// An endpoint inside is given an address and port outside.
    Begin = 1,
    /// It has them no more.
    End = 2,
    /// It has them: part of a listing.
    Held = 3,
    /// A worker begins to list what stands.
    Listing = 4,
    /// It has listed all.
    Listed = 5,
    /// Records were lost.
    Lost = 6,
}

impl Event {
    /// What a byte of shared memory says.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Begin),
            2 => Some(Self::End),
            3 => Some(Self::Held),
            4 => Some(Self::Listing),
            5 => Some(Self::Listed),
            6 => Some(Self::Lost),
            _ => None,
        }
    }
}

/// A record. 64 bytes. Ports in host byte order; of ICMP they are identifiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Record {
    /// When, CLOCK_MONOTONIC milliseconds, wrapping.
    pub time_ms: u32,
    /// [`Event`].
    pub event: u8,
    /// 4 or 6.
    pub family: u8,
    /// IP protocol.
    pub protocol: u8,
    /// Uplink index.
    pub uplink: u8,
    /// Address inside, network order; of IPv4 the first four bytes.
    pub inside: [u8; 16],
    /// Address outside, likewise.
    pub outside: [u8; 16],
    /// Address that the port outside is for alone, likewise; all zero: it is for any.
    pub remote: [u8; 16],
    /// Port inside.
    pub inside_port: u16,
    /// Port outside.
    pub outside_port: u16,
    /// Port of `remote`; 0 with none.
    pub remote_port: u16,
    /// Of a listing: how many workers there are.
    pub workers: u16,
}

impl Record {
    /// One about no allocation.
    pub const fn new(event: Event, time_ms: u32) -> Self {
        Self {
            time_ms,
            event: event as u8,
            family: 0,
            protocol: 0,
            uplink: super::NONE,
            inside: [0; 16],
            outside: [0; 16],
            remote: [0; 16],
            inside_port: 0,
            outside_port: 0,
            remote_port: 0,
            workers: 0,
        }
    }

    /// That so many were lost, from this time on.
    pub fn lost(count: u64, since_ms: u32, time_ms: u32) -> Self {
        let mut record = Self::new(Event::Lost, time_ms);
        record.inside[..8].copy_from_slice(&count.to_ne_bytes());
        record.outside[..4].copy_from_slice(&since_ms.to_ne_bytes());
        record
    }

    /// How many were lost, and from which time on, where it says so.
    pub fn loss(&self) -> (u64, u32) {
        let [count @ .., _, _, _, _, _, _, _, _] = self.inside;
        let [a, b, c, d, ..] = self.outside;
        (u64::from_ne_bytes(count), u32::from_ne_bytes([a, b, c, d]))
    }

    /// The family of its addresses.
    pub const fn family(&self) -> Option<Family> {
        match self.family {
            4 => Some(Family::V4),
            6 => Some(Family::V6),
            _ => None,
        }
    }
}

/// A worker's ring. The first page has one word that changes with each record, and others that the
/// worker alone looks at as a rule.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Ring {
    /// Identification.
    pub header: RegionHeader,
    /// Records that were ever written.
    pub written: u64,
    /// Records that were ever lost.
    pub lost: u64,
    /// Those of them that a record tells of.
    pub told: u64,
    /// When the first was lost of those that none tells of, as in records.
    pub lost_since: u64,
    /// Zero.
    pub reserved: [u64; 505],
    /// By number, modulo [`RECORDS`].
    pub records: [Record; RECORDS],
}

/// What the control process says. One page.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Reader {
    /// Identification.
    pub header: RegionHeader,
    /// By worker, records that are in the file.
    pub taken: [u64; MAX_WORKERS],
    /// Listings that were ever asked for.
    pub listings: u64,
    /// Why the file cannot be written, as the kernel numbers errors; 0: it can.
    pub error: u64,
    /// Zero.
    pub reserved: [u64; 475],
}

const _: () = {
    assert!(size_of::<Record>() == 64);
    assert!(size_of::<Ring>() == 4096 + 64 * RECORDS);
    assert!(size_of::<Reader>() == 4096);
};
