//! The chain: a generator, the gateway under test, and two providers that count.
//!
//! ```text
//! host0 eth0 ── lan0 gateway wan0 ── gw isp0
//!   generate                 wan1 ── gw isp1
//!   home                              far
//! ```
//!
//! Where flows begin outside it is the other way round: the first provider generates, and the host
//! counts.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weir_kit::ipv6::{self, Mode};
use weir_kit::netns::Netns;
use weir_kit::plan::{Lan, Plan, Port, Uplink, uplink_address};
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::traffic::{FCS, Size, Traffic, scattering_stride};
use weir_kit::wait;
use weir_layout::Family;
use weir_traffic::ipv6::{MIN_FRAME as MIN_FRAME6, prefix_sum};
use weir_traffic::{MAX_DESTINATIONS, MIN_FRAME, MODE_REFLECT, MODE_SINK, PORT, PORTS, Stream};
use zerocopy::transmute;

use super::mode;

/// Most endpoints; more flows go to more destinations. Two uplinks of [`ADDRESSES`] addresses have
/// half as many ports again.
pub const MAX_ENDPOINTS: u32 = 1_032_192;
/// Addresses of the gateway on each uplink.
pub const ADDRESSES: usize = 16;
/// Uplinks.
pub const UPLINKS: usize = 2;
/// The prefix of the endpoints of IPv4, inside the LAN's; of IPv6 see [`Mode::crowd`].
pub const HOSTS: &str = "10.0.64.0/18";
const FIRST_HOST: u32 = u32::from_be_bytes([10, 0, 64, 0]);
const FIRST_SERVER: u32 = u32::from_be_bytes([198, 51, 100, 1]);
/// The first of those outside who ask for a service.
const FIRST_CLIENT: Ipv4Addr = Ipv4Addr::new(193, 5, 0, 1);

/// How long nothing may arrive before what is missing is lost.
const SETTLED: Duration = Duration::from_millis(40);
const PASSES: u32 = 6;

/// What the flows of a chain are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4.
    V4,
    /// IPv4, from outside by the first uplink, for a published service of the host.
    Inbound,
    /// IPv6, and what uplinks do with its addresses. Where hosts have an address of each provider,
    /// flows are from the first's.
    V6(Mode),
}

impl Kind {
    /// The address family.
    #[must_use]
    pub fn family(self) -> Family {
        match self {
            Self::V4 | Self::Inbound => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }

    /// What is special about them, if anything.
    #[must_use]
    pub fn mode(self) -> Option<mode::Mode> {
        match self {
            Self::V4 => None,
            Self::Inbound => Some(mode::Mode::Inbound),
            Self::V6(mode) => Some(mode::Mode::Ipv6(mode)),
        }
    }

    /// Do flows have entries?
    #[must_use]
    pub fn has_entries(self) -> bool {
        match self {
            Self::V4 | Self::Inbound => true,
            Self::V6(mode) => mode.has_entries(),
        }
    }
}

/// A chain and its traffic. The gateway is not set up.
pub struct Site {
    /// The traffic; dropped before the namespaces it is in.
    pub traffic: Traffic,
    /// The namespaces.
    pub topology: Topology,
    /// Of the flows.
    pub kind: Kind,
    flows: u32,
    endpoints: u32,
}

impl Site {
    /// Builds the chain for this many flows of IPv4.
    ///
    /// # Errors
    /// When the flows are too many, without root, or when the kernel refuses a step.
    pub fn build(flows: u32) -> Result<Self> {
        Self::build_for(Kind::V4, flows)
    }

    /// As [`Self::build`], for flows of a kind.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn build_for(kind: Kind, flows: u32) -> Result<Self> {
        Self::with_table(kind, flows, 1)
    }

    /// As [`Self::build_for`], with so many pages of lines for [`weir_traffic::LIMIT`].
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn with_table(kind: Kind, flows: u32, pages: u32) -> Result<Self> {
        Self::of(kind, flows, Plan::new(UPLINKS, 1), pages)
    }

    /// As [`Self::build_for`], with the uplinks and hosts of a plan. The flows are the first host's.
    ///
    /// # Errors
    /// As [`Self::build`].
    pub fn with_plan(kind: Kind, flows: u32, plan: Plan) -> Result<Self> {
        Self::of(kind, flows, plan, 1)
    }

