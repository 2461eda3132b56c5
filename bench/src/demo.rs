//! The demonstration: a site with three providers, real clients, weights changed under their feet,
//! an uplink taken out. Every table it prints is checked, and a wrong one ends it with an error.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use weir_api::Request;
use weir_kit::iperf::{self, Load};
use weir_kit::plan::{Plan, Uplink};
use weir_kit::server::{self, ECHO_PORT, Server};
use weir_kit::topology::Topology;
use weir_kit::weir::{UPLINKS, Weir};
use weir_kit::{clients, udp_flows};
use weir_layout::counters::PathCounters;

const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ECHO: SocketAddrV4 = SocketAddrV4::new(SERVER, ECHO_PORT);
const HOSTS: usize = 8;
const FLOWS_PER_HOST: usize = 1500;
const WEIGHTS: [u16; 3] = [5, 3, 2];

/// Percentage points by which a share of 12 000 flows may miss its weight here.
const TOLERANCE: f64 = 3.0;

/// Runs it; needs root.
///
/// # Errors
/// When something cannot be set up, or anything it shows is not as it should be.
pub fn run() -> Result<()> {
    println!("weir: {HOSTS} LAN hosts, one gateway, three providers, a server on the Internet\n");
    let mut plan = Plan::new(3, HOSTS);
    plan.uplinks = vec![Uplink { addresses: 2, mtu: 1500 }; 3];
    let topology = Topology::build(plan)?;
    let _server = Server::start(&topology.internet, SERVER)?;
    let _iperf = iperf::serve(&topology.internet, SERVER)?;
    let configuration = Weir::configuration(&topology, &WEIGHTS);
    let weir = Weir::start(&topology, &configuration)?;

    println!("1. Real clients, all at once: ping, curl, iperf3 over TCP and UDP");
    let before = weir.uplinks()?;
    real_clients(&topology)?;
    println!("\n2. {} UDP flows, weights 5 : 3 : 2", HOSTS * FLOWS_PER_HOST);
    flows(&topology)?;
    shares(&before, &weir.uplinks()?, &[50.0, 30.0, 20.0])?;

    println!("\n3. `weir weight fiber 1` and `weir weight lte 6`, live: 1 : 3 : 6");
    command(&topology, &weir, &["weight", "fiber", "1"])?;
    command(&topology, &weir, &["weight", "lte", "6"])?;
    let started = std::time::Instant::now();
    weir.weight("cable", 4)?;
    weir.weight("cable", 3)?;
    let each = started.elapsed() / 2;
    println!("   a weight is published {each:.0?} after it is asked for; the next new flow obeys");
    let before = weir.uplinks()?;
    flows_again(&topology, 20_000)?;
    shares(&before, &weir.uplinks()?, &[10.0, 30.0, 60.0])?;

    println!("\n4. `weir down lte`: new flows avoid it");
    weir.request(&Request::Down { uplink: "lte".into() })?;
    let before = weir.uplinks()?;
    flows_again(&topology, 22_000)?;
    shares(&before, &weir.uplinks()?, &[25.0, 75.0, 0.0])?;

    println!("\n5. `weir status`");
    command(&topology, &weir, &["status"])?;
    weir.check_conservation().context("packets are missing")?;
    for provider in &topology.providers {
        let foreign = provider.foreign_sources()?;
        ensure!(foreign == 0, "provider {} saw {foreign} foreign sources", provider.index);
    }
    println!("\nEvery packet is accounted for, and no provider saw another's address.");
    Ok(())
}

