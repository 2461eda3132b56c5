//! Addresses that the gateway was given which somebody outside had before.
//!
//! Nobody beyond an uplink sends in the name of this side (RFC 3704 §2), but XDP looks for a flow
//! before it asks whose an address is. So a flow with whom had one ends with the publication. Of
//! prefixes that this side gets nothing is known here: parts of them may be a provider's.

use weir_layout::control::{Address, ControlHalf, IpAddress};
use weir_layout::{Family as Ip, NONE};
use weir_wire::entry::Entry;
use weir_wire::family::Family;

use super::published::far_end;

/// Those of a family.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// What the gateway has by the last publication, in order.
    own: Vec<[u8; 16]>,
    /// What it was given of that since flows were last looked at.
    new: Vec<[u8; 16]>,
}

impl Given {
    /// Learns what is published now; says whether there is an address that was not there before.
    pub(super) fn learn(&mut self, family: Ip, half: &ControlHalf) -> bool {
        let held = half.uplinks.iter().flat_map(|uplink| uplink.path(family).held());
        let of_ports = half.addresses.iter().map(|of_port| &of_port[family.index()]);
        let own = held.chain(of_ports).filter(|address| **address != Address::UNSPECIFIED);
        let mut own: Vec<[u8; 16]> = own.map(|address| address.0).collect();
        own.sort_unstable();
        own.dedup();
        self.new.retain(|address| own.binary_search(address).is_ok());
        let stay = self.new.len();
        self.new.extend(own.iter().filter(|address| self.own.binary_search(address).is_err()));
        self.own = own;
        self.new.len() > stay
    }

    pub(super) fn is_any(&self) -> bool {
        !self.new.is_empty()
    }

    /// Is the end outside of a flow, given its forward entry, at one of them? One that stays inside
    /// has none.
    pub(super) fn has_far_end<F: Family>(&self, forward: &Entry<F>) -> bool {
        forward.uplink != NONE && self.new.contains(&far_end(forward).to_address().0)
    }

    /// All flows were looked at.
    pub(super) fn forget(&mut self) {
        self.new.clear();
    }
}
