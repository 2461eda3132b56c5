//! What a host and a server have agreed on by ports, and go on with without: PPTP by TCP port 1723,
//! and then GRE (RFC 2637 §1); IPsec by UDP port 500, and then ESP (RFC 7296 §2). The server
//! expects both from one address, so the second leaves by the uplink of the first, and as that
//! looks there.
//!
//! Who has agreed is noted in places that all workers share, by host and server: a place says in which
//! slot the flow is, and whoever reads it looks there. A flow that has ended is told by its slot, so
//! nothing needs to be taken out. What was noted last has the place, but not that of another host or
//! server that has answered: who only asks thousands of servers takes nothing from others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use weir_layout::NONE;
use weir_layout::flow::flag;
use weir_shm::flows::{FlowTable, Stored};
use weir_wire::entry::Entry;
use weir_wire::family::Family;
use weir_wire::key::FlowKey;
use weir_wire::protocol::{ESP, GRE};
use weir_wire::{tcp, udp};

use super::context::Context;
use super::published::is_asked;
use super::sessions::Sessions;
use crate::purpose::Purpose;
use crate::steering;

/// Places, of 4 bytes.
const PLACES: usize = 1 << 12;

/// Where flows are by which something was agreed on: the slot, and one more; 0: none.
#[derive(Clone, Debug)]
pub struct Agreements(Arc<[AtomicU32]>);

impl Default for Agreements {
    fn default() -> Self {
        Self((0..PLACES).map(|_| AtomicU32::new(0)).collect())
    }
}

impl Agreements {
    /// Each protocol has half of the places.
    fn place<F: Family>(&self, secret: [u64; 2], key: &FlowKey<F>, proto: u8) -> &AtomicU32 {
        let [host, server] = [key.src(), key.dst()].map(|end| F::digest(secret, &end));
        let hash = Purpose::Agreed.hash(secret, u64::from(host) << 32 | u64::from(server));
        &self.0[hash as usize % (PLACES / 2) * 2 + usize::from(proto == ESP)]
    }

    /// Notes a flow that begins in this slot, if it is one of those.
    pub(super) fn note<F: Stored>(
        &self,
        secret: [u64; 2],
        table: &FlowTable<F>,
        key: &FlowKey<F>,
        slot: u32,
    ) {
        let Some(proto) = agrees_on(key) else { return };
        let place = self.place(secret, key, proto);
        let is_kept = agreement(table, place).is_some_and(|of| {
            (of.key.src(), of.key.dst()) != (key.src(), key.dst())
                && agrees_on(&of.key) == Some(proto)
                && std::ptr::eq(self.place(secret, &of.key, proto), place)
                && table.slot(of.peer).meta().flags & flag::SEEN != 0
        });
        if !is_kept {
            place.store(slot + 1, Ordering::Relaxed);
        }
    }

    /// The flow from inside by which the host of this one and its server have agreed on it.
    fn find<F: Stored>(
        &self,
        secret: [u64; 2],
        table: &FlowTable<F>,
        key: &FlowKey<F>,
    ) -> Option<Entry<F>> {
        let noted = agreement(table, self.place(secret, key, key.proto()));
        noted.filter(|of| {
            agrees_on(&of.key) == Some(key.proto())
                && (of.key.src(), of.key.dst()) == (key.src(), key.dst())
        })
    }
}

/// The flow that is in the slot which a place names, if it began inside.
fn agreement<F: Stored>(table: &FlowTable<F>, place: &AtomicU32) -> Option<Entry<F>> {
    let slot = place.load(Ordering::Relaxed).checked_sub(1)?;
    let flow = (slot < table.capacity()).then(|| table.slot(slot).read())?;
    flow.filter(|of| of.flags & flag::INITIATED != 0 && !is_asked(of.flags))
}

/// The protocol without ports that packets of this key agree on.
fn agrees_on<F: Family>(key: &FlowKey<F>) -> Option<u8> {
    const PPTP: u16 = 1723;
    const IKE: u16 = 500;
    match (key.proto(), u16::from_be_bytes(key.dport())) {
        (tcp::PROTOCOL, PPTP) => Some(GRE),
        (udp::PROTOCOL, IKE) => Some(ESP),
        _ => None,
    }
}

impl<F: Stored> Sessions<F> {
    /// By which uplink, and from which address there, a host has agreed on the flow that it begins,
    /// if the flow's policy has that uplink and it can be used.
    pub(super) fn agreed(
        &self,
        cx: &Context,
        policy: u8,
        key: &FlowKey<F>,
    ) -> Option<(u8, F::Address)> {
        if !matches!(key.proto(), GRE | ESP) {
            return None;
        }
        let of = self.agreements.find(cx.key, &self.table, key)?;
        let policy = cx.snapshot.half.policies.get(usize::from(policy))?;
        let is_member = policy.members().iter().any(|member| member.uplink == of.uplink);
        let is_usable = of.uplink != NONE && steering::usable(&cx.control, F::path(of.uplink));
        (is_member && is_usable).then_some((of.uplink, of.rewrite.src))
    }
}
