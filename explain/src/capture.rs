//! The flows of a capture, as tcpdump and Wireshark write them: pcap or pcapng.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::net::{IpAddr, SocketAddr};

use etherparse::{
    EtherType, Icmpv4Type, Icmpv6Type, LaxNetSlice, LaxSlicedPacket, LinuxSllHeader, TransportSlice,
};
use pcap_parser::{Block, Linktype, PcapBlockOwned, PcapError, create_reader};
use thiserror::Error;
use weir_layout::protocol::{ICMP, ICMPV6, is_portless};

use crate::question::Question;

/// Bytes of the file that are held at once: of a packet so many, at most.
const ROOM: usize = 1 << 20;
/// What comes before the packet of a capture of all devices, as tcpdump writes it now
/// (LINKTYPE_LINUX_SLL2): its protocol is first.
const SLL2: usize = 20;

/// What a capture has.
#[derive(Debug, Default)]
pub struct Capture {
    /// Its flows, in the order in which they come.
    pub flows: Vec<Captured>,
    /// Packets of none of these, by why.
    pub left_out: BTreeMap<Why, u64>,
    /// The file ends in the midst of a packet.
    pub is_cut: bool,
    known: HashMap<Ends, usize>,
}

/// A flow of a capture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Its first packet; of a TCP connection that of who begins it, if that is seen.
    pub question: Question,
    /// Packets of both directions.
    pub packets: u64,
}

/// Why a capture is not read.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Unreadable {
    /// Another kind of file.
    #[error("it is no capture: write one with tcpdump -w, as pcap or pcapng")]
    Other,
    /// A packet of more than a MiB.
    #[error("after {0} packets it has a record of more than {ROOM} bytes: is it damaged?")]
    Long(u64),
    /// The file is broken.
    #[error("after {0} packets it is damaged")]
    Damaged(u64),
    /// The system gives no more of it.
    #[error("after {0} packets it cannot be read")]
    Read(u64),
}

/// Protocol, and both ends.
type Ends = (u8, SocketAddr, SocketAddr);

impl Capture {
    /// Reads a capture: its first flows, so many at most.
    ///
    /// # Errors
    /// When it is none, or is damaged. One that ends in the midst of a packet is read as far as it
    /// goes: tcpdump still writes, or was killed.
    pub fn read(source: impl Read + Send, limit: usize) -> Result<Self, Unreadable> {
        let (mut capture, mut links, mut seen) = (Self::default(), Vec::new(), 0);
        let mut reader = create_reader(ROOM, source).map_err(|_| Unreadable::Other)?;
        loop {
            let error = match reader.next() {
                Ok((length, block)) => {
                    seen += u64::from(capture.take(block, &mut links, limit));
                    reader.consume(length);
                    continue;
                }
                Err(error) => error.to_owned_vec(),
            };
            let is_last = reader.reader_exhausted();
            match error {
                PcapError::Eof => return Ok(capture),
                PcapError::Incomplete(_) if !is_last && reader.data().len() < ROOM => {
                    reader.refill().map_err(|_| Unreadable::Read(seen))?;
                }
                PcapError::Incomplete(_) if !is_last => return Err(Unreadable::Long(seen)),
                PcapError::BufferTooSmall => return Err(Unreadable::Long(seen)),
                PcapError::Incomplete(_) | PcapError::UnexpectedEof => {
                    capture.is_cut = true;
                    return Ok(capture);
                }
                PcapError::ReadError => return Err(Unreadable::Read(seen)),
                _ => return Err(Unreadable::Damaged(seen)),
            }
        }
    }

