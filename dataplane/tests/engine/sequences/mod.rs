//! Long sequences of packets and events, made up as they go, in a world so small that they meet:
//! what an observer of the wires then sees must fit together (see [`Observer`]).
//!
//! A failure says the seed of its world and the step: `WEIR_FUZZ_SEED` begins with that world.

mod observer;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use etherparse::PacketBuilder;
use weir_dataplane::engine::Owner;
use weir_layout::control::{Address, BUCKETS, Name, PortForward, path_state};
use weir_wire::ipv4;
use weir_wire::tcp::flag::{ACK, FIN, RST, SYN};
use zerocopy::FromZeros;

use self::observer::{End, Inside, Observer, Outside};
use crate::gateway::*;
use crate::robustness::Seeded;

const ICMP: u8 = 1;
const UPLINKS: u8 = 2;
/// Of a world, before the next begins.
const STEPS: usize = 20_000;
/// Outside and inside, of TCP and UDP.
const SERVICE: [u16; 2] = [443, 8443];
const ROUTER: [u8; 4] = [100, 64, 0, 1];
/// What "too big" says, 1 200; others have there what nobody reads.
const MTU: [u8; 4] = [0, 0, 0x04, 0xb0];
/// What the frames of [`udp`], [`tcp`] and [`ping`] carry.
const PAYLOAD: &[u8] = b"payload";

/// How many steps: two million, or as many as `make fuzz` asks for.
pub fn steps() -> usize {
    std::env::var("WEIR_FUZZ_STEPS").map_or(2_000_000, |number| number.parse().unwrap())
}

/// The first world.
fn seed() -> u64 {
    std::env::var("WEIR_FUZZ_SEED").map_or(1, |number| number.parse().unwrap())
}

/// A world that makes its steps up.
pub trait Sequence {
    fn step(&mut self);

    /// After the last step.
    fn end(&mut self);

    /// What was tried last, for whom it fails.
    fn tried(&self) -> String;
}

/// Goes through as many worlds as there are steps for, from the first seed on.
pub fn run<S: Sequence>(mut begin: impl FnMut(u64) -> S, mut over: impl FnMut(S)) {
    for seed in (seed()..).take(steps().div_ceil(STEPS)) {
        let mut world = begin(seed);
        let mut step = 0;
        let run = catch_unwind(AssertUnwindSafe(|| {
            for _ in 0..STEPS {
                step += 1;
                world.step();
            }
            world.end();
        }));
        if let Err(panic) = run {
            eprintln!("seed {seed}, step {step}: {}", world.tried());
            resume_unwind(panic);
        }
        over(world);
    }
}

#[test]
fn whatever_is_sent_in_whatever_order_hosts_keep_what_is_theirs_and_get_nothing_else() {
    let mut seen = [0; 5];
    run(World::new, |world| {
        seen.iter_mut().zip(world.seen).for_each(|(all, of_world)| *all += of_world);
    });
    println!("left, came in, asked services, errors, stayed inside: {seen:?}");
    let least = steps() / 200;
    assert!(seen.iter().all(|number| *number > least), "{seen:?}");
}

struct World {
    gateway: Gateway,
    random: Seeded,
    observer: Observer,
    /// Of each uplink.
    addresses: [[u8; 4]; UPLINKS as usize],
    usable: [bool; UPLINKS as usize],
    /// What was tried last, for whom it fails.
    last: String,
    /// Who last asked the service in the LAN, and whom, by protocol and how he looked.
    crossed: Vec<Crossed>,
    /// Packets that left, came in for a flow, asked a service, errors that came in, and questions
    /// and answers that stayed inside.
    seen: [usize; 5],
}

/// A host that asks the service by an address outside.
#[derive(Clone, Copy, Debug)]
struct Crossed {
    proto: u8,
    host: End,
    asked: End,
    looks: End,
}

fn host_mac(address: [u8; 4]) -> [u8; 6] {
    [2, 0, 0, 0, 0, 0x10 + address[3]]
}

