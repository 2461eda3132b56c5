//! The programs that make and count the frames of measurements, as user space sees them: names, the
//! stream, counts, and the arithmetic of flows, headers and delays.
//!
//! The programs are the package's binary `weir-traffic`, built for `bpfel-unknown-none` by
//! `scripts/ebpf-build`; their stripped object is committed as `prog/traffic.o`. [`GENERATE`] is never attached: live-frame
//! test runs (`BPF_F_TEST_XDP_LIVE_FRAMES`, Documentation/bpf/bpf_prog_run.rst) call it with one
//! recycled page after another, so it writes every header whole. [`FAR`] is attached where
//! providers are, [`HOME`] where the frames come from; [`REDIRECT`], [`LIMIT`] and [`PASS`] go on a
//! gateway.
//! [`NOTICE`] is the filter of a socket that nobody reads.
//!
//! Frame lengths here are without the frame check sequence.
#![no_std]

pub mod ipv6;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Makes frames of IPv4 by the [`Stream`] and sends them to [`OUT`] slot [`OUT_GENERATOR`].
pub const GENERATE: &str = "generate";
/// As [`GENERATE`], of IPv6.
pub const GENERATE6: &str = "generate6";
/// Counts test frames in [`COUNTS`] slot [`COUNT_FAR`] and drops them, or answers them, by
/// [`Stream::mode`]. Every other frame is the kernel's.
pub const FAR: &str = "far";
/// Counts answers in [`COUNTS`] slot [`COUNT_HOME`] and drops them. Every other frame is the
/// kernel's.
pub const HOME: &str = "home";
/// Sends every frame to [`OUT`] slot [`OUT_GATEWAY`] with the hardware addresses of
/// [`Stream::onward`].
pub const REDIRECT: &str = "redirect";
/// As [`REDIRECT`], but the frame leaves as the line of its flow in [`TABLE`] says: what any gateway
/// costs at least that keeps state. The table holds zeros, which change nothing.
pub const LIMIT: &str = "limit";
/// As [`LIMIT`], for frames of IPv6.
pub const LIMIT6: &str = "limit6";
/// Gives every frame to the kernel. On a veth device this turns on the receive path that takes
/// redirected frames, without GRO.
pub const PASS: &str = "pass";
/// Keeps every message from its socket, and writes to [`MOMENT`] when the kernel first had one for
/// it that matches the [`Pattern`]. Whoever waits for a message knows only when it was scheduled.
pub const NOTICE: &str = "notice";

/// Array of one [`Stream`].
pub const STREAM: &str = "STREAM";
/// Array of one [`State`].
pub const STATE: &str = "STATE";
/// Per-CPU array of [`Count`].
pub const COUNTS: &str = "COUNTS";
/// Per-CPU array of [`DELAY_BUCKETS`] 64-bit counts, by [`delay_bucket`].
pub const DELAYS: &str = "DELAYS";
/// Per-CPU array of [`ARRIVAL_SLOTS`] [`Arrivals`], by [`arrival_slot`].
pub const ARRIVALS: &str = "ARRIVALS";
/// Array of pages of [`LINES`] lines, `mmap`-able as a gateway's would be; as many as the loader
/// says, in [`PAGES`] too.
pub const TABLE: &str = "TABLE";
/// Pages of [`TABLE`], a `u32`: to be set before [`LIMIT`] is loaded.
pub const PAGES: &str = "PAGES";
/// Device map of two slots.
pub const OUT: &str = "OUT";
/// Array of one [`Pattern`].
pub const PATTERN: &str = "PATTERN";
/// Array of one time, `CLOCK_MONOTONIC` nanoseconds; 0 for none yet.
pub const MOMENT: &str = "MOMENT";

/// Slot of the device the generator sends by.
pub const OUT_GENERATOR: u32 = 0;
/// Slot of the device [`REDIRECT`] and [`LIMIT`] send by.
pub const OUT_GATEWAY: u32 = 1;
/// Slot of frames that reached the far side.
pub const COUNT_FAR: u32 = 0;
/// Slot of answers that came home.
pub const COUNT_HOME: u32 = 1;

/// [`Stream::mode`]: test frames end here.
pub const MODE_SINK: u32 = 0;
/// [`Stream::mode`]: test frames go back to their sender.
pub const MODE_REFLECT: u32 = 1;
/// [`Stream::mode`]: test frames end here, and [`ARRIVALS`] says when.
pub const MODE_WATCH: u32 = 2;

