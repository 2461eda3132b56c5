//! Reading captured Ethernet frames, and judging them.
//!
//! Written apart from the dataplane's own parser and checksum code, so that one can be wrong
//! without the other agreeing.

use std::net::Ipv4Addr;

/// What tells one flow in one direction from all others: the classic 5-tuple. For ICMP echo the
/// identifier stands in for both ports (RFC 5508); other ICMP has ports zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// Source address.
    pub source: Ipv4Addr,
    /// Source port.
    pub source_port: u16,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Destination port.
    pub destination_port: u16,
    /// IP protocol number.
    pub protocol: u8,
}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Shorter than its own headers say.
    Truncated,
    /// Not version 4, or a header length below 20.
    BadHeader,
    /// The IPv4 header checksum is wrong.
    HeaderChecksum,
    /// The TCP, UDP or ICMP checksum is wrong.
    PayloadChecksum,
}

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The flow of an Ethernet frame with at most one 802.1Q tag; `None` when it is not IPv4. The first
/// fragment of a datagram has ports; its checksum, like that of later ones, cannot be judged.
///
/// # Errors
/// What is wrong with the frame.
pub fn read(frame: &[u8]) -> Result<Option<Flow>, Fault> {
    let tagged = word(frame, 12)? == 0x8100;
    let start = if tagged { 18 } else { 14 };
    if word(frame, start - 2)? != 0x0800 {
        return Ok(None);
    }
    let packet = &frame[start..];
    let first = *packet.first().ok_or(Fault::Truncated)?;
    let header = usize::from(first & 15) * 4;
    if first >> 4 != 4 || header < 20 {
        return Err(Fault::BadHeader);
    }
    let total = usize::from(word(packet, 2)?);
    if total < header {
        return Err(Fault::BadHeader);
    }
    // What follows the datagram is Ethernet padding.
    let packet = packet.get(..total).ok_or(Fault::Truncated)?;
    if folded(sum(&packet[..header])) != 0xffff {
        return Err(Fault::HeaderChecksum);
    }
    let address =
        |at: usize| Ipv4Addr::new(packet[at], packet[at + 1], packet[at + 2], packet[at + 3]);
    let protocol = packet[9];
    let payload = &packet[header..];
    let fragment = word(packet, 6)?;
    let (source_port, destination_port) =
        if fragment & 0x1fff == 0 { ports(protocol, payload)? } else { (0, 0) };
    if fragment & 0x3fff == 0 && !checksum_holds(protocol, &packet[12..20], payload)? {
        return Err(Fault::PayloadChecksum);
    }
    let (source, destination) = (address(12), address(16));
    Ok(Some(Flow { source, source_port, destination, destination_port, protocol }))
}

fn ports(protocol: u8, payload: &[u8]) -> Result<(u16, u16), Fault> {
    match protocol {
        TCP | UDP => Ok((word(payload, 0)?, word(payload, 2)?)),
        // Echo request and reply.
        ICMP if matches!(payload.first(), Some(0 | 8)) => {
            word(payload, 4).map(|identifier| (identifier, identifier))
        }
        _ => Ok((0, 0)),
    }
}

/// Whether the payload's checksum holds (RFC 768, 792, 9293); true for protocols without one.
fn checksum_holds(protocol: u8, addresses: &[u8], payload: &[u8]) -> Result<bool, Fault> {
    let covered = match protocol {
        UDP if word(payload, 6)? == 0 => return Ok(true),
        UDP => {
            let length = usize::from(word(payload, 4)?);
            payload.get(..length).filter(|_| length >= 8).ok_or(Fault::Truncated)?
        }
        TCP if payload.len() < 20 => return Err(Fault::Truncated),
        ICMP if payload.len() < 8 => return Err(Fault::Truncated),
        TCP => payload,
        ICMP => return Ok(folded(sum(payload)) == 0xffff),
        _ => return Ok(true),
    };
    let pseudo_header = sum(addresses) + u64::from(protocol) + covered.len() as u64;
    Ok(folded(pseudo_header + sum(covered)) == 0xffff)
}

/// The big-endian 16-bit word at `at`.
fn word(bytes: &[u8], at: usize) -> Result<u16, Fault> {
    let bytes = bytes.get(at..at + 2).ok_or(Fault::Truncated)?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Sum of big-endian 16-bit words, the last padded with zero (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    let word = |pair: &[u8]| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).sum()
}

fn folded(mut sum: u64) -> u64 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A datagram from 10.0.1.1:12345 to 198.51.100.1:53, with checksums from elsewhere.
    const QUERY: &str = "02000000000202000000000108004500001f00010000401145980a000101c633640130390035000b9632010203";
    /// A TCP SYN from 10.0.1.1:40000 to 198.51.100.1:80.
    const SYN: &str = "020000000002020000000001080045000028000100004006459a0a000101c63364019c400050000000010000000050022000be1b0000";
    /// An echo request with identifier 0x1234, in VLAN 5.
    const ECHO: &str = "0200000000020200000000018100000508004500002100010000400145a60a000101c63364010800bc03123400016162636465";

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn flows_are_read_from_sound_frames() {
        let flow = |hex| read(&bytes(hex)).unwrap().unwrap();
        let (host, server) = (Ipv4Addr::new(10, 0, 1, 1), Ipv4Addr::new(198, 51, 100, 1));
        let expected = |source_port, destination_port, protocol| Flow {
            source: host,
            source_port,
            destination: server,
            destination_port,
            protocol,
        };
        assert_eq!(flow(QUERY), expected(12345, 53, UDP));
        assert_eq!(flow(SYN), expected(40000, 80, TCP));
        assert_eq!(flow(ECHO), expected(0x1234, 0x1234, ICMP));
    }

    #[test]
    fn every_changed_byte_of_the_packet_is_noticed() {
        for (hex, start) in [(QUERY, 14), (SYN, 14), (ECHO, 18)] {
            let sound = bytes(hex);
            for at in start..sound.len() {
                let mut frame = sound.clone();
                frame[at] ^= 0x10;
                assert!(read(&frame).is_err(), "byte {at} of {hex}");
            }
        }
    }

    #[test]
    fn every_cut_of_a_frame_is_noticed() {
        for (hex, start) in [(QUERY, 14), (SYN, 14), (ECHO, 18)] {
            let sound = bytes(hex);
            for length in start..sound.len() {
                assert_eq!(read(&sound[..length]), Err(Fault::Truncated), "{length} of {hex}");
            }
        }
    }

    #[test]
    fn padding_is_ignored() {
        let mut frame = bytes(SYN);
        frame.extend([0xff; 6]);
        assert!(read(&frame).unwrap().is_some());
    }

    #[test]
    fn udp_without_a_checksum_is_sound() {
        let mut frame = bytes(QUERY);
        frame[40..42].fill(0);
        assert!(read(&frame).unwrap().is_some());
    }

    #[test]
    fn other_protocols_than_ipv4_have_no_flow() {
        let mut frame = bytes(SYN);
        frame[12..14].copy_from_slice(&[0x08, 0x06]);
        assert_eq!(read(&frame), Ok(None));
    }
}
