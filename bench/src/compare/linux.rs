//! The kernel as the gateway: routing over both uplinks, with or without translation.
//!
//! The ports of the gateway carry a program that passes every frame on, because a veth device takes
//! redirected frames only with XDP or GRO on; a program costs less than GRO. Translation is by a
//! range of addresses, where masquerade would have one address and thus 64 k flows.

use std::fmt::{Display, Write as _};
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use weir_kit::plan::Port;
use weir_kit::{ipv6, wait};
use weir_layout::Family;

use super::site::{HOSTS, Site};
use super::system::{Gateway, Prepared};

const MAX_ENTRIES: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// No flow ends while it is measured.
const KEEP: [(&str, &str); 2] = [
    ("net/netfilter/nf_conntrack_udp_timeout", "3600"),
    ("net/netfilter/nf_conntrack_udp_timeout_stream", "3600"),
];
const BUCKETS: &str = "/sys/module/nf_conntrack/parameters/hashsize";

/// Forwarding by a multipath route that deals by the 5-tuple.
///
/// # Errors
/// When the kernel refuses a step.
pub fn route(family: Family, flows: u32) -> Result<Prepared> {
    let mut site = match family {
        Family::V4 => routed(flows)?,
        Family::V6 => routed6(flows)?,
    };
    site.establish(Duration::ZERO)?;
    Ok(Prepared { site, gateway: Box::new(()) })
}

/// The same, and nftables translates sources.
///
/// # Errors
/// When the kernel refuses a step, or the flows are not all tracked.
pub fn nat(flows: u32) -> Result<Prepared> {
    let mut prepared = nat_without_flows(flows)?;
    prepared.site.establish(Duration::ZERO)?;
    Ok(prepared)
}

/// The same, and no flow is tracked yet.
///
/// # Errors
/// When the kernel refuses a step.
pub fn nat_without_flows(flows: u32) -> Result<Prepared> {
    let limits = Conntrack::raise(flows)?;
    let site = routed(flows)?;
    let gateway = &site.topology.gateway;
    let mut rules = String::new();
    for provider in &site.topology.providers {
        let (first, last) = (provider.addresses[0], provider.addresses.last());
        let last = last.context("a provider without addresses")?;
        let device = provider.interface();
        let _ = writeln!(rules, "oifname \"{device}\" snat to {first}-{last}");
    }
    gateway.nft(&format!(
        "table ip compare {{ chain out {{ type nat hook postrouting priority srcnat\n{rules}}}\n}}\n"
    ))?;
    gateway.sysctl(&KEEP)?;
    Ok(Prepared { site, gateway: Box::new(limits) })
}

/// IPv6 routed as by [`route`], with connections tracked, of which there is none yet.
///
/// # Errors
/// When the kernel refuses a step.
pub fn tracked_without_flows(flows: u32) -> Result<Prepared> {
    let limits = Conntrack::raise(flows)?;
    let site = routed6(flows)?;
    let gateway = &site.topology.gateway;
    gateway.nft(
        "table ip6 compare { chain on { type filter hook forward priority filter\n\
         ct state invalid drop\n}\n}\n",
    )?;
    gateway.sysctl(&KEEP)?;
    Ok(Prepared { site, gateway: Box::new(limits) })
}

fn routed(flows: u32) -> Result<Site> {
    let mut site = Site::build(flows)?;
    let host = site.topology.hosts[0].address;
    let hops = site.topology.providers.iter().map(|provider| provider.next_hop).collect::<Vec<_>>();
    route_by(&mut site, [&host, &HOSTS], "default", &hops)?;
    site.topology.gateway.sysctl(&[("net/ipv4/fib_multipath_hash_policy", "1")])?;
    Ok(site)
}

/// As [`routed`], of IPv6.
fn routed6(flows: u32) -> Result<Site> {
    let mut site = Site::build_for(Family::V6, flows)?;
    let hops = site.topology.providers.iter().map(|provider| ipv6::link(provider.index, 1));
    let hops = hops.collect::<Vec<_>>();
    // Before those of single providers, by its metric.
    route_by(&mut site, [&ipv6::host(0), &ipv6::HOSTS], "::/0 metric 1", &hops)?;
    site.topology.gateway.sysctl(&[("net/ipv6/fib_multipath_hash_policy", "1")])?;
    Ok(site)
}

/// Routes the hosts' prefix by its first host, and all else by each provider's next hop alike.
fn route_by(
    site: &mut Site,
    [host, hosts]: [&dyn Display; 2],
    all: &str,
    hops: &[impl Display],
) -> Result<()> {
    site.count_at_providers()?;
    let gateway = &site.topology.gateway;
    let mut lines = format!(
        "neigh replace {host} lladdr {} dev lan0 nud permanent\n\
         route add {hosts} via {host} dev lan0\n",
        Port::Host(0).mac()
    );
    let mut by = String::new();
    site.traffic.attach(weir_traffic::PASS, gateway, "lan0")?;
    for (provider, hop) in site.topology.providers.iter().zip(hops) {
        let device = provider.interface();
        let mac = Port::RouterCustomer(provider.index).mac();
        let _ = writeln!(lines, "neigh replace {hop} lladdr {mac} dev {device} nud permanent");
        let _ = write!(by, " nexthop via {hop} dev {device}");
        site.traffic.attach(weir_traffic::PASS, gateway, &device)?;
    }
    gateway.ip(&format!("{lines}route add {all}{by}\n"))?;
    Ok(())
}

/// The machine's limits of connection tracking, as they were before; put back when dropped.
struct Conntrack {
    before: Vec<(&'static str, String)>,
}

impl Conntrack {
    fn raise(flows: u32) -> Result<Self> {
        let mut limits = Self { before: Vec::new() };
        // As many buckets as flows: the kernel's own default has as many as entries at most.
        for (path, wanted) in [(BUCKETS, flows), (MAX_ENTRIES, flows.saturating_mul(2))] {
            let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
            let is: u32 = text.trim().parse().with_context(|| format!("{path}: {text:?}"))?;
            if is < wanted {
                fs::write(path, wanted.to_string())
                    .with_context(|| format!("cannot set {path} to {wanted}"))?;
                limits.before.push((path, text));
            }
        }
        Ok(limits)
    }
}

impl Drop for Conntrack {
    fn drop(&mut self) {
        for (path, text) in self.before.iter().rev() {
            if let Err(error) = fs::write(path, text) {
                eprintln!("cannot set {path} back to {}: {error}", text.trim());
            }
        }
    }
}

impl Gateway for Conntrack {}

/// Waits until the kernel has freed the connections of gateways that are gone, which takes it
/// seconds of a CPU for a million of them; at most ten seconds, and not at all where it does not
/// say.
pub fn wait_for_cleanup() {
    const FEW: u64 = 20_000;
    let connections = || {
        let text = std::fs::read_to_string("/proc/slabinfo").ok()?;
        let line = text.lines().find(|line| line.starts_with("nf_conntrack "))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let _ = wait::until("connections to be freed", Duration::from_secs(10), || {
        Ok(connections().is_none_or(|connections| connections < FEW).then_some(()))
    });
}
