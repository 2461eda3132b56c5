//! Our parser against etherparse, on generated frames and on mutations of them.
//!
//! Where they differ on purpose:
//!
//! | case | ours | etherparse |
//! |---|---|---|
//! | IPv4 header checksum wrong | rejects | does not look |
//! | first fragment whose transport header is cut or contradicts itself | rejects | does not look |
//! | ICMP error without an inner IP header of its family | rejects | takes it |
//! | UDP length 0 (jumbogram) | rejects | takes it as the rest of the packet |
//! | IPv6 payload length 0 (jumbogram) | takes it as empty | takes it as the rest of the frame |
//! | two VLAN tags, service tags | rejects | takes up to three |
//! | IPv4 options | leaves the rest to the slow path | walks on |
//! | IPv6 extension headers: many, type 0 routing, two fragment headers | refuses to walk | walks on |
//! | later fragments of IPv6 | data behind the fragment header | walks on |
//! | IGMP, ICMP of the other family, ICMP timestamps | other protocol, unread | reads them |
//! | AH, and what it protects | a flow without ports, unread | walks on |

mod common;

use std::cell::Cell;

use common::{Spec, Transport, fix_ipv4_checksum, flows, samples};
use etherparse::{
    IpNumber, Ipv4HeaderSlice, Ipv6ExtensionSlice, Ipv6ExtensionsSlice, Ipv6FragmentHeaderSlice,
    Ipv6HeaderSlice, LinkExtSlice, SlicedPacket, TransportSlice,
};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use weir_wire::family::Family;
use weir_wire::parse::{Kind, Parsed, Parsed6, Reject, parse, parse6};
use weir_wire::protocol;

/// Protocol number that etherparse walks past, and we do not (RFC 4302).
const AUTHENTICATION: u8 = 51;

/// Whether an IPv4 header's checksum is right. From the bytes: etherparse's parsed header forgets the
/// reserved flag.
fn is_intact(header: &[u8]) -> bool {
    etherparse::checksum::Sum16BitWords::new().add_slice(header).ones_complement() == 0
}

/// Ports and TCP flags as etherparse has them; echo's identifier and type as ports.
fn transport(packet: &SlicedPacket<'_>) -> ([u8; 2], [u8; 2], u8) {
    match packet.transport.as_ref().expect("a transport") {
        TransportSlice::Tcp(tcp) => {
            let bits = [
                tcp.fin(),
                tcp.syn(),
                tcp.rst(),
                tcp.psh(),
                tcp.ack(),
                tcp.urg(),
                tcp.ece(),
                tcp.cwr(),
            ];
            let flags = bits.iter().rev().fold(0, |flags, bit| flags << 1 | u8::from(*bit));
            (tcp.source_port().to_be_bytes(), tcp.destination_port().to_be_bytes(), flags)
        }
        TransportSlice::Udp(udp) => {
            (udp.source_port().to_be_bytes(), udp.destination_port().to_be_bytes(), 0)
        }
        TransportSlice::Icmpv4(icmp) => {
            assert!(matches!(icmp.type_u8(), 0 | 8));
            let [a, b, ..] = icmp.bytes5to8();
            ([a, b], [0, icmp.type_u8()], 0)
        }
        TransportSlice::Icmpv6(icmp) => {
            assert!(matches!(icmp.type_u8(), 128 | 129));
            let [a, b, ..] = icmp.bytes5to8();
            ([a, b], [0, icmp.type_u8()], 0)
        }
        other => panic!("no flow: {other:?}"),
    }
}

