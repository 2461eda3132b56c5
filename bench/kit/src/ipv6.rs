//! IPv6 for a built site: an own prefix in the LAN, which every provider carries.
//!
//! The addresses are those for benchmarking (RFC 5180 §8): weir lets documentation's and unique
//! local ones go to no provider.

use std::net::Ipv6Addr;

use anyhow::Result;

use crate::netns::Netns;
use crate::topology::{Provider, TOWARDS_GATEWAY, Topology};

/// The LAN's prefix.
pub const PREFIX: &str = "2001:2:0:100::/64";
/// An address that the Internet has.
pub const SERVER: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0xff, 0, 0, 0, 1);
/// A host of the Internet that nobody in the LAN talks to.
pub const STRANGER: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0xff, 0, 0, 0, 2);

/// The gateway's address in the LAN.
pub const LAN_GATEWAY: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0x100, 0, 0, 0, 1);

/// The address of a LAN host.
#[must_use]
pub fn host(index: usize) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 2, 0, 0x100, 0, 0, 1, index as u16)
}

/// An address of the link between the gateway and a provider: 1 its router's, 2 the gateway's.
#[must_use]
pub fn link(provider: usize, end: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 2, 0, 0xa0 + provider as u16, 0, 0, 0, end)
}

fn transit(provider: usize, end: u16) -> Ipv6Addr {
    Ipv6Addr::new(0x2001, 2, 0, 0xb0 + provider as u16, 0, 0, 0, end)
}

/// Gives the site its addresses and routes. What goes to the LAN comes by the provider `inbound`;
/// the gateway's kernel forwards, as it does for IPv4.
///
/// # Errors
/// When the kernel refuses a step.
pub fn add(topology: &Topology, inbound: usize) -> Result<()> {
    let Topology { gateway, internet, .. } = topology;
    let mut lines = format!("addr add {LAN_GATEWAY}/64 dev lan0 nodad\n");
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
    topology.providers.iter().try_for_each(add_to_provider)?;
    let mut lines = format!("addr add {SERVER}/128 dev lo\naddr add {STRANGER}/128 dev lo\n");
    for index in 0..topology.providers.len() {
        lines += &format!("addr add {}/64 dev isp{index} nodad\n", transit(index, 2));
    }
    forward(internet)?;
    internet.ip(&lines)?;
    carry_by(topology, inbound)?;
    for (index, it) in topology.hosts.iter().enumerate() {
        it.netns.ip(&format!(
            "addr add {}/64 dev eth0 nodad\nroute add default via {LAN_GATEWAY}\n",
            host(index)
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

fn add_to_provider(provider: &Provider) -> Result<()> {
    let (index, netns) = (provider.index, &provider.netns);
    forward(netns)?;
    netns.ip(&format!(
        "addr add {}/64 dev {TOWARDS_GATEWAY} nodad\n\
         addr add {}/64 dev internet nodad\n\
         route add default via {}\n\
         route add {PREFIX} via {}\n",
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
                iifname {TOWARDS_GATEWAY} ip6 saddr {PREFIX} counter name outbound accept
                iifname {TOWARDS_GATEWAY} ip6 saddr {{ fe80::/10, ::, {} }} accept
                iifname {TOWARDS_GATEWAY} counter name foreign drop
            }}
            chain egress {{
                type filter hook postrouting priority 0
                oifname {TOWARDS_GATEWAY} ip6 daddr {PREFIX} counter name inbound
            }}
        }}\n",
        link(index, 2)
    ))
}

/// Packets that a provider carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carried {
    /// From the LAN's prefix.
    pub outbound: u64,
    /// To it.
    pub inbound: u64,
    /// From the gateway, with a source that the provider refuses.
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

fn forward(netns: &Netns) -> Result<()> {
    netns.sysctl(&[("net/ipv6/conf/all/forwarding", "1")])
}
