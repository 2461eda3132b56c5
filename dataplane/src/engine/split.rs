//! IPv4 packets that are larger than their way out and may be split (RFC 791 §3.2, RFC 1812 §5.2.7, RFC
//! 4787 REQ-13a). A fragment may be split again. IPv6 is never split on its way.

use weir_layout::Family as Ip;
use weir_layout::control::PathId;
use weir_layout::counters::Counter;
use weir_wire::family::Family;
use weir_wire::forward::Egress;
use weir_wire::ipv4;
use weir_wire::parse::Parsed;
use weir_wire::rewrite::TAGGED;

use super::DropReason;
use super::context::Context;
use crate::packet::{Buffer, Output};

/// Most bytes before what an IPv4 packet carries: those with options are not forwarded.
const MOST_HEAD: usize = TAGGED + ipv4::HEADER_LEN;

/// May the packet be split?
pub(super) fn is_splittable<F: Family>(frame: &[u8], p: &Parsed<F>) -> bool {
    let packet = frame.get(p.l3.into()..).unwrap_or(&[]);
    F::FAMILY == Ip::V4
        && !ipv4::Packet::new_unchecked(packet).dont_fragment()
        && p.l4 == p.l3 + ipv4::HEADER_LEN as u16
}

impl Context {
    /// Sends a packet in fragments that its way out takes, in order. `frame` has the link header that
    /// it leaves with, and the packet begins at `l3` and ends at `end`. All fragments but the last are
    /// counted as the gateway's own, so that one packet came in and one went out.
    pub(super) fn send_split<B: Buffer>(
        &self,
        mut frame: B,
        (l3, end): (usize, usize),
        egress: &Egress,
        path: PathId,
        out: &mut impl Output<B>,
    ) -> Result<(), DropReason> {
        let l4 = l3 + ipv4::HEADER_LEN;
        // In units of 8 bytes, as offsets are.
        let most = usize::from(egress.mtu).saturating_sub(ipv4::HEADER_LEN) & !7;
        let data = frame.data_mut();
        if most == 0 || l4 > MOST_HEAD || end > data.len() || end < l4 {
            return Err(Counter::DropTooBig);
        }
        let mut saved = [0; MOST_HEAD];
        saved[..l4].copy_from_slice(&data[..l4]);
        let whole = ipv4::Packet::new_unchecked(&saved[l3..l4]);
        let (first, more) = (whole.fragment_offset(), whole.more_fragments());
        // Nothing is as long as this would be, and its offsets have no room for it.
        if usize::from(first) + (end - l4) > usize::from(u16::MAX) {
            return Err(Counter::DropTooBig);
        }
        for at in (l4..end).step_by(most) {
            let (to, is_last) = (end.min(at + most), at + most >= end);
            // Its head takes the place of what the fragment before it has carried away.
            let begin = at - l4;
            data[begin..at].copy_from_slice(&saved[..l4]);
            let mut ip = ipv4::Packet::new_unchecked(&mut data[begin + l3..at]);
            let offset = first / 8 + (begin / 8) as u16;
            let flag = if more || !is_last { ipv4::MORE_FRAGMENTS } else { 0 };
            ip.set_fragment(flag | offset);
            ip.set_total_len((ipv4::HEADER_LEN + to - at) as u16);
            ip.fill_checksum();
            let mut fragment = out.allocate().ok_or(Counter::DropNoFrame)?;
            if !fragment.set_data(&data[begin..to]) {
                return Err(Counter::DropNoFrame);
            }
            let len = (ipv4::HEADER_LEN + to - at) as u64;
            self.transmit(egress, fragment, path, len, out)?;
            if !is_last {
                self.lane.add(Counter::UserOriginated, 1);
            }
        }
        Ok(())
    }
}
