//! The health engine against its promises.

mod bounds;
mod faults;
mod operator;
mod quality;
mod sim;
mod steps;
mod table;
mod users;

use weir_site::health::{Health, Limits, Passive, Probe, Target};

use super::*;

/// Settings with targets `t0`, `t1`, … and short times.
fn health(targets: usize) -> Health {
    Health {
        interval_ms: 1000,
        targets: (0..targets).map(target).collect(),
        hold_down_ms: 8000,
        hold_down_max_ms: 64_000,
        flap_memory_ms: 100_000,
        ..Health::default()
    }
}

fn target(index: usize) -> Target {
    let address = std::net::Ipv4Addr::new(192, 0, 2, index as u8 + 1).into();
    Target { name: format!("t{index}"), kind: Probe::Icmp { address } }
}

/// A path that has carrier and address, in its first state.
fn connected(health: Health) -> Path {
    let mut path = Path::new(health, 0);
    path.signal(Signal::Carrier(true), 0);
    path.signal(Signal::Address(true), 0);
    path
}