impl Sequence for World {
    fn step(&mut self) {
        match self.random.below(100) {
            0..33 => self.host_sends(),
            33..37 => self.host_asks(),
            37..40 => self.service_answers(),
            40..45 => self.host_answers(),
            45..75 => self.provider_sends(),
            75..82 => self.client_asks(),
            82..87 => self.router_tells(),
            87..95 => self.time_passes(),
            95..97 => self.uplink_changes(),
            97 => self.address_changes(),
            _ => self.gateway.publish([0, BUCKETS / 2, BUCKETS][self.random.below(3)]),
        }
        // As a worker does between batches.
        let Gateway { engines, wire, .. } = &mut self.gateway;
        for engine in engines {
            engine.refresh();
            while engine.sweep(wire) {}
        }
        self.gateway_speaks();
    }

    /// Nothing is left when all has been idle for long, and every packet was counted.
    fn end(&mut self) {
        self.last = "everything ends".to_owned();
        self.pass(24 * 3_600_000);
        self.pass(1000);
        let left: Vec<_> = self.gateway.engines.iter().map(|e| (e.flows(), e.mappings())).collect();
        assert!(left.iter().all(|left| *left == (0, 0)), "{left:?}");
        self.gateway.assert_conserved();
    }

    fn tried(&self) -> String {
        self.last.clone()
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Seeded(0x7765_6972 + seed);
        let mut gateway = Gateway::with(1 + random.below(2) as u8, [1024, 4096][random.below(2)]);
        // Enough for all, or not, or hardly any.
        let ports = [40_000, 30, 7][random.below(3)];
        for uplink in 0..UPLINKS {
            let path = gateway.path(uplink);
            (path.nat_lo, path.nat_hi) = (20_000, 20_000 + ports);
        }
        gateway.half.port_blocks.enter([SERVICE[0]; 2]);
        for (protocol, slot) in [TCP, UDP].into_iter().zip(&mut gateway.half.port_forwards) {
            *slot = PortForward {
                name: Name::new("web"),
                uplinks: 0b11,
                inside: Address::v4(HOST),
                ports: [SERVICE[0]; 2],
                inside_port: SERVICE[1],
                protocol,
                ..PortForward::new_zeroed()
            };
        }
        gateway.half.port_forward_count = 2;
        gateway.map_tcp([&[][..], &[1], &[0, 1]][random.below(3)]);
        gateway.publish(BUCKETS / 2);
        gateway.engines.iter_mut().for_each(|engine| _ = engine.refresh());
        for engine in &mut gateway.engines {
            engine.settle_claims(|_, _| Owner::At(host_mac(HOST)));
        }
        Self {
            gateway,
            random,
            observer: Observer::default(),
            addresses: [external(0), external(1)],
            usable: [true; UPLINKS as usize],
            last: String::new(),
            crossed: Vec::new(),
            seen: [0; 5],
        }
    }

    fn proto(&mut self) -> u8 {
        [UDP, UDP, TCP, TCP, ICMP][self.random.below(5)]
    }

    /// One of a few hosts.
    fn host(&mut self, proto: u8) -> End {
        let address = [10, 77, 0, 2 + self.random.below(4) as u8];
        let published = proto != ICMP && address == HOST && self.random.below(3) == 0;
        (address, if published { SERVICE[1] } else { 20_000 + self.random.below(5) as u16 })
    }

    fn remote(&mut self) -> End {
        let address = [198, 51, 100, 1 + self.random.below(3) as u8];
        (address, [53, 5000, 5001][self.random.below(3)])
    }

    fn flags(&mut self) -> u8 {
        [SYN, SYN, ACK, ACK, ACK, ACK, FIN | ACK, RST][self.random.below(8)]
    }

    fn packet(&self, macs: [[u8; 6]; 2], proto: u8, from: End, to: End, flags: u8) -> Vec<u8> {
        let [src, dst] = macs;
        match proto {
            TCP => tcp(src, dst, from, to, flags),
            UDP => udp(src, dst, from, to),
            _ => ping(src, dst, from.0, to.0, from.1.max(to.1), !is_reply(flags)),
        }
    }

