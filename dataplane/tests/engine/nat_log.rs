//! The log of NAT allocations, as who reads it puts it together.

use std::collections::{HashMap, HashSet};

use super::gateway::*;
use weir_dataplane::engine::Engine;
use weir_layout::Family;
use weir_layout::control::{Address, BUCKETS, Translate, path_state};
use weir_layout::flow::flag;
use weir_layout::nat_log::{Event, RECORDS, Record};
use weir_shm::nat_log::NatLog;
use weir_wire::protocol::{ESP, GRE, SCTP};
use weir_wire::tcp::flag::{ACK, SYN};

use crate::packets6::{HOST6, SERVER6, packet};
use crate::protocols::from_host;
use crate::robustness::Seeded;

/// An address and port.
type End = ([u8; 4], u16);

/// What has a port outside: protocol, uplink, the port, and whom it is for alone.
type Key = (u8, u8, End, End);

/// What stands by the log, read as `docs/nat-log.md` says.
#[derive(Default)]
struct Reader {
    /// Of each worker: who has it.
    stands: HashMap<u8, HashMap<Key, End>>,
    /// Of each worker that lists: what it has named since.
    listing: HashMap<u8, HashSet<Key>>,
    lost: u64,
}

fn end(address: &[u8; 16], port: u16) -> End {
    (*address.first_chunk().unwrap(), port)
}

impl Reader {
    fn read(&mut self, worker: u8, record: &Record) {
        let key = (
            record.protocol,
            record.uplink,
            end(&record.outside, record.outside_port),
            end(&record.remote, record.remote_port),
        );
        let inside = end(&record.inside, record.inside_port);
        let stands = self.stands.entry(worker).or_default();
        match Event::from_byte(record.event).unwrap() {
            Event::Begin | Event::Held => {
                if let Some(other) = stands.insert(key, inside) {
                    assert_eq!(other, inside, "{key:?} had not ended");
                }
                if let Some(named) = self.listing.get_mut(&worker) {
                    named.insert(key);
                }
            }
            Event::End => {
                stands.remove(&key);
            }
            Event::Listing => {
                self.stands.retain(|worker, _| u16::from(*worker) < record.workers);
                self.listing.insert(worker, HashSet::new());
            }
            Event::Listed => {
                let named = self.listing.remove(&worker).expect("a listing begins before it ends");
                stands.retain(|key, _| named.contains(key));
            }
            Event::Lost => {
                self.lost += record.loss().0;
                // Nothing is certain before the next listing.
                stands.clear();
            }
        }
    }

    /// What stands by all workers.
    fn all(&self) -> HashMap<Key, End> {
        let all = self.stands.values().flatten().map(|(key, inside)| (*key, *inside));
        let all: Vec<_> = all.collect();
        let by_key: HashMap<_, _> = all.iter().copied().collect();
        assert_eq!(by_key.len(), all.len(), "two workers have the same");
        by_key
    }
}

/// What stands by the table: ports of its flows.
fn of_table(gateway: &Gateway) -> HashMap<Key, End> {
    let table = &gateway.regions.flows;
    let entries = (0..table.capacity()).filter_map(|at| table.slot(at).read());
    let forward = entries.filter(|entry| {
        let began_inside = flag::INITIATED | flag::INSIDE;
        entry.flags & began_inside == began_inside && entry.flags & flag::NAT != 0
    });
    let allocation = |entry: weir_shm::flows::Entry4| {
        let (key, to) = (entry.key, entry.rewrite);
        let remote = (key.dst(), u16::from_be_bytes(key.dport()));
        let mapped = entry.state_owner.is_mapped();
        let remote = if mapped { ([0; 4], 0) } else { remote };
        let outside = (to.src, u16::from_be_bytes(to.sport));
        let inside = (key.src(), u16::from_be_bytes(key.sport()));
        ((key.proto(), entry.uplink, outside, remote), inside)
    };
    forward.map(allocation).collect()
}

