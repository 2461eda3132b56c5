//! IPv6 for a built site: an own prefix in the LAN, which every provider carries, or one inside that
//! no provider carries, and one of each provider's for it.
//!
//! The addresses are those for benchmarking (RFC 5180 §8): weir lets documentation's and unique
//! local ones go to no provider. A [`Mode`] says which of these a site has, and what weir is told.

mod mode;

use std::net::Ipv6Addr;

use anyhow::{Result, ensure};

use crate::netns::Netns;
use crate::topology::{Provider, TOWARDS_GATEWAY, Topology};
use crate::{clients, wait};

pub use mode::Mode;

/// The LAN's prefix.
pub const PREFIX: &str = "2001:2:0:100::/64";
/// The LAN's prefix of a site whose providers do not carry it (RFC 4193).
pub const INSIDE: &str = "fd00:2:0:100::/64";
/// An address that the Internet has.
pub const SERVER: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0xff, 0, 0, 0, 1);
/// A host of the Internet that nobody in the LAN talks to.
pub const STRANGER: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0xff, 0, 0, 0, 2);

/// The address of another host of the Internet, by its number, 16 or more: nobody has it at first.
#[must_use]
pub fn remote(number: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 2, 0, 0xff, 0, 0, 0, number)
}

/// The gateway's address in the LAN.
pub const LAN_GATEWAY: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0x100, 0, 0, 0, 1);

/// The address of a LAN host.
#[must_use]
pub fn host(index: usize) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 2, 0, 0x100, 0, 0, 1, index as u16)
}

/// An address of the LAN, with the prefix that stays inside.
#[must_use]
pub fn inside(address: Ipv6Addr) -> Ipv6Addr {
    let [_, _, _, _, a, b, c, d] = address.segments();
    Ipv6Addr::new(0xfd00, 2, 0, 0x100, a, b, c, d)
}

/// What a provider delegates to the site.
#[must_use]
pub fn delegated(provider: usize) -> String {
    format!("2001:2:0:{:x}00::/56", 0xc0 + provider)
}

/// What a provider has to delegate from.
#[must_use]
pub fn pool(provider: usize) -> String {
    format!("2001:2:0:{:x}000::/52", 0xc + provider)
}

/// A prefix of a provider's [`pool`], by its number.
#[must_use]
pub fn of_pool(provider: usize, number: u8) -> String {
    format!("2001:2:0:{:x}{number:x}00::/56", 0xc + provider)
}

/// An address of the LAN, in the prefix that a provider delegates.
#[must_use]
pub fn by(provider: usize, address: Ipv6Addr) -> Ipv6Addr {
    let [_, _, _, _, a, b, c, d] = address.segments();
    Ipv6Addr::new(0x2001, 2, 0, ((0xc0 + provider) << 8) as u16, a, b, c, d)
}

/// How many of ten echo requests of the [`STRANGER`] a host answers, which nobody asked for.
///
/// # Errors
/// When ping cannot be run.
pub fn heard(topology: &Topology, host: Ipv6Addr) -> Result<usize> {
    Ok(clients::ping_from(&topology.internet, STRANGER, host, 10)?.received)
}

/// Waits until it answers all.
///
/// # Errors
/// When it does not.
pub fn wait_until_heard(topology: &Topology, host: Ipv6Addr) -> Result<()> {
    let all = || Ok((heard(topology, host)? == 10).then_some(()));
    wait::until("a host to be heard", wait::BOUND, all)
}

/// The first address of a part of the LAN's prefix, of 96 bits, for hosts beyond those of the plan.
const CROWD: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0x100, 0, 1, 0, 0);

/// An address of the link between the gateway and a provider, whose prefix of 64 bits the provider
/// carries: 1 its router's, 2 the gateway's.
#[must_use]
pub fn link(provider: usize, end: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 2, 0, 0xa0 + provider as u16, 0, 0, 0, end)
}

/// An address of the link between a provider and the Internet: 1 the provider's, 2 the Internet's.
#[must_use]
pub fn transit(provider: usize, end: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 2, 0, 0xb0 + provider as u16, 0, 0, 0, end)
}

