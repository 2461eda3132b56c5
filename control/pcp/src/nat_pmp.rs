//! Messages of NAT-PMP, version 0 (RFC 6886 §3). Numbers are in network order, lifetimes in
//! seconds.

use std::net::Ipv4Addr;

use weir_layout::protocol::{TCP, UDP};

/// The version.
pub const VERSION: u8 = 0;

/// Set in the opcodes of responses.
const RESPONSE: u8 = 0x80;
const ADDRESS: u8 = 0;
const MAP_UDP: u8 = 1;
const MAP_TCP: u8 = 2;

/// Result codes (§3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum ResultCode {
    /// Done.
    Success = 0,
    /// The mapping is another's, or makes no sense.
    NotAuthorized = 2,
    /// No uplink can be used.
    NetworkFailure = 3,
    /// There is no port, or no room.
    OutOfResources = 4,
    /// An opcode that is not served.
    UnsupportedOpcode = 5,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Which address has the gateway outside (§3.2)?
    Address,
    /// A port is asked for (§3.3).
    Map(Map),
    /// Something else, by its opcode.
    Unknown(u8),
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// IP protocol number, TCP or UDP.
    pub protocol: u8,
    /// Port of the host; 0 with a lifetime of 0: all.
    pub inside_port: u16,
    /// The port outside that it would like; 0: any.
    pub outside_port: u16,
    /// For how long; 0: no longer (§3.4).
    pub lifetime: u32,
}

/// Reads a request; none: nothing is answered to it.
pub fn read(datagram: &[u8]) -> Option<Request> {
    let [VERSION, opcode, ..] = *datagram else { return None };
    match (opcode, datagram) {
        (RESPONSE.., _) => None,
        (ADDRESS, _) => Some(Request::Address),
        (MAP_UDP | MAP_TCP, &[_, _, _, _, a, b, c, d, e, f, g, h, ..]) => {
            let protocol = if opcode == MAP_UDP { UDP } else { TCP };
            Some(Request::Map(Map {
                protocol,
                inside_port: u16::from_be_bytes([a, b]),
                outside_port: u16::from_be_bytes([c, d]),
                lifetime: u32::from_be_bytes([e, f, g, h]),
            }))
        }
        (MAP_UDP | MAP_TCP, _) => None,
        _ => Some(Request::Unknown(opcode)),
    }
}

/// The address outside; none: there is no uplink. Told who asks, and all hosts when it is another.
pub fn address(address: Option<Ipv4Addr>, epoch: u32) -> Vec<u8> {
    let code = match address {
        Some(_) => ResultCode::Success,
        None => ResultCode::NetworkFailure,
    };
    let mut message = head(ADDRESS, code, epoch);
    message.extend_from_slice(&address.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
    message
}

/// The answer to a request for a port: this one outside, for so long.
pub fn grant(map: &Map, port: u16, lifetime: u32, epoch: u32) -> Vec<u8> {
    answer(map, ResultCode::Success, port, lifetime, epoch)
}

/// The answer to one that was refused (§3.5).
pub fn refuse(map: &Map, code: ResultCode, epoch: u32) -> Vec<u8> {
    answer(map, code, 0, 0, epoch)
}

/// The answer to an opcode that is not served.
pub fn unknown(opcode: u8, epoch: u32) -> Vec<u8> {
    head(opcode, ResultCode::UnsupportedOpcode, epoch)
}

fn answer(map: &Map, code: ResultCode, port: u16, lifetime: u32, epoch: u32) -> Vec<u8> {
    let opcode = if map.protocol == UDP { MAP_UDP } else { MAP_TCP };
    let mut message = head(opcode, code, epoch);
    message.extend_from_slice(&map.inside_port.to_be_bytes());
    message.extend_from_slice(&port.to_be_bytes());
    message.extend_from_slice(&lifetime.to_be_bytes());
    message
}

fn head(opcode: u8, code: ResultCode, epoch: u32) -> Vec<u8> {
    let mut message = vec![VERSION, opcode | RESPONSE];
    message.extend_from_slice(&(code as u16).to_be_bytes());
    message.extend_from_slice(&epoch.to_be_bytes());
    message
}
