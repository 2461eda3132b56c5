//! Real tap devices, of each test's own. Needs root.

use std::path::PathBuf;
use std::process::Command;

use weir_xsk::Tap;
use weir_xsk::tap::MAX_QUEUES;

/// A frame, and the length of its Ethernet header.
const FRAME: [u8; 60] = [0xaa; 60];
const HEADER: usize = 14;

fn create(test: &str, queues: u32) -> (Tap, PathBuf) {
    let name = format!("wt{}{test}", std::process::id() % 100_000);
    let tap = Tap::create(&name, queues).expect("these tests need root and /dev/net/tun");
    (tap, PathBuf::from(format!("/sys/class/net/{name}")))
}

fn number(device: &std::path::Path, file: &str) -> u64 {
    std::fs::read_to_string(device.join(file)).unwrap().trim().parse().unwrap()
}

#[test]
fn what_is_written_comes_in_by_the_device() {
    let (tap, device) = create("w", 3);
    assert_eq!(number(&device, "ifindex"), u64::from(tap.ifindex()));
    for queue in 0..3 {
        tap.write(queue, &FRAME).unwrap();
    }
    assert_eq!(number(&device, "statistics/rx_packets"), 3);
    assert_eq!(number(&device, "statistics/rx_bytes"), 3 * FRAME.len() as u64);
}

#[test]
fn the_kernel_says_nothing_on_it() {
    let (_tap, device) = create("q", 1);
    let name = device.file_name().unwrap().to_str().unwrap();
    assert!(!PathBuf::from(format!("/proc/sys/net/ipv6/conf/{name}")).exists());
    assert_eq!(number(&device, "statistics/tx_packets"), 0);
}

#[test]
fn it_goes_with_its_queues() {
    let (tap, device) = create("g", 2);
    assert!(device.exists());
    drop(tap);
    assert!(!device.exists());
}

#[test]
fn a_frame_that_cannot_be_sent_is_an_error() {
    let (tap, device) = create("e", 1);
    assert!(tap.write(1, &FRAME).is_err(), "there is no such queue");
    assert!(tap.write(0, &FRAME[..HEADER - 1]).is_err(), "shorter than a header");
    let name = device.file_name().unwrap();
    assert!(Command::new("ip").args(["link", "del"]).arg(name).status().unwrap().success());
    assert!(tap.write(0, &FRAME).is_err(), "there is no device");
}

#[test]
fn names_and_numbers_that_the_kernel_would_not_take_are_refused() {
    for (name, queues) in [("wt", 0), ("wt", MAX_QUEUES + 1), ("a-name-that-is-too-long", 1)] {
        let error = Tap::create(name, queues).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{name} {queues}");
    }
}
