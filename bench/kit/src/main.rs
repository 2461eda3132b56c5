//! `weir-kit`: build a site in namespaces, enter it, and clean up after it.

#![forbid(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use weir_kit::cleanup;
use weir_kit::netns::{Netns, require_root};
use weir_kit::plan::{Lan, Offloads, Plan, Uplink};
use weir_kit::run::Tag;
use weir_kit::topology::Topology;

#[derive(Parser)]
#[command(name = "weir-kit", version, about)]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Work with sites made of network namespaces.
    #[command(subcommand)]
    Topo(Topo),
    /// Run a command in a network namespace.
    Exec {
        /// Name of the namespace.
        netns: String,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Remove what runs left whose process is gone.
    Clean,
    /// Wait for the end of standard input, then destroy a run.
    #[command(hide = true)]
    Reap {
        /// The run's tag, PID-NUMBER.
        tag: Tag,
    },
}

#[derive(Subcommand)]
enum Topo {
    /// Build a site and keep it until this process ends.
    Up(Up),
}

#[derive(clap::Args)]
struct Up {
    /// Number of providers.
    #[arg(long, default_value_t = 3)]
    providers: usize,
    /// Number of LAN hosts.
    #[arg(long, default_value_t = 4)]
    hosts: usize,
    /// Number of servers in the Internet.
    #[arg(long, default_value_t = 2)]
    servers: usize,
    /// Addresses of the gateway on every uplink.
    #[arg(long, default_value_t = 1)]
    addresses: usize,
    /// MTU of every uplink.
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    /// Queues of every veth device.
    #[arg(long, default_value_t = 1)]
    queues: u32,
    /// Give every host a LAN port of its own instead of a switch.
    #[arg(long)]
    direct: bool,
    /// Give every host a second address from a prefix that all providers route.
    #[arg(long)]
    owned_prefix: bool,
    /// Join every uplink to its provider by a relay in user space.
    #[arg(long)]
    lines: bool,
}

fn main() -> Result<()> {
    match Arguments::parse().action {
        Action::Topo(Topo::Up(up)) => topo_up(&up),
        Action::Exec { netns, command } => exec(&netns, &command),
        Action::Clean => clean(),
        Action::Reap { tag } => cleanup::reap(tag, std::io::stdin()),
    }
}

fn topo_up(up: &Up) -> Result<()> {
    let uplink = Uplink { addresses: up.addresses, mtu: up.mtu };
    let lan = if up.direct { Lan::Direct } else { Lan::Switched };
    let topology = Topology::build(Plan {
        uplinks: vec![uplink; up.providers],
        hosts: up.hosts,
        lan,
        servers: up.servers,
        queues: up.queues,
        owned_prefix: up.owned_prefix,
        lines: if up.lines { (0..up.providers).collect() } else { Vec::new() },
        offloads: Offloads::None,
    })?;
    describe(&topology);
    // No signal handler: whatever ends this process, the reaper sees the end of its pipe.
    loop {
        std::thread::park();
    }
}

fn describe(topology: &Topology) {
    let ports = topology.lan_ports().join(" ");
    println!("gateway   {}  ports {ports}", topology.gateway.name());
    for provider in &topology.providers {
        let addresses: Vec<_> = provider.addresses.iter().map(ToString::to_string).collect();
        println!(
            "provider  {}  {} with {}, next hop {}",
            provider.netns.name(),
            provider.interface(),
            addresses.join(" "),
            provider.next_hop
        );
    }
    for host in &topology.hosts {
        let owned = host.owned.map(|address| format!(" {address}")).unwrap_or_default();
        println!("host      {}  {}{owned}", host.netns.name(), host.address);
    }
    let servers: Vec<_> = topology.servers.iter().map(ToString::to_string).collect();
    println!("internet  {}  {}", topology.internet.name(), servers.join(" "));
    println!("enter one with: weir-kit exec {} -- bash", topology.gateway.name());
    println!("ready; everything is removed when this process ends (Ctrl-C)");
}

fn exec(netns: &str, command: &[String]) -> Result<()> {
    require_root()?;
    Netns::named(netns).enter()?;
    let error = Command::new(&command[0]).args(&command[1..]).exec();
    Err(error).with_context(|| format!("cannot start {}", command[0]))
}

fn clean() -> Result<()> {
    require_root()?;
    let mut failed = 0;
    for tag in cleanup::dead_runs()? {
        match cleanup::destroy(tag) {
            Ok(()) => println!("removed run {tag}"),
            Err(error) => {
                failed += 1;
                eprintln!("{error:#}");
            }
        }
    }
    if failed > 0 {
        bail!("{failed} runs could not be removed completely; see above");
    }
    Ok(())
}
