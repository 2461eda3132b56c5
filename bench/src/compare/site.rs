//! The chain: a generator, the gateway under test, and two providers that count.
//!
//! ```text
//! host0 eth0 ── lan0 gateway wan0 ── gw isp0
//!   generate                 wan1 ── gw isp1
//!   home                              far
//! ```

use std::net::Ipv6Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use weir_kit::ipv6::{self, Mode};
use weir_kit::netns::Netns;
use weir_kit::plan::{Lan, Plan, Port, Uplink};
use weir_kit::topology::{TOWARDS_GATEWAY, Topology};
use weir_kit::traffic::{FCS, Size, Traffic, scattering_stride};
use weir_layout::Family;
use weir_traffic::ipv6::{MIN_FRAME as MIN_FRAME6, prefix_sum};
use weir_traffic::{MAX_DESTINATIONS, MIN_FRAME, MODE_REFLECT, MODE_SINK, PORTS, Stream};
use zerocopy::transmute;

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

/// How long nothing may arrive before what is missing is lost.
const SETTLED: Duration = Duration::from_millis(40);
const PASSES: u32 = 6;

/// What the flows of a chain are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IPv4.
    V4,
    /// IPv6, and what uplinks do with its addresses. Where hosts have an address of each provider,
    /// flows are from the first's.
    V6(Mode),
}

impl Kind {
    /// The address family.
    #[must_use]
    pub fn family(self) -> Family {
        match self {
            Self::V4 => Family::V4,
            Self::V6(_) => Family::V6,
        }
    }

    /// Do flows have entries?
    #[must_use]
    pub fn has_entries(self) -> bool {
        match self {
            Self::V4 => true,
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
        let host = &topology.hosts[0].netns;
        let mut traffic = Traffic::with_table(host, "eth0", pages)?;
        traffic.attach(weir_traffic::HOME, host, "eth0")?;
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
        refused(&self.topology.hosts[0].netns, "eth0")
    }

    /// The flows in scattered order, as fast as possible, to a sink.
    #[must_use]
    pub fn load(&self, size: Size) -> Stream {
        Stream { endpoints: self.endpoints, ..load(self.kind, self.flows, size) }
    }

    /// Puts the counting programs on the providers.
    ///
    /// # Errors
    /// When they cannot be attached.
    pub fn count_at_providers(&mut self) -> Result<()> {
        self.topology
            .providers
            .iter()
            .try_for_each(|p| self.traffic.attach(weir_traffic::FAR, &p.netns, TOWARDS_GATEWAY))
    }

    /// Number of flows.
    #[must_use]
    pub fn flows(&self) -> u32 {
        self.flows
    }

    /// Sends every flow to the providers, which answer, until every frame of a pass over all flows
    /// is answered. `interval` is the time between frames, zero for none.
    ///
    /// # Errors
    /// When frames are still lost in the last pass.
    pub fn establish(&mut self, interval: Duration) -> Result<()> {
        let mut missing = 0;
        for pass in 0..PASSES {
            // Who does not keep up is given more time.
            let interval = interval * 2u32.pow(pass);
            let load = Stream {
                stride: u32::from(self.flows > 1),
                mode: MODE_REFLECT,
                interval_ns: u64::try_from(interval.as_nanos())?,
                ..self.load(Size::Fixed(64))
            };
            self.traffic.set_stream(&load)?;
            let before = self.traffic.home()?.packets;
            self.traffic.blast(self.flows)?;
            let answered = self.settle(|traffic| Ok(traffic.home()?.packets))? - before;
            missing = u64::from(self.flows) - answered;
            if missing == 0 {
                return Ok(());
            }
        }
        let flows = self.flows;
        Err(anyhow::anyhow!("{missing} of {flows} frames got no answer"))
            .context("flows could not be established")
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

fn load(kind: Kind, flows: u32, size: Size) -> Stream {
    // Type and first bytes, destination, and the rest of both addresses.
    let (first, destination, prefixes) = match kind {
        Kind::V4 => ([8, 0, 0x45, 0], FIRST_SERVER, [[0; 3]; 2]),
        Kind::V6(mode) => {
            let [server, prefixes @ ..] = [ipv6::SERVER, mode.crowd(), ipv6::SERVER].map(words);
            ([0x86, 0xdd, 0x60, 0], server[3], prefixes.map(|[a, b, c, _]| [a, b, c]))
        }
    };
    let [least, ..] = shortest(kind.family()).frames();
    let sizes = size.frames().map(|len| len.max(least));
    let mut start = [0; 16];
    start[..6].copy_from_slice(&mac(Port::GatewayLan(0)));
    start[6..12].copy_from_slice(&mac(Port::Host(0)));
    start[12..].copy_from_slice(&first);
    let mut onward = [0; 16];
    onward[..6].copy_from_slice(&mac(Port::RouterCustomer(0)));
    onward[6..12].copy_from_slice(&mac(Port::GatewayWan(0)));
    Stream {
        start: transmute!(start),
        onward: transmute!(onward),
        interval_ns: 0,
        source: FIRST_HOST,
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

/// The address of a port.
pub fn mac(port: Port) -> [u8; 6] {
    let mut bytes = [0; 6];
    for (byte, text) in bytes.iter_mut().zip(port.mac().split(':')) {
        *byte = u8::from_str_radix(text, 16).expect("a plan's MAC addresses are hexadecimal");
    }
    bytes
}

// The endpoints are inside their prefix.
const _: () = assert!(MAX_ENDPOINTS / PORTS <= 1 << 14);
