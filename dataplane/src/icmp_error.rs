//! ICMP errors about translated flows (RFC 5508 §4): the packet that an error quotes is put back
//! into the form its sender knows.
//!
//! An error neither refreshes nor ends a flow (RFC 5508 REQ-6, RFC 5382 REQ-10).

use weir_layout::flow::{FlowKey4, Rewrite4};
use weir_wire::checksum::Delta;
use weir_wire::parse::Parsed;
use weir_wire::{icmp, ipv4, quoted, tcp, udp};

/// The flow tuple of the packet that an ICMP error quotes; `None` when too little is quoted or
/// either is damaged (RFC 5508 REQ-3).
pub fn quoted_key(frame: &[u8], p: &Parsed) -> Option<FlowKey4> {
    let message =
        icmp::Packet::new_checked(frame.get(usize::from(p.l4)..usize::from(p.end))?).ok()?;
    if !message.verify_checksum() {
        return None;
    }
    let quoted = frame.get(usize::from(quoted::start(p)?)..)?;
    quoted::key(quoted.first_chunk()?)
}

/// Which end of the flow an error goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toward {
    /// Inside: the quoted packet was sent by the LAN host and left with an uplink's source.
    Lan,
    /// Outside: the quoted packet had come in and was given to the LAN host.
    Uplink,
}

/// Rewrites an error. `flow` is the rewrite that packets of the flow get in the *same* direction as
/// the error travels; the quoted packet travelled the other way, so what the flow does to its
/// destination is done to the quoted source, and the reverse. All checksums are kept right; the
/// error's own TTL loses one.
pub fn translate(frame: &mut [u8], p: &Parsed, flow: &Rewrite4, toward: Toward) -> Option<()> {
    let message = frame.get_mut(usize::from(p.l4)..usize::from(p.end))?;
    {
        let quoted = message.get_mut(icmp::HEADER_LEN..)?;
        let inner = ipv4::Packet::new_header(&*quoted).ok()?;
        let (header_len, proto) = (inner.header_len(), inner.protocol());
        let (old_src, old_dst) = (inner.src(), inner.dst());
        let (new_src, new_dst) = match toward {
            Toward::Lan => (flow.dst, old_dst),
            Toward::Uplink => (old_src, flow.src),
        };
        let addresses = Delta::of(old_src, new_src) + Delta::of(old_dst, new_dst);
        let mut header = ipv4::Packet::new_unchecked(quoted.get_mut(..header_len)?);
        header.set_src(new_src);
        header.set_dst(new_dst);
        let sum = addresses.apply(header.checksum());
        header.set_checksum(sum);

        let transport = quoted.get_mut(header_len..)?;
        let (port_at, new_port, sum_at) = match (proto, toward) {
            (tcp::PROTOCOL, Toward::Lan) => (0, flow.dport, 16),
            (tcp::PROTOCOL, Toward::Uplink) => (2, flow.sport, 16),
            (udp::PROTOCOL, Toward::Lan) => (0, flow.dport, 6),
            (udp::PROTOCOL, Toward::Uplink) => (2, flow.sport, 6),
            (icmp::PROTOCOL, _) => (icmp::field::IDENT, flow.sport, icmp::field::CHECKSUM),
            _ => return None,
        };
        let old_port: [u8; 2] = transport.get(port_at..port_at + 2)?.try_into().ok()?;
        transport.get_mut(port_at..port_at + 2)?.copy_from_slice(&new_port);
        let port = Delta::of(old_port, new_port);
        // Quoted only in part: then the checksum is not there.
        if let Some(field) = transport.get_mut(sum_at..sum_at + 2) {
            let old = [field[0], field[1]];
            let new = match proto {
                udp::PROTOCOL => (addresses + port).apply_udp(old),
                icmp::PROTOCOL => port.apply(old),
                _ => (addresses + port).apply(old),
            };
            field.copy_from_slice(&new);
        }
    }
    icmp::Packet::new_unchecked(message).fill_checksum();

    let header = frame.get_mut(usize::from(p.l3)..usize::from(p.l4))?;
    let mut ip = ipv4::Packet::new_unchecked(header);
    match toward {
        Toward::Lan => ip.set_dst(flow.dst),
        Toward::Uplink => ip.set_src(flow.src),
    }
    ip.set_ttl(p.ttl.wrapping_sub(1));
    ip.fill_checksum();
    Some(())
}