/// Gives the site its addresses and routes. What goes to the LAN comes by the provider `inbound`;
/// the gateway's kernel forwards, as it does for IPv4.
///
/// # Errors
/// When the kernel refuses a step.
pub fn add(topology: &Topology, inbound: usize) -> Result<()> {
    build(topology, |address| address, |_| PREFIX.into())?;
    carry_by(topology, inbound)
}

/// As [`add()`], for a LAN whose prefix no provider carries. Each delegates one of its own.
///
/// # Errors
/// When the kernel refuses a step.
pub fn add_delegated(topology: &Topology) -> Result<()> {
    build(topology, inside, delegated)?;
    route(topology, delegated)
}

/// As [`add_delegated`], for a LAN that has no address until a provider delegates a prefix of its
/// [`pool`], all of which it routes to the gateway.
///
/// # Errors
/// When the kernel refuses a step.
pub fn add_pools(topology: &Topology) -> Result<()> {
    build(topology, inside, pool)?;
    let lan_gateway = inside(LAN_GATEWAY);
    topology.gateway.ip(&format!("addr del {lan_gateway}/64 dev lan0\n"))?;
    for (index, it) in topology.hosts.iter().enumerate() {
        let own = inside(host(index));
        let lines = format!("route del default via {lan_gateway}\naddr del {own}/64 dev eth0\n");
        it.netns.ip(&lines)?;
    }
    route(topology, pool)
}

/// As [`add_delegated`], with a part of each provider's prefix in the LAN: hosts and the gateway have
/// an address of each there, see [`by`].
///
/// # Errors
/// When the kernel refuses a step.
pub fn add_by_source(topology: &Topology) -> Result<()> {
    build(topology, |address| by(0, address), delegated)?;
    route(topology, delegated)?;
    for provider in 1..topology.providers.len() {
        let add =
            |address, device| format!("addr add {}/64 dev {device} nodad\n", by(provider, address));
        topology.gateway.ip(&add(LAN_GATEWAY, "lan0"))?;
        for (index, it) in topology.hosts.iter().enumerate() {
            it.netns.ip(&add(host(index), "eth0"))?;
        }
    }
    Ok(())
}

/// Has what goes to each provider's prefix come by it.
fn route(topology: &Topology, carries: fn(usize) -> String) -> Result<()> {
    (0..topology.providers.len()).try_for_each(|provider| {
        let (prefix, via) = (carries(provider), transit(provider, 1));
        topology.internet.ip(&format!("route add {prefix} via {via} dev isp{provider}\n"))
    })
}

/// Builds it: `in_lan` makes addresses of the LAN, `carries` says what a provider carries.
fn build(
    topology: &Topology,
    in_lan: fn(Ipv6Addr) -> Ipv6Addr,
    carries: fn(usize) -> String,
) -> Result<()> {
    let Topology { gateway, internet, .. } = topology;
    let lan_gateway = in_lan(LAN_GATEWAY);
    let mut lines = format!("addr add {lan_gateway}/64 dev lan0 nodad\n");
    for provider in &topology.providers {
        let (index, device) = (provider.index, provider.interface());
        lines += &format!(
            "addr add {}/64 dev {device} nodad\n\
             route add default via {} dev {device} metric {}\n",
            link(index, 2),
            link(index, 1),
            100 + index
        );
    }
    forward(gateway)?;
    gateway.ip(&lines)?;
    for provider in &topology.providers {
        add_to_provider(provider, &carries(provider.index))?;
    }
    let mut lines = format!("addr add {SERVER}/128 dev lo\naddr add {STRANGER}/128 dev lo\n");
    for index in 0..topology.providers.len() {
        lines += &format!(
            "addr add {}/64 dev isp{index} nodad\nroute add {}/64 via {}\n",
            transit(index, 2),
            link(index, 0),
            transit(index, 1)
        );
    }
    forward(internet)?;
    internet.ip(&lines)?;
    for (index, it) in topology.hosts.iter().enumerate() {
        it.netns.ip(&format!(
            "addr add {}/64 dev eth0 nodad\nroute add default via {lan_gateway}\n",
            in_lan(host(index))
        ))?;
    }
    Ok(())
}

