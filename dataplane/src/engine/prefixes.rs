//! Prefix translation of IPv6 (NPTv6, RFC 6296): by a path that translates prefixes a host has the
//! address that arithmetic gives it, and its ports. A flow's entry pins the uplink and nothing else:
//! one that is lost is made again with the flow's next packet.

use weir_layout::Family as Ip;
use weir_layout::control::{Address, IpAddress};
use weir_layout::counters::Counter;
use weir_wire::family::Family;
use weir_wire::npt::{self, Untranslatable};
use weir_wire::{icmpv6, ipv6};

use super::DropReason;
use super::batch::Work;
use super::context::Context;
use crate::packet::{Buffer, Output, Received};

/// Code of "parameter problem": a field has a value that cannot be (RFC 4443 §3.4).
const ERRONEOUS_FIELD: u8 = 0;

impl Context {
    /// What a source becomes by an uplink whose path translates prefixes. No host gets an address of
    /// the gateway: its answers would be the host's.
    pub(super) fn outward<F: Family>(
        &self,
        uplink: u8,
        source: F::Address,
    ) -> Result<F::Address, Untranslatable> {
        let Address(source) = source.to_address();
        let pair = self.snapshot.half.prefixes_of(uplink).find(|pair| pair.is_inside(source));
        let outside = Address(npt::outward(pair.ok_or(Untranslatable::Prefix)?, source)?);
        if self.snapshot.half.keeps(outside) {
            return Err(Untranslatable::Identifier);
        }
        Ok(F::Address::from_address(outside))
    }

    /// The address inside of the host that has this one by an uplink, if prefixes are translated there:
    /// any other is the host's own.
    pub(super) fn inward<F: Family>(&self, uplink: u8, address: F::Address) -> F::Address {
        if F::FAMILY == Ip::V4 {
            return address;
        }
        let Address(outside) = address.to_address();
        let mut pairs = self.snapshot.half.prefixes_of(uplink);
        let pair = pairs.find(|pair| pair.is_outside_of_hosts(outside));
        let inside = pair.and_then(|pair| npt::inward(pair, outside).ok());
        inside.map_or(address, |inside| F::Address::from_address(Address(inside)))
    }

    /// Tells the sender of a packet that its address has no other (RFC 6296 §3.2, §3.7).
    pub(super) fn answer_untranslatable<F: Family, B: Buffer>(
        &mut self,
        work: &Work<F>,
        why: Untranslatable,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) -> DropReason {
        let (kind, pointer) = match why {
            Untranslatable::Prefix | Untranslatable::Subnet => (F::FOREIGN_SOURCE, 0),
            Untranslatable::Identifier => {
                ([icmpv6::PARAMETER_PROBLEM, ERRONEOUS_FIELD], ipv6::field::SRC as u32)
            }
        };
        self.send_icmp_error(work, false, received, out, kind, pointer);
        Counter::DropUntranslatable
    }
}
