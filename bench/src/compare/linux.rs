//! The kernel as the gateway: routing over both uplinks, with or without translation.
//!
//! The ports of the gateway carry a program that passes every frame on, because a veth device takes
//! redirected frames only with XDP or GRO on; a program costs less than GRO. Translation is by a
//! range of addresses, where masquerade would have one address and thus 64 k flows.

use std::fmt::{Display, Write as _};
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use weir_kit::ipv6::{self, Mode};
use weir_kit::plan::Port;
use weir_kit::wait;
use weir_layout::Family;

use super::published;
use super::site::{ADDRESSES, HOSTS, Kind, Site};
use super::system::{Gateway, Prepared};

const MAX_ENTRIES: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// No flow ends while it is measured.
const KEEP: [(&str, &str); 2] = [
    ("net/netfilter/nf_conntrack_udp_timeout", "3600"),
    ("net/netfilter/nf_conntrack_udp_timeout_stream", "3600"),
];
const BUCKETS: &str = "/sys/module/nf_conntrack/parameters/hashsize";

/// Forwarding by a multipath route that deals by the 5-tuple; by source address where hosts have
/// one of each provider.
///
/// # Errors
/// When the kernel refuses a step.
pub fn route(kind: Kind, flows: u32) -> Result<Prepared> {
    let mut site = match kind {
        Kind::V4 | Kind::Inbound => routed(kind, flows)?,
        Kind::V6(Mode::Source | Mode::StatelessSource) => routed_by_source(flows)?,
        Kind::V6(_) => routed6(Mode::None, flows)?,
    };
    site.establish(Duration::ZERO)?;
    Ok(Prepared { site, gateway: Box::new(()) })
}

/// The same, and nftables translates address and port: of who sends, or of the service that is asked
/// for.
///
/// # Errors
/// When the kernel refuses a step, or the flows are not all tracked.
pub fn nat(kind: Kind, flows: u32) -> Result<Prepared> {
    let mut prepared = nat_without_flows(kind, flows)?;
    prepared.site.establish(Duration::ZERO)?;
    Ok(prepared)
}

/// The same, and no flow is tracked yet.
///
/// # Errors
/// When the kernel refuses a step.
pub fn nat_without_flows(kind: Kind, flows: u32) -> Result<Prepared> {
    let limits = Conntrack::raise(flows)?;
    let site = match kind {
        Kind::V4 | Kind::Inbound => routed(kind, flows)?,
        Kind::V6(_) => routed6(Mode::Nat66, flows)?,
    };
    let gateway = &site.topology.gateway;
    gateway.nft(&match kind {
        Kind::V4 | Kind::V6(_) => source_nat(&site)?,
        Kind::Inbound => published::by_linux(site.service()),
    })?;
    gateway.sysctl(&KEEP)?;
    Ok(Prepared { site, gateway: Box::new(limits) })
}

/// Who sends gets an address of the uplink.
fn source_nat(site: &Site) -> Result<String> {
    let table = match site.kind.family() {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    };
    let mut rules = String::new();
    for provider in &site.topology.providers {
        let pool: [IpAddr; 2] = match site.kind.family() {
            Family::V4 => {
                let last = provider.addresses.last().context("a provider without addresses")?;
                [provider.addresses[0], *last].map(IpAddr::V4)
            }
            Family::V6 => [1, ADDRESSES as u16].map(|it| of_provider(provider.index, it).into()),
        };
        let [first, last] = pool;
        let device = provider.interface();
        let _ = writeln!(rules, "oifname \"{device}\" snat to {first}-{last}");
    }
    Ok(format!(
        "table {table} compare {{ chain out {{ type nat hook postrouting priority srcnat\n{rules}}}\n\
         }}\n"
    ))
}

