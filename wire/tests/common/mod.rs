//! Frames built with etherparse, an implementation that shares no code with ours.

#![allow(dead_code, reason = "each test file uses its own part")]

use etherparse::{
    IpDscp, IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header,
    PacketBuilder, TcpHeader, VlanId,
};
use proptest::prelude::*;
use weir_wire::parse::{HEAD_LEN6, Kind, Parsed6, Reject, TRANSPORT_LEN6, parse6_head};

pub const SRC_MAC: [u8; 6] = [2, 0, 0x5e, 0x20, 0, 2];
pub const DST_MAC: [u8; 6] = [2, 0, 0x5e, 0x10, 0, 1];

/// What a frame carries above IP.
#[derive(Clone, Debug, PartialEq)]
pub enum Transport {
    Tcp {
        flags: u8,
        option_words: usize,
    },
    Udp,
    EchoRequest,
    EchoReply,
    /// The payload is the packet the error is about.
    IcmpError,
    Other(u8),
}

/// An extension header of IPv6 as it stands in a packet, but for the next header's number.
#[derive(Clone, Debug, PartialEq)]
pub struct Extension {
    pub number: u8,
    pub bytes: Vec<u8>,
}

impl Extension {
    pub const HOP_BY_HOP: u8 = 0;
    pub const ROUTING: u8 = 43;
    pub const FRAGMENT: u8 = 44;
    pub const DESTINATION_OPTIONS: u8 = 60;

    /// Of so many units of 8 bytes; `kind` is the type of a routing header.
    pub fn new(number: u8, units: usize, kind: u8) -> Self {
        let mut bytes = vec![0; 8 * units];
        (bytes[1], bytes[2]) = (units as u8 - 1, kind);
        Self { number, bytes }
    }

    /// A fragment header; the offset is in units of 8 bytes.
    pub fn fragment(offset: u16, more: bool, ident: u32) -> Self {
        let mut bytes = vec![0; 2];
        bytes.extend((offset << 3 | u16::from(more)).to_be_bytes());
        bytes.extend(ident.to_be_bytes());
        Self { number: Self::FRAGMENT, bytes }
    }
}

/// Puts extension headers behind the IPv6 header at `l3`, before those that are there.
pub fn insert_extensions(frame: &mut Vec<u8>, l3: usize, extensions: &[Extension]) {
    for extension in extensions.iter().rev() {
        let mut bytes = extension.bytes.clone();
        bytes[0] = frame[l3 + 6];
        frame[l3 + 6] = extension.number;
        let len = u16::from_be_bytes([frame[l3 + 4], frame[l3 + 5]]) + bytes.len() as u16;
        frame[l3 + 4..l3 + 6].copy_from_slice(&len.to_be_bytes());
        frame.splice(l3 + 40..l3 + 40, bytes);
    }
}

/// A frame to build. IPv4 takes the first four bytes of each address.
#[derive(Clone, Debug)]
pub struct Spec {
    pub v6: bool,
    pub vlan: Option<u16>,
    pub src: [u8; 16],
    pub dst: [u8; 16],
    pub sport: u16,
    pub dport: u16,
    pub ttl: u8,
    pub dscp: u8,
    pub ip_option_words: usize,
    /// Offset in 8-byte units, and whether more follow.
    pub fragment: Option<(u16, bool)>,
    /// Before a fragment header.
    pub extensions: Vec<Extension>,
    pub transport: Transport,
    pub payload: Vec<u8>,
    /// Bytes of 0xAA after the IP packet.
    pub padding: usize,
}

impl Spec {
    pub fn new(v6: bool, transport: Transport) -> Self {
        let mut src = *b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01";
        let mut dst = *b"\x20\x01\x0d\xb8\0\x01\0\0\0\0\0\0\0\0\0\x02";
        if !v6 {
            src[..4].copy_from_slice(&[192, 0, 2, 10]);
            dst[..4].copy_from_slice(&[198, 51, 100, 20]);
        }
        Self {
            v6,
            vlan: None,
            src,
            dst,
            sport: 49152,
            dport: 443,
            ttl: 64,
            dscp: 46,
            ip_option_words: 0,
            fragment: None,
            extensions: Vec::new(),
            transport,
            payload: b"payload".to_vec(),
            padding: 0,
        }
    }

    pub fn src4(&self) -> [u8; 4] {
        *self.src.first_chunk().unwrap()
    }

    pub fn dst4(&self) -> [u8; 4] {
        *self.dst.first_chunk().unwrap()
    }

