//! Half hours of users in simulated time: who scans, and whose peers are gone, makes no link look
//! ill; a link that fails its users is found in seconds. The workers' counting, the shared memory
//! and the judgement are the real ones.

use weir_control::users::Users;
use weir_dataplane::engine::Regions;
use weir_dataplane::observer::Observer;
use weir_health::pace::Random;
use weir_health::{Path, Reason, Signal, State, Transition};
use weir_layout::observations::INTERVAL_MS;
use weir_site::health::Health;
use weir_wire::family::{Family, V4};
use weir_wire::key::FlowKey4;
use weir_wire::{tcp, udp};

const UPLINKS: usize = 2;
const MINUTE: u64 = 60_000;
/// Flows of an interval and of a host, in tenths.
const ORDINARY: u64 = 15;
const TORRENT: u64 = 25;
const SCANNER: u64 = 100;

/// Address, port and protocol.
type Service = ([u8; 4], u16, u8);

enum Kind {
    /// Browses popular services.
    Ordinary,
    /// Tries new peers, most of which are not there, and goes back to those that were. With each
    /// peer, when it leaves.
    Torrent(Vec<(Service, u64)>),
    /// Tries addresses, and ports of popular hosts; next to nothing answers.
    Scanner,
}

/// Who is there, and which uplink a flow takes.
struct Case {
    ordinary: u16,
    torrents: u16,
    scanners: u16,
    /// How the flow of a host to a remote address is placed.
    uplink: fn(u16, [u8; 4], &mut Random) -> usize,
}

fn by_hash(_: u16, _: [u8; 4], random: &mut Random) -> usize {
    random.below(UPLINKS as u64) as usize
}

/// Nine of ten by one uplink.
fn unevenly(_: u16, _: [u8; 4], random: &mut Random) -> usize {
    usize::from(random.below(10) == 0)
}

/// The pests all by one uplink.
fn by_source(host: u16, _: [u8; 4], _: &mut Random) -> usize {
    usize::from(host >= 4)
}

const CASES: [Case; 5] = [
    Case { ordinary: 8, torrents: 2, scanners: 2, uplink: by_hash },
    Case { ordinary: 8, torrents: 2, scanners: 2, uplink: unevenly },
    Case { ordinary: 8, torrents: 2, scanners: 2, uplink: by_source },
    Case { ordinary: 0, torrents: 4, scanners: 2, uplink: by_hash },
    Case { ordinary: 0, torrents: 2, scanners: 2, uplink: by_source },
];

fn popular(number: u64) -> Service {
    ([203, 0, 113, number as u8], 443, tcp::PROTOCOL)
}

fn stranger(random: &mut Random, proto: u8) -> Service {
    let draw = random.draw().to_be_bytes();
    ([1 + draw[0] % 200, draw[1], draw[2], draw[3]], u16::from_be_bytes([draw[4], draw[5]]), proto)
}

/// Where a host's next flow goes, and whether it is answered by a link that works.
fn next(kind: &mut Kind, now: u64, random: &mut Random) -> (Service, bool) {
    match kind {
        Kind::Ordinary => (popular(random.below(60)), random.below(100) != 0),
        Kind::Torrent(peers) => {
            if !peers.is_empty() && random.below(5) == 0 {
                let (peer, leaves) = peers[random.below(peers.len() as u64) as usize];
                return (peer, now < leaves);
            }
            let proto = if random.below(2) == 0 { tcp::PROTOCOL } else { udp::PROTOCOL };
            let peer = stranger(random, proto);
            let there = random.below(100) < 15;
            if there {
                peers.push((peer, now + 1 + random.below(10 * MINUTE)));
            }
            (peer, there)
        }
        Kind::Scanner => {
            let (address, port, proto) = stranger(random, tcp::PROTOCOL);
            match random.below(2) {
                0 => ((popular(random.below(60)).0, port, proto), random.below(50) == 0),
                _ => ((address, port, proto), random.below(50) == 0),
            }
        }
    }
}

/// What becomes of both uplinks. From `fault` on, nothing that a user sends by the first is answered.
fn run(case: &Case, seed: u64, length: u64, fault: Option<u64>) -> [Vec<Transition>; UPLINKS] {
    let mut random = Random::new(seed);
    let regions = Regions::anonymous(1024, [random.draw(), random.draw()]).unwrap();
    let mut observer = Observer::new(0, V4::FAMILY, regions.hash_key, regions.observations.clone());
    let mut users = Users::new(regions.observations.clone(), regions.counters.clone(), 0);
    let mut machines = [(); UPLINKS].map(|()| Path::adopt(Health::default(), 0));
    let mut seen = [(); UPLINKS].map(|()| Vec::new());
    let torrents = (0..case.torrents).map(|_| (Kind::Torrent(Vec::new()), TORRENT));
    let scanners = (0..case.scanners).map(|_| (Kind::Scanner, SCANNER));
    let ordinary = (0..case.ordinary).map(|_| (Kind::Ordinary, ORDINARY));
    let mut hosts: Vec<_> = torrents.chain(scanners).chain(ordinary).collect();
    for now in (0..length).step_by(INTERVAL_MS as usize) {
        observer.judge(&regions.flows, now);
        for (host, (kind, tenths)) in (0u16..).zip(&mut hosts) {
            let flows = *tenths / 10 + u64::from(random.below(10) < *tenths % 10);
            for _ in 0..flows {
                let ((dst, dport, proto), answers) = next(kind, now, &mut random);
                let uplink = match (case.uplink)(host, dst, &mut random) {
                    // New flows avoid what is degraded.
                    0 if !matches!(machines[0].state(), State::Up) => 1,
                    uplink => uplink,
                };
                let answered = answers && (uplink != 0 || fault.is_none_or(|fault| now < fault));
                let key = FlowKey4::new([0; 4], dst, [0; 2], dport.to_be_bytes(), proto);
                observer.count::<V4>(&key, uplink as u8, host, answered, now as u32);
            }
        }
        for (uplink, counts) in users.read(V4::FAMILY, UPLINKS, 1, now).into_iter().enumerate() {
            let machine = &mut machines[uplink];
            seen[uplink].extend(machine.signal(Signal::Passive(Box::new(counts)), now));
        }
    }
    seen
}

#[test]
fn half_an_hour_of_torrents_and_scanners_is_no_transition() {
    for (number, case) in CASES.iter().enumerate() {
        for seed in 0..60 {
            let seen = run(case, seed, 30 * MINUTE, None);
            assert!(seen.iter().all(Vec::is_empty), "case {number}, seed {seed}: {seen:?}");
        }
    }
}

#[test]
fn a_link_that_fails_its_users_is_found_in_seconds_whoever_else_is_there() {
    for case in &CASES[..2] {
        for seed in 0..100 {
            let fault = 2 * MINUTE + Random::new(seed).below(20) * INTERVAL_MS;
            let seen = run(case, seed, fault + MINUTE / 2, Some(fault));
            let [first, ..] = seen[0][..] else { panic!("seed {seed}: {seen:?}") };
            assert!(matches!(first.reason, Reason::PassiveSyn { .. }), "seed {seed}: {first:?}");
            let took = first.at.saturating_sub(fault);
            assert!(first.at >= fault && took <= 8000, "seed {seed}: {took} ms, {first:?}");
            assert!(seen[1].is_empty(), "seed {seed}: {seen:?}");
        }
    }
}
