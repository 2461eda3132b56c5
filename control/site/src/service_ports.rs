//! Ports and protocols of published services that somebody else has, or wants.

use std::net::IpAddr;

use weir_layout::Family;
use weir_layout::control::{Translate, nat_ports};
use weir_layout::protocol::{TCP, UDP};
use weir_view::{Kernel, Peer, local_ports};

use super::checker::Checker;
use super::publish::PublishConfig;
use super::{Site, UplinkConfig};

/// This part of a worker's NAT ports is left to flows from inside at least: these try ports at
/// random.
const PART: usize = 4;
/// Where leases of DHCP and DHCPv6 come to (RFC 2131 §4.1, RFC 8415 §7.2).
pub const LEASES: [u16; 2] = [68, 546];

/// The port of a service at which the gateway's leases would come, if it has one.
pub fn of_leases(publish: &PublishConfig) -> Option<u16> {
    let (first, last) = publish.ports;
    let has = |port: &u16| (first..=last).contains(port);
    LEASES.into_iter().find(|port| publish.takes_datagrams() && has(port))
}

/// Refuses services that leave flows from inside too few ports of an uplink. Each worker has a part
/// of them, one after the other.
pub fn leave_some(
    c: &mut Checker<'_>,
    all: &[PublishConfig],
    uplinks: &[UplinkConfig],
    ports: (u16, u16),
    workers: u8,
) {
    let of_worker = |worker| nat_ports::of_worker(ports.into(), worker, workers);
    let slices = || (0..workers).filter_map(of_worker);
    for (index, uplink) in (0..).zip(uplinks) {
        for family in Family::ALL.into_iter().filter(|family| uplink.has_path(*family)) {
            if uplink.translation(family) != Translate::Napt {
                continue;
            }
            for (protocol, name) in [(TCP, "TCP"), (UDP, "UDP")] {
                let about = |publish: &&PublishConfig| {
                    let services = publish.services(&[family]);
                    publish.uplinks.contains(&index)
                        && services.iter().any(|service| service.protocol == protocol)
                };
                let full = slices().find(|slice| {
                    let taken = all.iter().filter(about).map(|of| count(of.ports.into(), *slice));
                    let count = count(*slice, *slice);
                    count.saturating_sub(taken.sum()) < count / PART
                });
                if let Some([first, last]) = full {
                    c.whole(
                        format!(
                            "published services leave less than a quarter of the {name} ports \
                             {first}-{last} of uplink {} to flows from inside",
                            uplink.name
                        ),
                        "publish fewer of them, or others; each worker has such a part of `nat_ports`",
                    );
                }
            }
        }
    }
}

/// Ports of a range that are in another.
fn count(range: [u16; 2], of: [u16; 2]) -> usize {
    let [first, last] = [range[0].max(of[0]), range[1].min(of[1])];
    (usize::from(last) + 1).saturating_sub(first.into())
}

/// Services whose questions may be answers to the gateway's own sockets, in words: the kernel gives
/// these the same ports of UDP, but for those that are `reserved`
/// (`net.ipv4.ip_local_reserved_ports`).
pub fn lent(site: &Site, kernel: &Kernel, reserved: &str) -> Vec<String> {
    let found = kernel.local_ports;
    let is_set = site.sysctls && local_ports::overlap(found, site.nat_ports);
    let beside = is_set.then(|| local_ports::beside(site.nat_ports)).flatten();
    let (first, last) = beside.unwrap_or(found);
    let is_reserved = |port: u16| {
        reserved.trim().split(',').any(|range| {
            let (lo, hi) = range.split_once('-').unwrap_or((range, range));
            matches!((lo.parse(), hi.parse()), (Ok(lo), Ok(hi)) if (lo..=hi).contains(&port))
        })
    };
    let theirs = site.publish.iter().filter(|publish| publish.takes_datagrams());
    let lent = theirs.filter_map(|publish| {
        let (lo, hi) = (publish.ports.0.max(first), publish.ports.1.min(last));
        (lo..=hi).any(|port| !is_reserved(port)).then(|| {
            let list = [reserved.trim(), &format!("{lo}-{hi}")];
            let list: Vec<_> = list.into_iter().filter(|part| !part.is_empty()).collect();
            format!(
                "publish \"{}\": the kernel gives UDP ports {lo}-{hi} to sockets of the gateway's \
                 too, and what answers these would go to the host: run `sysctl -w \
                 net.ipv4.ip_local_reserved_ports={}`",
                publish.name,
                list.join(",")
            )
        })
    });
    lent.collect()
}

/// Whom the gateway itself speaks with by a protocol without ports that is published, in words.
pub fn spoken(site: &Site, kernel: &Kernel) -> Vec<String> {
    let tunnels = kernel.links.iter().filter(|link| link.up).flat_map(|link| &link.tunnels);
    let peers: Vec<&Peer> = tunnels.chain(&kernel.peers).collect();
    let of_one = |publish: &PublishConfig| {
        let families: Vec<_> = publish.hosts().map(Family::of).collect();
        let mut ends: Vec<_> = peers
            .iter()
            .filter(|peer| publish.protocols.contains(&peer.protocol))
            .filter(|peer| families.contains(&Family::of(peer.local)))
            .map(|peer| (peer.protocol, peer.local, peer.remote))
            .collect();
        ends.sort_unstable();
        ends.dedup();
        let (protocol, local, remote) = *ends.first()?;
        let any = |end: IpAddr, any: &str| match end.is_unspecified() {
            true => any.to_owned(),
            false => end.to_string(),
        };
        let others = match ends.len() - 1 {
            0 => String::new(),
            others => format!(", and so by {others} more"),
        };
        Some(format!(
            "publish \"{}\": the gateway itself speaks protocol {protocol}, from {} with {} (a \
             tunnel, an IPsec association or a socket){others}: by uplinks with that address the \
             service is closed meanwhile",
            publish.name,
            any(local, "any address"),
            any(remote, "anybody"),
        ))
    };
    site.publish.iter().filter(|publish| publish.is_portless()).filter_map(of_one).collect()
}

/// `net.ipv4.ip_local_reserved_ports`; empty: none, or the kernel does not say.
pub fn reserved() -> String {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default()
}

impl PublishConfig {
    /// Does it lead to hosts? Else to the gateway.
    fn has_hosts(&self) -> bool {
        self.hosts().next().is_some()
    }

    /// Does it take datagrams that would else be the gateway's?
    fn takes_datagrams(&self) -> bool {
        self.has_hosts() && self.protocols.contains(&UDP)
    }
}

impl Site {
    /// Which published ports of hosts sockets of the gateway have, in words.
    pub fn taken(&self, is_bound: impl Fn(u16) -> bool) -> Vec<String> {
        let has_ports = |publish: &&PublishConfig| publish.has_hosts() && !publish.is_portless();
        let of_hosts = self.publish.iter().filter(has_ports);
        let taken = of_hosts.filter_map(|publish| {
            let (first, last) = publish.ports;
            let port = (first..=last).find(|port| is_bound(*port))?;
            Some(format!(
                "publish \"{}\": a socket of the gateway has port {port}: who asks for it by the \
                 uplinks of the service reaches the host, and not the gateway any more",
                publish.name
            ))
        });
        taken.collect()
    }
}
