//! What the control process costs at rest and while metrics are read, and how soon it tells of a
//! lost carrier, on a gateway with many routes, and on one with many uplinks and policies.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;
use serde_json::json;
use weir_kit::moments::{Notice, WATCH, now_ns, sleep_exactly};
use weir_kit::netns::{Hungry, Netns};
use weir_kit::run::Run;
use weir_kit::weir::Weir;
use weir_kit::{process, wait};
use weir_layout::control::{PathId, path_state};
use weir_shm::control::ControlRegion;

use crate::machine;
use crate::section::{Section, figure, median, range, table};

/// How long a cut uplink must be well before it is used again, milliseconds.
const HOLD_DOWN_MS: u32 = 100;
/// Between the start and the measurement.
const SETTLE: Duration = Duration::from_secs(3);
/// How often metrics are read, while they are.
const SCRAPE: Duration = Duration::from_secs(1);
/// Where they are.
const METRICS: (Ipv4Addr, u16) = (Ipv4Addr::LOCALHOST, 9745);

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// How long it is watched at rest, and then while metrics are read, seconds.
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
    /// CPU time of weir-control and the programs that it runs, at rest, percent of one CPU.
    pub cpu_percent: f64,
    /// From the kernel's event about a carrier to the state word, milliseconds.
    pub cut_ms: Vec<f64>,
    /// The same for another cable that is cut as soon as the first one's word is seen.
    pub next_cut_ms: Vec<f64>,
    /// From one event to the other: what follows from the first is done meanwhile, and after.
    pub between_ms: Vec<f64>,
    /// CPU time of weir-control while metrics are read once a second, as `cpu_percent`.
    pub scraped_cpu_percent: f64,
    /// From a request for metrics to the end of the response, milliseconds.
    pub scrape_ms: Vec<f64>,
    /// Length of the response, bytes.
    pub scrape_bytes: usize,
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
    let percent = |used: Duration| used.as_secs_f64() * 100.0 / options.seconds as f64;
    let cpu_percent = percent(process::cpu_time(pid)? - before);
    let (mut cut_ms, mut next_cut_ms, mut between_ms) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..options.cuts {
        let pair = [up[2 * round % up.len()], up[(2 * round + 1) % up.len()]];
        let cuts = site.cut(&control, pair)?;
        cut_ms.push(cuts.word_ms);
        next_cut_ms.push(cuts.next_word_ms);
        between_ms.push(cuts.between_ms);
        for uplink in pair {
            site.provider.ip(&format!("link set isp{uplink} up\n"))?;
            until_usable(&control, uplink)?;
        }
    }
    let listen = format!("[metrics]\nlisten = \"{}:{}\"\n", METRICS.0, METRICS.1);
    weir.reload(&format!("{}{listen}", configuration(shape)))?;
    wait::until("metrics to be served", wait::BOUND, || Ok(site.scrape().ok()))?;
    std::thread::sleep(SETTLE);
    let before = process::cpu_time(pid)?;
    let (mut scrape_ms, mut scrape_bytes) = (Vec::new(), 0);
    for _ in 0..options.seconds {
        let (took, bytes) = site.scrape()?;
        scrape_ms.push(took.as_secs_f64() * 1e3);
        scrape_bytes = bytes;
        std::thread::sleep(SCRAPE.saturating_sub(took));
    }
    let scraped_cpu_percent = percent(process::cpu_time(pid)? - before);
    Ok(Line {
        shape,
        cpu_percent,
        cut_ms,
        next_cut_ms,
        between_ms,
        scraped_cpu_percent,
        scrape_ms,
        scrape_bytes,
    })
}

