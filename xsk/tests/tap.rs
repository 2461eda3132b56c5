//! Real tap devices, of each test's own. Needs root.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use weir_xsk::Tap;
use weir_xsk::tap::MAX_TAP_QUEUES;

/// A frame, and the length of its Ethernet header.
const FRAME: [u8; 60] = [0xaa; 60];
const HEADER: usize = 14;

fn create(test: &str, queues: u32) -> (Tap, PathBuf) {
    let name = format!("wt{}{test}", std::process::id() % 100_000);
    let tap = Tap::create(&name, queues).expect("these tests need root and /dev/net/tun");
    (tap, PathBuf::from(format!("/sys/class/net/{name}")))
}

fn ip(arguments: &[&str]) {
    assert!(Command::new("ip").args(arguments).status().unwrap().success(), "ip {arguments:?}");
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
fn ipv6_is_off_on_it() {
    let (tap, _) = create("q", 1);
    assert!(!PathBuf::from(format!("/proc/sys/net/ipv6/conf/{}", tap.name())).exists());
}

#[test]
fn what_it_drops_is_counted() {
    let (tap, _) = create("d", 1);
    assert_eq!(tap.refused(), Some(0));
    ip(&["link", "set", tap.name(), "down"]);
    assert!(
        tap.write(0, &FRAME).is_err(),
        "without a program, a device that is down takes nothing"
    );
    assert_eq!(tap.refused(), Some(1));
    ip(&["link", "del", tap.name()]);
    assert_eq!(tap.refused(), None);
}

#[test]
fn it_goes_with_its_queues() {
    let (tap, device) = create("g", 2);
    assert!(device.exists());
    drop(tap);
    // A child of another test, which has yet to become another program, holds what this had open.
    let end = Instant::now() + Duration::from_secs(10);
    while device.exists() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!device.exists());
}

#[test]
fn a_frame_that_cannot_be_sent_is_an_error() {
    let (tap, _) = create("e", 1);
    assert!(tap.write(1, &FRAME).is_err(), "there is no such queue");
    assert!(tap.write(0, &FRAME[..HEADER - 1]).is_err(), "shorter than a header");
    ip(&["link", "del", tap.name()]);
    assert!(tap.write(0, &FRAME).is_err(), "there is no device");
}

#[test]
fn names_and_numbers_that_the_kernel_would_not_take_are_refused() {
    for (name, queues) in [("wt", 0), ("wt", MAX_TAP_QUEUES + 1), ("a-name-that-is-too-long", 1)] {
        let error = Tap::create(name, queues).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{name} {queues}");
    }
}