    fn send(&mut self, device: u8, frame: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let worker = self.random.below(self.gateway.engines.len()) as u8;
        self.gateway.send_to(worker, device, frame)
    }

    fn host_sends(&mut self) {
        let proto = self.proto();
        let (host, mut remote) = (self.host(proto), self.remote());
        if proto == ICMP {
            remote.1 = host.1;
        }
        self.leaves(Inside { proto, host, remote });
    }

    fn now(&self) -> u64 {
        self.gateway.now.into()
    }

    /// A flow that was seen lately.
    fn some(&mut self) -> Option<Outside> {
        let draw = self.random.below(64);
        self.observer.some(draw)
    }

    /// The same or one much like it, and the uplink that a packet of it comes by: an answer may
    /// come by another way than the packet left.
    fn nearly(&mut self) -> Option<(Outside, u8)> {
        let mut of = self.some()?;
        let mut by = of.uplink;
        match self.random.below(12) {
            0 => of.remote.1 ^= 1,
            1 => of.remote.0[3] ^= 1,
            2 => of.own.1 ^= 1 << self.random.below(6),
            3 => by ^= 1,
            _ => {}
        }
        if of.proto == ICMP {
            of.remote.1 = of.own.1;
        }
        Some((of, by))
    }

    /// To who asked a service, as the host knows him.
    fn host_answers(&mut self) {
        let of = self.some();
        let Some((of, behind)) = of.and_then(|of| Some((of, *self.observer.behind(&of)?))) else {
            return;
        };
        if behind.asked {
            self.leaves(Inside { proto: of.proto, host: behind.host, remote: behind.shown });
        }
    }

    /// A host asks what is published, by an address outside.
    fn host_asks(&mut self) {
        let proto = [TCP, UDP][self.random.below(2)];
        let (host, flags) = (self.host(proto), self.flags());
        let asked = (self.addresses[self.random.below(2)], SERVICE[0]);
        self.last = format!("{proto} of {host:?} asks {asked:?} in the LAN with {flags:#x}");
        for frame in self.crosses(proto, host, asked, flags) {
            let s = see_frame(LAN, host_mac(HOST), &frame);
            assert_eq!((s.dst, s.dport, s.ttl), (HOST, SERVICE[1], 63));
            assert!(self.addresses.contains(&s.src), "{s:?}");
            let looks = (s.src, s.sport);
            self.crossed.retain(|other| (other.proto, other.looks) != (proto, looks));
            self.crossed.push(Crossed { proto, host, asked, looks });
        }
    }

    /// The service answers one of them.
    fn service_answers(&mut self) {
        let draw = self.random.below(64);
        let lately: Vec<_> = self.crossed.iter().rev().take(64).copied().collect();
        let Some(of) = lately.get(draw % lately.len().max(1)).copied() else { return };
        if !self.addresses.contains(&of.looks.0) {
            return;
        }
        let flags = [SYN | ACK, ACK, FIN | ACK, RST][self.random.below(4)];
        self.last = format!("{of:?} is answered with {flags:#x}");
        for frame in self.crosses(of.proto, (HOST, SERVICE[1]), of.looks, flags) {
            let s = see_frame(LAN, host_mac(of.host.0), &frame);
            assert_eq!(((s.src, s.sport), (s.dst, s.dport)), (of.asked, of.host));
        }
    }

    /// A packet from a host to an address outside; what of it reached a host. It may be told
    /// instead.
    fn crosses(&mut self, proto: u8, from: End, to: End, flags: u8) -> Vec<Vec<u8>> {
        let macs = [host_mac(from.0), device_mac(LAN)];
        let frame = self.packet(macs, proto, from, to, flags);
        let mut crossed = Vec::new();
        for (device, frame) in self.send(LAN, &frame) {
            assert_eq!(device, LAN, "it stays inside");
            if frame[23] == proto && frame.ends_with(PAYLOAD) {
                crossed.push(frame);
            } else {
                self.is_told(from, &frame);
            }
        }
        assert!(crossed.len() < 2, "twice");
        self.seen[4] += crossed.len();
        crossed
    }

