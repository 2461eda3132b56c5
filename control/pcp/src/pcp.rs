//! Messages of PCP, version 2 (RFC 6887 §7, §11.1, §13, §14.1). Numbers are in network order, lengths
//! in bytes, lifetimes in seconds; addresses of IPv4 are mapped into IPv6.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use weir_ports::mapping::Nonce;

/// The version.
pub const VERSION: u8 = 2;
/// Length of the header, of requests and responses (§7.1, §7.2).
pub const HEADER_LEN: usize = 24;
/// Length of what MAP has behind it (§11.1).
pub const MAP_LEN: usize = 36;
/// The longest message (§7).
pub const LONGEST: usize = 1100;

/// Set in the opcodes of responses.
const RESPONSE: u8 = 0x80;
const ANNOUNCE: u8 = 0;
const MAP: u8 = 1;
const PREFER_FAILURE: u8 = 2;
const FILTER: u8 = 3;
/// Options from this one on may be ignored (§7.3).
const OPTIONAL: u8 = 128;
/// Bits of an address of IPv6 that say that it is one of IPv4.
const MAPPED_BITS: u8 = 96;

/// Result codes (§7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ResultCode {
    /// Done.
    Success = 0,
    /// Of another version.
    UnsupportedVersion = 1,
    /// The mapping is another's, or of the file.
    NotAuthorized = 2,
    /// Of no sound length, or without sense.
    MalformedRequest = 3,
    /// An opcode that is not served.
    UnsupportedOpcode = 4,
    /// An option that is not served and may not be ignored.
    UnsupportedOption = 5,
    /// An option without sense.
    MalformedOption = 6,
    /// No uplink can be used.
    NetworkFailure = 7,
    /// There is no room.
    NoResources = 8,
    /// A protocol without ports, or all of them.
    UnsupportedProtocol = 9,
    /// The host has its share.
    QuotaExceeded = 10,
    /// The port or address that is asked for is not to be had.
    CannotProvideExternal = 11,
    /// The header names another source.
    AddressMismatch = 12,
    /// The filters cannot be had.
    ExcessiveRemotePeers = 13,
}

impl ResultCode {
    /// For how long the error is likely to last, seconds (§7.4).
    pub const fn lifetime(self) -> u32 {
        match self {
            Self::Success => 0,
            Self::NetworkFailure
            | Self::NoResources
            | Self::QuotaExceeded
            | Self::CannotProvideExternal
            | Self::ExcessiveRemotePeers => 30,
            _ => 30 * 60,
        }
    }
}

/// A request that can be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Is the server the same as before?
    Announce,
    /// A port is asked for.
    Map(Map),
}

/// What MAP asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Map {
    /// The client's.
    pub nonce: Nonce,
    /// IP protocol number; 0: all.
    pub protocol: u8,
    /// Port of the host; 0: all.
    pub inside_port: u16,
    /// The port outside that it would like; 0: any.
    pub outside_port: u16,
    /// The address outside that it would like; none: any.
    pub outside_address: Option<IpAddr>,
    /// For how long; 0: no longer.
    pub lifetime: u32,
    /// It is to be that port and address, or none (§13.2).
    pub prefer_failure: bool,
    /// The filters that are there already go (§13.3).
    pub clears_filters: bool,
    /// Sources that may use the mapping, beside those of before.
    pub filters: Vec<IpNet>,
    /// The options that were understood, as they came.
    options: Vec<u8>,
}

/// Why a datagram is no request that can be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nothing is answered to it (§8.2).
    Silent,
    /// An error is.
    Code(ResultCode),
}

impl From<ResultCode> for Refusal {
    fn from(code: ResultCode) -> Self {
        Self::Code(code)
    }
}

/// Reads a request that came from this address (§8.2).
///
/// # Errors
/// When it cannot be served.
pub fn read(datagram: &[u8], from: IpAddr) -> Result<Request, Refusal> {
    let [version, opcode, ..] = *datagram else { return Err(Refusal::Silent) };
    if opcode & RESPONSE != 0 {
        return Err(Refusal::Silent);
    }
    if version != VERSION {
        return Err(ResultCode::UnsupportedVersion.into());
    }
    let sound =
        (HEADER_LEN..=LONGEST).contains(&datagram.len()) && datagram.len().is_multiple_of(4);
    if !sound {
        return Err(ResultCode::MalformedRequest.into());
    }
    if address(&datagram[8..24]) != from {
        return Err(ResultCode::AddressMismatch.into());
    }
    let rest = &datagram[HEADER_LEN..];
    match opcode {
        ANNOUNCE => Options::default().read(rest, from).map(|_| Request::Announce),
        MAP if rest.len() < MAP_LEN => Err(ResultCode::MalformedRequest.into()),
        MAP => map(word(&datagram[4..8]), rest, from).map(Request::Map),
        _ => Err(ResultCode::UnsupportedOpcode.into()),
    }
}

fn map(lifetime: u32, body: &[u8], from: IpAddr) -> Result<Map, Refusal> {
    let (body, options) = body.split_at(MAP_LEN);
    let (protocol, inside_port) = (body[12], short(&body[16..18]));
    if protocol == 0 && inside_port != 0 {
        return Err(ResultCode::MalformedRequest.into());
    }
    let suggested = address(&body[20..36]);
    let options = Options { of_map: true, ..Options::default() }.read(options, from)?;
    let mut nonce = Nonce::default();
    nonce.copy_from_slice(&body[..12]);
    Ok(Map {
        nonce,
        protocol,
        inside_port,
        outside_port: short(&body[18..20]),
        outside_address: (!suggested.is_unspecified()).then_some(suggested),
        lifetime,
        prefer_failure: options.prefer_failure,
        clears_filters: options.clears_filters,
        filters: options.filters,
        options: options.understood,
    })
}