fn logged(workers: u8, slots: u32) -> (Gateway, NatLog) {
    let mut gateway = Gateway::with(workers, slots);
    let log = NatLog::anonymous().unwrap();
    gateway.regions.nat_log = Some(log.clone());
    gateway.half.nat_log = 1;
    restart(&mut gateway, workers, BUCKETS / 2);
    (gateway, log)
}

/// Takes all records that there are.
fn take(log: &NatLog, reader: &mut Reader) -> Vec<Record> {
    let mut all = Vec::new();
    for worker in 0..32 {
        let mut records = Vec::new();
        log.take(worker, log.read(worker, RECORDS, &mut records));
        records.iter().for_each(|record| reader.read(worker, record));
        all.extend(records);
    }
    all
}

/// Lets listings come to their end.
fn list(gateway: &mut Gateway, log: &NatLog, reader: &mut Reader) {
    for _ in 0..40 {
        age(gateway);
        take(log, reader);
    }
}

fn events(records: &[Record]) -> Vec<Event> {
    records.iter().map(|record| Event::from_byte(record.event).unwrap()).collect()
}

#[test]
fn an_endpoint_of_udp_is_told_of_once_and_a_connection_with_its_destination() {
    let (mut gateway, log) = logged(1, 4096);
    let mut reader = Reader::default();
    list(&mut gateway, &log, &mut reader);
    (1..9).for_each(|to| _ = gateway.send(LAN, &udp_out(40_000, to)));
    let records = take(&log, &mut reader);
    assert_eq!(events(&records), [Event::Begin]);
    assert_eq!((records[0].inside_port, records[0].remote_port), (40_000, 0));
    gateway.send(LAN, &tcp_out(40_001, 443, SYN));
    let records = take(&log, &mut reader);
    assert_eq!(events(&records), [Event::Begin]);
    assert_eq!(end(&records[0].remote, records[0].remote_port), (SERVER, 443));
    gateway.now += 24 * 3_600_000;
    age(&mut gateway);
    assert_eq!(events(&take(&log, &mut reader)), [Event::End, Event::End]);
    assert_eq!(reader.all(), HashMap::new());
}

#[test]
fn nothing_is_told_where_nothing_is_to_be_logged_nor_of_what_keeps_its_port() {
    let (mut gateway, log) = logged(1, 4096);
    let mut reader = Reader::default();
    list(&mut gateway, &log, &mut reader);
    gateway.route_only();
    gateway.send(LAN, &udp_out(40_000, 1));
    gateway.send(LAN, &tcp_out(40_001, 443, SYN));
    assert_eq!(take(&log, &mut reader), []);
    gateway.half.default_policy = 0;
    gateway.half.nat_log = 0;
    gateway.publish(BUCKETS / 2);
    gateway.send(LAN, &udp_out(40_002, 1));
    assert_eq!(take(&log, &mut reader), []);
    gateway.half.nat_log = 1;
    gateway.publish(BUCKETS / 2);
    list(&mut gateway, &log, &mut reader);
    assert_eq!((reader.all(), reader.all().len()), (of_table(&gateway), 1), "it is listed then");
}

#[test]
fn what_is_lost_is_counted_and_what_stands_then_is_listed() {
    let (mut gateway, log) = logged(1, 1 << 16);
    let mut reader = Reader::default();
    list(&mut gateway, &log, &mut reader);
    for n in 0..RECORDS as u32 + 1000 {
        let from = ([10, 77, (n >> 8) as u8, n as u8], 40_000);
        gateway.send(LAN, &tcp(HOST_MAC, device_mac(LAN), from, (SERVER, 443), SYN));
    }
    assert_eq!(log.lost(), 1000);
    list(&mut gateway, &log, &mut reader);
    assert_eq!(reader.lost, 1000);
    assert_eq!(reader.all(), of_table(&gateway));
    assert_eq!(reader.all().len(), RECORDS + 1000);
}