    fn leaves(&mut self, inside: Inside) {
        let Inside { proto, host, remote } = inside;
        let flags = self.flags();
        self.last = format!("{inside:?} with {flags:#x}");
        let macs = [host_mac(host.0), device_mac(LAN)];
        let frame = self.packet(macs, proto, host, remote, flags);
        if proto == TCP && flags & (FIN | RST | SYN) != 0 {
            // What begins anew may do so elsewhere, and what ends is forgotten sooner.
            if let Some(of) = self.observer.outside(&inside).copied() {
                self.observer.loosen(&of);
            }
        }
        for (device, out) in self.send(LAN, &frame) {
            assert!(proto != ICMP || !is_reply(flags), "nobody asked");
            if device == LAN {
                self.is_told(host, &out);
                continue;
            }
            let uplink = device - 1;
            assert!(uplink < UPLINKS, "by {device}");
            let s = see_frame(device, next_hop_mac(uplink), &out);
            assert_eq!((s.src, s.ttl), (self.addresses[usize::from(uplink)], 63));
            assert!(out.ends_with(PAYLOAD));
            let of = Outside { proto, uplink, own: (s.src, s.sport), remote: (s.dst, s.dport) };
            let shown = self.observer.behind(&of).filter(|behind| behind.asked);
            let waits = shown.is_some() || self.usable == [false; UPLINKS as usize];
            assert!(self.usable[usize::from(uplink)] || waits, "by {uplink}, which is down");
            // A host that has a port may have begun a flow there where its client's has ended.
            let ended = !self.observer.is_firm(&of, self.now()) && remote == of.remote;
            let shown = shown.filter(|_| !ended).map_or(of.remote, |behind| behind.shown);
            assert!(remote == shown || remote.0 == s.dst && proto == ICMP, "{of:?}");
            let draw = self.random.below(64);
            self.observer.left(inside, of, self.now(), draw);
            if proto == TCP && flags & (FIN | RST) != 0 {
                self.observer.loosen(&of);
            }
            self.seen[0] += 1;
        }
    }

    /// The gateway itself says something to a host: that it is not served.
    fn is_told(&self, host: End, frame: &[u8]) {
        assert_eq!(frame[..6], host_mac(host.0));
        let s = see_outer(frame);
        assert_eq!(s.1, host.0, "it is told itself");
        let reset = frame[23] == TCP && frame[47] & RST != 0;
        assert!(reset || frame[23] == ICMP && frame[34] == 3 && s.0 == GATEWAY, "{frame:02x?}");
    }

    /// A packet from a provider: an answer to one that left, or nearly.
    fn provider_sends(&mut self) {
        let Some((of, by)) = self.nearly() else { return };
        let flags = [ACK, ACK, SYN | ACK, SYN, FIN | ACK, RST][self.random.below(6)];
        self.last = format!("{of:?} is answered with {flags:#x} by {by}");
        let device = by + 1;
        let macs = [next_hop_mac(by), device_mac(device)];
        let frame = self.packet(macs, of.proto, of.remote, of.own, flags);
        let sent = self.send(device, &frame);
        let must = self.must_reach(&of, by);
        let came = self.is_delivered(&of, &sent);
        let is_plain = match of.proto {
            TCP => flags == ACK,
            UDP => true,
            _ => is_reply(flags),
        };
        assert!(came || !must || !is_plain, "lost: {:?}", self.observer.behind(&of));
        assert!(!came || is_plain || of.proto == TCP, "a host's ping is no leave to ping it");
        if of.proto == TCP && flags & (FIN | RST | SYN) != 0 && flags != SYN | ACK {
            self.observer.loosen(&of);
        }
        if came {
            self.seen[1] += 1;
            self.observer.answered(&of, self.now());
        }
    }

