//! Hostile input and steady state.

use weir_dataplane::packet::{Buffer, HeapFrame, Output, Received};
use weir_layout::adjacency::Adjacency;
use weir_layout::counters::Counter;
use weir_xsk::{Frame, Umem, UmemConfig};

use super::gateway::*;
use super::packets6;

/// A small generator with a fixed seed, so that a failure repeats.
pub struct Seeded(pub u64);

impl Seeded {
    fn draw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.draw() % n as u64) as usize
    }
}

/// Sends by giving the frame back to its UMEM, as the kernel would.
struct Sink<'u>(&'u Umem);

impl<'u> Output<Frame<'u>> for Sink<'u> {
    fn transmit(&mut self, _: u8, frame: Frame<'u>) -> Result<(), Frame<'u>> {
        drop(frame);
        Ok(())
    }

    fn send_for_another(&mut self, _: u8, _: &[u8]) {}

    fn allocate(&mut self) -> Option<Frame<'u>> {
        self.0.alloc()
    }

    fn hand_off(&mut self, _: u8, _: u8, _: &[u8]) -> bool {
        true
    }
}

fn corpus() -> Vec<Vec<u8>> {
    let mut corpus = vec![
        udp_out(40_000, 53),
        tcp_out(40_000, 443, 0x02),
        tcp_out(40_000, 443, 0x11),
        ping(HOST_MAC, device_mac(LAN), HOST, SERVER, 30_000, true),
        udp(next_hop_mac(0), device_mac(1), (SERVER, 53), (external(0), 40_000)),
        tcp(next_hop_mac(1), device_mac(2), (SERVER, 443), (external(1), 40_000), 0x12),
    ];
    let quoted = udp([0; 6], [0; 6], (external(0), 40_000), (SERVER, 53));
    let mut error = ping(next_hop_mac(0), device_mac(1), SERVER, external(0), 0, false);
    error[34] = 3;
    error.truncate(42);
    error.extend_from_slice(&quoted[14..]);
    corpus.push(error);
    let mut tagged = udp_out(40_000, 53);
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    corpus.push(tagged);
    corpus.extend(packets6::corpus());
    corpus
}

/// How many broken frames: ten million, or as many as `make fuzz` asks for.
fn frames() -> usize {
    std::env::var("WEIR_FUZZ_FRAMES").map_or(10_000_000, |number| number.parse().unwrap())
}

#[test]
fn ten_million_broken_frames_neither_crash_nor_leak() {
    let mut gateway = Gateway::with(1, 1 << 14);
    gateway.serve_ipv6();
    let config = UmemConfig { frames: 256, frame_size: 2048, huge_pages: false };
    let umem = Umem::new(config).unwrap();
    let mut sink = Sink(&umem);
    let mut random = Seeded(0x5eed_0001);
    let corpus = corpus();
    let mut batch = Vec::with_capacity(64);
    let mut bytes = [0u8; 256];
    let mut offered = 0u64;
    for round in 0..frames() / 64 + 1 {
        for _ in 0..64 {
            let model = &corpus[random.below(corpus.len())];
            bytes[..model.len()].copy_from_slice(model);
            let mut len = model.len();
            match random.below(4) {
                0 => len = random.below(len + 1),
                1 => bytes[..len].iter_mut().for_each(|b| *b = random.draw() as u8),
                _ => {
                    for _ in 0..1 + random.below(4) {
                        bytes[random.below(len)] = random.draw() as u8;
                    }
                }
            }
            let mut frame = umem.alloc().expect("a leaked frame empties the list");
            assert!(frame.set_data(&bytes[..len]));
            batch.push(Received { frame, device: random.below(5) as u8 });
        }
        offered += 64;
        let now = gateway.now.wrapping_add(round as u32);
        gateway.engines[0].process(&mut batch, now, &mut sink);
        gateway.engines[0].age(8, now, &mut gateway.wire);
        assert!(batch.is_empty());
    }
    assert_eq!(umem.free_frames(), 256);
    assert_eq!(gateway.count(Counter::UserRx), offered);
    assert!(gateway.count(Counter::UserTx) > offered / 100, "some frames stay whole enough");
    gateway.engines[0].drop_waiting(|_| true);
    gateway.assert_conserved();
}

#[test]
fn established_flows_are_forwarded_without_an_allocation() {
    struct Nowhere;
    impl Output<HeapFrame> for Nowhere {
        fn transmit(&mut self, _: u8, frame: HeapFrame) -> Result<(), HeapFrame> {
            std::mem::forget(frame);
            Ok(())
        }
        fn send_for_another(&mut self, _: u8, _: &[u8]) {}

        fn allocate(&mut self) -> Option<HeapFrame> {
            None
        }
        fn hand_off(&mut self, _: u8, _: u8, _: &[u8]) -> bool {
            false
        }
    }
    let mut gateway = Gateway::new();
    let frames: Vec<_> = (0..64).map(|n| udp_out(30_000 + n, 53)).collect();
    let outs: Vec<_> = frames.iter().map(|f| gateway.send(LAN, f).pop().unwrap()).collect();
    let batch = || -> Vec<_> {
        let there = frames.iter().map(|f| (LAN, f.clone()));
        let back = outs.iter().map(|(device, out)| (*device, answer_to(*device, out)));
        there
            .chain(back)
            .map(|(device, f)| Received { frame: HeapFrame::new(&f), device })
            .collect()
    };
    let (mut first, mut second) = (batch(), batch());
    let now = gateway.now;
    gateway.engines[0].process(&mut first, now, &mut Nowhere);
    let before = gateway.count(Counter::UserTx);
    let info = allocation_counter::measure(|| {
        gateway.engines[0].process(&mut second, now, &mut Nowhere);
        gateway.engines[0].age(1024, now, &mut gateway.wire);
    });
    assert_eq!(gateway.count(Counter::UserTx) - before, 128);
    assert_eq!(info.count_total, 0);
}

#[test]
fn heap_frames_behave_like_real_ones() {
    let mut frame = HeapFrame::new(&[1, 2, 3]);
    assert!(frame.grow_front(4));
    assert_eq!(frame.data().len(), 7);
    assert!(!frame.grow_front(1000));
    assert!(frame.shrink_front(7));
    assert!(!frame.shrink_front(1));
}

#[test]
fn workers_begin_with_the_hardware_addresses_that_flows_refer_to() {
    let mut gateway = Gateway::new();
    let stranger = Adjacency { mac: [6; 6], port: 0 };
    let unused = gateway.regions.adjacencies.learn(stranger).unwrap();
    let (device, out) = gateway.send(LAN, &udp_out(40_000, 53)).remove(0);
    gateway.regions.prepare(&gateway.half);
    assert_eq!(gateway.regions.adjacencies.get(unused), None);
    let back = gateway.send(device, &answer_to(device, &out));
    assert_eq!(back[0].1[..6], HOST_MAC);
}
