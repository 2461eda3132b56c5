//! A daemon for tests: one uplink, with one target.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;
use weir_api::time;
use weir_kernel::guard::Guard;
use weir_kernel::own;
use weir_kernel::sysctls::Sysctls;
use weir_publish::Decider;
use weir_shm::Pins;
use weir_shm::adjacencies::NextHops;
use weir_shm::control::{ControlRegion, ControlWriter};
use weir_shm::counters::Counters;
use weir_shm::observations::Observations;
use weir_shm::sysctls::SysctlsRegion;
use weir_view::{Kernel, Link, NeighbourEntry};

use super::Daemon;
use super::effects::Executor;
use super::start::Held;
use crate::advertise::Advertisers;
use crate::availability::Watch;
use crate::dataplane::Dataplane;
use crate::delegated::Record;
use crate::file::Source;
use crate::history::Chronicle;
use crate::hooks::{self, Hooks};
use crate::ipfix::FlowExporter;
use crate::metrics::Exporter;
use crate::nat_log::Logger;
use crate::port_mapping::PortMapper;
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

/// Regions of its own, and nothing of the kernel's.
pub(super) fn daemon(findings: mpsc::Receiver<probe::Event>) -> Daemon {
    let counters = Counters::anonymous().unwrap();
    let observations = Observations::anonymous().unwrap();
    let now = time::monotonic_ms();
    let users = Users::new(observations, counters.clone(), now);
    let region = ControlRegion::anonymous().unwrap();
    let site = weir_site::parse("weir.toml", SITE).unwrap();
    let decider = Decider::new(site, kernel(), &region, "weir", now);
    let writer = ControlWriter::new(region, NextHops::anonymous().unwrap());
    let state = State::open(Path::new("/proc/none")).unwrap();
    let source = Source::new(Path::new("weir.toml"), state);
    let hooks = Hooks::start(hooks::PATIENCE);
    let advertisers = Advertisers::start(source.advertised(), hooks.clone(), 0);
    let (chronicle, _) = Chronicle::start(source.history()).unwrap();
    let executor = Executor::new(writer, Guard::absent(), advertisers, hooks, chronicle, None);
    let held = Held {
        delegated: Record::new(source.delegated()),
        port_mapper: PortMapper::start(source.mapped(), 0).unwrap(),
        availability: Watch::start(source.availability()).unwrap(),
        source,
        keeper: own::Keeper::new(PathBuf::new()),
        socket: PathBuf::new(),
        dataplane: Dataplane::of(&Pins::existing("/proc/none")),
        sysctls: Sysctls::new(SysctlsRegion::anonymous().unwrap()),
        nat_log: Logger::start(Pins::existing("/proc/none")).unwrap(),
        flow_exporter: FlowExporter::start(Pins::existing("/proc/none")).unwrap(),
        exporter: Exporter::start(Pins::existing("/proc/none")).unwrap(),
    };
    Daemon::new(decider, executor, held, counters, users, findings)
}