    pub fn l3(&self) -> usize {
        if self.vlan.is_some() { 18 } else { 14 }
    }

    pub fn l4(&self) -> usize {
        let fragment = if self.fragment.is_some() { 8 } else { 0 };
        let extensions: usize = self.extensions.iter().map(|it| it.bytes.len()).sum();
        self.l3() + if self.v6 { 40 + extensions + fragment } else { 20 + self.ip_option_words * 4 }
    }

    fn ip(&self) -> IpHeaders {
        if self.v6 {
            let header = Ipv6Header {
                traffic_class: self.dscp << 2 | 1,
                hop_limit: self.ttl,
                source: self.src,
                destination: self.dst,
                ..Default::default()
            };
            let fragment = self.fragment.map(|(offset, more)| {
                let offset = IpFragOffset::try_new(offset).unwrap();
                Ipv6FragmentHeader::new(IpNumber(0), offset, more, 7)
            });
            return IpHeaders::Ipv6(
                header,
                etherparse::Ipv6Extensions { fragment, ..Default::default() },
            );
        }
        let (offset, more_fragments) = self.fragment.unwrap_or((0, false));
        let options = vec![1; self.ip_option_words * 4];
        let header = Ipv4Header {
            dscp: IpDscp::try_new(self.dscp).unwrap(),
            fragment_offset: IpFragOffset::try_new(offset).unwrap(),
            more_fragments,
            dont_fragment: false,
            time_to_live: self.ttl,
            source: self.src4(),
            destination: self.dst4(),
            options: options.as_slice().try_into().unwrap(),
            ..Default::default()
        };
        IpHeaders::Ipv4(header, Default::default())
    }

    /// The frame, every length and checksum in it right.
    pub fn build(&self) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(SRC_MAC, DST_MAC);
        let step = match self.vlan {
            Some(id) => ethernet.single_vlan(VlanId::try_new(id).unwrap()).ip(self.ip()),
            None => ethernet.ip(self.ip()),
        };
        let mut frame = Vec::new();
        let (id, data) = (self.sport, self.payload.as_slice());
        match self.transport {
            Transport::Tcp { flags, option_words } => {
                let mut header = TcpHeader::new(self.sport, self.dport, 0x0102_0304, 501);
                header.fin = flags & 1 != 0;
                header.syn = flags & 2 != 0;
                header.rst = flags & 4 != 0;
                header.psh = flags & 8 != 0;
                header.ack = flags & 16 != 0;
                header.urg = flags & 32 != 0;
                header.ece = flags & 64 != 0;
                header.cwr = flags & 128 != 0;
                header.set_options_raw(&vec![1; option_words * 4]).unwrap();
                step.tcp_header(header).write(&mut frame, data).unwrap();
            }
            Transport::Udp => step.udp(self.sport, self.dport).write(&mut frame, data).unwrap(),
            Transport::EchoRequest if self.v6 => {
                step.icmpv6_echo_request(id, 7).write(&mut frame, data).unwrap();
            }
            Transport::EchoRequest => {
                step.icmpv4_echo_request(id, 7).write(&mut frame, data).unwrap();
            }
            Transport::EchoReply if self.v6 => {
                step.icmpv6_echo_reply(id, 7).write(&mut frame, data).unwrap();
            }
            Transport::EchoReply => step.icmpv4_echo_reply(id, 7).write(&mut frame, data).unwrap(),
            Transport::IcmpError if self.v6 => {
                step.icmpv6_raw(2, 0, [0, 0, 5, 0]).write(&mut frame, data).unwrap();
            }
            Transport::IcmpError => {
                step.icmpv4_raw(3, 4, [0, 0, 5, 0]).write(&mut frame, data).unwrap();
            }
            Transport::Other(proto) => step.write(&mut frame, IpNumber(proto), data).unwrap(),
        }
        insert_extensions(&mut frame, self.l3(), &self.extensions);
        frame.resize(frame.len() + self.padding, 0xaa);
        frame
    }
}

