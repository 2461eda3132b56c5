//! A daemon for tests: one uplink, with one target.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::mpsc;
use tokio::time::Instant;
use weir_api::time;
use weir_kernel::guard::Guard;
use weir_kernel::own;
use weir_shm::Pins;
use weir_shm::control::ControlRegion;
use weir_shm::counters::Counters;
use weir_shm::hosts::Hosts4;
use weir_shm::observations::Observations;
use weir_shm::pins::name;
use weir_view::{Kernel, Link, NeighbourEntry};

use super::Daemon;
use super::start::Held;
use crate::dataplane::Dataplane;
use crate::file::Source;
use crate::probe;
use crate::state::State;
use crate::users::Users;

const SITE: &str = r#"
[[lan]]
interface = "lan0"
[[uplink]]
name = "fiber"
interface = "wan0"
next_hop = "192.0.2.1"
[uplink.health]
interval_ms = 100
down = 1
targets = [{ name = "far", probe = "icmp", address = "198.51.100.1" }]
"#;

/// All that the uplink needs of the kernel.
pub(super) fn kernel() -> Kernel {
    let link = |index, name: &str| Link {
        index,
        name: name.into(),
        mac: [2; 6],
        running: true,
        ..Link::default()
    };
    let next_hop = NeighbourEntry { mac: [4; 6], fresh: true, trusted: true };
    Kernel {
        links: vec![link(1, "lan0"), link(2, "wan0")],
        addresses: vec![(2, "192.0.2.2/25".parse().unwrap())],
        neighbours: [((2, "192.0.2.1".parse().unwrap()), next_hop)].into(),
        ..Kernel::default()
    }
}

/// What a probe of its target found now.
pub(super) fn event(seq: u32, finding: probe::Finding) -> probe::Event {
    let (uplink, target) = (Arc::from("fiber"), Arc::from("far"));
    probe::Event { uplink, target, seq, finding, at: Instant::now() }
}

/// Regions of its own, but for the map of hosts, which is the kernel's. Needs root.
pub(super) fn daemon(findings: mpsc::Receiver<probe::Event>) -> Daemon {
    // Of this test: others run beside it.
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let directory = format!("/sys/fs/bpf/weir-daemon-{}-{number}", std::process::id());
    let pins = Pins::create(Path::new(&directory)).unwrap();
    let hosts = Hosts4::open(&pins).unwrap();
    std::fs::remove_file(pins.path(name::HOSTS4)).unwrap();
    std::fs::remove_dir(directory).unwrap();
    let counters = Counters::anonymous().unwrap();
    let observations = Observations::anonymous().unwrap();
    let users = Users::new(observations, counters.clone(), time::monotonic_ms());
    let region = ControlRegion::anonymous().unwrap();
    let site = weir_site::parse("weir.toml", SITE).unwrap();
    let state = State::open(Path::new("/proc/none")).unwrap();
    let source = Source::new(Path::new("weir.toml"), state);
    let held = Held {
        source,
        guard: Guard::absent(),
        keeper: own::Keeper::new(PathBuf::new()),
        socket: PathBuf::new(),
        dataplane: Dataplane::of(&pins),
    };
    Daemon::new(site, held, kernel(), region, hosts, counters, users, findings)
}
