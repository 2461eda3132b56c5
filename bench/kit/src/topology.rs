//! A site in namespaces: LAN hosts, the gateway under test, providers, the Internet.
//!
//! Every provider accepts only sources of its own prefix from the gateway, counts and drops the
//! rest, and the Internet routes each prefix back through its own provider only. So a packet that
//! leaves by the wrong uplink is lost and counted, as with real providers.
//!
//! Offloads. Checksum and segmentation offload are off at every end unless the plan says otherwise,
//! because a packet that XDP or AF_XDP takes from a veth carries whatever the sender left undone: it
//! takes the user tier, which is not what most tests and measurements are about. The peers of the gateway's
//! ports have GRO on, for a veth accepts redirected XDP frames only when its peer has XDP or GRO
//! (`ndo_xdp_xmit`, drivers/net/veth.c); a GRO size of one byte keeps them from merging packets.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::line::{self, Line};
use crate::netns::Netns;
use crate::plan::{self, Lan, OWNED_PREFIX, Offloads, Plan, Port};
use crate::run::Run;

/// The port of the switch and of every provider's router that faces the gateway.
pub const TOWARDS_GATEWAY: &str = "gw";

/// A LAN host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Its namespace; its only port is `eth0`.
    pub netns: Netns,
    /// Its address in the LAN.
    pub address: Ipv4Addr,
    /// Its address from the prefix the customer owns, if the plan has one.
    pub owned: Option<Ipv4Addr>,
    /// The number of the gateway's LAN port it is on.
    pub port: usize,
}

/// A provider, seen from both sides of its link to the gateway.
#[derive(Clone, Debug)]
pub struct Provider {
    /// Its position in the plan; its uplink is `wan{index}` in the gateway.
    pub index: usize,
    /// Its router's namespace; the port towards the gateway is [`TOWARDS_GATEWAY`].
    pub netns: Netns,
    /// Its router's address on the link.
    pub next_hop: Ipv4Addr,
    /// The gateway's addresses on the link.
    pub addresses: Vec<Ipv4Addr>,
    /// The namespace and the name of the port that the gateway's is plugged into.
    plug: (Netns, &'static str),
}

impl Provider {
    /// The name of its uplink in the gateway.
    #[must_use]
    pub fn interface(&self) -> String {
        format!("wan{}", self.index)
    }

    /// Packets from the gateway with a source this provider does not accept.
    ///
    /// # Errors
    /// When the counter cannot be read.
    pub fn foreign_sources(&self) -> Result<u64> {
        let mut command = Command::new("nft");
        command.args(["-j", "list", "counter", "inet", "bench", "foreign"]);
        let output = self.netns.output(&mut command)?;
        let json: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        json["nftables"]
            .as_array()
            .and_then(|objects| objects.iter().find_map(|o| o["counter"]["packets"].as_u64()))
            .context("nft shows no packets in its counter")
    }

    /// Takes the gateway's carrier away, or gives it back.
    ///
    /// # Errors
    /// When the link cannot be changed.
    pub fn set_carrier(&self, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        let (netns, port) = &self.plug;
        netns.ip(&format!("link set {port} {state}\n"))
    }

    /// Gets ready to take the carrier away; what it gives does so at once.
    ///
    /// # Errors
    /// When no process can be started. What it gives fails when the link cannot be changed.
    pub fn cutter(&self) -> Result<impl FnOnce() -> Result<()> + use<>> {
        let (netns, port) = (&self.plug.0, self.plug.1);
        let ip = netns.hungry_ip()?;
        Ok(move || ip.feed(&format!("link set {port} down\n")))
    }

    /// Puts another router in place of this one: same address, its hardware address ends in `last`,
    /// and it has met nobody yet. It tells its neighbours (gratuitous ARP, RFC 5227 §3), or not.
    ///
    /// # Errors
    /// When the port cannot be changed.
    pub fn replace_router(&self, last: u8, announce: bool) -> Result<()> {
        let notify = format!("net/ipv4/conf/{TOWARDS_GATEWAY}/arp_notify");
        self.netns.sysctl(&[(&notify, if announce { "1" } else { "0" })])?;
        self.netns.ip(&format!(
            "link set {TOWARDS_GATEWAY} address 02:57:45:01:05:{last:02x}\n\
             neigh flush dev {TOWARDS_GATEWAY}\n"
        ))
    }