/// Slots of [`ARRIVALS`].
pub const ARRIVAL_SLOTS: u32 = 4;

/// UDP port of the far side: discard (RFC 863).
pub const PORT: u16 = 9;
/// First UDP port of a host.
pub const FIRST_PORT: u16 = 1024;
/// Endpoints of each host: consecutive ports from [`FIRST_PORT`].
pub const PORTS: u32 = 64;
/// Bytes of every frame that [`header`] gives: Ethernet, IPv4, UDP, and six of payload.
pub const HEADER_LEN: usize = 48;
/// Where a stamped frame carries its time of departure: `CLOCK_MONOTONIC`, nanoseconds, native
/// byte order, 8 bytes.
pub const STAMP_AT: usize = 48;
/// Shortest frame, bytes.
pub const MIN_FRAME: usize = 60;
/// Frame lengths of one round of the mix.
pub const SIZES: usize = 12;
/// Longest interval between frames: the generator waits within one run of the program.
pub const MAX_INTERVAL_NS: u64 = 50_000;
/// Most destinations of one endpoint.
pub const MAX_DESTINATIONS: u32 = 4;

/// What to send, and what becomes of it. Native byte order unless said otherwise.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Stream {
    /// First 16 bytes of a frame, as they are sent: hardware addresses, EtherType, and the first
    /// two of the IP header.
    pub start: [u64; 2],
    /// First 12 bytes of a frame that [`REDIRECT`] or [`LIMIT`] sends, as they are sent; the rest
    /// is ignored.
    pub onward: [u64; 2],
    /// Nanoseconds between frames, at most [`MAX_INTERVAL_NS`]; 0 for as fast as possible. Other
    /// than 0, frames are stamped.
    pub interval_ns: u64,
    /// Address of the first host; of IPv6, its last 32 bits.
    pub source: u32,
    /// Address of the first destination; of IPv6, its last 32 bits.
    pub destination: u32,
    /// Number of flows, at most [`MAX_DESTINATIONS`] times the endpoints.
    pub flows: u32,
    /// Number of endpoints: source address and port.
    pub endpoints: u32,
    /// Distance of consecutive frames' flows, less than `flows` (0 for one flow).
    pub stride: u32,
    /// [`MODE_SINK`], [`MODE_REFLECT`] or [`MODE_WATCH`].
    pub mode: u32,
    /// Length of the frames the generator is given; none of `sizes` is larger.
    pub frame_len: u32,
    /// Lengths of consecutive frames, over and over.
    pub sizes: [u16; SIZES],
    /// IPv6: the first 96 bits of sources, and of destinations.
    pub prefixes: [[u32; 3]; 2],
    /// Their [`ipv6::prefix_sum`].
    pub prefix_sum: u32,
    /// Protocol of a [`flood`], UDP or TCP; 0 for frames as [`header`] has them.
    pub flood: u32,
    /// Of a [`flood`]: 1 if its flows come from many addresses to one, 0 for from one to many.
    pub from_many: u32,
}

impl Stream {
    /// Are its frames of IPv6, by their EtherType?
    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        self.start[1].to_be() >> 16 & 0xffff == 0x86dd
    }
}

/// Where the generator is. User space writes it between runs only.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct State {
    /// Frames sent.
    pub sent: u64,
    /// When the next frame may go, `CLOCK_MONOTONIC` nanoseconds.
    pub next_ns: u64,
    /// Frames that waited for their time. When few do, the interval is less than a frame takes.
    pub waited: u64,
    /// Flow of the next frame.
    pub flow: u32,
    /// Index into [`Stream::sizes`] of the next frame.
    pub size: u32,
}

/// What arrived.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Count {
    /// Frames.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// When frames arrived, `CLOCK_MONOTONIC` nanoseconds.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Arrivals {
    /// Frames.
    pub packets: u64,
    /// The first; 0 without one.
    pub first_ns: u64,
    /// The last.
    pub last_ns: u64,
}

/// What a message must be: every part of it. Unused parts are zero.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Pattern {
    /// The parts.
    pub parts: [Part; PARTS],
}

/// Parts of a [`Pattern`].
pub const PARTS: usize = 4;

