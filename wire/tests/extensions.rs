//! A packet with extension headers is to us what it is without them, but for where its transport
//! begins.

mod common;

use common::{Extension, Spec, Transport, flows, insert_extensions, parse6_by_parts};
use proptest::prelude::*;
use weir_wire::extensions::{Chain, Fragment, MAX, from_word, to_word};
use weir_wire::family::{Family, V6};
use weir_wire::key::FlowKey6;
use weir_wire::parse::{Kind, Parsed6, Reject, parse6};

/// Options and routing headers that may stand anywhere.
fn anywhere() -> impl Strategy<Value = Extension> {
    let options =
        (1..40usize).prop_map(|units| Extension::new(Extension::DESTINATION_OPTIONS, units, 9));
    let routing = (1..40usize, 1..=255u8)
        .prop_map(|(units, kind)| Extension::new(Extension::ROUTING, units, kind));
    prop_oneof![options, routing]
}

/// Headers of a whole packet, in a legal order.
fn chain() -> impl Strategy<Value = Vec<Extension>> {
    let hops = (1..40usize).prop_map(|units| Extension::new(Extension::HOP_BY_HOP, units, 0));
    let first = prop_oneof![hops, anywhere()];
    (proptest::option::of(first), prop::collection::vec(anywhere(), 0..MAX))
        .prop_map(|(first, others)| first.into_iter().chain(others).collect())
}

/// Bytes of a chain.
fn len(chain: &[Extension]) -> u16 {
    chain.iter().map(|it| it.bytes.len() as u16).sum()
}

fn with(frame: &[u8], l3: usize, chain: &[Extension]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    insert_extensions(&mut frame, l3, chain);
    frame
}

/// What the parser says of the packet once so many bytes stand before its transport.
fn shifted(plain: &Parsed6, by: u16) -> Parsed6 {
    Parsed6 { l4: plain.l4 + by, end: plain.end + by, ..*plain }
}

fn udp() -> Spec {
    Spec::new(true, Transport::Udp)
}

fn options() -> Extension {
    Extension::new(Extension::DESTINATION_OPTIONS, 1, 0)
}

proptest! {
    #[test]
    fn a_flow_is_found_behind_any_legal_chain(spec in flows(true), chain in chain()) {
        let frame = spec.build();
        let plain = parse6(&frame).unwrap();
        let frame = with(&frame, spec.l3(), &chain);
        prop_assert_eq!(parse6(&frame), Ok(shifted(&plain, len(&chain))));
        prop_assert_eq!(parse6_by_parts(&frame), parse6(&frame));
    }

    #[test]
    fn a_fragment_header_may_stand_anywhere_among_them(
        spec in flows(true),
        chain in prop::collection::vec(anywhere(), 0..MAX),
        (at, offset, ident) in (0..MAX, 0..0x2000u16, any::<u32>()),
    ) {
        let frame = spec.build();
        let plain = parse6(&frame).unwrap();
        let mut headers = chain.clone();
        let at = at.min(headers.len());
        headers.insert(at, Extension::fragment(offset, true, ident));
        let parsed = parse6(&with(&frame, spec.l3(), &headers)).unwrap();
        let kind = Kind::Fragment { first: offset == 0 };
        prop_assert_eq!((parsed.kind, parsed.ident), (kind, ident));
        if offset == 0 {
            let all = shifted(&plain, len(&headers));
            prop_assert_eq!(parsed, Parsed6 { kind, ident, ..all });
        } else {
            let behind = headers.get(at + 1).map_or(plain.proto, |it| it.number);
            prop_assert_eq!(parsed.proto, behind);
            prop_assert_eq!(parsed.l4, plain.l4 + len(&headers[..=at]));
            prop_assert_eq!((parsed.sport, parsed.dport), ([0; 2], [0; 2]));
        }
    }

    #[test]
    fn they_are_forwarded_untouched(
        spec in flows(true),
        chain in chain(),
        (src, dst, sport, dport) in any::<([u8; 16], [u8; 16], [u8; 2], [u8; 2])>(),
    ) {
        let spec = Spec { ttl: spec.ttl.max(2), ..spec };
        let frame = spec.build();
        let key = parse6(&frame).unwrap().key();
        let new = V6::compile(&key, &FlowKey6::new(src, dst, sport, dport, key.proto()));
        let apply = |mut frame: Vec<u8>| {
            let parsed = parse6(&frame).unwrap();
            V6::apply(&mut frame, &parsed, Some(parsed.proto), &new);
            frame
        };
        let expected = with(&apply(frame.clone()), spec.l3(), &chain);
        prop_assert_eq!(apply(with(&frame, spec.l3(), &chain)), expected);
    }

    #[test]
    fn a_quoted_flow_is_found_behind_them(
        spec in flows(true),
        (outer, inner) in (chain(), chain()),
        quoted in 0..200usize,
    ) {
        let plain = spec.build();
        let key = parse6(&plain).unwrap().key();
        let about = with(&plain, spec.l3(), &inner);
        let all = &about[spec.l3()..about.len() - spec.padding];
        // As much as must be there, and some more.
        let least = 40 + usize::from(len(&inner)) + 8;
        let payload = all[..all.len().min(least + quoted)].to_vec();
        let error = Spec { payload, extensions: outer, ..Spec::new(true, Transport::IcmpError) };
        let frame = error.build();
        let parsed = parse6(&frame).unwrap();
        prop_assert_eq!(parsed.kind, Kind::IcmpError);
        let found = V6::quoted(&frame[..], &parsed).unwrap();
        prop_assert_eq!(found.key, key);
        prop_assert_eq!(usize::from(found.l4), error.l4() + 8 + least - 8);
        let payload = all[..least - 1].to_vec();
        let frame = Spec { payload, ..error }.build();
        prop_assert_eq!(V6::quoted(&frame[..], &parse6(&frame).unwrap()), None);
    }

    #[test]
    fn a_chain_that_is_cut_is_truncated(chain in chain(), cut in 1..100u16) {
        let mut frame = udp().build();
        insert_extensions(&mut frame, 14, &chain);
        let len = len(&chain).saturating_sub(cut);
        frame[18..20].copy_from_slice(&len.to_be_bytes());
        if !chain.is_empty() {
            prop_assert_eq!(parse6(&frame), Err(Reject::Truncated));
        }
    }
}

