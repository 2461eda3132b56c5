//! How the parts of a site are linked and set up.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::{Host, Provider, TOWARDS_GATEWAY, Topology};
use crate::line::{self, Line};
use crate::netns::Netns;
use crate::plan::{self, OWNED_PREFIX, Offloads, Port};

/// A port, the namespace it is in, and its name there.
pub(super) type End<'t> = (&'t Netns, &'t str, Port);

impl Topology {
    /// Namespaces and the links between them, as `ip -batch` lines.
    pub(super) fn links(&self) -> String {
        let mut lines = String::new();
        for namespace in self.namespaces() {
            let _ = writeln!(lines, "netns add {}", namespace.name());
        }
        let mut link = |a: End<'_>, b: End<'_>, mtu: u32| lines += &self.link(a, b, mtu);
        let lan_mtu = self.lan_mtu();
        let gateway = &self.gateway;
        if let Some(switch) = &self.switch {
            let up = (switch, TOWARDS_GATEWAY, Port::SwitchUp);
            link((gateway, "lan0", Port::GatewayLan(0)), up, lan_mtu);
        }
        for (index, host) in self.hosts.iter().enumerate() {
            let end = (&host.netns, "eth0", Port::Host(index));
            match &self.switch {
                Some(switch) => {
                    let name = format!("host{index}");
                    link((switch, &name, Port::SwitchDown(index)), end, lan_mtu);
                }
                None => {
                    let name = format!("lan{index}");
                    link((gateway, &name, Port::GatewayLan(index)), end, lan_mtu);
                }
            }
        }
        for provider in &self.providers {
            let index = provider.index;
            let router = (&provider.netns, TOWARDS_GATEWAY, Port::RouterCustomer(index));
            let wan = provider.interface();
            let mtu = self.plan.uplinks[index].mtu;
            let gateway = (gateway, wan.as_str(), Port::GatewayWan(index));
            if self.plan.lines.contains(&index) {
                let (line, customer) = &provider.plug;
                link(gateway, (line, customer, Port::LineCustomer(index)), mtu);
                link((line, line::PROVIDER, Port::LineProvider(index)), router, mtu);
            } else {
                link(gateway, router, mtu);
            }
            let transit = (&provider.netns, "internet", Port::RouterTransit(index));
            let name = format!("isp{index}");
            link((&self.internet, &name, Port::Internet(index)), transit, 9000);
        }
        lines
    }

