//! A gateway in memory: one LAN port, three uplinks (two with NAT, one without), one or more
//! engines, and a wire to look at.

use std::collections::VecDeque;
use std::net::IpAddr;

use etherparse::PacketBuilder;
use weir_dataplane::engine::{Engine, Owner, Regions};
use weir_dataplane::packet::{Buffer, HeapFrame, Output, Received};
use weir_layout::Family;
use weir_layout::control::{
    Address, BUCKETS, BucketTable, ComeHome, ControlHalf, MAX_VIRTUAL_MACS, Mac, Member, Name,
    Path, PathId, Policy, Port, PortRole, Prefix, Selection, Translate, Uplink, path_state,
};
use weir_layout::counters::Counter;
use weir_shm::control::{ControlWriter, empty_half};
use weir_wire::tcp::flag::{ACK, SYN};

pub const LAN: u8 = 0;
pub const HOST: [u8; 4] = [10, 77, 0, 2];
pub const GATEWAY: [u8; 4] = [10, 77, 0, 1];
pub const SERVER: [u8; 4] = [198, 51, 100, 1];
pub const OWN: [u8; 4] = [192, 0, 2, 129];
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
pub const KEY: [u64; 2] = [0x0123_4567_89ab_cdef, 0x1122_3344_5566_7788];
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// Outside address of NAT uplink `n`.
pub fn external(n: u8) -> [u8; 4] {
    [203, 0, 113, 10 + n]
}

pub fn device_mac(device: u8) -> [u8; 6] {
    [2, 0, 0, 0, 1, device]
}

pub fn next_hop_mac(uplink: u8) -> [u8; 6] {
    [2, 0, 0, 0, 2, uplink]
}

/// The only packet of several that left.
pub fn one(mut sent: Vec<(u8, Vec<u8>)>) -> (u8, Vec<u8>) {
    assert_eq!(sent.len(), 1, "one packet leaves");
    sent.pop().unwrap()
}

/// What left: the device and the frame.
#[derive(Default)]
pub struct Wire {
    pub sent: Vec<(u8, Vec<u8>)>,
    pub handed: VecDeque<(u8, u8, Vec<u8>)>,
    pub full: bool,
    /// The device whose ring alone is full.
    pub stuck: Option<u8>,
}

impl Output<HeapFrame> for Wire {
    fn transmit(&mut self, device: u8, frame: HeapFrame) -> Result<(), HeapFrame> {
        if self.full || self.stuck == Some(device) {
            return Err(frame);
        }
        self.sent.push((device, frame.data().to_vec()));
        Ok(())
    }

    fn send_for_another(&mut self, _: u8, _: &[u8]) {}

    fn allocate(&mut self) -> Option<HeapFrame> {
        Some(HeapFrame::new(&[]))
    }

    fn hand_off(&mut self, worker: u8, device: u8, frame: &[u8]) -> bool {
        self.handed.push_back((worker, device, frame.to_vec()));
        true
    }
}

pub struct Gateway {
    pub writer: ControlWriter,
    pub half: Box<ControlHalf>,
    pub regions: Regions,
    pub engines: Vec<Engine>,
    pub wire: Wire,
    pub now: u32,
}

impl Gateway {
    pub fn new() -> Self {
        Self::with(1, 4096)
    }

    /// `workers` engines and a table of `slots`. Uplinks 0 and 1 translate and share the buckets
    /// of policy 0; policy 1 is uplink 2 alone, which does not translate.
    pub fn with(workers: u8, slots: u32) -> Self {
        Self::on(Regions::anonymous(slots, KEY).unwrap(), workers)
    }

