//! What a host and a server have agreed on by ports, and go on with without: PPTP by TCP port 1723,
//! and then GRE (RFC 2637 §1); IPsec by UDP port 500, and then ESP (RFC 7296 §2). The server
//! expects both from one address, so the second leaves by the uplink of the first, and as that
//! looks there.
//!
//! Who has agreed is noted in places that all workers share, by host and server: a place says in
//! which slot the flow is, and whoever reads it looks there. A flow that has ended is told by its
//! slot, and what was noted last has the place. So nothing needs to be taken out.

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
    fn place<F: Family>(&self, secret: [u64; 2], key: &FlowKey<F>, proto: u8) -> &AtomicU32 {
        let [a, b, c, d] = F::digest(secret, &key.src()).to_be_bytes();
        let [e, f, g, h] = F::digest(secret, &key.dst()).to_be_bytes();
        let hash =
            Purpose::Agreed.hash(secret, u64::from_be_bytes([a, b, c, d, e, f, g, h ^ proto]));
        &self.0[hash as usize % PLACES]
    }

    /// Notes a flow that begins in this slot, if it is one of those.
    pub(super) fn note<F: Family>(&self, secret: [u64; 2], key: &FlowKey<F>, slot: u32) {
        if let Some(proto) = agrees_on(key) {
            self.place(secret, key, proto).store(slot + 1, Ordering::Relaxed);
        }
    }

    /// The flow from inside by which the host of this one and its server have agreed on it.
    fn find<F: Stored>(
        &self,
        secret: [u64; 2],
        table: &FlowTable<F>,
        key: &FlowKey<F>,
    ) -> Option<Entry<F>> {
        let place = self.place(secret, key, key.proto()).load(Ordering::Relaxed);
        let slot = place.checked_sub(1).filter(|slot| *slot < table.capacity())?;
        table.slot(slot).read().filter(|of| {
            agrees_on(&of.key) == Some(key.proto())
                && (of.key.src(), of.key.dst()) == (key.src(), key.dst())
                && of.flags & flag::INITIATED != 0
                && !is_asked(of.flags)
        })
    }
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
