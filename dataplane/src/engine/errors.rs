//! ICMP errors: others' about packets of flows, and the gateway's own.
//!
//! An error says what became of a packet, and its receiver believes it: a forged one ends
//! connections, slows them down or leads them astray (RFC 5927). So it passes only from where it can
//! have come. A redirect is for the link it is sent on (RFC 792), a source quench for nobody any
//! more (RFC 6633): neither passes. From an uplink no error comes in the name of a LAN host, of the
//! gateway, or of an address that nobody has. From the LAN one comes from the hardware address that
//! the flow's packets come from: the host's, or that of the router it is behind, which also sends
//! on what routers further inside report.

use super::*;

impl Engine {
    pub(super) fn icmp_error<B: Buffer>(
        &mut self,
        work: &Work,
        mut received: Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<(), Dropped> {
        let p = &work.parsed;
        let kind = received.frame.data().get(usize::from(p.l4)).copied();
        if let Some(icmp::REDIRECT | icmp::SOURCE_QUENCH) = kind {
            return Err(Counter::DropIcmpRedirect);
        }
        if self.is_uplink(work.port) && !self.may_be_outside(p.src) {
            return Err(Counter::DropSource);
        }
        if p.ttl <= 1 {
            return Err(Counter::DropTtl);
        }
        let quoted = icmp_error::quoted_key(received.frame.data(), p);
        let key = reversed(&quoted.ok_or(Counter::DropIcmpUnrelated)?);
        let slot = self.table.find(flow4(self.key, &key), &key);
        let action = self.table.slot(slot.ok_or(Counter::DropIcmpUnrelated)?).action();
        let toward = if action.flags & flag::TO_UPLINK != 0 { Toward::Uplink } else { Toward::Lan };
        // From the LAN only about packets that went there, and the reverse.
        let host = sender(received.frame.data(), work.port);
        if self.check_side(work, &action, host).is_err() || host_moved(&action, host) {
            return Err(Counter::DropIcmpUnrelated);
        }
        icmp_error::translate(received.frame.data_mut(), p, &action.rewrite, toward)
            .ok_or(Counter::DropIcmpUnrelated)?;
        self.send(received.frame, p, &action, out)
    }

    /// Could somebody out there have this address? Routers of providers have private ones.
    fn may_be_outside(&self, address: [u8; 4]) -> bool {
        let half = &self.snapshot.half;
        let of_lan = half.lan_prefixes().iter().any(|prefix| prefix.contains4(address));
        let of_port = half.ports.iter().any(|port| port.role != 0 && port.address == address);
        let of_uplink = half.uplinks.iter().any(|uplink| uplink.addresses().contains(&address));
        ipv4::is_unicast(address) && !of_lan && !of_port && !of_uplink
    }
}