/// Four bytes of a message, those under a mask.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Part {
    /// Where they are, bytes from the message's start.
    pub at: u32,
    /// Which of their bits count.
    pub mask: [u8; 4],
    /// What these are; the others are zero.
    pub value: [u8; 4],
}

/// The slot of the port with a hardware address that ends so: a provider's number.
#[inline(always)]
#[must_use]
pub const fn arrival_slot(last_byte: u8) -> u32 {
    last_byte as u32 % ARRIVAL_SLOTS
}

/// The flow after this one: the next multiple of the stride, modulo the number of flows. With a
/// stride prime to that number every flow has its turn before one repeats.
#[inline(always)]
#[must_use]
pub const fn next_flow(stream: &Stream, flow: u32) -> u32 {
    let next = flow + stream.stride;
    if next >= stream.flows { next - stream.flows } else { next }
}

/// The first [`HEADER_LEN`] bytes of a frame of this flow, as 64-bit words to be stored as they
/// are. The IPv4 header has its checksum; UDP has none, which RFC 768 allows.
///
/// Flow *f* is endpoint *f* mod `endpoints` to destination *f* / `endpoints`; endpoint *e* is
/// port [`FIRST_PORT`] + *e* mod [`PORTS`] of host *e* / [`PORTS`].
#[inline(always)]
#[must_use]
pub const fn header(stream: &Stream, flow: u32, frame_len: u16) -> [u64; 6] {
    let (endpoint, number) = endpoint_of(stream, flow);
    let to = stream.destination + number;
    let from = (stream.source + endpoint / PORTS) as u64;
    let to = to as u64;
    let sport = (FIRST_PORT as u32 + endpoint % PORTS) as u64;
    let ip_len = frame_len as u64 - 14;
    let udp_len = ip_len - 20;
    const VERSION: u64 = 0x4500;
    const TTL_AND_UDP: u64 = 64 << 8 | 17;
    let sum = VERSION + TTL_AND_UDP + ip_len + (from >> 16) + (from & 0xffff);
    let checksum = fold(sum + (to >> 16) + (to & 0xffff));
    [
        stream.start[0],
        stream.start[1],
        (ip_len << 48 | TTL_AND_UDP).to_be(),
        (checksum << 48 | from << 16 | to >> 16).to_be(),
        ((to & 0xffff) << 48 | sport << 32 | (PORT as u64) << 16 | udp_len).to_be(),
        0,
    ]
}

/// UDP (RFC 768).
pub const UDP: u8 = 17;
/// TCP (RFC 9293).
pub const TCP: u8 = 6;
/// Ports that the flows of a [`flood`] come from, and addresses at its many-sided end.
pub const FLOOD_PORTS: u32 = 1 << 15;
/// See [`FLOOD_PORTS`].
pub const FLOOD_HOSTS: u32 = 1 << 7;

/// The first 56 bytes of a frame of this flow of a flood, as [`header`] has them: flow *f* is of the
/// first host, from port [`FIRST_PORT`] + *f* mod [`FLOOD_PORTS`] to destination *f* / `FLOOD_PORTS`
/// mod [`FLOOD_HOSTS`]; or of as many hosts, in turn, to the first destination. TCP sends nothing but SYN, with its checksum.
#[inline(always)]
#[must_use]
pub const fn flood(stream: &Stream, flow: u32, frame_len: u16) -> [u64; 7] {
    const SYN: u64 = 0x5002;
    const WINDOW: u64 = 0xffff;
    let is_tcp = stream.flood == TCP as u32;
    let (from_host, to_host, port) = match stream.from_many {
        0 => (0, flow / FLOOD_PORTS % FLOOD_HOSTS, flow % FLOOD_PORTS),
        _ => (flow % FLOOD_HOSTS, 0, flow / FLOOD_HOSTS % FLOOD_PORTS),
    };
    let from = (stream.source + from_host) as u64;
    let to = (stream.destination + to_host) as u64;
    let sport = (FIRST_PORT as u32 + port) as u64;
    let transport_len = if is_tcp { 20 } else { frame_len as u64 - 34 };
    let ip_len = 20 + transport_len;
    let ttl_and_protocol = 64 << 8 | stream.flood as u64;
    let addresses = (from >> 16) + (from & 0xffff) + (to >> 16) + (to & 0xffff);
    let checksum = fold(0x4500 + ip_len + ttl_and_protocol + addresses);
    let [fifth, sixth, seventh] = if is_tcp {
        let sequence = flow as u64;
        let sum = addresses + TCP as u64 + transport_len + sport + PORT as u64;
        let sum = fold(sum + (sequence >> 16) + (sequence & 0xffff) + SYN + WINDOW);
        [sequence >> 16, (sequence & 0xffff) << 48 | SYN, WINDOW << 48 | sum << 32]
    } else {
        [transport_len, 0, 0]
    };
    [
        stream.start[0],
        stream.start[1],
        (ip_len << 48 | ttl_and_protocol).to_be(),
        (checksum << 48 | from << 16 | to >> 16).to_be(),
        ((to & 0xffff) << 48 | sport << 32 | (PORT as u64) << 16 | fifth).to_be(),
        sixth.to_be(),
        seventh.to_be(),
    ]
}

