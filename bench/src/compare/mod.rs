//! Weir beside what a user would take instead: the same traffic, the same chain, in one run.
//!
//! Live frames (`BPF_F_TEST_XDP_LIVE_FRAMES`) are the traffic: no socket, no driver, no copy. What
//! the generator alone can do is measured too, as the system `none`.
//!
//! Every system has a site of its own ([`site`]), is prepared once per number of flows, and is
//! measured in rounds that take each in turn, so that whatever else the machine does meets all of
//! them. A round is a short warm-up and one run; the time of a run is by the wall clock, less what
//! a call without frames takes. What the far side has counted when the run ends is the rate.
//!
//! The receiving end of a veth device is polled on the CPU that sent. So generator, sinks, and
//! every gateway inside the kernel share [`GENERATOR_CPU`](weir_kit::traffic::GENERATOR_CPU), and
//! the time per packet of the chain less that of `none` is the gateway's own. Gateways with threads
//! of their own forward on [`GATEWAY_CPU`] while the generator offers as much as it can; they lose
//! the rest, and their time per packet includes the kernel's AF_XDP transmit path and the sink, which
//! run there too.

pub mod linux;
pub mod mode;
pub mod published;
mod report;
pub mod site;
pub mod system;
mod testpmd;
pub mod weir;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mode::Mode;
use site::Kind;
use weir_kit::ipv6;
use weir_kit::traffic::Size;

use crate::ip_version::IpVersion;
use crate::section::Section;

pub use report::{Absent, Measured, Report, section};

pub use system::{Gateway, Prepared, System};

/// The CPU of gateways that are programs.
pub const GATEWAY_CPU: usize = 1;

/// What to compare.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Numbers of flows.
    #[arg(long, value_delimiter = ',', default_value = "1000,64512,1032192")]
    pub flows: Vec<u32>,
    /// Frame sizes, check sequence included, or imix; the shortest unless given, which are 64 bytes
    /// of IPv4 and 76 of IPv6.
    #[arg(long = "size", value_delimiter = ',')]
    pub sizes: Vec<Size>,
    /// Version of IP.
    #[arg(long, value_enum, default_value_t)]
    pub family: IpVersion,
    /// With IPv6: what weir does with addresses, nothing unless given; the stateless ones let in what
    /// no flow asked for. With IPv4: NAT44 of flows that begin inside unless given.
    #[arg(long, value_enum)]
    pub mode: Option<Mode>,
    /// Rounds; figures are medians over them.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Length of each run.
    #[arg(long, default_value_t = 1.0)]
    pub seconds: f64,
    /// Which systems; all of the family unless given. The chain without a gateway is always measured.
    #[arg(long, value_delimiter = ',', value_enum)]
    pub systems: Vec<System>,
}

impl Options {
    /// What the flows are.
    fn kind(&self) -> Result<Kind> {
        match (self.family, self.mode) {
            (IpVersion::V4, None) => Ok(Kind::V4),
            (IpVersion::V4, Some(Mode::Inbound)) => Ok(Kind::Inbound),
            (IpVersion::V4, Some(mode)) => {
                bail!("--mode {} is of IPv6: say --family 6", mode.name())
            }
            (IpVersion::V6, None) => Ok(Kind::V6(ipv6::Mode::None)),
            (IpVersion::V6, Some(Mode::Ipv6(mode))) => Ok(Kind::V6(mode)),
            (IpVersion::V6, Some(Mode::Inbound)) => bail!("--mode inbound is of IPv4"),
        }
    }

    /// Which systems are measured.
    fn systems(&self, kind: Kind) -> Result<Vec<System>> {
        let suits = |system: &System| system.suits(kind);
        if let Some(other) = self.systems.iter().find(|system| !suits(system)) {
            bail!(
                "{} has no part in this: leave it out of --systems, or say another --family or \
                 --mode",
                other.name()
            );
        }
        let wanted = |system: &System| {
            *system == System::None || self.systems.is_empty() || self.systems.contains(system)
        };
        Ok(System::ALL.into_iter().filter(suits).filter(wanted).collect())
    }
}

/// Frames of the warm-up of a round.
const WARM_UP: u32 = 1 << 17;
/// Fewest frames of a run: below, the set-up of the call would show.
const LEAST: u32 = 1 << 18;
/// Most.
const MOST: u32 = 1 << 27;
/// One frame in so many may go another way through a gateway than by the tier that is measured:
/// neighbours are asked for, and uplinks probed, meanwhile.
const ONE_ASTRAY_IN: u64 = 1000;

/// Compares. A system that does not work is reported as absent, with the reason.
///
/// # Errors
/// When the generator itself does not work, or a system stops working once it was measured.
pub fn run(options: &Options) -> Result<Section> {
    Ok(section(&measure(options)?, options))
}

