//! ICMP and ICMPv6 echo (RFC 792, RFC 4443 §4.1).
//!
//! By a raw socket: ping sockets depend on the sysctl `ping_group_range`, which admits nobody by
//! default.

use std::net::{IpAddr, SocketAddr};

use socket2::{Protocol, Type};
use tokio::net::UdpSocket;
use weir_wire::checksum;

use super::bind::Binding;
use super::socket_error;
use crate::health::ProbeError;

/// Header and a token of eight bytes.
const LENGTH: usize = 16;

/// Asks `address` and waits for its answer. `token` tells the answer from those to other probes.
pub async fn echo(binding: &Binding, address: IpAddr, token: u64) -> Result<(), ProbeError> {
    let protocol = if address.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    exchange(binding, address, protocol, token).await.map_err(|e| socket_error(&e))
}

async fn exchange(
    binding: &Binding,
    address: IpAddr,
    protocol: Protocol,
    token: u64,
) -> std::io::Result<()> {
    let socket = binding.socket(address, Type::RAW, protocol)?;
    // A raw socket that is connected hears its peer alone, and the errors that routers send.
    socket.connect(&SocketAddr::new(address, 0).into())?;
    // For send and recv a raw socket is like one of UDP.
    let socket = UdpSocket::from_std(socket.into())?;
    socket.send(&request(address, token)).await?;
    let mut packet = [0; 256];
    loop {
        let length = socket.recv(&mut packet).await?;
        if is_reply(&packet[..length], address, token) {
            return Ok(());
        }
    }
}

fn request(address: IpAddr, token: u64) -> [u8; LENGTH] {
    let mut message = [0; LENGTH];
    message[0] = if address.is_ipv4() { 8 } else { 128 };
    // Identifier and sequence number: some middleboxes want them to vary.
    message[4..8].copy_from_slice(&token.to_be_bytes()[4..]);
    message[8..].copy_from_slice(&token.to_be_bytes());
    if address.is_ipv4() {
        // The kernel makes that of ICMPv6 itself (RFC 3542 §3.1).
        let sum = !checksum::sum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    message
}

/// `packet` is as a raw socket gives it: with IP header for IPv4, without for IPv6.
fn is_reply(packet: &[u8], address: IpAddr, token: u64) -> bool {
    let (header, kind) = match address {
        IpAddr::V4(_) => (packet.first().map_or(0, |byte| usize::from(byte & 15) * 4), 0),
        IpAddr::V6(_) => (0, 129),
    };
    let Some(message) = packet.get(header..) else { return false };
    message.len() >= LENGTH
        && message[..2] == [kind, 0]
        && message[4..8] == token.to_be_bytes()[4..]
        && message[8..LENGTH] == token.to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    fn reply(address: IpAddr, token: u64) -> Vec<u8> {
        let mut message = request(address, token);
        message[0] = if address.is_ipv4() { 0 } else { 129 };
        let header: &[u8] = if address.is_ipv4() { &[0x46; 24] } else { &[] };
        [header, &message].concat()
    }

    #[test]
    fn a_request_has_a_good_checksum() {
        assert_eq!(checksum::sum(&request(V4, 0x0123_4567_89ab_cdef)), 0xffff);
    }

    #[test]
    fn its_answer_is_told_from_others() {
        for address in [V4, V6] {
            assert!(is_reply(&reply(address, 7), address, 7));
            assert!(!is_reply(&reply(address, 8), address, 7), "of another probe");
            let cut = reply(address, 7);
            (0..cut.len()).for_each(|end| assert!(!is_reply(&cut[..end], address, 7)));
            let mut question = reply(address, 7);
            let kind = question.len() - LENGTH;
            question[kind] = 8;
            assert!(!is_reply(&question, address, 7), "a request");
        }
    }
}
