//! The dataplane killed and started again under traffic: what is lost, and how long until flows
//! are taken over and new ones are made.

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;
use serde_json::json;
use weir_kit::netns::Netns;
use weir_kit::traffic::{Size, Traffic};
use weir_kit::wait;
use weir_kit::weir::Weir;
use weir_layout::counters::Counter;
use weir_shm::counters::Counters;

use crate::compare::GATEWAY_CPU;
use crate::compare::site::Site;
use crate::compare::weir::{Tier, establish, start};
use crate::machine;
use crate::section::{Section, figure, median, range, table};

/// Time between frames of established flows.
const PACE: Duration = Duration::from_micros(2);
/// Frames of one call of the generator.
const CALL: u32 = 1 << 17;
/// Traffic before the kill, and time without a dataplane.
const BEFORE: Duration = Duration::from_millis(300);
/// Time between first packets of new flows.
const NEW_FLOWS: Duration = Duration::from_millis(1);
/// Time between looks at the counters.
const WATCH: Duration = Duration::from_micros(200);
/// A port that no program and no test frame uses: traceroute's first.
const PORT: u16 = 33434;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Established flows.
    #[arg(long, default_value_t = 1_000_000)]
    pub flows: u32,
    /// Kills; figures are medians over them.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
}

/// One kill.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Round {
    /// Packets of established flows that were sent, from before the kill until new flows were made.
    pub sent: u64,
    /// Of these, packets that the device in front of weir had no room for: its ring, which the
    /// generator's CPU empties, was full.
    pub refused: u64,
    /// Of the rest, packets that did not arrive.
    pub lost: f64,
    /// Of those that arrived, packets that the kernel tier did not forward.
    pub by_user: f64,
    /// Flows that the new process took over.
    pub adopted: u64,
    /// From its start until it had taken them over, milliseconds.
    pub adopt_ms: f64,
    /// From its start until the first new flow.
    pub new_flow_ms: f64,
    /// From the kill until the first new flow.
    pub gap_ms: f64,
}

/// Measures what the options say.
///
/// # Errors
/// When weir does not work, or does not come back.
pub fn run(options: &Options) -> Result<Section> {
    Ok(section(&measure(options)?, options))
}

/// As [`run`], without words around.
///
/// # Errors
/// As [`run`].
pub fn measure(options: &Options) -> Result<Vec<Round>> {
    ensure!(options.rounds > 0, "the rounds must be 1 or more");
    // Whatever is started from here on leaves the generator alone.
    machine::pin(Some(GATEWAY_CPU))?;
    let mut site = Site::build(options.flows)?;
    let mut weir = start(&mut site, Tier::Kernel, options.flows)?;
    establish(&mut site, &weir)?;
    (0..options.rounds).map(|_| round(&mut site, &mut weir)).collect()
}

fn round(site: &mut Site, weir: &mut Weir) -> Result<Round> {
    let counters = weir.counters()?;
    let far = |traffic: &Traffic| Ok(traffic.far()?.packets);
    let (before, by_kernel) = (site.settle(far)?, counters.sum(Counter::XdpForwarded));
    let refused_before = site.refused()?;
    site.aim(Size::Fixed(64), PACE.as_nanos() as u64)?;
    let host = site.topology.hosts[0].netns.clone();
    let (server, traffic) = (site.topology.servers[0], &mut site.traffic);
    let done = AtomicBool::new(false);
    let (sent, round) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| send_until(traffic, &done));
        let prober = scope.spawn(|| host_sends_until(&host, server, &done));
        std::thread::sleep(BEFORE);
        let round = kill_and_start(weir, &counters);
        done.store(true, Ordering::Relaxed);
        let sent = sender.join().map_err(|_| anyhow!("the generator panicked"))?;
        prober.join().map_err(|_| anyhow!("the host's thread panicked"))??;
        Ok::<_, anyhow::Error>((sent?, round?))
    })?;
    let arrived = site.settle(far)? - before;
    let by_kernel = counters.sum(Counter::XdpForwarded) - by_kernel;
    let by_user = arrived as f64 - by_kernel as f64;
    let refused = site.refused()? - refused_before;
    let lost = (sent - refused) as f64 - arrived as f64;
    Ok(Round { sent, refused, lost, by_user, ..round })
}