#[test]
fn one_word_says_all_of_a_walk() {
    let fragment = |first, whole| Some(Fragment { ident: 0x89ab_cdef, first, whole });
    let mut walks = vec![Err(Reject::Truncated), Ok(None)];
    for fragment in [None, fragment(false, false), fragment(true, false), fragment(true, true)] {
        walks.push(Ok(Some(Chain { proto: 0xfe, l4: 0xfedc, fragment })));
    }
    for walked in walks {
        assert_eq!(from_word(to_word(walked)), walked);
    }
}

#[test]
fn some_chains_are_not_walked() {
    let hops = Extension::new(Extension::HOP_BY_HOP, 1, 0);
    let fragment = Extension::fragment(0, true, 7);
    let chains = [
        vec![options(); MAX + 1],
        vec![options(), hops.clone()],
        vec![hops.clone(), hops],
        vec![Extension::new(Extension::ROUTING, 3, 0)],
        vec![fragment.clone(), fragment],
    ];
    for chain in chains {
        let parsed = parse6(&Spec { extensions: chain.clone(), ..udp() }.build()).unwrap();
        assert_eq!((parsed.kind, parsed.l4, parsed.proto), (Kind::Options, 54, chain[0].number));
        assert_eq!((parsed.sport, parsed.dport), ([0; 2], [0; 2]));
    }
    assert_eq!(
        parse6(&Spec { extensions: vec![options(); MAX], ..udp() }.build()).unwrap().kind,
        Kind::Flow
    );
}

#[test]
fn a_first_fragment_without_all_headers_is_truncated() {
    let chain = vec![Extension::fragment(0, true, 7), options()];
    let mut frame = Spec { extensions: chain, ..udp() }.build();
    // The fragment ends in the options, behind them, or in UDP's header.
    for len in [8, 15, 16, 23] {
        frame[19] = len;
        assert_eq!(parse6(&frame), Err(Reject::Truncated), "{len} bytes");
    }
    frame[19] = 24;
    assert_eq!(parse6(&frame).unwrap().kind, Kind::Fragment { first: true });
}

#[test]
fn a_quoted_later_fragment_tells_of_no_flow() {
    let quoting = |offset| {
        let extensions = vec![Extension::fragment(offset, true, 7)];
        let payload = Spec { extensions, ..udp() }.build()[14..].to_vec();
        let frame = Spec { payload, ..Spec::new(true, Transport::IcmpError) }.build();
        V6::quoted(&frame[..], &parse6(&frame).unwrap()).is_some()
    };
    assert!(quoting(0) && !quoting(1));
}
