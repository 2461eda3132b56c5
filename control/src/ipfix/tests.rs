//! What a collector reads, by a parser that is not weir's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use netflow_parser::variable_versions::ipfix::{FlowSetBody, IPFix};
use netflow_parser::{FieldValue, IpfixField, IpfixFlowRecord, NetflowPacket, NetflowParser};
use weir_layout::Family;

use super::message::Message;
use super::record::{Reason, Record};
use super::*;

/// For what would wait for ever if it did not come.
const BOUND: Duration = Duration::from_secs(60);

fn record(family: Family) -> Record<'static> {
    let ends = |v4: [&str; 2], v6: [&str; 2]| {
        let texts = if family == Family::V4 { v4 } else { v6 };
        texts.map(|text| text.parse::<SocketAddr>().unwrap())
    };
    Record {
        from: ends(
            ["10.77.0.2:40000", "198.51.100.1:443"],
            ["[fd00::2]:40000", "[2001:db8::1]:443"],
        ),
        to: ends(
            ["203.0.113.10:50000", "198.51.100.1:444"],
            ["[2001:db8:a::9]:50000", "[2001:db8::1]:444"],
        ),
        protocol: 17,
        start_ms: 1_700_000_000_123,
        end_ms: 1_700_000_060_456,
        octets: 5_000_000_000,
        packets: 4_000_000,
        ingress: 70_000,
        egress: 3,
        reason: Reason::Active,
        uplink: "fiber",
    }
}

/// What the elements of [`record`] are, by IANA's numbers.
fn expected(family: Family) -> Vec<(u16, &'static str)> {
    let (addresses, texts) = match family {
        Family::V4 => {
            ([8, 12, 225, 226], ["10.77.0.2", "198.51.100.1", "203.0.113.10", "198.51.100.1"])
        }
        Family::V6 => {
            ([27, 28, 281, 282], ["fd00::2", "2001:db8::1", "2001:db8:a::9", "2001:db8::1"])
        }
    };
    let packets = (family == Family::V4).then_some((2, "4000000"));
    let rest = [
        (7, "40000"),
        (11, "443"),
        (227, "50000"),
        (228, "444"),
        (4, "17"),
        (136, "2"),
        (152, "1700000000123"),
        (153, "1700000060456"),
        (1, "5000000000"),
        (10, "70000"),
        (14, "3"),
        (82, "fiber"),
    ];
    addresses.into_iter().zip(texts).chain(packets).chain(rest).collect()
}

fn text(value: &FieldValue) -> String {
    match value {
        FieldValue::Ip4Addr(address) => address.to_string(),
        FieldValue::Ip6Addr(address) => address.to_string(),
        FieldValue::String(text) => text.value.clone(),
        FieldValue::FlowEndReason(reason) => u8::from(*reason).to_string(),
        FieldValue::ProtocolType(protocol) => u8::from(*protocol).to_string(),
        number => number.as_u64().expect("a number").to_string(),
    }
}

/// A collector that has heard what it was sent before.
struct Collector {
    parser: NetflowParser,
    socket: UdpSocket,
}

impl Collector {
    fn new() -> Self {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        Self { parser: NetflowParser::default(), socket }
    }