#[test]
fn a_listing_leaves_half_of_the_ring_to_what_begins_meanwhile() {
    let (mut gateway, log) = logged(1, 1 << 16);
    let mut reader = Reader::default();
    list(&mut gateway, &log, &mut reader);
    for n in 0..RECORDS as u32 {
        let from = ([10, 77, (n >> 8) as u8, n as u8], 40_000);
        gateway.send(LAN, &tcp(HOST_MAC, device_mac(LAN), from, (SERVER, 443), SYN));
    }
    take(&log, &mut reader);
    log.ask_for_listing();
    (0..100).for_each(|_| _ = age(&mut gateway));
    assert_eq!(take(&log, &mut reader).len(), RECORDS / 2);
    list(&mut gateway, &log, &mut reader);
    assert_eq!((log.lost(), reader.all()), (0, of_table(&gateway)));
}

#[test]
fn a_listing_that_is_asked_for_again_comes_to_its_end_first() {
    let (mut gateway, log) = logged(1, 1 << 16);
    let mut reader = Reader::default();
    list(&mut gateway, &log, &mut reader);
    let mut seen = Vec::new();
    for _ in 0..100 {
        log.ask_for_listing();
        age(&mut gateway);
        seen.extend(events(&take(&log, &mut reader)));
    }
    let listings = seen.as_chunks::<2>().0;
    assert!(listings.len() > 1);
    assert!(listings.iter().all(|of| *of == [Event::Listing, Event::Listed]), "{seen:?}");
}

#[test]
fn a_flow_without_ports_is_told_of_with_its_remote() {
    let (mut gateway, log) = logged(1, 4096);
    let mut reader = Reader::default();
    list(&mut gateway, &log, &mut reader);
    gateway.send(LAN, &from_host((HOST_MAC, HOST), SERVER, GRE));
    let records = take(&log, &mut reader);
    assert_eq!(events(&records), [Event::Begin]);
    assert_eq!(end(&records[0].inside, records[0].inside_port), (HOST, 0));
    assert_eq!(end(&records[0].remote, records[0].remote_port), (SERVER, 0));
    assert_eq!((records[0].protocol, reader.all()), (GRE, of_table(&gateway)));
    gateway.now += 24 * 3_600_000;
    age(&mut gateway);
    assert_eq!(events(&take(&log, &mut reader)), [Event::End]);
}

#[test]
fn what_ends_with_the_translation_of_its_uplink_is_missing_in_the_listing_that_follows() {
    let (mut gateway, log) = logged(1, 4096);
    gateway.serve_ipv6();
    for uplink in 0..2 {
        let path = gateway.half.uplinks[uplink].path_mut(Family::V6);
        path.translate = Translate::Napt as u8;
        (path.nat_lo, path.nat_hi, path.pool_len) = (20_000, 60_000, 1);
        path.pool[0] = Address([uplink as u8 + 1; 16]);
    }
    gateway.publish(BUCKETS / 2);
    let mut reader = Reader::default();
    list(&mut gateway, &log, &mut reader);
    gateway.send(LAN, &packet([HOST_MAC, device_mac(LAN)], [HOST6, SERVER6], (TCP, false), 64, 8));
    assert_eq!(events(&take(&log, &mut reader)), [Event::Begin]);
    for uplink in &mut gateway.half.uplinks {
        uplink.path_mut(Family::V6).translate = Translate::None as u8;
    }
    gateway.publish(BUCKETS / 2);
    age(&mut gateway);
    sweep(&mut gateway);
    assert_eq!(gateway.engines[0].flows(), 0);
    list(&mut gateway, &log, &mut reader);
    assert_eq!(reader.all(), HashMap::new());
}

