//! Frames built with etherparse, an implementation that shares no code with ours.

#![allow(dead_code, reason = "each test file uses its own part")]

use etherparse::{
    IpDscp, IpFragOffset, IpHeaders, IpNumber, Ipv4Header, Ipv6FragmentHeader, Ipv6Header,
    PacketBuilder, TcpHeader, VlanId,
};
use proptest::prelude::*;

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
        self.l3() + if self.v6 { 40 + fragment } else { 20 + self.ip_option_words * 4 }
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
            specs.push(Spec { vlan, ..Spec::new(v6, Transport::Other(60)) });
        }
    }
    specs
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