/// The same, and ip6tables translates prefixes, which tracks nothing.
///
/// # Errors
/// When the kernel refuses a step.
pub fn npt(flows: u32) -> Result<Prepared> {
    let mut site = routed6(Mode::Npt66, flows)?;
    let gateway = &site.topology.gateway;
    for provider in &site.topology.providers {
        let (device, inside) = (provider.interface(), ipv6::INSIDE);
        let outside = format!("{}/64", of_provider(provider.index, 0));
        for rule in [
            format!(
                "POSTROUTING -o {device} -s {inside} -j SNPT --src-pfx {inside} --dst-pfx {outside}"
            ),
            format!(
                "PREROUTING -i {device} -d {outside} -j DNPT --src-pfx {outside} --dst-pfx {inside}"
            ),
        ] {
            let mut command = Command::new("ip6tables");
            command.args(["-t", "mangle", "-A"]).args(rule.split(' '));
            gateway.output(&mut command).context("ip6tables (Debian: apt-get install iptables)")?;
        }
    }
    site.establish(Duration::ZERO)?;
    Ok(Prepared { site, gateway: Box::new(()) })
}

/// An address of the first network that a provider delegates.
fn of_provider(provider: usize, number: u16) -> Ipv6Addr {
    ipv6::by(provider, Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, number))
}

/// IPv6 routed as by [`route`], with connections tracked, of which there is none yet.
///
/// # Errors
/// When the kernel refuses a step.
pub fn tracked_without_flows(flows: u32) -> Result<Prepared> {
    let limits = Conntrack::raise(flows)?;
    let site = routed6(Mode::None, flows)?;
    let gateway = &site.topology.gateway;
    gateway.nft(
        "table ip6 compare { chain on { type filter hook forward priority filter\n\
         ct state invalid drop\n}\n}\n",
    )?;
    gateway.sysctl(&KEEP)?;
    Ok(Prepared { site, gateway: Box::new(limits) })
}

fn routed(kind: Kind, flows: u32) -> Result<Site> {
    let mut site = Site::build_for(kind, flows)?;
    let host = site.topology.hosts[0].address;
    let hops = site.topology.providers.iter().map(|provider| provider.next_hop).collect::<Vec<_>>();
    route_by(&mut site, [&host, &HOSTS], "default", &hops)?;
    site.topology.gateway.sysctl(&[("net/ipv4/fib_multipath_hash_policy", "1")])?;
    Ok(site)
}

/// As [`routed`], of IPv6, on a site that is laid for this mode.
fn routed6(mode: Mode, flows: u32) -> Result<Site> {
    let mut site = Site::build_for(Kind::V6(mode), flows)?;
    let hops = site.topology.providers.iter().map(|provider| ipv6::link(provider.index, 1));
    let hops = hops.collect::<Vec<_>>();
    let crowd = format!("{}/96", mode.crowd());
    // Before those of single providers, by its metric.
    route_by(&mut site, [&mode.host(0), &crowd], "::/0 metric 1", &hops)?;
    site.topology.gateway.sysctl(&[("net/ipv6/fib_multipath_hash_policy", "1")])?;
    Ok(site)
}

/// As [`routed6`]; a rule for each provider's prefix goes before the route for all.
fn routed_by_source(flows: u32) -> Result<Site> {
    let site = routed6(Mode::Source, flows)?;
    let gateway = &site.topology.gateway;
    for provider in &site.topology.providers {
        let (index, device) = (provider.index, provider.interface());
        let (table, hop) = ((100 + index).to_string(), ipv6::link(index, 1));
        gateway.ip(&format!("route add default via {hop} dev {device} table {table}\n"))?;
        let mut rule = Command::new("ip");
        rule.args(["-6", "rule", "add", "from", &ipv6::delegated(index), "table", &table]);
        gateway.output(&mut rule)?;
    }
    Ok(site)
}

/// What the kernel is to be told to know the way to all hosts: by the first one.
pub fn route_hosts([host, hosts]: [&dyn Display; 2]) -> String {
    format!(
        "neigh replace {host} lladdr {} dev lan0 nud permanent\n\
         route add {hosts} via {host} dev lan0\n",
        Port::Host(0).mac()
    )
}

/// Routes the hosts' prefix by its first host, and all else by each provider's next hop alike.
fn route_by(
    site: &mut Site,
    [host, hosts]: [&dyn Display; 2],
    all: &str,
    hops: &[impl Display],
) -> Result<()> {
    site.count_at_far_side()?;
    let gateway = &site.topology.gateway;
    let mut lines = route_hosts([host, hosts]);
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