/// The checksum of words whose sum this is (RFC 1071).
#[inline(always)]
const fn fold(sum: u64) -> u64 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !sum & 0xffff
}

/// The endpoint of a flow, and the number of its destination.
#[inline(always)]
const fn endpoint_of(stream: &Stream, flow: u32) -> (u32, u32) {
    // No division: it would cost the generator more than all the rest.
    let (mut endpoint, mut number) = (flow, 0);
    let mut more = 1;
    while more < MAX_DESTINATIONS {
        if endpoint >= stream.endpoints {
            endpoint -= stream.endpoints;
            number += 1;
        }
        more += 1;
    }
    (endpoint, number)
}

/// Bytes of a line of [`TABLE`]: a cache line.
pub const LINE: usize = 64;
/// Lines of a page, which is one of the machine's.
pub const LINES: usize = 64;
/// What [`TABLE`] is an array of.
pub type Page = [[u64; LINE / 8]; LINES];

/// Where the line of a frame's flow is, out of so many pages: page, and line in it. `words` are the
/// fourth and the fifth word of its [`header`], or [those](ipv6::flow_words) of IPv6.
#[inline(always)]
#[must_use]
pub const fn line_of(words: [u64; 2], pages: u32) -> (u32, usize) {
    // The header's checksum and UDP's length are shifted out.
    let hash = (words[0] >> 16).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = ((hash ^ hash >> 32) ^ words[1] << 16).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    let page = ((hash >> 32) * pages as u64) >> 32;
    (page as u32, (hash ^ hash >> 29) as usize % LINES)
}

/// Buckets of delays, 16 for each power of two: a bucket is within 6.25 % of what it holds.
pub const DELAY_BUCKETS: u32 = 640;

/// The bucket of a delay in nanoseconds; the last one holds everything from 2⁴³ ns on.
#[inline(always)]
#[must_use]
pub const fn delay_bucket(ns: u64) -> u32 {
    if ns < 16 {
        return ns as u32;
    }
    let power = 63 - ns.leading_zeros();
    let bucket = (power - 3) * 16 + ((ns >> (power - 4)) & 15) as u32;
    if bucket < DELAY_BUCKETS { bucket } else { DELAY_BUCKETS - 1 }
}

