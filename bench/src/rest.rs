//! What the control process costs at rest, and how soon it tells of a lost carrier, on a gateway
//! with many routes, and on one with many uplinks and policies.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;
use serde_json::json;
use weir_kit::moments::{Notice, when_changed};
use weir_kit::netns::Netns;
use weir_kit::run::Run;
use weir_kit::weir::Weir;
use weir_kit::{process, wait};
use weir_shm::control::ControlRegion;
use weir_wire::layout::control::uplink_state;

use crate::machine;
use crate::section::{Section, figure, median, range, table};

/// How long a cut uplink must be well before it is used again, milliseconds.
const HOLD_DOWN_MS: u32 = 100;
/// Between the start and the measurement.
const SETTLE: Duration = Duration::from_secs(3);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How long it is watched at rest, seconds.
    #[arg(long, default_value_t = 20)]
    pub seconds: u64,
    /// Pairs of cables to cut, one after the other.
    #[arg(long, default_value_t = 10)]
    pub cuts: usize,
}

/// A gateway.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Shape {
    /// Uplinks.
    pub uplinks: usize,
    /// Those of them without carrier.
    pub down: usize,
    /// Policies, each with all uplinks.
    pub policies: usize,
    /// Routes by another device.
    pub routes: u32,
}

/// The gateways that are measured.
pub const SHAPES: [Shape; 3] = [
    Shape { uplinks: 3, down: 0, policies: 1, routes: 0 },
    Shape { uplinks: 3, down: 0, policies: 1, routes: 200_000 },
    Shape { uplinks: 62, down: 31, policies: 32, routes: 0 },
];

/// What one gateway showed.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The gateway.
    pub shape: Shape,
    /// CPU time of weir-control at rest, percent of one CPU.
    pub cpu_percent: f64,
    /// From the kernel's event about a carrier to the state word, milliseconds.
    pub cut_ms: Vec<f64>,
    /// The same for another cable that is cut some milliseconds after the first word.
    pub next_cut_ms: Vec<f64>,
}

/// Measures what the options say.
///
/// # Errors
/// When weir-control does not start, or does not see a cut.
pub fn run(options: &Options) -> Result<Section> {
    ensure!(options.seconds > 0 && options.cuts > 0, "--seconds and --cuts must be 1 or more");
    let lines: Vec<Line> =
        SHAPES.iter().map(|shape| measure(*shape, options)).collect::<Result<_>>()?;
    Ok(section(&lines, options))
}

fn measure(shape: Shape, options: &Options) -> Result<Line> {
    let site = Site::build(shape)?;
    let mut weir = Weir::on(&site.run, &site.gateway, &configuration(shape))?;
    weir.start_control()?;
    let control = weir.control()?;
    let up: Vec<usize> = (shape.down..shape.uplinks).collect();
    up.iter().try_for_each(|uplink| until_usable(&control, *uplink))?;
    std::thread::sleep(SETTLE);
    let (pid, _) = control.control_process();
    let pid = u32::try_from(pid)?;
    let before = process::cpu_time(pid)?;
    std::thread::sleep(Duration::from_secs(options.seconds));
    let used = process::cpu_time(pid)? - before;
    let (mut cut_ms, mut next_cut_ms) = (Vec::new(), Vec::new());
    for round in 0..options.cuts {
        let pair = [up[2 * round % up.len()], up[(2 * round + 1) % up.len()]];
        cut_ms.push(site.cut(&control, pair[0])?);
        next_cut_ms.push(site.cut(&control, pair[1])?);
        for uplink in pair {
            site.provider.ip(&format!("link set isp{uplink} up\n"))?;
            until_usable(&control, uplink)?;
        }
    }
    let cpu_percent = used.as_secs_f64() * 100.0 / options.seconds as f64;
    Ok(Line { shape, cpu_percent, cut_ms, next_cut_ms })
}

fn until_usable(control: &ControlRegion, uplink: usize) -> Result<()> {
    let what = format!("uplink {uplink} to be well");
    wait::until(&what, wait::BOUND, || {
        let state = control.uplink_state(uplink as u8);
        Ok((state & uplink_state::USABLE != 0).then_some(()))
    })
}

/// A gateway, and a provider at the far end of all its uplinks.
struct Site {
    gateway: Netns,
    provider: Netns,
    run: Run,
}