/// A frame of each kind, the base of mutations.
pub fn samples() -> Vec<Spec> {
    let inner = |v6| Spec::new(v6, Transport::Udp).build()[14..].to_vec();
    let mut specs = Vec::new();
    for v6 in [false, true] {
        for vlan in [None, Some(100)] {
            for transport in [
                Transport::Tcp { flags: 0x18, option_words: 3 },
                Transport::Udp,
                Transport::EchoRequest,
                Transport::EchoReply,
                Transport::Other(47),
                Transport::Other(89),
            ] {
                specs.push(Spec { vlan, padding: 6, ..Spec::new(v6, transport.clone()) });
                let fragment = Some((0, true));
                specs.push(Spec { vlan, fragment, ..Spec::new(v6, transport) });
            }
            let error = Spec::new(v6, Transport::IcmpError);
            let error = Spec { vlan, payload: inner(v6), ..error };
            specs.push(Spec { fragment: Some((0, true)), ..error.clone() });
            specs.push(error);
            let later = Some((3, false));
            specs.push(Spec { vlan, fragment: later, ..Spec::new(v6, Transport::Other(17)) });
            specs.push(Spec { vlan, ip_option_words: 2, ..Spec::new(v6, Transport::Udp) });
        }
    }
    specs.extend(extended_samples());
    specs
}

/// IPv6 with extension headers, in each order and number that matters.
fn extended_samples() -> Vec<Spec> {
    let hops = || Extension::new(Extension::HOP_BY_HOP, 1, 0);
    let options = |units| Extension::new(Extension::DESTINATION_OPTIONS, units, 0);
    let routing = |kind| Extension::new(Extension::ROUTING, 3, kind);
    let chains = [
        vec![hops()],
        vec![options(1)],
        vec![routing(4)],
        vec![hops(), options(2), routing(2), options(1)],
        vec![Extension::fragment(0, true, 7), options(1)],
        vec![hops(), Extension::fragment(9, false, 7), options(1)],
        vec![options(1); 8],
        vec![options(1); 9],
        vec![options(1), hops()],
        vec![routing(0)],
        vec![Extension::fragment(0, true, 7), Extension::fragment(0, true, 8)],
    ];
    let mut specs = Vec::new();
    for extensions in chains {
        for transport in
            [Transport::Tcp { flags: 0x18, option_words: 3 }, Transport::Udp, Transport::EchoReply]
        {
            let base = Spec::new(true, transport);
            specs.push(Spec { extensions: extensions.clone(), padding: 6, ..base });
        }
        let inner = Spec { extensions: extensions.clone(), ..Spec::new(true, Transport::Udp) };
        let payload = inner.build()[14..].to_vec();
        specs.push(Spec { extensions, payload, ..Spec::new(true, Transport::IcmpError) });
    }
    specs
}

/// As [`parse6`](weir_wire::parse::parse6), from the bytes that the XDP program gives it.
pub fn parse6_by_parts(frame: &[u8]) -> Result<Parsed6, Reject> {
    let mut parsed = parse6_head(&frame[..frame.len().min(HEAD_LEN6)], frame.len())?;
    if parsed.kind == Kind::Options && parsed.skip_extensions(frame)? {
        let mut transport = [0; TRANSPORT_LEN6];
        let rest = &frame[parsed.l4.into()..parsed.end.into()];
        let len = rest.len().min(TRANSPORT_LEN6);
        transport[..len].copy_from_slice(&rest[..len]);
        parsed.read_transport(&transport)?;
    }
    Ok(parsed)
}

/// Makes the checksum of a 20-byte IPv4 header at `l3` right, if there is one, so that mutations
/// of other fields get past it.
pub fn fix_ipv4_checksum(frame: &mut [u8], l3: usize) {
    let Some(header) = frame.get_mut(l3..).and_then(<[u8]>::first_chunk_mut::<20>) else { return };
    (header[10], header[11]) = (0, 0);
    let sum = etherparse::checksum::Sum16BitWords::new().add_slice(header);
    [header[10], header[11]] = sum.ones_complement().to_ne_bytes();
}

fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![
        (any::<u8>(), 0..10usize)
            .prop_map(|(flags, option_words)| Transport::Tcp { flags, option_words }),
        Just(Transport::Udp),
        Just(Transport::EchoRequest),
        Just(Transport::EchoReply),
    ]
}

/// Whole TCP, UDP and echo packets.
pub fn flows(v6: bool) -> impl Strategy<Value = Spec> {
    let addresses = (any::<[u8; 16]>(), any::<[u8; 16]>(), any::<u16>(), any::<u16>());
    let vlan = proptest::option::of(0..4096u16);
    let payload = proptest::collection::vec(any::<u8>(), 2..64);
    (transport(), addresses, vlan, any::<u8>(), 0..64u8, payload, 0..20usize).prop_map(
        move |(transport, (src, dst, sport, dport), vlan, ttl, dscp, payload, padding)| {
            let base = Spec::new(v6, transport);
            Spec { src, dst, sport, dport, vlan, ttl, dscp, payload, padding, ..base }
        },
    )
}