/// The smallest delay of a bucket, nanoseconds.
#[must_use]
pub const fn delay_of(bucket: u32) -> u64 {
    if bucket < 16 {
        return bucket as u64;
    }
    let power = bucket / 16 + 3;
    (16 + bucket as u64 % 16) << (power - 4)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::BTreeSet;

    use zerocopy::FromZeros;

    use super::*;

    const FLOWS: u32 = 1 << 16;

    fn stream() -> Stream {
        Stream {
            source: 0x0a00_4000,
            destination: 0xc633_6401,
            flows: FLOWS,
            endpoints: FLOWS / 2,
            ..Stream::new_zeroed()
        }
    }

    fn lines_are_spread(line: impl Fn(u32, u32) -> (u32, usize)) {
        let pages = FLOWS / LINES as u32;
        let lines: BTreeSet<_> = (0..FLOWS).map(|flow| line(flow, pages)).collect();
        assert!(lines.iter().all(|(page, _)| *page < pages));
        // As many as chance gives: 1 - 1/e of them.
        let share = lines.len() as f64 / f64::from(FLOWS);
        assert!((share - 0.632).abs() < 0.01, "{share}");
    }

    #[test]
    fn flows_have_lines_all_over_the_table() {
        lines_are_spread(|flow, pages| {
            let header = header(&stream(), flow, 60);
            line_of([header[3], header[4]], pages)
        });
    }

    #[test]
    fn flows_of_ipv6_have_lines_all_over_the_table() {
        lines_are_spread(|flow, pages| {
            let header = ipv6::header(&stream(), flow, 72, 0);
            line_of(ipv6::flow_words(header[4], header[6]), pages)
        });
    }

    #[test]
    fn frames_of_a_flood_are_whole_and_have_their_checksums() {
        // Ethernet's type, version 4.
        let start = [0, 0x0045_0008_0000_0000];
        for (protocol, len) in [(UDP, 26), (TCP, 20)] {
            let stream = Stream { start, flood: protocol.into(), ..stream() };
            let mut frame = [0; 56];
            for (bytes, word) in frame.chunks_mut(8).zip(flood(&stream, FLOOD_PORTS + 1, 60)) {
                bytes.copy_from_slice(&word.to_ne_bytes());
            }
            let [packet, transport] = [&frame[14..34], &frame[34..34 + len.min(22)]];
            assert_eq!(packet[..4], [0x45, 0, 0, 20 + len as u8]);
            assert_eq!(packet[12..], [0x0a, 0, 0x40, 0, 0xc6, 0x33, 0x64, 2]);
            assert_eq!(transport[..4], [4, 1, 0, PORT as u8]);
            let words = |bytes: &[u8]| -> u32 {
                bytes.chunks(2).map(|it| u32::from(it[0]) << 8 | u32::from(it[1])).sum()
            };
            let is_whole = |sum: u32| (sum & 0xffff) + (sum >> 16) == 0xffff;
            assert!(is_whole(words(packet)));
            // UDP has none, which RFC 768 allows.
            let pseudo = words(&packet[12..]) + u32::from(protocol) + len as u32;
            assert_eq!(is_whole(words(transport) + pseudo), protocol == TCP);
            let many = Stream { from_many: 1, ..stream };
            let [_, _, _, addresses, ports, ..] =
                flood(&many, FLOOD_HOSTS + 2, 60).map(u64::from_be);
            assert_eq!(addresses << 16 >> 32, 0x0a00_4002);
            assert_eq!((addresses << 16 | ports >> 48) as u32, 0xc633_6401);
            assert_eq!(ports >> 32 & 0xffff, u64::from(FIRST_PORT) + 1);
        }
    }

    #[test]
    fn a_frame_of_ipv6_is_whole_and_has_its_checksum() {
        let prefixes = [[0x2001_0002, 0x100, 1], [0x2001_0002, 0xff, 0]];
        let prefix_sum = ipv6::prefix_sum(&prefixes);
        // Ethernet's type, version 6.
        let start = [0, 0x0060_dd86_0000_0000];
        let stream = Stream { start, prefixes, prefix_sum, ..stream() };
        let stamp = 0x0123_4567_89ab_cdef_u64;
        let words = ipv6::header(&stream, FLOWS / 2 + 65, 82, stamp);
        let mut frame = [0; 82];
        for (bytes, word) in frame.chunks_mut(8).zip(words.iter().chain([&stamp])) {
            bytes.copy_from_slice(&word.to_ne_bytes()[..bytes.len()]);
        }
        let packet = &frame[14..];
        assert_eq!(packet[..8], [0x60, 0, 0, 0, 0, 28, 17, 64]);
        let source = [0x20, 1, 0, 2, 0, 0, 1, 0, 0, 0, 0, 1, 0x0a, 0, 0x40, 1];
        assert_eq!(packet[8..24], source);
        let destination = [0x20, 1, 0, 2, 0, 0, 0, 0xff, 0, 0, 0, 0, 0xc6, 0x33, 0x64, 2];
        assert_eq!(packet[24..40], destination);
        assert_eq!(packet[40..46], [4, 1, 0, PORT as u8, 0, 28]);
        // The pseudo-header of RFC 8200 §8.1, and all behind.
        let words = packet[8..].chunks(2).map(|it| u32::from(it[0]) << 8 | u32::from(it[1]));
        let sum = words.sum::<u32>() + 28 + 17;
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    }
}