fn kill_and_start(weir: &mut Weir, counters: &Counters) -> Result<Round> {
    let of = |counter| counters.sum(counter);
    let adopted_before = of(Counter::FlowsAdopted);
    let killed = Instant::now();
    weir.kill_dataplane();
    std::thread::sleep(BEFORE);
    let made_before = of(Counter::FlowsCreated);
    let started = Instant::now();
    // The counters are watched while the harness waits for the process.
    let (adopted, made) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let adopted = when_above(counters, Counter::FlowsAdopted, adopted_before)?;
            let made = when_above(counters, Counter::FlowsCreated, made_before)?;
            Ok::<_, anyhow::Error>((adopted, made))
        });
        let up = weir.start_dataplane();
        let seen = watcher.join().map_err(|_| anyhow!("the watcher panicked"))?;
        up.and(seen)
    })?;
    let ms = |to: Instant, from: Instant| to.duration_since(from).as_secs_f64() * 1e3;
    Ok(Round {
        sent: 0,
        refused: 0,
        lost: 0.0,
        by_user: 0.0,
        adopted: of(Counter::FlowsAdopted) - adopted_before,
        adopt_ms: ms(adopted, started),
        new_flow_ms: ms(made, started),
        gap_ms: ms(made, killed),
    })
}

fn when_above(counters: &Counters, counter: Counter, value: u64) -> Result<Instant> {
    let deadline = Instant::now() + wait::BOUND;
    while counters.sum(counter) <= value {
        ensure!(Instant::now() < deadline, "{} did not rise", counter.label());
        std::thread::sleep(WATCH);
    }
    Ok(Instant::now())
}

fn send_until(traffic: &mut Traffic, done: &AtomicBool) -> Result<u64> {
    let mut sent = 0;
    while !done.load(Ordering::Relaxed) {
        sent += traffic.blast(CALL)?.sent;
    }
    Ok(sent)
}

/// Sends the first packet of a new flow again and again.
fn host_sends_until(host: &Netns, server: Ipv4Addr, done: &AtomicBool) -> Result<()> {
    host.run(|| {
        while !done.load(Ordering::Relaxed) {
            // Refused when an answer says that nobody listens: none waits for one.
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?.send_to(b"weir", (server, PORT))?;
            std::thread::sleep(NEW_FLOWS);
        }
        Ok(())
    })?
    .map_err(|error: std::io::Error| error)
    .context("a host cannot send")
}

fn section(rounds: &[Round], options: &Options) -> Section {
    let of = |figure: fn(&Round) -> f64| rounds.iter().map(figure).collect::<Vec<_>>();
    let rows: [(&str, &str, Vec<f64>); 6] = [
        ("lost", "packets lost", of(|r| r.lost)),
        ("refused", "packets that never reached weir", of(|r| r.refused as f64)),
        ("by_user", "packets forwarded by the user tier", of(|r| r.by_user)),
        ("ms", "start to flows adopted, ms", of(|r| r.adopt_ms)),
        ("new_flow_ms", "start to the first new flow, ms", of(|r| r.new_flow_ms)),
        ("gap_ms", "kill to the first new flow, ms", of(|r| r.gap_ms)),
    ];
    let mut table = table(1, &["", "median", "least", "most"]);
    let mut json = json!({ "flows": options.flows, "rounds": rounds });
    for (key, what, values) in rows {
        let [low, high] = range(&values);
        table.add_row([what.to_owned(), figure(median(&values)), figure(low), figure(high)]);
        json[format!("adopt_{key}")] = json!(median(&values));
        json[format!("adopt_{key}_range")] = json!([low, high]);
    }
    let sent: u64 = rounds.iter().map(|round| round.sent).sum();
    let adopted = rounds.iter().map(|round| round.adopted).min().unwrap_or(0);
    json["adopt_sent"] = json!(sent);
    json["adopt_flows"] = json!(adopted);
    Section {
        name: "adopt",
        title: format!("The dataplane killed under traffic of {} flows", options.flows),
        notes: vec![
            format!(
                "{} times SIGKILL, {} ms without a dataplane, and a new start, while {} packets a \
                 second of established flows pass: {sent} packets in all. At least {adopted} flows \
                 were taken over each time.",
                rounds.len(),
                BEFORE.as_millis(),
                1_000_000_000 / PACE.as_nanos()
            ),
            format!(
                "Adoption is over when the new process has counted its flows; before that it \
                 loads the program, binds its sockets and reads the whole table. A host sends the \
                 first packet of a new flow every {} ms or so; those are lost until the process \
                 forwards, which is the gap less the time without one.",
                NEW_FLOWS.as_millis()
            ),
            "Packets that never reached weir are those that the host's veth device counts as \
             refused by its far end: that holds 256 frames, which is half a millisecond, and is \
             emptied by the CPU that fills it. They are not among the lost."
                .to_owned(),
        ],
        json,
        table,
        plots: Vec::new(),
    }
}