    /// The same on these regions, whose table is empty.
    pub fn on(regions: Regions, workers: u8) -> Self {
        let mut half = empty_half();
        for device in 0..4u8 {
            let d = &mut half.devices[usize::from(device)];
            (d.ifindex, d.queues, d.mtu) = (100 + u32::from(device), 1, 1500);
            let role = if device == LAN { PortRole::Lan } else { PortRole::Uplink };
            let uplink = device.wrapping_sub(1);
            half.ports[usize::from(device)] = Port {
                role: role as u8,
                device,
                uplink,
                ipv6: 1,
                vlan: 0,
                mtu: 1500,
                mac: Mac::new(device_mac(device)),
                reserved1: [0; 4],
                ifindex: 100 + u32::from(device),
                virtual_macs: [Mac::new(device_mac(device)); MAX_VIRTUAL_MACS],
            };
            half.addresses[usize::from(device)][0] =
                Address::v4(if device == LAN { GATEWAY } else { external(uplink) });
            assert!(half.insert_port_slot(100 + u32::from(device), 0, device));
        }
        for uplink in 0..3u8 {
            let u = &mut half.uplinks[usize::from(uplink)];
            (u.name, u.port) = (Name::new(&format!("uplink{uplink}")), uplink + 1);
            let path = u.path_mut(Family::V4);
            path.next_hop_mac = Mac::new(next_hop_mac(uplink));
            path.translate = if uplink < 2 { Translate::Napt } else { Translate::None } as u8;
            (path.nat_lo, path.nat_hi) = (20_000, 60_000);
            (path.pool_len, path.pool[0]) = (1, Address::v4(external(uplink)));
        }
        half.lan_prefixes[0] = Prefix::v4([10, 77, 0, 0], 16);
        half.lan_prefixes[1] = Prefix::v4([192, 0, 2, 128], 25);
        half.lan_prefix_ports[..2].fill(LAN);
        half.lan_prefix_count = 2;
        let member = |uplink| Member { uplink, tier: 1, weight: 1 };
        for (policy, members) in [&[0u8, 1][..], &[2]].into_iter().enumerate() {
            let p = &mut half.policies[policy];
            p.name = Name::new("policy");
            p.selection = Selection::Flow as u8;
            p.member_count = members.len() as u8;
            for (slot, uplink) in p.members.iter_mut().zip(members) {
                *slot = member(*uplink);
            }
        }
        half.workers = workers;
        let writer = ControlWriter::new(regions.control.clone(), regions.adjacencies.next_hops());
        for uplink in 0..3 {
            writer.set_path_state(PathId::v4(uplink), path_state::USABLE);
        }
        let engines = (0..workers).map(|id| Engine::new(id, workers, &regions, [5, 6])).collect();
        let mut gateway =
            Self { writer, half, regions, engines, wire: Wire::default(), now: 1_000_000 };
        gateway.publish(BUCKETS / 2);
        gateway
    }

    /// Publishes, with the first `share` buckets of policy 0 on uplink 0 and the rest on 1.
    pub fn publish(&mut self, share: usize) {
        let mut both: BucketTable = [1; BUCKETS];
        both[..share].fill(0);
        let is_there = |uplink: &Uplink| uplink.path(Family::V6).next_hop_mac != Mac::NONE;
        let v6: &[&BucketTable] =
            if self.half.uplinks.iter().any(is_there) { &[&both] } else { &[] };
        self.writer.publish(&mut self.half, [&[&both, &[2; BUCKETS]], v6]);
    }

    /// Gives uplinks 0 and 1 a path of IPv6 without translation, and the LAN an own prefix, and
    /// publishes that.
    pub fn serve_ipv6(&mut self) {
        for uplink in 0..2u8 {
            let path = self.half.uplinks[usize::from(uplink)].path_mut(Family::V6);
            path.next_hop_mac = Mac::new(next_hop_mac(uplink));
            self.writer.set_path_state(PathId::new(uplink, Family::V6), path_state::USABLE);
        }
        let mut address = [0x20, 1, 0, 2, 0, 0, 0, 0x77, 0, 0, 0, 0, 0, 0, 0, 0];
        self.half.lan_prefixes[2] = Prefix { address, family: 6, length: 64, ..Prefix::ANY };
        self.half.lan_prefix_ports[2] = LAN;
        self.half.lan_prefix_count = 3;
        address[15] = 1;
        self.half.addresses[usize::from(LAN)][Family::V6.index()] = Address(address);
        self.publish(BUCKETS / 2);
    }

    /// Stores the state word of an uplink's IPv4 path.
    pub fn set_state(&self, uplink: u8, state: u32) {
        self.writer.set_path_state(PathId::v4(uplink), state);
    }

    /// By these uplinks endpoints of TCP have mappings from now on, by others none.
    pub fn map_tcp(&mut self, by: &[usize]) {
        for (number, uplink) in self.half.uplinks.iter_mut().enumerate() {
            uplink.tcp_mapping = u8::from(by.contains(&number));
        }
        self.half.maps_tcp = u8::from(!by.is_empty());
        self.publish(BUCKETS / 2);
    }

    /// An uplink's IPv4 path, to be published.
    pub fn path(&mut self, uplink: u8) -> &mut Path {
        self.half.uplinks[usize::from(uplink)].path_mut(Family::V4)
    }

    /// Sends all new flows by the uplink without translation.
    pub fn route_only(&mut self) {
        self.half.default_policy = 1;
        self.publish(BUCKETS / 2);
    }

    /// One frame in by a device, at worker 0; what left because of it.
    pub fn send(&mut self, device: u8, frame: &[u8]) -> Vec<(u8, Vec<u8>)> {
        self.send_to(0, device, frame)
    }