    fn read(&mut self, bytes: &[u8]) -> IPFix {
        let mut result = self.parser.parse_bytes(bytes);
        assert!(result.error.is_none(), "{:?}", result.error);
        match result.packets.pop() {
            Some(NetflowPacket::IPFix(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    fn receive(&mut self) -> IPFix {
        let mut bytes = [0; 2048];
        let length = self.socket.recv(&mut bytes).unwrap();
        self.read(&bytes[..length])
    }
}

fn records(message: &IPFix) -> Vec<&IpfixFlowRecord> {
    let sets = message.flowsets.iter().filter_map(|set| match &set.body {
        FlowSetBody::Data(data) => Some(&data.fields),
        _ => None,
    });
    sets.flatten().collect()
}

#[test]
fn a_record_is_read_as_it_was_written_in_both_families() {
    let mut message = Message::new();
    assert!(message.add_templates());
    for family in [Family::V4, Family::V6, Family::V4] {
        assert!(message.add(&record(family)));
    }
    let read = Collector::new().read(message.finish(1_700_000_061, 9));
    let header = &read.header;
    assert_eq!((header.version, header.export_time), (10, 1_700_000_061));
    assert_eq!((header.sequence_number, header.observation_domain_id), (9, 1));
    let records = records(&read);
    assert_eq!(records.len(), 3);
    for (fields, family) in records.into_iter().zip([Family::V4, Family::V6, Family::V4]) {
        let expected = expected(family);
        for (number, value) in &expected {
            let element = IpfixField::new(*number, None);
            let found = fields.iter().find(|(field, _)| *field == element);
            assert_eq!(found.map(|(_, value)| text(value)).as_deref(), Some(*value), "{number}");
        }
        assert_eq!(fields.len(), expected.len());
    }
}

#[test]
fn a_message_holds_what_a_packet_of_1400_bytes_does() {
    const HEADERS: usize = 40 + 8;
    let mut message = Message::new();
    let mut added = 0;
    while message.add(&record([Family::V4, Family::V6][added % 2])) {
        added += 1;
    }
    let bytes = message.finish(0, 0);
    assert!((1200..=1400).contains(&(bytes.len() + HEADERS)), "{}", bytes.len());
    assert_eq!(bytes[2..4], (bytes.len() as u16).to_be_bytes());
    assert_eq!(message.records() as usize, added);
    message.clear();
    assert!(message.is_empty() && message.add(&record(Family::V6)));
}

fn config(collector: &Collector, source: Option<&str>) -> IpfixConfig {
    IpfixConfig {
        collector: collector.socket.local_addr().unwrap(),
        source: source.map(|text| text.parse::<IpAddr>().unwrap()),
        interface: None,
        active: READING,
        idle: READING,
    }
}

fn figures(counts: &Counts) -> [u64; 2] {
    [&counts.sent, &counts.unsent].map(|count| count.load(Ordering::Relaxed))
}

#[test]
fn templates_come_first_and_numbers_say_how_many_records_came_before() {
    let (mut collector, counts) = (Collector::new(), Arc::new(Counts::default()));
    let mut sender = sender::Sender::new(&config(&collector, None), Arc::clone(&counts));
    sender.keep_up();
    assert_eq!(records(&collector.receive()).len(), 0);
    (0..100).for_each(|_| sender.add(&record(Family::V6)));
    sender.flush();
    let mut before = 0;
    while before < 100 {
        let message = collector.receive();
        assert_eq!(message.header.sequence_number, before);
        before += records(&message).len() as u32;
    }
    assert_eq!((before, figures(&counts)), (100, [100, 0]));
}

#[test]
fn what_cannot_be_sent_is_counted_and_what_comes_later_is_sent_with_templates() {
    let (mut collector, counts) = (Collector::new(), Arc::new(Counts::default()));
    // TEST-NET-1 (RFC 5737) is nobody's.
    let nobodys = config(&collector, Some("192.0.2.1"));
    let mut sender = sender::Sender::new(&nobodys, Arc::clone(&counts));
    sender.keep_up();
    (0..100).for_each(|_| sender.add(&record(Family::V4)));
    sender.flush();
    assert_eq!(figures(&counts), [0, 100]);
    sender = sender::Sender::new(&config(&collector, Some("127.0.0.1")), Arc::clone(&counts));
    sender.keep_up();
    sender.add(&record(Family::V4));
    sender.flush();
    assert_eq!(records(&collector.receive()).len(), 0);
    let message = collector.receive();
    assert_eq!((records(&message).len(), message.header.sequence_number), (1, 0));
    assert_eq!(figures(&counts), [1, 100]);
}