    /// Takes a block, given the link types of the interfaces so far; was it a packet?
    fn take(&mut self, block: PcapBlockOwned<'_>, links: &mut Vec<Linktype>, limit: usize) -> bool {
        let (link, data) = match &block {
            PcapBlockOwned::LegacyHeader(header) => {
                links.push(header.network);
                return false;
            }
            PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                links.clear();
                return false;
            }
            PcapBlockOwned::NG(Block::InterfaceDescription(interface)) => {
                links.push(interface.linktype);
                return false;
            }
            PcapBlockOwned::Legacy(packet) => (links.first(), packet.data),
            PcapBlockOwned::NG(Block::EnhancedPacket(packet)) => {
                let whole = packet.data.get(..packet.caplen as usize);
                (links.get(packet.if_id as usize), whole.unwrap_or(packet.data))
            }
            PcapBlockOwned::NG(Block::SimplePacket(packet)) => (links.first(), packet.data),
            PcapBlockOwned::NG(_) => return false,
        };
        match link.map_or(Err(UNKNOWN), |link| asked(*link, data)) {
            Ok((question, answers)) => self.count(question, answers, limit),
            Err(why) => *self.left_out.entry(why).or_default() += 1,
        }
        true
    }

    /// Counts a packet for its flow, which it begins if there is none; it may be an answer.
    fn count(&mut self, question: Question, answers: bool, limit: usize) {
        let (proto, from, to) = ends(&question);
        let known =
            self.known.get(&(proto, from, to)).or_else(|| self.known.get(&(proto, to, from)));
        if let Some(at) = known {
            self.flows[*at].packets += 1;
        } else if self.flows.len() < limit {
            self.known.insert((proto, from, to), self.flows.len());
            let question = if answers { question.reversed() } else { question };
            self.flows.push(Captured { question, packets: 1 });
        } else {
            *self.left_out.entry("of further flows").or_default() += 1;
        }
    }
}

/// Both ends of a ping have its identifier.
fn ends(question: &Question) -> Ends {
    let Question { protocol, source, destination, ports: [from, to], .. } = *question;
    let to = if matches!(protocol, ICMP | ICMPV6) { from } else { to };
    (protocol, SocketAddr::new(source, from), SocketAddr::new(destination, to))
}

/// Why a packet is of no flow.
type Why = &'static str;

const UNKNOWN: Why = "of an unknown link";
const CUT: Why = "cut off before their ports";

/// What a packet asks, and whether it is an answer; or why it is left out.
fn asked(link: Linktype, data: &[u8]) -> Result<(Question, bool), Why> {
    let packet = packet(link, data)?;
    let (source, destination, dscp, payload): (IpAddr, IpAddr, u8, _) = match &packet.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            let (source, destination) = (header.source_addr(), header.destination_addr());
            (source.into(), destination.into(), header.dcp().value(), ip.payload())
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            let header = ip.header();
            let (source, destination) = (header.source_addr(), header.destination_addr());
            (source.into(), destination.into(), header.dscp().value(), ip.payload())
        }
        _ => return Err("not of IP"),
    };
    let protocol = payload.ip_number.0;
    let (ports, answers) = match &packet.transport {
        Some(transport) => ports(transport)?,
        None if is_portless(protocol) => ([0, 0], false),
        None if payload.fragmented => return Err("later fragments"),
        None => return Err(CUT),
    };
    let (from, mac) = (None, None);
    Ok((Question { protocol, source, destination, ports, from, mac, dscp }, answers))
}

/// The packet in what was captured on a link of that type.
fn packet(link: Linktype, data: &[u8]) -> Result<LaxSlicedPacket<'_>, Why> {
    let of_type = |at: usize, from: usize| {
        let kind = data.get(at..at + 2).and_then(|kind| <[u8; 2]>::try_from(kind).ok());
        let (kind, packet) = kind.zip(data.get(from..)).ok_or(CUT)?;
        Ok(LaxSlicedPacket::from_ether_type(EtherType(u16::from_be_bytes(kind)), packet))
    };
    match link {
        Linktype::ETHERNET => LaxSlicedPacket::from_ethernet(data).map_err(|_| CUT),
        Linktype::RAW | Linktype::IPV4 | Linktype::IPV6 => {
            LaxSlicedPacket::from_ip(data).map_err(|_| CUT)
        }
        Linktype::LINUX_SLL => of_type(LinuxSllHeader::LEN - 2, LinuxSllHeader::LEN),
        Linktype::LINUX_SLL2 => of_type(0, SLL2),
        _ => Err(UNKNOWN),
    }
}