fn until_usable(control: &ControlRegion, uplink: usize) -> Result<()> {
    let what = format!("uplink {uplink} to be well");
    wait::until(&what, wait::BOUND, || Ok(usable(control, uplink).then_some(())))
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

    /// Reads the metrics once: how long it took, and how many bytes there were.
    fn scrape(&self) -> Result<(Duration, usize)> {
        let scrape = || {
            let begun = Instant::now();
            let mut stream = TcpStream::connect(METRICS)?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: weir\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            ensure!(text.starts_with("HTTP/1.1 200 OK") && text.contains("weir_path_up{"));
            Ok((begun.elapsed(), text.len()))
        };
        self.gateway.run(scrape)?
    }

    /// Cuts the cables of two uplinks, the second as soon as the word tells of the first.
    fn cut(&self, control: &ControlRegion, pair: [usize; 2]) -> Result<Cuts> {
        // Whatever takes its time is ready before.
        let [first, second] = pair.map(|uplink| Cable::of(self, uplink));
        let (first, second) = (first?, second?);
        let (ready, done) = (Barrier::new(3), AtomicBool::new(false));
        let when_unusable = |uplink| when_unusable(control, uplink, &ready, &done);
        let seen = std::thread::scope(|scope| -> Result<_> {
            let second_seen = scope.spawn(|| when_unusable(pair[1]));
            let first_seen = scope.spawn(|| {
                let seen = when_unusable(pair[0]);
                second.cut.feed(&format!("link set isp{} down\n", pair[1])).map(|()| seen)
            });
            ready.wait();
            let cut = first.cut.feed(&format!("link set isp{} down\n", pair[0]));
            let told = cut.and_then(|()| {
                wait::until("the words to tell of two cuts", wait::BOUND, || {
                    Ok(pair.iter().all(|uplink| !usable(control, *uplink)).then_some(()))
                })
            });
            // They look every few microseconds.
            std::thread::sleep(Duration::from_millis(5));
            done.store(true, Ordering::Relaxed);
            let panicked = |_| anyhow!("a watcher panicked");
            let seen =
                [first_seen.join().map_err(panicked)??, second_seen.join().map_err(panicked)?];
            told.map(|()| seen)
        })?;
        let events = [first.event.moment()?, second.event.moment()?];
        let [first, second] = events.map(|event| event.context("nobody told of a lost carrier"));
        let (first, second) = (first?, second?);
        let [told, next_told] = seen.map(|seen| seen.context("a word was seen too late"));
        let ms = |from: u64, to: u64| (to as f64 - from as f64) / 1e6;
        Ok(Cuts {
            word_ms: ms(first, told?),
            next_word_ms: ms(second, next_told?),
            between_ms: ms(first, second),
        })
    }
}

/// What two cuts showed, milliseconds.
struct Cuts {
    /// From the kernel's event to the word.
    word_ms: f64,
    /// The same of the second.
    next_word_ms: f64,
    /// From the first event to the second.
    between_ms: f64,
}

/// A cable that is about to be cut.
struct Cable {
    /// The kernel's event about it.
    event: Notice,
    /// Waits for the line that cuts it.
    cut: Hungry,
}

impl Cable {
    fn of(site: &Site, uplink: usize) -> Result<Self> {
        let event = Notice::of_carrier_loss(&site.gateway, &format!("wan{uplink}"))?;
        Ok(Self { event, cut: site.provider.hungry_ip()? })
    }
}

fn usable(control: &ControlRegion, uplink: usize) -> bool {
    control.path_state(PathId::v4(uplink as u8)) & path_state::USABLE != 0
}

/// When an uplink's word tells that it is not usable; none: not until `done`. Says when it looks.
fn when_unusable(
    control: &ControlRegion,
    uplink: usize,
    ready: &Barrier,
    done: &AtomicBool,
) -> Option<u64> {
    machine::real_time();
    sleep_exactly();
    ready.wait();
    while usable(control, uplink) {
        if done.load(Ordering::Relaxed) {
            return None;
        }
        std::thread::sleep(WATCH);
    }
    Some(now_ns())
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
        "between ms",
        "CPU scraped %",
        "scrape ms",
        "worst",
        "KiB",
    ];
    let mut table = table(0, &headings);
    for line in lines {
        let Line { shape, cpu_percent, cut_ms, next_cut_ms, between_ms, .. } = line;
        let Shape { uplinks, down, policies, routes } = shape;
        let counts = [uplinks, down, policies].map(ToString::to_string);
        let of = |values: &[f64]| [median(values), range(values)[1]].map(|ms| format!("{ms:.2}"));
        let figures = [routes.to_string(), figure(*cpu_percent)];
        let words = of(cut_ms).into_iter().chain(of(next_cut_ms));
        let between = format!("{:.2}", median(between_ms));
        let [scrape, worst] = of(&line.scrape_ms);
        let scraped = figure(line.scraped_cpu_percent);
        let metrics = [between, scraped, scrape, worst, (line.scrape_bytes / 1024).to_string()];
        table.add_row(counts.into_iter().chain(figures).chain(words).chain(metrics));
    }
    Section {
        name: "rest",
        title: "The control process at rest, and a cut cable".into(),
        notes: vec![format!(
            "CPU time of weir-control and of the programs that it runs over {} s in which nothing \
             happens, percent of one CPU; uplinks without targets, so that their next hops are \
             probed, and no dataplane. Then {} pairs of cables are cut, the second as soon as the \
             word tells of the first: from the kernel's event to the state word, medians and the \
             worst, and the median time between both events. Routes are by a device that is no \
             uplink. Then metrics are read once a second for as long as it was watched at rest: CPU \
             time, and from the request to the end of the response.",
            options.seconds, options.cuts
        )],
        json: json!({ "seconds": options.seconds, "cuts": options.cuts, "lines": lines }),
        table,
        plots: Vec::new(),
    }
}
