//! Hosts of LANs that the kernel knew a moment ago, and how often it may be asked for others.
//!
//! A look-up of route and neighbour costs more than all else that is done for a packet, so its answer
//! is kept for a second, by each CPU for itself. Only answers that found a host are kept, so who
//! sends to addresses that nobody has fills nothing. Where one stands is a keyed hash's choice, so
//! nobody can choose addresses that push a host out. A publication makes all of them void.

use core::arch::asm;

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use weir_layout::{Family, MAX_UPLINKS};
use weir_wire::hash::hash2;

use crate::flows;

/// How long an answer holds, milliseconds: a host that moves, and a route that changes, are followed
/// no later.
const HOLDS: u32 = 1000;
/// Lines of a CPU: 256 KiB for 8192 hosts.
const LINES: u32 = 1 << LINE_BITS;
const LINE_BITS: u32 = 12;

/// A window of [`may_ask`], milliseconds, a power of two.
const WINDOW: u32 = 256;
/// Packets of a family to hosts that the kernel does not know, in a window.
///
/// The kernel enters each such host, and drops none that it still waits for (`neigh_forced_gc` in
/// net/core/neighbour.c); after three seconds it gives up (`mcast_solicit` times `retrans_time_ms`).
/// 188 a second are 563 at a time, about half of `gc_thresh3`, which is 1024 unless set.
const ASKS: u32 = 48;

/// Bits of an adjacency's [word](weir_layout::adjacency::word).
const WORD: u64 = (1 << 57) - 1;

/// A host, and where it is. 32 bytes.
#[derive(Clone, Copy)]
#[repr(C)]
struct Host {
    /// Its address; zero: none.
    address: [u64; 2],
    /// The adjacency's word, and in the bits above it family and uplink of the packets.
    word: u64,
    /// When the kernel said so, milliseconds.
    since: u32,
    /// The longest packet that the route takes.
    mtu: u16,
    /// The low bits of the epoch of that time.
    epoch: u16,
}

/// Two hosts, the one that came last first. One cache line.
#[repr(C, align(64))]
struct Line([Host; 2]);

const _: () = assert!(size_of::<Host>() == 32 && size_of::<Line>() == 64 && MAX_UPLINKS == 64);

#[map]
static KNOWN: PerCpuArray<Line> = PerCpuArray::with_max_entries(LINES, 0);
/// By family: when the window began in the upper half, and how many asked in it in the lower.
#[map]
static ASKED: Array<u64> = Array::with_max_entries(Family::COUNT as u32, 0);

/// A host that packets are for which come by an uplink, in an epoch.
#[derive(Clone, Copy)]
pub struct Wanted {
    /// Its address.
    pub address: [u64; 2],
    /// Of the address.
    pub family: Family,
    /// The uplink.
    pub uplink: u8,
    /// The epoch.
    pub epoch: u64,
}

impl Wanted {
    /// What the bits above the word say.
    #[inline(always)]
    fn way(&self) -> u64 {
        (self.family.index() * MAX_UPLINKS) as u64 | u64::from(self.uplink) % MAX_UPLINKS as u64
    }

    #[inline(always)]
    fn is(&self, host: &Host) -> bool {
        host.address == self.address && host.word >> 57 == self.way()
    }

    /// The hosts of the line where it would stand. This CPU's own.
    #[inline(always)]
    fn line(&self) -> Option<&'static mut [Host; 2]> {
        let [a, b] = self.address;
        let index = hash2(flows::secret(), a, b) >> (u64::BITS - LINE_BITS);
        // SAFETY: the pointer is to a whole line, and no other reference to it is held.
        Some(unsafe { &mut (*KNOWN.get_ptr_mut(index as u32)?).0 })
    }

    /// The word of the adjacency that packets to it leave by, if that is known of as long ones.
    #[inline(always)]
    pub fn recall(&self, len: u16, now: u32) -> Option<u64> {
        let [first, second] = self.line()?;
        let host = if self.is(first) {
            first
        } else if self.is(second) {
            second
        } else {
            return None;
        };
        let holds = now.wrapping_sub(host.since) < HOLDS && host.epoch == self.epoch as u16;
        (holds && len <= host.mtu).then_some(host.word & WORD)
    }

    /// Keeps what the kernel said: the word, and the longest packet.
    #[inline(always)]
    pub fn keep(&self, word: u64, mtu: u16, now: u32) {
        let Some([first, second]) = self.line() else { return };
        let (word, epoch) = (word | self.way() << 57, self.epoch as u16);
        let host = Host { address: self.address, word, since: now, mtu, epoch };
        if self.is(second) {
            *second = host;
            return;
        }
        if !self.is(first) {
            *second = *first;
        }
        *first = host;
    }

    /// Forgets it; was it known, however long ago?
    #[inline(always)]
    pub fn forget(&self) -> bool {
        let Some([first, second]) = self.line() else { return false };
        let host = if self.is(first) { first } else { second };
        let known = self.is(host);
        if known {
            host.address = [0; 2];
        }
        known
    }
}

/// May the kernel be asked for one more host that it does not know? All CPUs share the bound, and
/// each may pass it by one packet.
#[inline(always)]
pub fn may_ask(family: Family, now: u32) -> bool {
    let Some(asked) = ASKED.get_ptr_mut(family.index() as u32) else { return false };
    // SAFETY: the pointer is to a whole word.
    let seen = unsafe { asked.read_volatile() };
    let begins = now & !(WINDOW - 1);
    // Another CPU's clock may be a tick ahead.
    if ((seen >> 32) as u32).wrapping_sub(begins) > WINDOW {
        // SAFETY: as above.
        unsafe { asked.write_volatile(u64::from(begins) << 32 | 1) };
        return true;
    }
    if seen as u32 >= ASKS {
        return false;
    }
    // SAFETY: one atomic addition, to a whole word.
    unsafe {
        asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) asked, in(reg) 1u64, options(nostack));
    }
    true
}