    /// One frame in at a worker; handed-off frames are delivered until none is left.
    pub fn send_to(&mut self, worker: u8, device: u8, frame: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let received =
            |frame: &[u8], device| vec![Received { frame: HeapFrame::new(frame), device }];
        let engine = &mut self.engines[usize::from(worker)];
        engine.process(&mut received(frame, device), self.now, &mut self.wire);
        let mut hops = 0;
        while let Some((worker, device, frame)) = self.wire.handed.pop_front() {
            hops += 1;
            assert!(hops < 1000, "a frame goes round between workers");
            let engine = &mut self.engines[usize::from(worker)];
            engine.process_handed_off(&mut received(&frame, device), 0, self.now, &mut self.wire);
        }
        std::mem::take(&mut self.wire.sent)
    }

    /// Lets worker 0 ask who has LAN addresses; how often it did.
    pub fn settle(&mut self, owner: Owner) -> usize {
        let mut asked = 0;
        self.engines[0].settle_claims(|_, _| {
            asked += 1;
            owner
        });
        asked
    }

    /// Lets worker 0 ask about hosts that began flows; how often it did.
    pub fn acquaint(&mut self, owner: Owner) -> usize {
        let mut asked = 0;
        self.engines[0].ask_about_hosts(|_, _| {
            asked += 1;
            owner
        });
        asked
    }

    /// The addresses that worker 0 asks about: nobody has them.
    pub fn asked_about(&mut self) -> Vec<IpAddr> {
        let mut asked = Vec::new();
        self.engines[0].ask_about_hosts(|_, address| {
            asked.push(address);
            Owner::Nobody
        });
        asked
    }

    /// The kernel knows this hardware address, and the worker has found that out by a datagram.
    pub fn introduce(&mut self, mac: [u8; 6]) {
        let address = [10, 77, 200, mac[5]];
        one(self.send(LAN, &udp(mac, device_mac(LAN), (address, 9), (SERVER, 9))));
        self.acquaint(Owner::At(mac));
    }

    pub fn count(&self, counter: Counter) -> u64 {
        self.regions.counters.sum(counter)
    }

    /// Every packet that came in to a worker went somewhere, and is counted once.
    pub fn assert_conserved(&self) {
        let of_workers = Counter::ALL.iter().filter(|c| c.is_drop() && !c.is_xdp_drop());
        let drops: u64 = of_workers.map(|c| self.count(*c)).sum();
        let entered = self.count(Counter::UserRx)
            + self.count(Counter::UserHandoffIn)
            + self.count(Counter::UserOriginated);
        let left = self.count(Counter::UserTx) + self.count(Counter::UserHandoffOut) + drops;
        assert_eq!(entered, left);
    }
}

/// A UDP frame from the LAN host.
pub fn udp_out(sport: u16, dport: u16) -> Vec<u8> {
    udp(HOST_MAC, device_mac(LAN), (HOST, sport), (SERVER, dport))
}

pub fn udp(from: [u8; 6], to: [u8; 6], src: ([u8; 4], u16), dst: ([u8; 4], u16)) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from, to).ipv4(src.0, dst.0, 64).udp(src.1, dst.1);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"payload").unwrap();
    frame
}

/// A TCP frame with the given flag bytes.
pub fn tcp(
    from: [u8; 6],
    to: [u8; 6],
    src: ([u8; 4], u16),
    dst: ([u8; 4], u16),
    flags: u8,
) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2(from, to).ipv4(src.0, dst.0, 64).tcp(src.1, dst.1, 1000, 4096);
    let mut frame = Vec::new();
    builder.write(&mut frame, b"payload").unwrap();
    let old = frame[47];
    frame[47] = flags;
    let sum = [frame[50], frame[51]];
    let delta = weir_wire::checksum::Delta::of([frame[46], old], [frame[46], flags]);
    frame[50..52].copy_from_slice(&delta.apply(sum));
    frame
}

pub fn tcp_out(sport: u16, dport: u16, flags: u8) -> Vec<u8> {
    tcp(HOST_MAC, device_mac(LAN), (HOST, sport), (SERVER, dport), flags)
}

pub fn ping(
    from: [u8; 6],
    to: [u8; 6],
    src: [u8; 4],
    dst: [u8; 4],
    id: u16,
    request: bool,
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from, to).ipv4(src, dst, 64);
    let mut frame = Vec::new();
    if request {
        builder.icmpv4_echo_request(id, 1).write(&mut frame, b"payload").unwrap();
    } else {
        builder.icmpv4_echo_reply(id, 1).write(&mut frame, b"payload").unwrap();
    }
    frame
}