    /// Must a packet of it that comes by this uplink reach the host? What a client began comes by
    /// the uplink that he asked at.
    fn must_reach(&self, of: &Outside, by: u8) -> bool {
        let asked = self.observer.behind(of).is_some_and(|behind| behind.asked);
        let has_address = self.addresses[usize::from(of.uplink)] == of.own.0;
        self.observer.is_firm(of, self.now()) && has_address && (by == of.uplink || !asked)
    }

    /// Did that reach a host? Then it is the one behind, and what it got is for it.
    fn is_delivered(&mut self, of: &Outside, sent: &[(u8, Vec<u8>)]) -> bool {
        let mut delivered = false;
        for (device, frame) in sent {
            if *device != LAN {
                // To a client whose question is refused.
                assert_eq!((of.own.1, frame[23]), (SERVICE[0], TCP), "{frame:02x?}");
                continue;
            }
            assert!(!delivered, "twice");
            delivered = true;
            let s = see(frame);
            if of.own.1 == SERVICE[0] && of.proto != ICMP {
                let (now, draw) = (self.now(), self.random.below(64));
                let host = (HOST, SERVICE[1]);
                self.observer.entered(*of, host, (s.src, s.sport), (now, draw));
                self.seen[2] += 1;
            }
            let behind = self.observer.behind(of).expect("nobody is behind it");
            let (host, remote) = (behind.host, behind.shown);
            see_frame(LAN, host_mac(host.0), frame);
            assert_eq!((s.dst, s.dport), host, "{of:?} is of {behind:?}");
            assert_eq!((s.src, s.ttl), (remote.0, 63));
            assert!(of.proto == ICMP || s.sport == remote.1);
            assert!(frame.ends_with(PAYLOAD));
        }
        delivered
    }

    /// A client asks what is published, at an address or another.
    fn client_asks(&mut self) {
        let (uplink, proto) = (self.random.below(2), [TCP, UDP][self.random.below(2)]);
        let own = (self.addresses[uplink], SERVICE[0]);
        let (uplink, remote, flags) = (uplink as u8, self.remote(), self.flags());
        let of = Outside { proto, uplink, own, remote };
        let by = uplink ^ u8::from(self.random.below(8) == 0);
        self.last = format!("{of:?} asks with {flags:#x} by {by}");
        let macs = [next_hop_mac(by), device_mac(by + 1)];
        let frame = self.packet(macs, proto, remote, own, flags);
        let sent = self.send(by + 1, &frame);
        let is_known = self.observer.behind(&of).is_some();
        let came = self.is_delivered(&of, &sent);
        assert!(!came || by == uplink || is_known, "begun at another uplink's address");
        if proto == TCP && flags != ACK {
            self.observer.loosen(&of);
        }
    }

    /// A router beyond an uplink says what became of a packet.
    fn router_tells(&mut self) {
        let Some((of, by)) = self.nearly() else { return };
        let (kind, code) = [(3, 1), (3, 3), (3, 4), (11, 0)][self.random.below(4)];
        self.last = format!("{of:?} is told {kind}/{code} by {by}");
        let quoted = self.packet([[0; 6]; 2], of.proto, of.own, of.remote, 0);
        let device = by + 1;
        let builder = PacketBuilder::ethernet2(next_hop_mac(by), device_mac(device))
            .ipv4(ROUTER, of.own.0, 64)
            .icmpv4_raw(kind, code, MTU);
        let mut frame = Vec::new();
        builder.write(&mut frame, &quoted[14..]).unwrap();
        let sent = self.send(device, &frame);
        let must = self.must_reach(&of, by);
        assert!(!sent.is_empty() || !must || of.proto == TCP, "lost");
        for (device, frame) in sent {
            assert_eq!((device, frame[34]), (LAN, kind));
            let behind = self.observer.behind(&of).expect("nobody is behind it");
            let host = behind.host;
            assert_eq!(see_outer(&frame), (ROUTER, host.0), "{of:?} is of {behind:?}");
            assert_eq!(frame[..6], host_mac(host.0));
            // The host's own packet, whole.
            let quoted = [&[0; 12][..], &[8, 0], &frame[42..]].concat();
            let s = see(&quoted);
            assert_eq!((s.src, s.sport, s.dst), (host.0, host.1, behind.shown.0));
            assert!(of.proto == ICMP || s.dport == behind.shown.1, "{s:?} {behind:?}");
            self.seen[3] += 1;
        }
    }