    /// A link between two ports, as a line.
    pub(super) fn link(&self, a: End<'_>, b: End<'_>, mtu: u32) -> String {
        let queues = self.plan.queues;
        let end = |(netns, name, port): End<'_>| {
            let (mac, netns) = (port.mac(), netns.name());
            format!(
                "{name} address {mac} mtu {mtu} numrxqueues {queues} numtxqueues {queues} netns \
                 {netns}"
            )
        };
        format!("link add {} type veth peer name {}\n", end(a), end(b))
    }

    pub(super) fn lan_mtu(&self) -> u32 {
        self.plan.uplinks.iter().map(|uplink| uplink.mtu).max().unwrap_or(1500)
    }

    pub(super) fn set_up_gateway(&self) -> Result<()> {
        let gateway = &self.gateway;
        let mut lines = "link set lo up\n".to_owned();
        let mut devices = self.lan_ports();
        for (port, device) in devices.iter().enumerate() {
            let _ = writeln!(lines, "link set {device} up");
            let _ = writeln!(lines, "addr add {}/16 dev {device}", plan::lan_gateway(port));
            for host in self.hosts.iter().filter(|host| host.port == port) {
                if let Some(owned) = host.owned {
                    let _ = writeln!(lines, "route add {owned} via {} dev {device}", host.address);
                }
            }
        }
        for provider in &self.providers {
            lines += &uplink_lines(provider);
            devices.push(provider.interface());
        }
        for device in &devices {
            self.no_offload(gateway, device)?;
        }
        gateway.ip(&lines)?;
        forward(gateway)
    }

    pub(super) fn set_up_switch(&self) -> Result<()> {
        let Some(switch) = &self.switch else { return Ok(()) };
        let mut lines = "link add br0 type bridge\n".to_owned();
        let hosts = (0..self.hosts.len()).map(|index| format!("host{index}"));
        for port in hosts.chain([TOWARDS_GATEWAY.to_owned()]) {
            let _ = writeln!(lines, "link set {port} master br0 up");
            if port != TOWARDS_GATEWAY {
                self.no_offload(switch, &port)?;
            }
        }
        lines.push_str("link set br0 up\n");
        switch.ip(&lines)?;
        self.accept_redirects(switch, TOWARDS_GATEWAY)?;
        // Where br_netfilter is loaded, bridged packets would pass through the host's firewall.
        let knob = "net/bridge/bridge-nf-call-iptables";
        if Path::new("/proc/sys").join(knob).exists() {
            switch.sysctl(&[(knob, "0")])?;
        }
        Ok(())
    }

    pub(super) fn set_up_internet(&self) -> Result<()> {
        let mut lines = "link set lo up\n".to_owned();
        for address in &self.servers {
            let _ = writeln!(lines, "addr add {address}/32 dev lo");
        }
        let mut back_to_owned = String::new();
        for provider in &self.providers {
            let device = format!("isp{}", provider.index);
            self.no_offload(&self.internet, &device)?;
            let (router, internet) = plan::transit(provider.index);
            let (prefix, length) = plan::provider_prefix(provider.index);
            let _ = writeln!(lines, "link set {device} up");
            let _ = writeln!(lines, "addr add {internet}/30 dev {device}");
            let _ = writeln!(lines, "route add {prefix}/{length} via {router}");
            let _ = write!(back_to_owned, " nexthop via {router}");
        }
        if self.plan.owned_prefix {
            let (prefix, length) = OWNED_PREFIX;
            let _ = writeln!(lines, "route add {prefix}/{length}{back_to_owned}");
        }
        self.internet.ip(&lines)?;
        no_reverse_path_filter(&self.internet)
    }

    pub(super) fn set_up_provider(&self, provider: &Provider) -> Result<()> {
        let netns = &provider.netns;
        let (router, internet) = plan::transit(provider.index);
        let (prefix, length) = plan::provider_prefix(provider.index);
        let mut accepted = format!("{prefix}/{length}");
        let mut lines = format!(
            "link set lo up\n\
             link set {TOWARDS_GATEWAY} up\n\
             link set internet up\n\
             addr add {}/{length} dev {TOWARDS_GATEWAY}\n\
             addr add {router}/30 dev internet\n\
             route add default via {internet}\n",
            provider.next_hop
        );
        if self.plan.owned_prefix {
            let (owned, length) = OWNED_PREFIX;
            let _ = write!(accepted, ", {owned}/{length}");
            let _ = writeln!(lines, "route add {owned}/{length} via {}", provider.addresses[0]);
        }
        self.no_offload(netns, "internet")?;
        netns.ip(&lines)?;
        self.accept_redirects(netns, TOWARDS_GATEWAY)?;
        forward(netns)?;
        netns.nft(&format!(
            "table inet bench {{
                counter foreign {{ }}
                chain ingress {{
                    type filter hook prerouting priority raw
                    iifname {TOWARDS_GATEWAY} ip saddr != {{ {accepted} }} counter name foreign drop
                }}
                chain forward {{
                    type filter hook forward priority filter
                }}
            }}\n"
        ))
    }

    pub(super) fn set_up_line(&self, provider: &Provider) -> Result<Option<Line>> {
        if !self.plan.lines.contains(&provider.index) {
            return Ok(None);
        }
        let (netns, customer) = &provider.plug;
        // The line itself says nothing on its ports.
        netns.sysctl(&[("net/ipv6/conf/all/disable_ipv6", "1")])?;
        netns.ip(&format!("link set {customer} up\nlink set {} up\n", line::PROVIDER))?;
        self.accept_redirects(netns, customer)?;
        self.no_offload(netns, line::PROVIDER)?;
        Line::start(netns, provider.index as u64).map(Some)
    }

    pub(super) fn set_up_host(&self, host: &Host) -> Result<()> {
        let mut lines = format!(
            "link set lo up\n\
             link set eth0 up\n\
             addr add {}/16 dev eth0\n\
             route add default via {}\n",
            host.address,
            plan::lan_gateway(host.port)
        );
        if let Some(owned) = host.owned {
            let _ = writeln!(lines, "addr add {owned}/32 dev eth0");
        }
        host.netns.ip(&lines)?;
        match self.switch {
            Some(_) => self.no_offload(&host.netns, "eth0"),
            None => self.accept_redirects(&host.netns, "eth0"),
        }
    }

    /// Every offload off, so that each packet on the wire is complete and alone; unless the plan
    /// wants them as they are.
    pub(super) fn no_offload(&self, netns: &Netns, device: &str) -> Result<()> {
        match self.plan.offloads {
            Offloads::None => offloads(netns, device, "off"),
            Offloads::Fresh | Offloads::FreshWithGro => Ok(()),
        }
    }

    /// As [`Self::no_offload`], but the device's peer may redirect XDP frames into it. The device
    /// must be up: only then does turning GRO on make its peer a target (`veth_set_features`).
    pub(super) fn accept_redirects(&self, netns: &Netns, device: &str) -> Result<()> {
        match self.plan.offloads {
            Offloads::None => offloads(netns, device, "on")?,
            Offloads::Fresh => return Ok(()),
            Offloads::FreshWithGro => {
                netns.output(Command::new("ethtool").args(["-K", device, "gro", "on"]))?;
            }
        }
        netns.ip(&format!("link set {device} gro_max_size 1\n"))
    }
}

/// The gateway's side of an uplink: up, with addresses and a default route.
pub(super) fn uplink_lines(provider: &Provider) -> String {
    let device = provider.interface();
    let mut lines = format!("link set {device} up\n");
    for address in &provider.addresses {
        let _ = writeln!(lines, "addr add {address}/24 dev {device}");
    }
    let (metric, next_hop) = (100 + provider.index, provider.next_hop);
    let _ = writeln!(lines, "route add default via {next_hop} dev {device} metric {metric}");
    lines
}

fn offloads(netns: &Netns, device: &str, gro: &str) -> Result<()> {
    let off = ["tx", "off", "gso", "off", "tso", "off", "txvlan", "off", "rxvlan", "off"];
    netns.output(Command::new("ethtool").args(["-K", device]).args(off).args(["gro", gro]))?;
    Ok(())
}

fn forward(netns: &Netns) -> Result<()> {
    netns.sysctl(&[("net/ipv4/ip_forward", "1")])?;
    no_reverse_path_filter(netns)
}

/// For every device that exists: the kernel applies the stricter of `all` and the device's own
/// value, and a new namespace may inherit a strict one (ip-sysctl.rst, `rp_filter`).
pub(super) fn no_reverse_path_filter(netns: &Netns) -> Result<()> {
    let conf = Path::new("/proc/sys/net/ipv4/conf");
    netns
        .run(|| -> Result<()> {
            for device in fs::read_dir(conf)? {
                fs::write(device?.path().join("rp_filter"), "0")?;
            }
            Ok(())
        })?
        .with_context(|| format!("cannot turn rp_filter off in {}", netns.name()))
}