/// Flows begin and end in all the ways that there are, in worlds of one and several workers, with ports
/// for all or hardly any.
#[test]
fn whatever_begins_and_ends_the_log_says_what_stands() {
    const STEPS: usize = 3000;
    let mut seen = [0; 7];
    for seed in 0..24u64 {
        let mut random = Seeded(0x6e61_746c + seed);
        let workers = 1 + random.below(3) as u8;
        let (mut gateway, log) = logged(workers, [1024, 4096][random.below(2)]);
        let mut reader = Reader::default();
        for uplink in 0..2 {
            let path = gateway.path(uplink);
            (path.nat_lo, path.nat_hi) = (20_000, 20_000 + [40_000, 60][random.below(2)]);
        }
        gateway.map_tcp([&[][..], &[1], &[0, 1]][random.below(3)]);
        list(&mut gateway, &log, &mut reader);
        let mut usable = [true; 2];
        for _ in 0..STEPS {
            let host = ([10, 77, 0, 2 + random.below(5) as u8], 20_000 + random.below(40) as u16);
            let mac = [2, 0, 0, 0, 0, host.0[3]];
            let remote = ([198, 51, 100, random.below(3) as u8], 50 + random.below(3) as u16);
            let worker = random.below(gateway.engines.len()) as u8;
            let frame = match random.below(6) {
                0 | 1 => udp(mac, device_mac(LAN), host, remote),
                2 => ping(mac, device_mac(LAN), host.0, remote.0, host.1, true),
                3 => from_host((mac, host.0), remote.0, [GRE, ESP, SCTP][random.below(3)]),
                _ => tcp(mac, device_mac(LAN), host, remote, [SYN, ACK, 0x11, 4][random.below(4)]),
            };
            match random.below(100) {
                0..88 => {
                    for (device, sent) in gateway.send_to(worker, LAN, &frame) {
                        let has_answer = [TCP, UDP, 1].contains(&frame[23]);
                        if (1..3).contains(&device) && has_answer && random.below(2) == 0 {
                            gateway.send_to(worker, device, &answer_to(device, &sent));
                        }
                    }
                }
                88..94 => {
                    gateway.now += [1000, 50_000, 300_000][random.below(3)];
                    age(&mut gateway);
                }
                94..96 => {
                    let uplink = random.below(2);
                    usable[uplink] ^= true;
                    let states = [path_state::NO_CARRIER, path_state::USABLE];
                    gateway.set_state(uplink as u8, states[usize::from(usable[uplink])]);
                }
                96 => {
                    gateway.path(0).pool[0] =
                        Address::v4([203, 0, 113, random.below(9) as u8 + 50]);
                    gateway.publish([0, BUCKETS / 2, BUCKETS][random.below(3)]);
                }
                97 => gateway.map_tcp([&[][..], &[0], &[0, 1]][random.below(3)]),
                98 => log.ask_for_listing(),
                _ => {
                    restart(&mut gateway, 1 + random.below(3) as u8, BUCKETS / 2);
                    list(&mut gateway, &log, &mut reader);
                }
            }
            let Gateway { engines, wire, .. } = &mut gateway;
            for engine in engines {
                engine.refresh();
                while engine.sweep(wire) {}
            }
            take(&log, &mut reader).iter().for_each(|record| seen[usize::from(record.event)] += 1);
            assert_eq!(reader.all(), of_table(&gateway), "seed {seed}");
        }
        list(&mut gateway, &log, &mut reader);
        assert_eq!(reader.all(), of_table(&gateway), "seed {seed}");
        gateway.now += 24 * 3_600_000;
        list(&mut gateway, &log, &mut reader);
        assert_eq!(
            (reader.all(), gateway.engines.iter().map(Engine::flows).sum()),
            (HashMap::new(), 0)
        );
        assert_eq!(log.lost(), 0);
    }
    println!("begun, ended, held, listings begun and ended: {seen:?}");
    assert!(seen[1..=5].iter().all(|number| *number > 100), "{seen:?}");
}
