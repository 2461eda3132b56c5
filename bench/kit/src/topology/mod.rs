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

mod setup;

use std::net::Ipv4Addr;

use anyhow::Result;

use crate::line::{self, Line};
use crate::netns::Netns;
use crate::plan::{self, Lan, Plan, Port};
use crate::run::Run;
use setup::{no_reverse_path_filter, uplink_lines};

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
        self.netns.nft_counter("inet bench", "foreign")
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
}
