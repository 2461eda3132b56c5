//! `[gateway]`, `[timeouts]` and `[limits]`.

use std::path::PathBuf;

use toml::Spanned;
use weir_layout::MAX_WORKERS;
use weir_layout::control::Timeouts;

use super::checker::Checker;
use super::schema::{self, Gateway, Limits};

const DEFAULT_NAT_PORTS: (u16, u16) = (16_384, 65_535);
const DEFAULT_FLOW_TABLE: i64 = 262_144;

/// CPUs that a thread can be bound to: glibc's `CPU_SETSIZE`.
const MAX_CPUS: u16 = 1024;

pub fn workers(c: &mut Checker<'_>, gateway: &Gateway) -> u8 {
    c.number("workers", &gateway.workers, 1..MAX_WORKERS as i64 + 1, 1) as u8
}

pub fn flow_table(c: &mut Checker<'_>, gateway: &Gateway) -> u32 {
    let range = 1024..(1 << 28) + 1;
    c.number("flow_table", &gateway.flow_table, range, DEFAULT_FLOW_TABLE) as u32
}

/// Flows that a host may have; 0: as many as there is room for.
pub fn flows_per_host(c: &mut Checker<'_>, limits: &Limits) -> u32 {
    c.number("flows_per_host", &limits.flows_per_host, 1..(1 << 28) + 1, 0) as u32
}

/// Flows that a host may begin in a second; 0: as many as it likes.
pub fn new_flows_per_host(c: &mut Checker<'_>, limits: &Limits) -> u32 {
    c.number("new_flows_per_host", &limits.new_flows_per_host, 1..1 << 16, 0) as u32
}

/// First and last NAT port.
pub fn nat_ports(c: &mut Checker<'_>, gateway: &Gateway, workers: u8) -> (u16, u16) {
    let given = gateway.nat_ports.as_ref();
    let (lo, hi) = given.and_then(|text| c.range(text)).unwrap_or(DEFAULT_NAT_PORTS);
    if u32::from(hi - lo) + 1 < u32::from(workers) * 64 || lo < 1024 {
        c.refuse(
            given.map_or(0..0, Spanned::span),
            format!("NAT ports {lo}-{hi} do not do for {workers} workers"),
            "begin at 1024 or above and give each worker 64 ports or more",
        );
    }
    (lo, hi)
}

/// CPUs of the workers, in the order of the file.
pub fn cores(c: &mut Checker<'_>, gateway: &Gateway, workers: u8) -> Vec<u16> {
    let given = &gateway.cores;
    if let Some(core) = given.iter().find(|core| **core >= MAX_CPUS) {
        c.whole(
            format!("core {core} of cores {given:?} is no CPU that a worker can be given"),
            format!("use 0 to {}", MAX_CPUS - 1),
        );
    }
    let mut distinct = given.clone();
    distinct.sort_unstable();
    distinct.dedup();
    if distinct.len() != given.len() || given.len() > usize::from(workers) {
        c.whole(
            format!("cores {given:?} do not do for {workers} workers"),
            "give each worker one core of its own; workers beyond the list are not pinned",
        );
    }
    given.clone()
}

pub fn hooks(c: &mut Checker<'_>, gateway: &Gateway) -> Option<PathBuf> {
    let given = gateway.hooks.as_ref()?;
    let path = given.get_ref();
    if !path.is_absolute() {
        let message = format!("hooks directory {} is no absolute path", path.display());
        c.refuse(given.span(), message, "begin it with /");
    }
    Some(path.clone())
}

pub fn timeouts(c: &mut Checker<'_>, given: &schema::Timeouts) -> Timeouts {
    let d = Timeouts::DEFAULT;
    let mut of = |what: &str, given: &Option<Spanned<u32>>, default: u32, least: u32, rfc: &str| {
        let Some(given) = given else { return default };
        let seconds = *given.get_ref();
        if seconds == 0 || seconds > 1_000_000 {
            c.refuse(
                given.span(),
                format!("{what} = {seconds} is out of range"),
                "use 1 to 1000000 seconds",
            );
        } else if seconds < least {
            c.warnings.push(format!("{what} = {seconds} s is below the {least} s of {rfc}"));
        }
        seconds
    };
    let (opening, closing) = (d.tcp_opening, d.tcp_closing);
    let (established, tcp) = (d.tcp_established, "RFC 5382 REQ-5");
    Timeouts {
        tcp_opening: of("tcp_opening", &given.tcp_opening, opening, 240, tcp),
        tcp_established: of("tcp_established", &given.tcp_established, established, 7440, tcp),
        tcp_closing: of("tcp_closing", &given.tcp_closing, closing, 240, tcp),
        udp: of("udp", &given.udp, d.udp, 120, "RFC 4787 REQ-5"),
        icmp: of("icmp", &given.icmp, d.icmp, 60, "RFC 5508 REQ-2"),
        other: of("other", &given.other, d.other, 0, ""),
    }
}