/// The ports, as a question has them, and whether the packet is an answer.
fn ports(transport: &TransportSlice<'_>) -> Result<([u16; 2], bool), Why> {
    Ok(match transport {
        TransportSlice::Tcp(tcp) => {
            ([tcp.source_port(), tcp.destination_port()], tcp.syn() && tcp.ack())
        }
        TransportSlice::Udp(udp) => ([udp.source_port(), udp.destination_port()], false),
        TransportSlice::Icmpv4(icmp) => match icmp.icmp_type() {
            Icmpv4Type::EchoRequest(header) => ([header.id, 0], false),
            Icmpv4Type::EchoReply(header) => ([header.id, 0], true),
            _ => return Err("ICMP other than echo"),
        },
        TransportSlice::Icmpv6(icmp) => match icmp.icmp_type() {
            Icmpv6Type::EchoRequest(header) => ([header.id, 0], false),
            Icmpv6Type::EchoReply(header) => ([header.id, 0], true),
            _ => return Err("ICMP other than echo"),
        },
        TransportSlice::Igmp(_) => return Err("of one link (IGMP)"),
    })
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;

    const HOST: [u8; 4] = [10, 0, 0, 5];
    const SERVER: [u8; 4] = [1, 1, 1, 1];

    fn ethernet(
        from: [u8; 4],
        to: [u8; 4],
    ) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
        PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4(from, to, 64)
    }

    fn tcp(from: [u8; 4], to: [u8; 4], ports: [u16; 2], syn: bool, ack: bool) -> Vec<u8> {
        let mut step = ethernet(from, to).tcp(ports[0], ports[1], 1, 1000);
        if syn {
            step = step.syn();
        }
        if ack {
            step = step.ack(1);
        }
        let mut frame = Vec::new();
        step.write(&mut frame, b"data").unwrap();
        frame
    }

    fn udp6() -> Vec<u8> {
        let mut frame = Vec::new();
        let step = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv6([1; 16], [2; 16], 64);
        step.udp(5000, 53).write(&mut frame, b"data").unwrap();
        frame
    }

    /// As tcpdump writes it (draft-ietf-opsawg-pcap).
    fn pcap(link: u32, packets: &[Vec<u8>]) -> Vec<u8> {
        let mut file = Vec::new();
        for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 262_144, link] {
            file.extend(u32::to_le_bytes(word));
        }
        for packet in packets {
            let length = packet.len() as u32;
            for word in [0, 0, length, length] {
                file.extend(u32::to_le_bytes(word));
            }
            file.extend(packet);
        }
        file
    }

    /// As Wireshark does, in one section with an interface for each link type
    /// (draft-ietf-opsawg-pcapng).
    fn pcapng(packets: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut block = |kind: u32, body: &[u8]| {
            let padded = body.len().next_multiple_of(4);
            let length = (padded + 12) as u32;
            file.extend(kind.to_le_bytes());
            file.extend(length.to_le_bytes());
            file.extend(body);
            file.extend(vec![0; padded - body.len()]);
            file.extend(length.to_le_bytes());
        };
        let mut section = 0x1a2b_3c4d_u32.to_le_bytes().to_vec();
        section.extend([1, 0, 0, 0]);
        section.extend([0xff; 8]);
        block(0x0a0d_0d0a, &section);
        for (link, _) in packets {
            let mut interface = link.to_le_bytes().to_vec();
            interface.extend([0, 0, 0, 0, 4, 0]);
            block(1, &interface);
        }
        for (number, (_, packet)) in packets.iter().enumerate() {
            let length = packet.len() as u32;
            let mut body = Vec::new();
            for word in [number as u32, 0, 0, length, length] {
                body.extend(u32::to_le_bytes(word));
            }
            body.extend(packet);
            block(6, &body);
        }
        file
    }

    fn read(file: &[u8]) -> Capture {
        Capture::read(std::io::Cursor::new(file.to_vec()), 100).unwrap()
    }

    fn question(protocol: &str, source: &str, destination: &str) -> Question {
        Question::read(protocol, source, destination).unwrap()
    }

    #[test]
    fn both_directions_are_one_flow_that_begins_with_who_asks() {
        let answer = tcp(SERVER, HOST, [443, 40_000], true, true);
        let later = tcp(HOST, SERVER, [40_000, 443], false, true);
        let other = tcp(HOST, SERVER, [40_001, 443], true, false);
        let capture = read(&pcap(1, &[answer, later, other, udp6()]));
        let asked: Vec<_> =
            capture.flows.iter().map(|flow| (flow.question.clone(), flow.packets)).collect();
        assert_eq!(
            asked,
            [
                (question("tcp", "10.0.0.5:40000", "1.1.1.1:443"), 2),
                (question("tcp", "10.0.0.5:40001", "1.1.1.1:443"), 1),
                (
                    question(
                        "udp",
                        "[101:101:101:101:101:101:101:101]:5000",
                        "[202:202:202:202:202:202:202:202]:53"
                    ),
                    1
                ),
            ]
        );
        assert!(capture.left_out.is_empty() && !capture.is_cut);
    }

    #[test]
    fn captures_of_each_link_and_of_either_kind_are_read() {
        let frame = tcp(HOST, SERVER, [40_000, 443], true, false);
        let raw = frame[14..].to_vec();
        let cooked = [&[0; 14][..], &frame[12..]].concat();
        let cooked2 = [&frame[12..14], &[0; 18], &raw[..]].concat();
        let mut tagged = frame.clone();
        tagged.splice(12..12, [0x81, 0, 0, 7]);
        let all = [
            (1, frame),
            (1, tagged),
            (101, raw.clone()),
            (228, raw),
            (113, cooked),
            (276, cooked2),
        ];
        let capture = read(&pcapng(&all));
        assert_eq!(capture.left_out, BTreeMap::new());
        assert_eq!((capture.flows.len(), capture.flows[0].packets), (1, all.len() as u64));
        for (link, packet) in all {
            let capture = read(&pcap(link.into(), &[packet]));
            assert_eq!(
                capture.flows[0].question,
                question("tcp", "10.0.0.5:40000", "1.1.1.1:443"),
                "link type {link}"
            );
        }
    }

    #[test]
    fn an_echo_is_one_flow_and_other_icmp_is_left_out() {
        let echo = |request: bool| {
            let (mut frame, [from, to]) =
                (Vec::new(), if request { [HOST, SERVER] } else { [SERVER, HOST] });
            let step = ethernet(from, to);
            let step = match request {
                true => step.icmpv4_echo_request(7, 1),
                false => step.icmpv4_echo_reply(7, 1),
            };
            step.write(&mut frame, b"data").unwrap();
            frame
        };
        let mut error = Vec::new();
        ethernet(SERVER, HOST).icmpv4_raw(3, 1, [0; 4]).write(&mut error, b"data").unwrap();
        let capture = read(&pcap(1, &[echo(false), echo(true), error]));
        assert_eq!(capture.flows.len(), 1);
        assert_eq!(capture.flows[0].question, question("icmp", "10.0.0.5:7", "1.1.1.1"));
        assert_eq!(capture.flows[0].packets, 2);
        assert_eq!(capture.left_out, BTreeMap::from([("ICMP other than echo", 1)]));
    }

    #[test]
    fn what_has_no_ports_to_be_read_is_left_out_by_its_kind() {
        let mut fragment = tcp(HOST, SERVER, [40_000, 443], false, true);
        fragment[21] = 9;
        let short = tcp(HOST, SERVER, [40_000, 443], true, false)[..36].to_vec();
        let mut arp = vec![2; 12];
        arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        arp.extend([0; 20]);
        let capture = read(&pcap(1, &[fragment, short, arp]));
        assert!(capture.flows.is_empty());
        let left_out =
            [("later fragments", 1), ("cut off before their ports", 1), ("not of IP", 1)];
        assert_eq!(capture.left_out, BTreeMap::from(left_out));
        let capture = read(&pcap(147, &[vec![0; 60]]));
        assert_eq!(capture.left_out, BTreeMap::from([("of an unknown link", 1)]));
    }

    #[test]
    fn further_flows_are_counted_alone() {
        let packets: Vec<_> =
            (0..30).map(|n| tcp(HOST, SERVER, [40_000 + n % 10, 443], true, false)).collect();
        let capture = Capture::read(std::io::Cursor::new(pcap(1, &packets)), 8).unwrap();
        assert_eq!(capture.flows.len(), 8);
        assert_eq!(capture.left_out, BTreeMap::from([("of further flows", 6)]));
    }

    #[test]
    fn a_file_that_ends_early_is_read_as_far_as_it_goes_and_another_is_refused() {
        let file = pcap(1, &[tcp(HOST, SERVER, [1, 2], true, false), udp6()]);
        for length in file.len() - 70..file.len() {
            let capture = read(&file[..length]);
            assert_eq!((capture.flows.len(), capture.is_cut), (1, true), "{length} bytes");
        }
        for other in [&b""[..], b"\x7fELF", b"tcp 10.0.0.5:1 1.1.1.1:2\n and more of the same"] {
            let refused = Capture::read(std::io::Cursor::new(other.to_vec()), 8).unwrap_err();
            assert_eq!(refused, Unreadable::Other);
        }
        let mut long = pcap(1, &[]);
        for word in [0, 0, u32::MAX, u32::MAX] {
            long.extend(u32::to_le_bytes(word));
        }
        long.extend(vec![0; 2 * ROOM]);
        let refused = Capture::read(std::io::Cursor::new(long), 8).unwrap_err();
        assert!(matches!(refused, Unreadable::Long(0) | Unreadable::Damaged(0)), "{refused}");
    }
}