/// Has what goes to the LAN come by another provider.
///
/// # Errors
/// When the Internet's kernel refuses.
pub fn carry_by(topology: &Topology, provider: usize) -> Result<()> {
    let via = transit(provider, 1);
    topology.internet.ip(&format!("route replace {PREFIX} via {via} dev isp{provider}\n"))
}

fn add_to_provider(provider: &Provider, prefix: &str) -> Result<()> {
    let (index, netns) = (provider.index, &provider.netns);
    forward(netns)?;
    netns.ip(&format!(
        "addr add {}/64 dev {TOWARDS_GATEWAY} nodad\n\
         addr add {}/64 dev internet nodad\n\
         route add default via {}\n\
         route add {prefix} via {}\n",
        link(index, 1),
        transit(index, 1),
        transit(index, 2),
        link(index, 2)
    ))?;
    // What the gateway itself sends has an address of the link.
    netns.nft(&format!(
        "table ip6 bench {{
            counter outbound {{ }}
            counter inbound {{ }}
            counter foreign {{ }}
            chain ingress {{
                type filter hook prerouting priority raw
                iifname {TOWARDS_GATEWAY} ip6 saddr {prefix} counter name outbound accept
                iifname {TOWARDS_GATEWAY} ip6 saddr {{ fe80::/10, ::, {} }} accept
                iifname {TOWARDS_GATEWAY} counter name foreign drop
            }}
            chain egress {{
                type filter hook postrouting priority 0
                oifname {TOWARDS_GATEWAY} ip6 daddr {prefix} counter name inbound
            }}
        }}\n",
        link(index, 2)
    ))
}

/// Packets that a provider carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// From the LAN, with the prefix that it carries.
    pub outbound: u64,
    /// To that.
    pub inbound: u64,
    /// With a source that it refuses.
    pub foreign: u64,
}

/// What the provider has carried until now.
///
/// # Errors
/// When its counters cannot be read.
pub fn carried(provider: &Provider) -> Result<Carried> {
    let count = |name| provider.netns.nft_counter("ip6 bench", name);
    Ok(Carried {
        outbound: count("outbound")?,
        inbound: count("inbound")?,
        foreign: count("foreign")?,
    })
}

/// Packets from the LAN that each provider has carried until now.
///
/// # Errors
/// When one of them was sent a source that it refuses, or its counters cannot be read.
pub fn outbound(topology: &Topology) -> Result<Vec<u64>> {
    let carried = topology.providers.iter().map(carried).collect::<Result<Vec<_>>>()?;
    ensure!(carried.iter().all(|it| it.foreign == 0), "foreign sources: {carried:?}");
    Ok(carried.iter().map(|it| it.outbound).collect())
}

/// Has a host that has an address of each provider send from that of this one, where its programs do
/// not say otherwise.
///
/// # Errors
/// When the host's kernel refuses.
pub fn prefer(topology: &Topology, index: usize, provider: usize) -> Result<()> {
    let (gateway, source) = (by(0, LAN_GATEWAY), by(provider, host(index)));
    let route = format!("route replace default via {gateway} dev eth0 src {source}\n");
    topology.hosts[index].netns.ip(&route)
}

/// Waits until the first host is answered from the Internet at this address: routers beyond have
/// neighbours of their own to find.
///
/// # Errors
/// When it is not.
pub fn wait_for_answers(topology: &Topology, source: Ipv6Addr) -> Result<()> {
    wait::until("answers from the Internet", wait::BOUND, || {
        let ping = clients::ping_from(&topology.hosts[0].netns, source, SERVER, 1)?;
        Ok((ping.received == 1).then_some(()))
    })
}

fn forward(netns: &Netns) -> Result<()> {
    netns.sysctl(&[("net/ipv6/conf/all/forwarding", "1")])
}