/// As [`run`], without words around.
///
/// # Errors
/// As [`run`].
pub fn measure(options: &Options) -> Result<Vec<Report>> {
    ensure!(options.rounds > 0, "the rounds must be 1 or more");
    let run = Duration::try_from_secs_f64(options.seconds).context("--seconds")?;
    let kind = options.kind()?;
    let systems = options.systems(kind)?;
    let mut reports = Vec::new();
    for flows in &options.flows {
        let mut field = Field::prepare(kind, *flows, &systems)?;
        let sizes = match &options.sizes[..] {
            [] => &[site::shortest(kind.family())],
            given => given,
        };
        for size in sizes {
            reports.push(field.measure(*size, options.rounds, run)?);
        }
    }
    Ok(reports)
}

/// A system on its site, and what it takes to measure it.
pub struct Entrant {
    system: System,
    prepared: Prepared,
    /// A call without frames.
    call: Duration,
}

struct Field {
    kind: Kind,
    flows: u32,
    entrants: Vec<Entrant>,
    absent: Vec<Absent>,
}

impl Field {
    fn prepare(kind: Kind, flows: u32, systems: &[System]) -> Result<Self> {
        let mut field = Self { kind, flows, entrants: Vec::new(), absent: Vec::new() };
        for system in systems.iter().copied() {
            let started = Instant::now();
            let prepared =
                system.prepare(kind, flows).and_then(|prepared| Entrant::new(system, prepared));
            match prepared {
                Ok(entrant) => {
                    let seconds = started.elapsed().as_secs_f64();
                    eprintln!("{} with {flows} flows: ready in {seconds:.1} s", system.name());
                    field.entrants.push(entrant);
                }
                Err(error) if system == System::None => return Err(error),
                Err(error) => {
                    let reason = format!("{error:#}");
                    eprintln!("{} with {flows} flows: absent: {reason}", system.name());
                    field.absent.push(Absent { system, reason });
                }
            }
        }
        Ok(field)
    }

    fn measure(&mut self, size: Size, rounds: usize, run: Duration) -> Result<Report> {
        let mut measured: Vec<Measured> =
            self.entrants.iter().map(|entrant| Measured::new(entrant.system)).collect();
        for _ in 0..rounds {
            for (entrant, measured) in self.entrants.iter_mut().zip(&mut measured) {
                let name = entrant.system.name();
                entrant.round(size, run, measured).with_context(|| format!("measuring {name}"))?;
            }
        }
        Ok(Report::new(self.kind, self.flows, size, measured, self.absent.clone()))
    }
}

impl Entrant {
    /// Of a system that has all flows established.
    ///
    /// # Errors
    /// When the generator fails.
    pub fn new(system: System, mut prepared: Prepared) -> Result<Self> {
        let call = prepared.site.call()?;
        Ok(Self { system, prepared, call })
    }

    /// A warm-up and a run.
    ///
    /// # Errors
    /// When the generator or the gateway fails, and when frames did not go by the tier that is
    /// measured, as those of established flows: then there is no figure.
    pub fn round(&mut self, size: Size, run: Duration, measured: &mut Measured) -> Result<()> {
        let Prepared { site, gateway } = &mut self.prepared;
        gateway.wake()?;
        let (astray, flows) = (gateway.astray()?, gateway.flows_made()?);
        site.aim(size, 0)?;
        let warm = site.traffic.blast(WARM_UP)?;
        let each = warm.sending(self.call).as_secs_f64() / f64::from(WARM_UP);
        let frames = (run.as_secs_f64() / each.max(1e-9)) as u32;
        site.settle(|traffic| Ok(traffic.far()?.packets))?;
        let (before, in_kernel) = (site.traffic.far()?.packets, gateway.forwarded_in_kernel()?);
        let call = site.traffic.blast(frames.clamp(LEAST, MOST))?;
        let arrived = site.settle(|traffic| Ok(traffic.far()?.packets))? - before;
        // A frame may come between two counters.
        let astray = gateway.astray()?.saturating_sub(astray);
        let flows = gateway.flows_made()? - flows;
        ensure!(
            flows == 0 && astray * ONE_ASTRAY_IN <= arrived,
            "{astray} frames went another way than by the tier that is measured, and {flows} flows \
             began anew; {arrived} frames arrived"
        );
        let in_kernel = match (in_kernel, gateway.forwarded_in_kernel()?) {
            (Some(before), Some(after)) => Some((after - before) as f64 / arrived as f64),
            _ => None,
        };
        let seconds = call.sending(self.call).as_secs_f64();
        measured.add(
            call.received as f64 / seconds / 1e6,
            1.0 - arrived as f64 / call.sent as f64,
            in_kernel,
        );
        gateway.idle()
    }
}