/// The options of a request.
#[derive(Default)]
struct Options {
    of_map: bool,
    prefer_failure: bool,
    clears_filters: bool,
    filters: Vec<IpNet>,
    /// As they came.
    understood: Vec<u8>,
}

impl Options {
    /// Goes through them: code, a byte, length, data up to a multiple of four (§7.3).
    fn read(mut self, mut rest: &[u8], from: IpAddr) -> Result<Self, Refusal> {
        while !rest.is_empty() {
            let [code, _, high, low, ..] = *rest else {
                return Err(ResultCode::MalformedOption.into());
            };
            let length = usize::from(u16::from_be_bytes([high, low]));
            let end = 4 + length.next_multiple_of(4);
            let Some(option) = rest.get(..end) else {
                return Err(ResultCode::MalformedOption.into());
            };
            let is_known = match (code, self.of_map) {
                (PREFER_FAILURE, true) => self.prefer_failure(length),
                (FILTER, true) => self.filter(&option[4..4 + length], from),
                (OPTIONAL.., _) => Ok(false),
                _ => Err(ResultCode::UnsupportedOption),
            }?;
            if is_known {
                self.understood.extend_from_slice(option);
            }
            rest = &rest[end..];
        }
        Ok(self)
    }

    fn prefer_failure(&mut self, length: usize) -> Result<bool, ResultCode> {
        if length != 0 || self.prefer_failure {
            return Err(ResultCode::MalformedOption);
        }
        self.prefer_failure = true;
        Ok(true)
    }

    /// A byte, the length of a prefix, a port of the remote end, and the prefix. With a length of 0
    /// those of before go. A port alone of the remote end cannot be let in.
    fn filter(&mut self, data: &[u8], from: IpAddr) -> Result<bool, ResultCode> {
        let Ok(data) = <&[u8; 20]>::try_from(data) else {
            return Err(ResultCode::MalformedOption);
        };
        let (length, port, peer) = (data[1], short(&data[2..4]), address(&data[4..20]));
        if length == 0 {
            self.clears_filters = true;
            self.filters.clear();
            return Ok(true);
        }
        let net = match peer {
            IpAddr::V4(peer) => {
                let length = length.checked_sub(MAPPED_BITS).ok_or(ResultCode::MalformedOption)?;
                Ipv4Net::new(peer, length).map(|net| IpNet::V4(net.trunc()))
            }
            IpAddr::V6(peer) => Ipv6Net::new(peer, length).map(|net| IpNet::V6(net.trunc())),
        };
        let net = net.map_err(|_| ResultCode::MalformedOption)?;
        if net.addr().is_ipv4() != from.is_ipv4() {
            return Err(ResultCode::MalformedOption);
        }
        if port != 0 {
            return Err(ResultCode::ExcessiveRemotePeers);
        }
        self.filters.push(net);
        Ok(true)
    }
}

/// The answer to a request that was refused: what it said, with the error, for so long (§8.3).
pub fn refuse(request: &[u8], code: ResultCode, lifetime: u32, epoch: u32) -> Vec<u8> {
    let mut message = request[..request.len().min(LONGEST)].to_vec();
    message.resize(message.len().max(HEADER_LEN).next_multiple_of(4), 0);
    let unread = matches!(
        code,
        ResultCode::UnsupportedVersion
            | ResultCode::MalformedRequest
            | ResultCode::MalformedOption
            | ResultCode::UnsupportedOption
    );
    // What could not be read is sent back (§7.2).
    if !unread {
        message[12..HEADER_LEN].fill(0);
    }
    head(&mut message, code, lifetime, epoch);
    message
}

/// The answer to MAP that was granted: this port and address, for so long.
pub fn grant(map: &Map, address: IpAddr, port: u16, lifetime: u32, epoch: u32) -> Vec<u8> {
    let mut message = vec![0; HEADER_LEN + MAP_LEN];
    message[1] = MAP;
    head(&mut message, ResultCode::Success, lifetime, epoch);
    let body = &mut message[HEADER_LEN..];
    body[..12].copy_from_slice(&map.nonce);
    body[12] = map.protocol;
    body[16..18].copy_from_slice(&map.inside_port.to_be_bytes());
    body[18..20].copy_from_slice(&port.to_be_bytes());
    body[20..36].copy_from_slice(&mapped(address).octets());
    message.extend_from_slice(&map.options);
    message
}

/// What all hosts are told, and who asks by ANNOUNCE (§14.1).
pub fn announcement(epoch: u32) -> Vec<u8> {
    let mut message = vec![0; HEADER_LEN];
    message[1] = ANNOUNCE;
    head(&mut message, ResultCode::Success, 0, epoch);
    message
}

fn head(message: &mut [u8], code: ResultCode, lifetime: u32, epoch: u32) {
    message[0] = VERSION;
    message[1] |= RESPONSE;
    message[2] = 0;
    message[3] = code as u8;
    message[4..8].copy_from_slice(&lifetime.to_be_bytes());
    message[8..12].copy_from_slice(&epoch.to_be_bytes());
}

/// An address of 16 bytes. Anything else is nobody's.
fn address(bytes: &[u8]) -> IpAddr {
    Ipv6Addr::from(<[u8; 16]>::try_from(bytes).unwrap_or_default()).to_canonical()
}

fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn short(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u16::from(*byte))
}

fn word(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0, |sum, byte| sum << 8 | u32::from(*byte))
}