    /// Makes the provider lose every forwarded packet in both directions, silently, with the link
    /// and the router itself still answering; or ends that.
    ///
    /// # Errors
    /// When the rule cannot be changed.
    pub fn set_black_hole(&self, on: bool) -> Result<()> {
        let rule = if on { "add rule inet bench forward drop\n" } else { "" };
        self.netns.nft(&format!("flush chain inet bench forward\n{rule}"))
    }
}

/// A built site. Dropping it destroys it.
#[derive(Debug)]
pub struct Topology {
    /// By provider, the line to it where the plan has one; they end before the run does.
    lines: Vec<Option<Line>>,
    /// The run that owns it all.
    pub run: Run,
    /// The plan it was built from.
    pub plan: Plan,
    /// The gateway's namespace: `lan0`…, `wan0`….
    pub gateway: Netns,
    /// The switch's namespace, in a switched LAN.
    pub switch: Option<Netns>,
    /// The Internet's namespace, which has all servers' addresses.
    pub internet: Netns,
    /// The LAN hosts.
    pub hosts: Vec<Host>,
    /// The providers.
    pub providers: Vec<Provider>,
    /// The servers' addresses.
    pub servers: Vec<Ipv4Addr>,
}

impl Topology {
    /// Builds a site. The gateway has addresses, default routes (metric 100 plus the provider's
    /// index) and forwarding on, but nothing that translates.
    ///
    /// # Errors
    /// When the plan is out of bounds, without root, or when the kernel refuses a step. What was
    /// built until then is destroyed.
    pub fn build(plan: Plan) -> Result<Self> {
        plan.check()?;
        let run = Run::start()?;
        let tag = run.tag();
        let switched = plan.lan == Lan::Switched;
        let mut topology = Self {
            lines: Vec::new(),
            gateway: tag.netns("gw"),
            switch: switched.then(|| tag.netns("switch")),
            internet: tag.netns("internet"),
            hosts: (0..plan.hosts)
                .map(|index| {
                    let port = if switched { 0 } else { index };
                    Host {
                        netns: tag.netns(&format!("host{index}")),
                        address: plan::host_address(port, index),
                        owned: plan.owned_prefix.then(|| plan::owned_address(index)),
                        port,
                    }
                })
                .collect(),
            providers: (0..plan.uplinks.len())
                .map(|index| Provider {
                    index,
                    netns: tag.netns(&format!("isp{index}")),
                    next_hop: plan::next_hop(index),
                    addresses: (0..plan.uplinks[index].addresses)
                        .map(|number| plan::uplink_address(index, number))
                        .collect(),
                    plug: match plan.lines.contains(&index) {
                        true => (tag.netns(&format!("line{index}")), line::CUSTOMER),
                        false => (tag.netns(&format!("isp{index}")), TOWARDS_GATEWAY),
                    },
                })
                .collect(),
            servers: (0..plan.servers).map(plan::server_address).collect(),
            plan,
            run,
        };
        topology.run.ip(&topology.links())?;
        topology.set_up_gateway()?;
        topology.set_up_switch()?;
        topology.set_up_internet()?;
        topology.providers.iter().try_for_each(|provider| topology.set_up_provider(provider))?;
        topology.hosts.iter().try_for_each(|host| topology.set_up_host(host))?;
        for provider in &topology.providers {
            topology.lines.push(topology.set_up_line(provider)?);
        }
        Ok(topology)
    }

    /// The line to a provider.
    ///
    /// # Panics
    /// When the plan has none there.
    #[must_use]
    pub fn line(&self, provider: usize) -> &Line {
        self.lines[provider].as_ref().expect("a provider with a line")
    }

    /// Gives the gateway another address on an uplink in place of those it has, as a provider does
    /// that leases addresses; the next hop stays.
    ///
    /// # Errors
    /// When the gateway's kernel refuses.
    pub fn renumber(&self, provider: usize, address: Ipv4Addr) -> Result<()> {
        let Provider { next_hop, .. } = self.providers[provider];
        let device = self.providers[provider].interface();
        let metric = 100 + provider;
        self.gateway.ip(&format!(
            "addr flush dev {device} scope global\n\
             addr add {address}/24 dev {device}\n\
             route replace default via {next_hop} dev {device} metric {metric}\n"
        ))
    }

    /// All its namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &Netns> {
        [&self.gateway, &self.internet]
            .into_iter()
            .chain(&self.switch)
            .chain(self.providers.iter().map(|provider| &provider.netns))
            .chain(self.line_plugs().map(|(netns, _)| netns))
            .chain(self.hosts.iter().map(|host| &host.netns))
    }