    fn time_passes(&mut self) {
        let milliseconds = [1, 50, 1000, 10_000, 40_000, 130_000, 400_000][self.random.below(7)];
        self.last = format!("{milliseconds} ms pass");
        self.pass(milliseconds);
    }

    fn pass(&mut self, milliseconds: u32) {
        self.gateway.now += milliseconds;
        let Gateway { engines, wire, now, .. } = &mut self.gateway;
        for engine in engines {
            engine.settle_claims(|_, address| owner(address));
            engine.ask_about_hosts(|_, address| owner(address));
            engine.age(4096, *now, wire);
        }
        self.gateway_speaks();
    }

    /// What the gateway sends of itself: resets, for connections that it ends.
    fn gateway_speaks(&mut self) {
        for (device, frame) in std::mem::take(&mut self.gateway.wire.sent) {
            assert_eq!(frame[23], TCP, "{frame:02x?}");
            assert!(frame[47] & RST != 0);
            if let Some(uplink) = device.checked_sub(1) {
                let s = see_frame(device, next_hop_mac(uplink), &frame);
                assert_eq!(s.src, self.addresses[usize::from(uplink)]);
                let (own, remote) = ((s.src, s.sport), (s.dst, s.dport));
                let of = Outside { proto: TCP, uplink, own, remote };
                let behind = self.observer.behind(&of).expect("nobody is behind it");
                assert!(!behind.held, "{of:?} is ended");
            }
        }
    }

    fn uplink_changes(&mut self) {
        let uplink = self.random.below(2);
        self.usable[uplink] ^= true;
        let states = [path_state::NO_CARRIER, path_state::USABLE];
        self.gateway.set_state(uplink as u8, states[usize::from(self.usable[uplink])]);
        self.last = format!("uplink {uplink} is usable: {}", self.usable[uplink]);
        // What stands still waits where it is as long as there is no other.
        self.observer.loosen_all(|_, _| true);
    }

    fn address_changes(&mut self) {
        let uplink = self.random.below(2);
        self.addresses[uplink][3] ^= 0x40;
        self.last = format!("uplink {uplink} has {:?}", self.addresses[uplink]);
        let address = Address::v4(self.addresses[uplink]);
        self.gateway.path(uplink as u8).pool[0] = address;
        self.gateway.half.addresses[uplink + 1][0] = address;
        self.gateway.publish(BUCKETS / 2);
        self.observer.loosen_all(|of, _| usize::from(of.uplink) == uplink);
    }
}

/// Is an echo message with these flags a reply?
const fn is_reply(flags: u8) -> bool {
    flags & ACK != 0
}

fn owner(address: std::net::IpAddr) -> Owner {
    match address {
        std::net::IpAddr::V4(address) => Owner::At(host_mac(address.octets())),
        std::net::IpAddr::V6(_) => Owner::Nobody,
    }
}

/// Source and destination, with the header's checksum verified.
fn see_outer(frame: &[u8]) -> ([u8; 4], [u8; 4]) {
    let ip = ipv4::Packet::new_checked(&frame[14..]).unwrap();
    assert!(ip.verify_checksum());
    (frame[26..30].try_into().unwrap(), frame[30..34].try_into().unwrap())
}

/// The frame's addresses, whose checksums are right, by a device to a hardware address.
fn see_frame(device: u8, to: [u8; 6], frame: &[u8]) -> Seen {
    assert_eq!(frame[..12], [to, device_mac(device)].concat());
    see_outer(frame);
    see(frame)
}