/// Addresses, ports (ICMP: identifier twice) and TTL of a frame, with both checksums verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub src: [u8; 4],
    pub dst: [u8; 4],
    pub sport: u16,
    pub dport: u16,
    pub ttl: u8,
}

pub fn see(frame: &[u8]) -> Seen {
    let p = weir_wire::parse::parse(frame).expect("a whole packet");
    let transport = &frame[p.l4.into()..p.end.into()];
    let pseudo = weir_wire::checksum::pseudo4(p.src, p.dst, p.proto, transport.len() as u16);
    let pseudo = if p.proto == 1 { 0 } else { pseudo };
    let sum = weir_wire::checksum::add(pseudo, weir_wire::checksum::sum(transport));
    assert!(weir_wire::checksum::is_valid(sum), "bad transport checksum");
    let [sport, dport] = [p.sport, p.dport].map(u16::from_be_bytes);
    let dport = if p.proto == 1 { sport } else { dport };
    Seen { src: p.src, dst: p.dst, sport, dport, ttl: p.ttl }
}

/// The answer to a frame that left by a NAT uplink: everything turned round, from the next hop.
pub fn answer_to(device: u8, frame: &[u8]) -> Vec<u8> {
    let (s, proto) = (see(frame), frame[23]);
    let (from, to) = (next_hop_mac(device - 1), device_mac(device));
    match proto {
        TCP => tcp(from, to, (s.dst, s.dport), (s.src, s.sport), 0x12),
        UDP => udp(from, to, (s.dst, s.dport), (s.src, s.sport)),
        _ => ping(from, to, s.dst, s.src, s.sport, false),
    }
}

/// Slots of a table that a test looks at as a whole.
pub const SLOTS: u32 = 4096;

/// A connection with its handshake done; the device it leaves by.
pub fn connection(gateway: &mut Gateway, sport: u16) -> u8 {
    let (device, syn) = gateway.send(LAN, &tcp_out(sport, 443, SYN)).remove(0);
    gateway.send(device, &answer_to(device, &syn));
    gateway.send(LAN, &tcp_out(sport, 443, ACK));
    device
}

/// A UDP flow seen in both directions; the device it leaves by.
pub fn exchange(gateway: &mut Gateway, sport: u16) -> u8 {
    let (device, out) = gateway.send(LAN, &udp_out(sport, 53)).remove(0);
    gateway.send(device, &answer_to(device, &out));
    device
}

/// Lets all workers look at the whole table; what left.
pub fn age(gateway: &mut Gateway) -> Vec<(u8, Vec<u8>)> {
    for engine in &mut gateway.engines {
        engine.refresh();
        engine.age(SLOTS, gateway.now, &mut gateway.wire);
    }
    std::mem::take(&mut gateway.wire.sent)
}

/// Lets the engine sweep to the end; what left.
pub fn sweep(gateway: &mut Gateway) -> Vec<(u8, Vec<u8>)> {
    gateway.engines[0].refresh();
    while gateway.engines[0].sweep(&mut gateway.wire) {}
    std::mem::take(&mut gateway.wire.sent)
}

/// Publishes this [share](Gateway::publish), and starts so many workers anew on the table that the
/// earlier ones left.
pub fn restart(gateway: &mut Gateway, workers: u8, share: usize) {
    gateway.half.workers = workers;
    gateway.publish(share);
    gateway.regions.agreements = Default::default();
    gateway.regions.prepare(&gateway.half);
    let engine = |id| Engine::new(id, workers, &gateway.regions, [7, u64::from(workers)]);
    gateway.engines = (0..workers).map(engine).collect();
    for engine in &mut gateway.engines {
        engine.adopt();
    }
}

/// Flows of the first engine.
pub fn flows(gateway: &Gateway) -> u64 {
    gateway.engines[0].flows()
}

/// Gives every policy what `change` does, and publishes.
pub fn policies(gateway: &mut Gateway, change: impl Fn(&mut Policy)) {
    gateway.half.policies.iter_mut().for_each(change);
    gateway.publish(BUCKETS / 2);
}

/// Uplink 1 is a backup, and flows are there because 0 was down.
pub fn away(gateway: &mut Gateway, come_home: ComeHome) {
    gateway.half.policies[0].members[1].tier = 2;
    policies(gateway, |policy| {
        let steering = policy.steering_mut(Family::V4);
        (steering.active_tier, steering.come_home) = (1, come_home as u8);
        (policy.idle_s, policy.home_per_second) = (30, 1000);
    });
    gateway.publish(BUCKETS);
}