fn real_clients(topology: &Topology) -> Result<()> {
    const BYTES: usize = 20_000_000;
    let load = |reverse| Load { seconds: 3, streams: 4, reverse };
    let hosts = &topology.hosts;
    std::thread::scope(|scope| {
        let ping = scope.spawn(|| clients::ping(&hosts[0].netns, SERVER, 10));
        let url = server::content_url(SERVER, BYTES);
        let curl = scope.spawn(move || clients::curl(&hosts[1].netns, &url));
        let tcp = scope.spawn(move || iperf::tcp(&hosts[2].netns, SERVER, load(false)));
        let joined = |what: &str| format!("{what} could not be run");
        let ping = ping.join().map_err(|_| anyhow::anyhow!(joined("ping")))??;
        let curl = curl.join().map_err(|_| anyhow::anyhow!(joined("curl")))??;
        let tcp = tcp.join().map_err(|_| anyhow::anyhow!(joined("iperf3")))??;
        let udp = iperf::udp(&hosts[3].netns, SERVER, load(false), 20_000_000)?;
        println!("   ping    {} of {} answered", ping.received, ping.sent);
        println!("   curl    {} bytes, sha256 {}…", curl.bytes, &curl.sha256[..16]);
        println!("   iperf3  TCP {:.0} Mbit/s in four streams", tcp.bits_per_second / 1e6);
        println!(
            "   iperf3  UDP {:.0} Mbit/s, {} of {} lost",
            udp.bits_per_second / 1e6,
            udp.lost,
            udp.packets
        );
        // TCP fills the queue of every port on its way until something is lost, now and then a ping.
        let lost = ping.sent - ping.received;
        ensure!(lost <= 3, "{lost} of {} pings were lost", ping.sent);
        let expected = clients::sha256(&server::content(BYTES))?;
        ensure!(curl.sha256 == expected, "the download is damaged");
        Ok(())
    })
}

fn flows(topology: &Topology) -> Result<()> {
    let report = udp_flows::run(&topology.hosts, ECHO, FLOWS_PER_HOST)?;
    ensure!(
        report.sent == report.answered && report.wrong == 0,
        "of {} flows {} were answered, {} wrongly",
        report.sent,
        report.answered,
        report.wrong
    );
    Ok(())
}

/// Flows from fresh endpoints: known ones keep their mappings, and so their uplinks.
fn flows_again(topology: &Topology, first_port: u16) -> Result<()> {
    let report = udp_flows::run_from(&topology.hosts, ECHO, FLOWS_PER_HOST, first_port)?;
    ensure!(
        report.sent == report.answered,
        "{} of {} flows unanswered",
        report.sent - report.answered,
        report.sent
    );
    Ok(())
}

/// Prints what each uplink got between two readings, and checks the share of flows.
fn shares(before: &[PathCounters], after: &[PathCounters], expected: &[f64]) -> Result<()> {
    let gained = |of: fn(&PathCounters) -> u64| -> Vec<u64> {
        before.iter().zip(after).map(|(b, a)| of(a) - of(b)).collect()
    };
    let made = gained(|u| u.flows_created);
    let bytes = gained(|u| u.tx_bytes + u.rx_bytes);
    let (total, total_bytes) = (made.iter().sum::<u64>().max(1), bytes.iter().sum::<u64>().max(1));
    println!("   uplink     new flows    share   wanted       bytes    share");
    let mut worst = 0f64;
    for (index, name) in UPLINKS.iter().enumerate() {
        let share = made[index] as f64 * 100.0 / total as f64;
        let byte_share = bytes[index] as f64 * 100.0 / total_bytes as f64;
        worst = worst.max((share - expected[index]).abs());
        println!(
            "   {name:<8} {:>11} {share:>6.1} % {:>6.1} % {:>11} {byte_share:>6.1} %",
            made[index], expected[index], bytes[index]
        );
    }
    ensure!(worst <= TOLERANCE, "a share is {worst:.1} points off its weight");
    Ok(())
}

fn command(topology: &Topology, weir: &Weir, arguments: &[&str]) -> Result<()> {
    let mut command: Command = weir.cli(arguments)?;
    let output = topology.gateway.output(&mut command)?;
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        println!("   {line}");
    }
    Ok(())
}