/// Checks VLAN tag and transport of an accepted frame.
fn agree<F: Family>(frame: &[u8], parsed: &Parsed<F>) {
    match SlicedPacket::from_ethernet(frame) {
        Ok(packet) => {
            let vlan = match packet.link_exts.first() {
                Some(LinkExtSlice::Vlan(tag)) => tag.vlan_identifier().value(),
                Some(other) => panic!("not a VLAN tag: {other:?}"),
                None => 0,
            };
            assert_eq!(parsed.vlan, vlan);
            assert_eq!(usize::from(parsed.l3), 14 + 4 * packet.link_exts.len());
            match parsed.kind {
                Kind::Flow if protocol::is_portless(parsed.proto) => {
                    assert_eq!((parsed.sport, parsed.dport, parsed.tcp_flags), ([0; 2], [0; 2], 0));
                    let is_read = packet.transport.is_some();
                    assert!(!is_read || parsed.proto == AUTHENTICATION, "{}", parsed.proto);
                }
                Kind::Flow => {
                    let ours = (parsed.sport, parsed.dport, parsed.tcp_flags);
                    assert_eq!(ours, transport(&packet));
                }
                Kind::IcmpError => assert!(matches!(
                    packet.transport,
                    Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_))
                )),
                Kind::OtherProtocol => assert!(!matches!(
                    packet.transport,
                    Some(TransportSlice::Tcp(_) | TransportSlice::Udp(_))
                )),
                Kind::Fragment { .. } | Kind::Options => {}
            }
        }
        Err(error) => assert!(
            !matches!(parsed.kind, Kind::Flow | Kind::IcmpError) || parsed.proto == AUTHENTICATION,
            "{:?} to us, but {error}",
            parsed.kind
        ),
    }
}

fn agree4(frame: &[u8]) -> Result<Kind, Reject> {
    let parsed = match parse(frame) {
        Ok(parsed) => parsed,
        Err(reject) => {
            justify(frame, reject, 0x0800);
            return Err(reject);
        }
    };
    let l3 = usize::from(parsed.l3);
    let ip = Ipv4HeaderSlice::from_slice(&frame[l3..]).expect("an IPv4 header");
    assert_eq!((parsed.src, parsed.dst), (ip.source(), ip.destination()));
    assert_eq!((parsed.ttl, parsed.dscp), (ip.ttl(), ip.dcp().value()));
    assert_eq!(parsed.proto, ip.protocol().0);
    assert_eq!(usize::from(parsed.l4), l3 + ip.slice().len());
    assert_eq!(usize::from(parsed.end), l3 + usize::from(ip.total_len()));
    assert!(usize::from(parsed.end) <= frame.len());
    match parsed.kind {
        Kind::Options => assert!(!ip.options().is_empty()),
        kind => {
            assert!(ip.options().is_empty());
            assert!(is_intact(ip.slice()));
            let first = ip.fragments_offset().value() == 0;
            let fragment = ip.is_fragmenting_payload().then_some(Kind::Fragment { first });
            assert_eq!(matches!(kind, Kind::Fragment { .. }).then_some(kind), fragment);
        }
    }
    agree(frame, &parsed);
    Ok(parsed.kind)
}

fn agree6(frame: &[u8]) -> Result<Kind, Reject> {
    let parsed = match parse6(frame) {
        Ok(parsed) => parsed,
        Err(reject) => {
            justify(frame, reject, 0x86dd);
            return Err(reject);
        }
    };
    let l3 = usize::from(parsed.l3);
    let ip = Ipv6HeaderSlice::from_slice(&frame[l3..]).expect("an IPv6 header");
    assert_eq!((parsed.src, parsed.dst), (ip.source(), ip.destination()));
    assert_eq!((parsed.ttl, parsed.dscp), (ip.hop_limit(), ip.traffic_class() >> 2));
    assert_eq!(usize::from(parsed.end), l3 + 40 + usize::from(ip.payload_length()));
    assert!(usize::from(parsed.end) <= frame.len());
    check_extensions(frame, &parsed, ip.next_header());
    // A jumbogram to etherparse, empty to us.
    if ip.payload_length() != 0 {
        agree(frame, &parsed);
    }
    Ok(parsed.kind)
}