    /// Where lines end at the gateway.
    fn line_plugs(&self) -> impl Iterator<Item = &(Netns, &'static str)> {
        let lines = self.providers.iter().filter(|p| self.plan.lines.contains(&p.index));
        lines.map(|provider| &provider.plug)
    }

    /// The gateway's LAN ports, as devices that carry frames.
    #[must_use]
    pub fn lan_ports(&self) -> Vec<String> {
        let ports = if self.switch.is_some() { 1 } else { self.hosts.len() };
        (0..ports).map(|port| format!("lan{port}")).collect()
    }

    /// Namespaces and the links between them, as `ip -batch` lines.
    fn links(&self) -> String {
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
    fn link(&self, a: End<'_>, b: End<'_>, mtu: u32) -> String {
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

    fn lan_mtu(&self) -> u32 {
        self.plan.uplinks.iter().map(|uplink| uplink.mtu).max().unwrap_or(1500)
    }

    /// Removes an interface of the gateway, and its peer with it.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove(&self, interface: &str) -> Result<()> {
        self.gateway.ip(&format!("link del {interface}\n"))
    }

    /// Makes a provider's uplink anew after it was removed. `prepare` has the gateway's interface,
    /// which is called so for a moment, before it gets its name, its addresses and its route.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn restore_uplink(
        &self,
        provider: usize,
        prepare: impl FnOnce(&str) -> Result<()>,
    ) -> Result<()> {
        const FOR_NOW: &str = "restored";
        let provider = &self.providers[provider];
        let (index, netns) = (provider.index, &provider.netns);
        let router = (netns, TOWARDS_GATEWAY, Port::RouterCustomer(index));
        let gateway = (&self.gateway, FOR_NOW, Port::GatewayWan(index));
        self.run.ip(&self.link(gateway, router, self.plan.uplinks[index].mtu))?;
        let (_, length) = plan::provider_prefix(index);
        netns.ip(&format!(
            "link set {TOWARDS_GATEWAY} up\n\
             addr add {}/{length} dev {TOWARDS_GATEWAY}\n",
            provider.next_hop
        ))?;
        self.accept_redirects(netns, TOWARDS_GATEWAY)?;
        self.no_offload(&self.gateway, FOR_NOW)?;
        no_reverse_path_filter(&self.gateway)?;
        prepare(FOR_NOW)?;
        self.gateway.ip(&format!("link set {FOR_NOW} name {}\n", provider.interface()))?;
        self.gateway.ip(&uplink_lines(provider))
    }

    /// Makes the LAN port of a host that has one of its own anew after it was removed.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn restore_lan(&self, port: usize) -> Result<()> {
        let (name, host) = (format!("lan{port}"), &self.hosts[port]);
        let gateway = (&self.gateway, name.as_str(), Port::GatewayLan(port));
        let end = (&host.netns, "eth0", Port::Host(port));
        self.run.ip(&self.link(gateway, end, self.lan_mtu()))?;
        self.no_offload(&self.gateway, &name)?;
        no_reverse_path_filter(&self.gateway)?;
        self.gateway.ip(&format!(
            "link set {name} up\naddr add {}/16 dev {name}\n",
            plan::lan_gateway(port)
        ))?;
        self.set_up_host(host)
    }

    fn set_up_gateway(&self) -> Result<()> {
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

    fn set_up_switch(&self) -> Result<()> {
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

    fn set_up_internet(&self) -> Result<()> {
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

    fn set_up_provider(&self, provider: &Provider) -> Result<()> {
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

    fn set_up_line(&self, provider: &Provider) -> Result<Option<Line>> {
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

    fn set_up_host(&self, host: &Host) -> Result<()> {
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
    fn no_offload(&self, netns: &Netns, device: &str) -> Result<()> {
        match self.plan.offloads {
            Offloads::None => offloads(netns, device, "off"),
            Offloads::Fresh | Offloads::FreshWithGro => Ok(()),
        }
    }

    /// As [`Self::no_offload`], but the device's peer may redirect XDP frames into it. The device
    /// must be up: only then does turning GRO on make its peer a target (`veth_set_features`).
    fn accept_redirects(&self, netns: &Netns, device: &str) -> Result<()> {
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

/// A port, the namespace it is in, and its name there.
type End<'t> = (&'t Netns, &'t str, Port);

/// The gateway's side of an uplink: up, with addresses and a default route.
fn uplink_lines(provider: &Provider) -> String {
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
fn no_reverse_path_filter(netns: &Netns) -> Result<()> {
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
