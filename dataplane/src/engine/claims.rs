//! Whose a flow's answers are, when its packets come from another hardware address than they did.
//!
//! A standby took over for the host, or for the router it is behind; the host roams; or another
//! station uses its address. Its packets are forwarded all the same, as the first of a flow would
//! be. It gets the answers when the kernel, which has heard the ARP of all of them, says that the
//! address, or the router to it, is there; or when nobody is known to have it and the old one has
//! been silent for [`SILENT_MS`].
//!
//! A claim waits until the worker asks the kernel, once a tick, in a table of fixed size, and a flow
//! has one at most: however many such packets come, the questions are few.

use std::net::IpAddr;

use weir_layout::adjacency::{Adjacency, mark};
use weir_shm::flows::{Action, Stored};
use weir_wire::hash::hash2;

use super::context::Context;
use super::published::is_asked;
use super::sessions::Sessions;

/// So long is a host silent before another may take its flows over unconfirmed: less than a VRRP
/// backup waits, three advertisements a second apart and its skew (RFC 9568 §6.1), and more than a
/// busy flow pauses.
pub const SILENT_MS: u32 = 3000;

/// Claims that wait at a time.
const WAITING: usize = 64;

/// Who has an address, as the kernel knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// This hardware address.
    At([u8; 6]),
    /// It has begun to find out.
    Asked,
    /// Nobody who would say so.
    Nobody,
    /// It did not say.
    Unknown,
}

/// A flow's packets come from here.
#[derive(Clone, Copy, Debug)]
struct Claim {
    slot: u32,
    generation: u32,
    host: Adjacency,
    /// The old host had been silent.
    silent: bool,
}

/// Those that wait.
#[derive(Debug)]
pub(super) struct Claims([Option<Claim>; WAITING]);

impl Default for Claims {
    fn default() -> Self {
        Self([None; WAITING])
    }
}

impl<F: Stored> Sessions<F> {
    /// A packet of the flow, given its forward slot, came from a host other than its own. `true`:
    /// it is the flow's host from now on, for the prefix is behind another port now.
    pub(super) fn claim(
        &mut self,
        cx: &Context,
        slot: u32,
        action: &Action<F>,
        host: Adjacency,
    ) -> bool {
        if cx.port_toward(self.table.slot(action.peer).action().adjacency) != host.port {
            self.move_host(cx, slot, action, host);
            return true;
        }
        let entry = self.table.slot(slot);
        let silent = cx.now.wrapping_sub(entry.last_seen()) as i32 >= SILENT_MS as i32;
        let claim = Claim { slot, generation: entry.generation(), host, silent };
        let place = hash2(cx.key, slot.into(), host.to_word()) as usize % WAITING;
        self.claims.0[place].get_or_insert(claim);
        false
    }

    /// Decides about the claims that wait: see
    /// [`Engine::settle_claims`](super::Engine::settle_claims).
    pub(super) fn settle_claims(
        &mut self,
        cx: &Context,
        mut ask: impl FnMut(u32, IpAddr) -> Owner,
    ) {
        for place in 0..WAITING {
            let Some(claim) = self.claims.0[place].take() else { continue };
            let slot = self.table.slot(claim.slot);
            let Some(forward) = slot.read().filter(|_| slot.generation() == claim.generation)
            else {
                continue;
            };
            let port = cx.snapshot.half.ports[usize::from(claim.host.port)];
            let granted = match ask(port.ifindex, forward.key.src().into()) {
                Owner::At(mac) => mac == claim.host.mac,
                Owner::Asked | Owner::Unknown => false,
                Owner::Nobody => claim.silent,
            };
            if granted {
                let action = slot.action();
                self.move_host(cx, claim.slot, &action, claim.host);
            }
        }
    }

    /// Sends a flow's answers to the host, given its forward slot.
    pub(super) fn move_host(
        &mut self,
        cx: &Context,
        slot: u32,
        action: &Action<F>,
        host: Adjacency,
    ) {
        let Some(adjacency) = cx.adjacencies.learn(host) else { return };
        let back = self.table.slot(action.peer);
        // One that began outside is not the host's.
        if !is_asked(action.flags) {
            self.shares.remove(back.action().adjacency);
            self.shares.add(adjacency);
        }
        back.set_adjacency(adjacency);
        self.table.slot(slot).set_mark(mark(host.to_word(), action.peer));
    }
}