/// Checks where the parser takes the transport to begin, and what it says of fragments.
fn check_extensions(frame: &[u8], parsed: &Parsed6, next: IpNumber) {
    let behind = &frame[usize::from(parsed.l3) + 40..usize::from(parsed.end)];
    let walked = Ipv6ExtensionsSlice::from_slice(next, behind);
    match parsed.kind {
        Kind::Options => {
            assert_eq!(usize::from(parsed.l4), usize::from(parsed.l3) + 40);
            assert!(matches!(parsed.proto, 0 | 43 | 44 | 60) && parsed.proto == next.0);
            let Ok((extensions, _, _)) = walked else { return };
            let headers: Vec<_> = extensions.into_iter().collect();
            let of_type_0 =
                |it: &_| matches!(it, Ipv6ExtensionSlice::Routing(it) if it.slice()[2] == 0);
            let fragments =
                headers.iter().filter(|it| matches!(it, Ipv6ExtensionSlice::Fragment(_)));
            assert!(headers.len() > 8 || headers.iter().any(of_type_0) || fragments.count() > 1);
        }
        Kind::Fragment { first: false } => {
            let header = &frame[usize::from(parsed.l4) - 8..];
            let header = Ipv6FragmentHeaderSlice::from_slice(header).unwrap();
            assert!(header.fragment_offset().value() != 0);
            assert_eq!(header.next_header().0, parsed.proto);
            assert_eq!(header.identification(), parsed.ident);
        }
        kind if parsed.proto == AUTHENTICATION => {
            assert!(matches!(kind, Kind::Flow | Kind::Fragment { first: true }));
        }
        kind => {
            let (extensions, number, rest) = walked.expect("headers that etherparse walks");
            assert_eq!((number.0, rest.len()), (parsed.proto, (parsed.end - parsed.l4).into()));
            let mut fragments = extensions.into_iter().filter_map(|it| match it {
                Ipv6ExtensionSlice::Fragment(header) => Some(header),
                _ => None,
            });
            // One that says that it is whole is as one without (RFC 6946 §4).
            let fragment = fragments.next().filter(|it| it.is_fragmenting_payload());
            assert_eq!(fragment.is_some(), kind == Kind::Fragment { first: true });
            assert_eq!(fragment.map_or(0, |it| it.identification()), parsed.ident);
        }
    }
}

/// Checks that a refusal is etherparse's too, or one of those in the table above.
fn justify(frame: &[u8], reject: Reject, ethertype: u16) {
    let oracle = SlicedPacket::from_ethernet(frame);
    let word = |at: usize| frame.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let tagged = word(12) == Some(0x8100);
    let l3 = if tagged { 18 } else { 14 };
    match reject {
        Reject::NotIp | Reject::Ipv4 | Reject::Ipv6 => {
            assert_ne!(word(l3 - 2), Some(ethertype));
        }
        Reject::StackedVlan => {
            let service = matches!(word(12), Some(0x88a8 | 0x9100));
            assert!(service || oracle.is_err() || oracle.unwrap().link_exts.len() > 1);
        }
        Reject::BadChecksum => {
            let ip = Ipv4HeaderSlice::from_slice(&frame[l3..]).expect("an IPv4 header");
            assert!(!is_intact(ip.slice()));
        }
        Reject::Truncated | Reject::BadHeader | Reject::BadLength => {
            assert!(
                oracle.is_err() || stricter(frame, l3),
                "{reject:?} to us, taken by etherparse"
            );
        }
    }
}