impl Site {
    fn build(shape: Shape) -> Result<Self> {
        let run = Run::start()?;
        let [gateway, provider] = ["gw", "isp"].map(|role| run.tag().netns(role));
        let (gw, isp) = (gateway.name(), provider.name());
        let mut links = format!("netns add {gw}\nnetns add {isp}\n");
        // The kernel tells of a carrier at once only if the peer has another index than the device
        // (`linkwatch_urgent_event`, net/core/link_watch.c).
        writeln!(links, "link add spare netns {isp} type bridge")?;
        let mut here = "link set lo up\n".to_owned();
        let mut there = here.clone();
        for port in ["lan", "vpn"] {
            writeln!(links, "link add {port}0 netns {gw} type veth peer name {port} netns {isp}")?;
            writeln!(here, "link set {port}0 up")?;
            writeln!(there, "link set {port} up")?;
        }
        here += "addr add 192.168.1.1/24 dev lan0\n";
        for uplink in 0..shape.uplinks {
            let ends =
                format!("wan{uplink} netns {gw} type veth peer name isp{uplink} netns {isp}");
            writeln!(links, "link add {ends}")?;
            writeln!(here, "link set wan{uplink} up")?;
            writeln!(here, "addr add 100.64.{uplink}.2/24 dev wan{uplink}")?;
            let way = format!("via 100.64.{uplink}.1 dev wan{uplink}");
            writeln!(here, "route add default {way} metric {}", 100 + uplink)?;
            writeln!(there, "addr add 100.64.{uplink}.1/24 dev isp{uplink}")?;
            let state = if uplink < shape.down { "down" } else { "up" };
            writeln!(there, "link set isp{uplink} {state}")?;
        }
        for route in 0..shape.routes {
            let network = std::net::Ipv4Addr::from((11 << 24) + (route << 8));
            writeln!(here, "route add {network}/24 dev vpn0")?;
        }
        run.ip(&links)?;
        provider.ip(&there)?;
        gateway.ip(&here)?;
        Ok(Self { gateway, provider, run })
    }

    /// Cuts the cable of an uplink; how long after the event its word told of that, milliseconds.
    fn cut(&self, control: &ControlRegion, uplink: usize) -> Result<f64> {
        let notice = Notice::of_carrier_loss(&self.gateway)?;
        let done = AtomicBool::new(false);
        let seen = std::thread::scope(|scope| -> Result<_> {
            let watcher = scope.spawn(|| {
                machine::real_time();
                let usable = || control.uplink_state(uplink as u8) & uplink_state::USABLE;
                when_changed(|| usable().into(), &done)
            });
            std::thread::sleep(Duration::from_millis(1));
            self.provider.ip(&format!("link set isp{uplink} down\n"))?;
            let told = wait::until("the word to tell of a cut", wait::BOUND, || {
                let state = control.uplink_state(uplink as u8);
                Ok((state & uplink_state::USABLE == 0).then_some(()))
            });
            // It looks every few microseconds.
            std::thread::sleep(Duration::from_millis(5));
            done.store(true, Ordering::Relaxed);
            told?;
            watcher.join().map_err(|_| anyhow!("the watcher panicked"))
        })?;
        let event = notice.moment()?.context("nobody told that the carrier is lost")?;
        let seen = seen.context("the word was seen too late")?;
        Ok((seen as f64 - event as f64) / 1e6)
    }
}

fn configuration(shape: Shape) -> String {
    let mut text = format!(
        "[gateway]\ntier = \"user\"\n\
         [health]\nhold_down_ms = {HOLD_DOWN_MS}\nhold_down_max_ms = {HOLD_DOWN_MS}\n\
         [[lan]]\ninterface = \"lan0\"\n"
    );
    for uplink in 0..shape.uplinks {
        let _ = writeln!(text, "[[uplink]]\nname = \"up{uplink}\"\ninterface = \"wan{uplink}\"");
    }
    for policy in 0..shape.policies {
        let _ = writeln!(text, "[[policy]]\nname = \"policy{policy}\"");
    }
    text
}

fn section(lines: &[Line], options: &Options) -> Section {
    let headings = [
        "uplinks",
        "without carrier",
        "policies",
        "routes",
        "CPU at rest %",
        "cut → word ms",
        "worst",
        "next cut → word ms",
        "worst",
    ];
    let mut table = table(0, &headings);
    for Line { shape, cpu_percent, cut_ms, next_cut_ms } in lines {
        let Shape { uplinks, down, policies, routes } = shape;
        let counts = [uplinks, down, policies].map(ToString::to_string);
        let of = |values: &[f64]| [median(values), range(values)[1]].map(|ms| format!("{ms:.2}"));
        let figures = [routes.to_string(), figure(*cpu_percent)];
        table.add_row(counts.into_iter().chain(figures).chain(of(cut_ms)).chain(of(next_cut_ms)));
    }
    Section {
        name: "rest",
        title: "The control process at rest, and a cut cable".into(),
        notes: vec![format!(
            "CPU time of weir-control's own threads over {} s in which nothing happens, percent of \
             one CPU; uplinks without targets, so that their next hops are probed, and no \
             dataplane. Then {} pairs of cables are cut, the second some milliseconds after the \
             first one's word: from the kernel's event to the state word, medians and the worst. \
             Routes are by a device that is no uplink.",
            options.seconds, options.cuts
        )],
        json: json!({ "seconds": options.seconds, "cuts": options.cuts, "lines": lines }),
        table,
        plots: Vec::new(),
    }
}
