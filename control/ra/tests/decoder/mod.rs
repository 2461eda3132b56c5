//! A strict reader of router advertisements, written by the RFCs alone: what is unknown, reserved
//! and set, or of the wrong length makes it panic.

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;
use weir_ra::{Advertisement, PrefixInformation, RouteInformation};
use weir_view::Preference;

struct Reader<'b>(&'b [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_first_chunk().expect("more bytes");
        self.0 = rest;
        *taken
    }

    fn u8(&mut self) -> u8 {
        u8::from_be_bytes(self.take())
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.take())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.take())
    }

    fn address(&mut self) -> Ipv6Addr {
        Ipv6Addr::from(self.take::<16>())
    }

    fn zeros<const N: usize>(&mut self) {
        assert_eq!(self.take(), [0; N], "reserved");
    }

    fn end(&self) {
        assert!(self.0.is_empty(), "{} bytes too many", self.0.len());
    }
}

/// Reads a message.
pub fn decode(message: &[u8]) -> Advertisement {
    let mut reader = Reader(message);
    assert_eq!((reader.u8(), reader.u8(), reader.u16()), (134, 0, 0), "type, code, checksum");
    let hop_limit = reader.u8();
    let flags = reader.u8();
    assert_eq!(flags & 0x27, 0, "reserved flags");
    let (managed, other) = (flags & 0x80 != 0, flags & 0x40 != 0);
    let preference = match flags >> 3 & 3 {
        0b01 => Preference::High,
        0b00 => Preference::Medium,
        0b11 => Preference::Low,
        reserved => panic!("preference {reserved:02b} is reserved"),
    };
    let router_lifetime = reader.u16();
    reader.zeros::<8>();
    let mut told = Advertisement {
        hop_limit,
        managed,
        other,
        router_lifetime,
        preference,
        ..Advertisement::default()
    };
    while !reader.0.is_empty() {
        let (kind, units) = (reader.0[0], usize::from(reader.0[1]));
        let (option, rest) = reader.0.split_at(units * 8);
        decode_option(kind, Reader(&option[2..]), &mut told);
        reader.0 = rest;
    }
    told
}

fn decode_option(kind: u8, mut body: Reader<'_>, told: &mut Advertisement) {
    match kind {
        1 => assert_eq!(told.link_address.replace(body.take()), None),
        3 => {
            let (length, flags) = (body.u8(), body.u8());
            assert_eq!(flags & 0x3f, 0, "reserved flags");
            let (valid, preferred) = (body.u32(), body.u32());
            body.zeros::<4>();
            let prefix = Ipv6Net::new(body.address(), length).unwrap();
            assert_eq!(prefix, prefix.trunc(), "bits behind the prefix");
            let (on_link, autonomous) = (flags & 0x80 != 0, flags & 0x40 != 0);
            let information = PrefixInformation { prefix, on_link, autonomous, valid, preferred };
            told.prefixes.push(information);
        }
        5 => {
            body.zeros::<2>();
            assert_eq!(told.mtu.replace(body.u32()), None);
        }
        24 => {
            let length = body.u8();
            body.zeros::<1>();
            let lifetime = body.u32();
            let mut octets = [0; 16];
            octets[..body.0.len()].copy_from_slice(body.0);
            assert_eq!(body.0.len(), usize::from(length.div_ceil(64)) * 8, "RFC 4191 §2.3");
            body.0 = &[];
            let prefix = Ipv6Net::new(octets.into(), length).unwrap();
            told.routes.push(RouteInformation { prefix, lifetime });
        }
        25 => {
            body.zeros::<2>();
            let lifetime = body.u32();
            assert!(!body.0.is_empty(), "at least one, RFC 8106 §5.1");
            let servers = if lifetime == 0 { &mut told.ended_dns } else { &mut told.dns };
            while !body.0.is_empty() {
                servers.push(body.address());
            }
            told.dns_lifetime = told.dns_lifetime.max(lifetime);
        }
        31 => {
            body.zeros::<2>();
            let lifetime = body.u32();
            let domains = if lifetime == 0 { &mut told.ended_search } else { &mut told.search };
            domains.push(decode_domain(&mut body));
            told.dns_lifetime = told.dns_lifetime.max(lifetime);
            assert!(body.0.len() < 8 && body.0.iter().all(|byte| *byte == 0), "padding");
            body.0 = &[];
        }
        unknown => panic!("option {unknown}"),
    }
    body.end();
}

fn decode_domain(body: &mut Reader<'_>) -> String {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(body.u8());
        assert!(length < 64, "a label of {length} bytes");
        if length == 0 {
            return labels.join(".");
        }
        let (label, rest) = body.0.split_at(length);
        labels.push(String::from_utf8(label.to_vec()).unwrap());
        body.0 = rest;
    }
}
