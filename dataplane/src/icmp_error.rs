//! ICMP errors about translated flows (RFC 5508 §4): the packet that an error quotes is put back
//! into the form its sender knows.
//!
//! An error neither refreshes nor ends a flow (RFC 5508 REQ-6, RFC 5382 REQ-10).

use std::ops::Range;

use weir_wire::checksum::{self, Delta};
use weir_wire::family::Family;
use weir_wire::key::FlowKey;
use weir_wire::parse::Parsed;
use weir_wire::quoted::Quoted;
use weir_wire::rewrite::Rewrite;
use weir_wire::{icmp, protocol, tcp, udp};

/// The packet that an ICMP error quotes; `None` when too little is quoted or either is damaged
/// (RFC 5508 REQ-3).
pub fn quoted<F: Family>(frame: &[u8], p: &Parsed<F>) -> Option<Quoted<F>> {
    let message = frame.get(usize::from(p.l4)..usize::from(p.end))?;
    let pseudo = F::pseudo(&p.src, &p.dst, F::ICMP, message.len() as u16);
    if !checksum::is_valid(checksum::add(pseudo, checksum::sum(message))) {
        return None;
    }
    F::quoted(frame, p)
}

/// Which end of the flow an error goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toward {
    /// Inside: the quoted packet was sent by the LAN host and left with an uplink's source.
    Lan,
    /// Outside: the quoted packet had come in and was given to the LAN host.
    Uplink,
    /// From a LAN to a LAN: the flow stays inside, and each end knows the other by an address outside.
    Inside,
}

/// Rewrites an error about a packet. `flow` is the rewrite that packets of the flow get
/// in the *same* direction as the error travels; the quoted packet travelled the other way, so what
/// the flow does to its destination is done to the quoted source, and the reverse. All checksums are
/// kept right; the error's own TTL loses one.
pub fn translate<F: Family>(
    frame: &mut [u8],
    p: &Parsed<F>,
    quoted: &Quoted<F>,
    flow: &Rewrite<F::Address>,
    toward: Toward,
) -> Option<()> {
    let message = frame.get_mut(usize::from(p.l4)..usize::from(p.end))?;
    let behind = usize::from(quoted.l4.checked_sub(p.l4)?);
    let quoted = &quoted.key;
    let of_icmp = quoted.proto() == F::ICMP;
    let ([src, dst], [from, to]) = match toward {
        Toward::Lan => ([p.src, flow.dst], [flow.dst, quoted.dst()]),
        Toward::Uplink => ([flow.src, p.dst], [quoted.src(), flow.src]),
        Toward::Inside => ([flow.src, flow.dst], [flow.dst, flow.src]),
    };
    // The far end's may be another inside too, if a client of a service got one in place of its own.
    let [sport, dport] =
        if of_icmp { [flow.sport, quoted.dport()] } else { [flow.dport, flow.sport] };
    let new = FlowKey::new(from, to, sport, dport, quoted.proto());
    let (headers, transport) = message.split_at_mut_checked(behind)?;
    F::readdress(headers.get_mut(icmp::HEADER_LEN..)?, &new.src(), &new.dst(), None);
    if !protocol::is_portless(quoted.proto()) {
        rewrite_transport::<F>(transport, quoted, &new)?;
    }
    fill_checksum::<F>(message, &src, &dst);
    let header = frame.get_mut(usize::from(p.l3)..usize::from(p.l4))?;
    F::readdress(header, &src, &dst, Some(p.ttl.wrapping_sub(1)));
    Some(())
}

/// Gives a transport header, as far as it is quoted, the ports and the checksum of another key.
fn rewrite_transport<F: Family>(
    transport: &mut [u8],
    quoted: &FlowKey<F>,
    new: &FlowKey<F>,
) -> Option<()> {
    let (ports_at, sum_at) = match quoted.proto() {
        tcp::PROTOCOL => (0, tcp::field::CHECKSUM),
        udp::PROTOCOL => (0, udp::field::CHECKSUM),
        _ => (icmp::field::IDENT, icmp::field::CHECKSUM),
    };
    let ports = transport.get_mut(ports_at..)?;
    ports.get_mut(..2)?.copy_from_slice(&new.sport());
    if quoted.proto() != F::ICMP {
        ports.get_mut(2..4)?.copy_from_slice(&new.dport());
    }
    // Quoted only in part: then the checksum is not there.
    if let Some(field) = transport.get_mut(sum_at..).and_then(<[u8]>::first_chunk_mut::<2>) {
        let delta = Delta::from_raw(F::compile(quoted, new).l4_delta);
        *field = match quoted.proto() {
            udp::PROTOCOL => delta.apply_udp(*field),
            _ => delta.apply(*field),
        };
    }
    Some(())
}

/// Makes the checksum of an ICMP message from and to these addresses right.
pub fn fill_checksum<F: Family>(message: &mut [u8], src: &F::Address, dst: &F::Address) {
    const FIELD: Range<usize> = icmp::field::CHECKSUM..icmp::field::CHECKSUM + 2;
    if message.len() < icmp::HEADER_LEN {
        return;
    }
    message[FIELD].fill(0);
    let pseudo = F::pseudo(src, dst, F::ICMP, message.len() as u16);
    let sum = checksum::add(pseudo, checksum::sum(message));
    message[FIELD].copy_from_slice(&checksum::finish(sum));
}