/// Whether a frame that etherparse takes is one that only we look into so far.
fn stricter(frame: &[u8], l3: usize) -> bool {
    let packet = &frame[l3..];
    let (first_fragment, proto, l4, len) = match packet[0] >> 4 {
        4 => {
            let ip = Ipv4HeaderSlice::from_slice(packet).unwrap();
            let first = ip.is_fragmenting_payload() && ip.fragments_offset().value() == 0;
            (first, ip.protocol().0, 20, usize::from(ip.total_len()) - 20)
        }
        _ => {
            let ip = Ipv6HeaderSlice::from_slice(packet).unwrap();
            let len = usize::from(ip.payload_length());
            if len == 0 {
                return true;
            }
            let behind = &packet[40..40 + len];
            let Ok((extensions, number, rest)) =
                Ipv6ExtensionsSlice::from_slice(ip.next_header(), behind)
            else {
                return false;
            };
            let mut headers = extensions.into_iter();
            let first = headers.any(|it| matches!(it, Ipv6ExtensionSlice::Fragment(_)));
            (first, number.0, 40 + len - rest.len(), rest.len())
        }
    };
    let transport = &packet[l4..l4 + len];
    let inner_version = transport.get(8).map(|byte| byte >> 4);
    first_fragment
        || match proto {
            1 => {
                matches!(transport[0], 3 | 4 | 5 | 11 | 12)
                    && (len < 28 || inner_version != Some(4))
            }
            58 => transport[0] < 128 && (len < 48 || inner_version != Some(6)),
            17 => transport[4..6] == [0, 0],
            _ => false,
        }
}

proptest! {
    #[test]
    fn generated_flows_read_as_etherparse_reads_them(spec in flows(false)) {
        let frame = spec.build();
        prop_assert_eq!(agree4(&frame), Ok(Kind::Flow));
        let parsed = parse(&frame).unwrap();
        prop_assert_eq!((parsed.src, parsed.dst), (spec.src4(), spec.dst4()));
        prop_assert_eq!(parsed.sport, spec.sport.to_be_bytes());
        prop_assert_eq!(usize::from(parsed.end), frame.len() - spec.padding);
        if let Transport::Tcp { flags, .. } = spec.transport {
            prop_assert_eq!(parsed.tcp_flags, flags);
        }
    }

    #[test]
    fn generated_ipv6_flows_read_as_etherparse_reads_them(spec in flows(true)) {
        let frame = spec.build();
        prop_assert_eq!(agree6(&frame), Ok(Kind::Flow));
        let parsed = parse6(&frame).unwrap();
        prop_assert_eq!((parsed.src, parsed.dst), (spec.src, spec.dst));
        prop_assert_eq!(parsed.sport, spec.sport.to_be_bytes());
        prop_assert_eq!(usize::from(parsed.end), frame.len() - spec.padding);
    }
}

/// A sample with up to four bytes of its headers changed, cut at random half of the time.
fn mutations() -> impl Strategy<Value = Vec<u8>> {
    let frames: Vec<(Vec<u8>, usize)> =
        samples().iter().map(|spec: &Spec| (spec.build(), spec.l3())).collect();
    let changes = proptest::collection::vec((10..80usize, any::<u8>()), 0..4);
    let cut = proptest::option::of(0..140usize);
    (proptest::sample::select(frames), changes, cut, any::<bool>()).prop_map(
        |((mut frame, l3), changes, cut, fix)| {
            for (at, value) in changes {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            if fix && frame.get(l3).is_some_and(|byte| byte >> 4 == 4) {
                fix_ipv4_checksum(&mut frame, l3);
            }
            frame.truncate(cut.unwrap_or(frame.len()));
            frame
        },
    )
}

#[test]
fn mutated_frames_read_as_etherparse_reads_them() {
    let (flows, others, rejects) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let count = |cell: &Cell<u32>| cell.set(cell.get() + 1);
    let mut runner =
        TestRunner::new(Config { cases: 20_000, failure_persistence: None, ..Config::default() });
    runner
        .run(&mutations(), |frame| {
            for outcome in [agree4(&frame), agree6(&frame)] {
                match outcome {
                    Ok(Kind::Flow) => count(&flows),
                    Ok(_) => count(&others),
                    Err(Reject::Ipv4 | Reject::Ipv6) => {}
                    Err(_) => count(&rejects),
                }
            }
            Ok(())
        })
        .unwrap();
    // The property means nothing unless all three outcomes are common.
    assert!(flows.get() > 500, "{} flows", flows.get());
    assert!(others.get() > 500, "{} other packets", others.get());
    assert!(rejects.get() > 500, "{} rejects", rejects.get());
}