    fn of(kind: Kind, flows: u32, plan: Plan, pages: u32) -> Result<Self> {
        let most = MAX_ENDPOINTS * MAX_DESTINATIONS;
        ensure!((1..=most).contains(&flows), "the flows must be 1 to {most}, not {flows}");
        let topology = Topology::build(Plan {
            uplinks: vec![Uplink { addresses: ADDRESSES, mtu: 1500 }; plan.uplinks.len()],
            lan: Lan::Direct,
            servers: MAX_DESTINATIONS as usize,
            ..plan
        })?;
        if let Kind::V6(mode) = kind {
            mode.lay(&topology)?;
        }
        let [near, _] = ends(kind, &topology);
        let (netns, device) = near[0];
        let mut traffic = Traffic::with_table(netns, device, pages)?;
        for (netns, device) in near {
            traffic.attach(weir_traffic::HOME, netns, device)?;
        }
        Ok(Self { traffic, topology, kind, flows, endpoints: flows.min(MAX_ENDPOINTS) })
    }

    /// Lets every endpoint have flows to two destinations, so that the ports of one uplink are
    /// enough for all.
    pub fn pair_flows(&mut self) {
        self.endpoints = self.flows.div_ceil(2);
    }

    /// Frames of the generator that the gateway's device had no room for.
    ///
    /// # Errors
    /// When the device does not say.
    pub fn refused(&self) -> Result<u64> {
        let [near, _] = ends(self.kind, &self.topology);
        let (netns, device) = near[0];
        refused(netns, device)
    }

    /// The gateway's ports by which frames enter and leave; the latter is one of several outside.
    #[must_use]
    pub fn gateway_ports(&self) -> [&'static str; 2] {
        match self.kind {
            Kind::Inbound => ["wan0", "lan0"],
            Kind::V4 | Kind::V6(_) => ["lan0", "wan0"],
        }
    }

    /// Where the service is that flows from outside ask for.
    #[must_use]
    pub fn service(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.topology.hosts[0].address, PORT)
    }

    /// The flows in scattered order, as fast as possible, to a sink.
    #[must_use]
    pub fn load(&self, size: Size) -> Stream {
        Stream { endpoints: self.endpoints, ..load(self.kind, self.flows, size) }
    }

    /// Puts the counting programs where frames arrive: on the providers, or on the host.
    ///
    /// # Errors
    /// When they cannot be attached.
    pub fn count_at_far_side(&mut self) -> Result<()> {
        let [_, far] = ends(self.kind, &self.topology);
        far.into_iter()
            .try_for_each(|(netns, device)| self.traffic.attach(weir_traffic::FAR, netns, device))
    }

    /// Number of flows.
    #[must_use]
    pub fn flows(&self) -> u32 {
        self.flows
    }

    /// Sends every flow to the far side, which answers, until every frame of a pass over all flows
    /// is answered. `interval` is the time between frames, zero for none.
    ///
    /// # Errors
    /// When frames are still lost in the last pass.
    pub fn establish(&mut self, interval: Duration) -> Result<()> {
        let mut missing = 0;
        for pass in 0..PASSES {
            // Who does not keep up is given more time.
            let interval = interval * 2u32.pow(pass);
            missing = u64::from(self.flows) - self.answered(self.flows, interval)?;
            if missing == 0 {
                return Ok(());
            }
        }
        let flows = self.flows;
        Err(anyhow::anyhow!("{missing} of {flows} frames got no answer"))
            .context("flows could not be established")
    }

    /// Sends the first flow until it is answered.
    ///
    /// # Errors
    /// When it never is.
    pub fn wait_for_answer(&mut self) -> Result<()> {
        wait::until("the first flow to be answered", wait::BOUND, || {
            Ok((self.answered(1, Duration::ZERO)? == 1).then_some(()))
        })
    }

    /// Sends so many flows to the far side, which answers: how many answers come home.
    fn answered(&mut self, flows: u32, interval: Duration) -> Result<u64> {
        let load = Stream {
            stride: u32::from(self.flows > 1),
            mode: MODE_REFLECT,
            interval_ns: u64::try_from(interval.as_nanos())?,
            ..self.load(Size::Fixed(64))
        };
        self.traffic.set_stream(&load)?;
        let before = self.traffic.home()?.packets;
        self.traffic.blast(flows)?;
        Ok(self.settle(|traffic| Ok(traffic.home()?.packets))? - before)
    }

    /// Prepares to measure with frames of this size, flows in scattered order.
    ///
    /// # Errors
    /// When the plan cannot be written.
    pub fn aim(&mut self, size: Size, interval_ns: u64) -> Result<()> {
        self.traffic.set_stream(&Stream { interval_ns, ..self.load(size) })
    }

    /// The time of a call without frames: the median of a few. They send the first flows.
    ///
    /// # Errors
    /// When the generator fails.
    pub fn call(&mut self) -> Result<Duration> {
        self.aim(Size::Fixed(64), 0)?;
        let mut calls = [Duration::ZERO; 5];
        for call in &mut calls {
            *call = self.traffic.blast(1)?.time;
        }
        calls.sort();
        Ok(calls[calls.len() / 2])
    }

    /// Waits until a count stops moving; the count.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn settle(&self, count: impl Fn(&Traffic) -> Result<u64>) -> Result<u64> {
        let (mut last, mut since) = (count(&self.traffic)?, Instant::now());
        while since.elapsed() < SETTLED {
            std::thread::sleep(Duration::from_millis(2));
            let now = count(&self.traffic)?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(last)
    }
}

/// A device in a namespace.
type End<'t> = (&'t Netns, &'static str);

/// Where flows of a kind begin, the first being the generator's, and where they go.
fn ends(kind: Kind, topology: &Topology) -> [Vec<End<'_>>; 2] {
    let inside = vec![(&topology.hosts[0].netns, "eth0")];
    let outside = topology.providers.iter().map(|it| (&it.netns, TOWARDS_GATEWAY)).collect();
    match kind {
        Kind::Inbound => [outside, inside],
        Kind::V4 | Kind::V6(_) => [inside, outside],
    }
}

/// Frames of a generator that the other end of its device had no room for.
///
/// # Errors
/// When the device does not say.
pub fn refused(netns: &Netns, device: &str) -> Result<u64> {
    const FIELD: &str = "tx_queue_0_xdp_xmit_errors:";
    let output = netns.output(Command::new("ethtool").args(["-S", device]))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let value = text.lines().find_map(|line| line.trim().strip_prefix(FIELD));
    value
        .and_then(|value| value.trim().parse().ok())
        .with_context(|| format!("`ethtool -S {device}` in {} shows no {FIELD}", netns.name()))
}

/// The smallest frames of a family: what a stamp has room in.
#[must_use]
pub fn shortest(family: Family) -> Size {
    let frame = match family {
        Family::V4 => MIN_FRAME,
        Family::V6 => MIN_FRAME6,
    };
    Size::Fixed(frame as u16 + FCS)
}

/// Flows of a kind in scattered order, as fast as possible, to a sink.
#[must_use]
pub fn load(kind: Kind, flows: u32, size: Size) -> Stream {
    // Type and first bytes, source and destination, and the rest of both addresses.
    const IPV4: [u8; 4] = [8, 0, 0x45, 0];
    let (first, source, destination, prefixes) = match kind {
        Kind::V4 => (IPV4, FIRST_HOST, FIRST_SERVER, [[0; 3]; 2]),
        Kind::Inbound => {
            (IPV4, FIRST_CLIENT.to_bits(), uplink_address(0, 0).to_bits(), [[0; 3]; 2])
        }
        Kind::V6(mode) => {
            let [server, prefixes @ ..] = [ipv6::SERVER, mode.crowd(), ipv6::SERVER].map(words);
            ([0x86, 0xdd, 0x60, 0], FIRST_HOST, server[3], prefixes.map(|[a, b, c, _]| [a, b, c]))
        }
    };
    // From one end of a link to the other.
    let [inside, outside] =
        [[Port::Host(0), Port::GatewayLan(0)], [Port::GatewayWan(0), Port::RouterCustomer(0)]];
    let [near, far] = match kind {
        Kind::V4 | Kind::V6(_) => [inside, outside],
        Kind::Inbound => [outside, inside].map(|[from, to]| [to, from]),
    };
    let [least, ..] = shortest(kind.family()).frames();
    let sizes = size.frames().map(|len| len.max(least));
    let mut start = [0; 16];
    start[..12].copy_from_slice(&macs(near));
    start[12..].copy_from_slice(&first);
    let mut onward = [0; 16];
    onward[..12].copy_from_slice(&macs(far));
    Stream {
        start: transmute!(start),
        onward: transmute!(onward),
        interval_ns: 0,
        source,
        destination,
        flows,
        endpoints: flows.min(MAX_ENDPOINTS),
        stride: scattering_stride(flows),
        mode: MODE_SINK,
        frame_len: u32::from(sizes.into_iter().max().unwrap_or_default()),
        sizes,
        prefixes,
        prefix_sum: prefix_sum(&prefixes),
        flood: 0,
        from_many: 0,
    }
}

fn words(address: Ipv6Addr) -> [u32; 4] {
    let bits = u128::from(address);
    [96, 64, 32, 0].map(|shift| (bits >> shift) as u32)
}

/// The first twelve bytes of a frame from a port to another.
fn macs([from, to]: [Port; 2]) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..6].copy_from_slice(&mac(to));
    bytes[6..].copy_from_slice(&mac(from));
    bytes
}

/// The address of a port.
fn mac(port: Port) -> [u8; 6] {
    let mut bytes = [0; 6];
    for (byte, text) in bytes.iter_mut().zip(port.mac().split(':')) {
        *byte = u8::from_str_radix(text, 16).expect("a plan's MAC addresses are hexadecimal");
    }
    bytes
}

// The endpoints are inside their prefix.
const _: () = assert!(MAX_ENDPOINTS / PORTS <= 1 << 14);
