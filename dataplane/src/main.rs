//! `weir-dataplane`: runs the workers, gives them the devices as they come and go, and starts them
//! anew when their number, their CPUs or the NAT ports change. All it needs to know is in the control
//! page.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Parser, ValueEnum};
use weir_dataplane::attach::{Program, XdpChoice};
use weir_dataplane::command::{Command, Reply};
use weir_dataplane::devices::{self, DevicePlan, Devices, Options};
use weir_dataplane::engine::{FLOW_SLOTS6, Regions};
use weir_dataplane::handoff::Handoff;
use weir_dataplane::ready::{self, Ready};
use weir_dataplane::shares::HostFlows;
use weir_dataplane::worker::{self, Channel, Shared, WorkerConfig};
use weir_layout::control::ControlHalf;
use weir_layout::status::DeviceStatus;
use weir_layout::{Family, MAX_DEVICES};
use weir_shm::adjacencies::Adjacencies;
use weir_shm::allowances::Allowances;
use weir_shm::control::{ControlRegion, Snapshot};
use weir_shm::counters::Counters;
use weir_shm::flows::{FlowTable, Stored};
use weir_shm::hosts::Hosts;
use weir_shm::map::Access;
use weir_shm::nat_log::NatLog;
use weir_shm::observations::Observations;
use weir_shm::status::{SILENT_MS, Status, silence_ms};
use weir_shm::{Pins, Role, pins};
use weir_wire::family::{V4, V6};
use weir_xsk::BindMode;
use zerocopy::FromZeros;

/// Time between looks at what the tap device lost, and between words to systemd's watchdog.
const SECOND: Duration = Duration::from_secs(1);
/// Time between looks at the control page.
const LOOK: Duration = Duration::from_millis(20);
/// The same while a device comes or goes.
const BUSY_LOOK: Duration = Duration::from_millis(1);

/// The user tier of weir: forwards packets between LAN ports and uplinks.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None)]
struct Arguments {
    /// Directory of the shared memory, on a BPF file system.
    #[arg(long, default_value = pins::DEFAULT_DIRECTORY)]
    pins: PathBuf,
    /// Where the XDP program runs.
    #[arg(long, value_enum, default_value_t = XdpArgument::Auto)]
    xdp: XdpArgument,
    /// How frames reach user space. Zero-copy is for drivers known to be sound with it.
    #[arg(long, value_enum, default_value_t = BindArgument::Copy)]
    bind: BindArgument,
    /// Slots of each AF_XDP ring, a power of two.
    #[arg(long, default_value_t = 2048, value_parser = ring_size)]
    ring_size: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum XdpArgument {
    /// In the driver, else generic.
    Auto,
    /// In the driver or not at all.
    Native,
    /// In the kernel's generic hook.
    Generic,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum BindArgument {
    /// Zero-copy where the driver offers it.
    Auto,
    /// Copied by the kernel: every driver.
    Copy,
    /// Zero-copy or not at all.
    ZeroCopy,
}

fn ring_size(text: &str) -> Result<u32, String> {
    match text.parse::<u32>() {
        Ok(n) if n.is_power_of_two() && (64..=16_384).contains(&n) => Ok(n),
        _ => Err("must be a power of two from 64 to 16384".into()),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    weir_service::run("weir-dataplane", || run(&arguments))
}

fn run(arguments: &Arguments) -> Result<()> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::flag::register(signal, stop.clone()).context("cannot catch signals")?;
    }
    let pins = Pins::create(&arguments.pins)?;
    pins.warning().inspect(|warning| tracing::warn!("{warning}"));
    let _claim = pins.claim(Role::Dataplane)?;
    let control = ControlRegion::open(&pins, Access::Write)?;
    let status = Status::open(&pins, Access::Write)?;
    // Those of a process that was killed.
    status.set_workers(0);
    status.set_pid(std::process::id().into());
    weir_service::ready();
    let done = serve(arguments, &pins, &control, &status, &stop);
    status.set_workers(0);
    status.set_pid(0);
    done
}

fn serve(
    arguments: &Arguments,
    pins: &Pins,
    control: &ControlRegion,
    status: &Status,
    stop: &Arc<AtomicBool>,
) -> Result<()> {
    let Some(mut snapshot) = wait_for_control(pins, control, stop) else { return Ok(()) };
    let mut entropy = [0u8; 16];
    rustix::rand::getrandom(&mut entropy, rustix::rand::GetRandomFlags::empty())
        .context("no random numbers")?;
    let [a, b] =
        [0, 8].map(|at| u64::from_ne_bytes(entropy[at..at + 8].try_into().expect("8 bytes")));
    if status.hash_key() == [0; 2] {
        status.set_hash_key([a, b]);
    }
    Hosts::<V4>::open(pins)?;
    Hosts::<V6>::open(pins)?;
    while !stop.load(Ordering::Relaxed) {
        let regions = open_regions(pins, status, control, &snapshot.half)?;
        let pages = [regions.flows.pages(), regions.flows6.pages()];
        let program = Program::load(pins, pages, regions.hash_key)?;
        regions.prepare(&snapshot.half);
        run_workers(arguments, &snapshot.half, &regions, status, program, [b, a], stop)?;
        let Some(now) = control.snapshot() else {
            bail!("the control page is damaged: restart weir-control")
        };
        snapshot = now;
    }
    tracing::info!("stopped; the XDP program stays attached (remove it with `weir detach`)");
    Ok(())
}

fn wait_for_control(
    pins: &Pins,
    control: &ControlRegion,
    stop: &AtomicBool,
) -> Option<Box<Snapshot>> {
    let mut told = false;
    let mut looked = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let snapshot = control.snapshot();
        if snapshot.is_some() {
            return snapshot;
        }
        if !told {
            let directory = pins.directory().display();
            tracing::info!("waiting for weir-control to publish a configuration in {directory}");
            told = true;
        }
        if looked.elapsed() >= SECOND {
            looked = Instant::now();
            weir_service::alive();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}

/// Opens what workers work on, and frees what those of an earlier process left half made.
fn open_regions(
    pins: &Pins,
    status: &Status,
    control: &ControlRegion,
    half: &ControlHalf,
) -> Result<Regions> {
    let regions = Regions {
        control: control.clone(),
        flows: open_flows(pins, status, half.flow_slots)?,
        flows6: open_flows(pins, status, slots6(pins, half)?).or_else(|why| {
            tracing::warn!("no room for IPv6 flows, IPv4 goes on: {why:#}");
            open_flows(pins, status, FLOW_SLOTS6)
        })?,
        adjacencies: Adjacencies::open(pins, Access::Write, status.hash_key())?,
        allowances: Allowances::open(pins)?,
        counters: Counters::open(pins, Access::Write)?,
        observations: Observations::open(pins, Access::Write)?,
        nat_log: (half.nat_log != 0).then(|| open_log(pins)).flatten(),
        host_flows: HostFlows::default(),
        agreements: Default::default(),
        hash_key: status.hash_key(),
    };
    regions.flows.recover();
    regions.flows6.recover();
    Ok(regions)
}

/// Where allocations of NAT are told. Forwarding goes on without.
fn open_log(pins: &Pins) -> Option<NatLog> {
    let log = NatLog::open(pins, Access::Write);
    log.inspect_err(|error| tracing::warn!("allocations of NAT are not logged: {error}")).ok()
}

/// Slots of the IPv6 flow table: as many as that of IPv4 has, while an uplink has a path of IPv6. A
/// table from before it had one has room for next to nothing, and makes way.
fn slots6(pins: &Pins, half: &ControlHalf) -> Result<u32> {
    if !half.serves_ipv6() {
        return Ok(FLOW_SLOTS6);
    }
    let is_small = |table: FlowTable<V6>| table.capacity() <= FLOW_SLOTS6;
    if FlowTable::read_only(pins).is_ok_and(is_small) {
        // Slots without tags are taken up again by whoever starts next, tags without slots are not.
        for name in [pins::name::TAGS6, pins::name::FLOWS6] {
            std::fs::remove_file(pins.path(name)).context("cannot make room for IPv6 flows")?;
        }
    }
    Ok(half.flow_slots)
}

fn open_flows<F: Stored>(pins: &Pins, status: &Status, wanted: u32) -> Result<FlowTable<F>> {
    // First the word for it: a table that is left half made, without its tags, is taken up again.
    let name = pins::name::flows(F::FAMILY);
    if !pins.path(name).exists() {
        status.set_flows::<F>(FlowTable::<F>::capacity_for(wanted));
    }
    let table = FlowTable::open(pins, wanted)?;
    if status.check_flows::<F>(pins, table.capacity())?.is_none() {
        bail!(
            "{} is there but the status page does not vouch for it: run `weir detach`, then start again",
            pins.path(name).display()
        );
    }
    if table.capacity() != wanted {
        tracing::warn!(
            slots = table.capacity(),
            wanted,
            "the flow table keeps its size until `weir detach`"
        );
    }
    Ok(table)
}

/// What a change of needs the workers started anew.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Layout {
    workers: u8,
    cores: Vec<Option<usize>>,
    /// First and last port of the uplinks' ranges, which workers divide among them.
    nat_ports: BTreeSet<(u16, u16)>,
    /// Whether they are to have a table of IPv6 flows that is worth the name.
    ipv6: bool,
    /// Whether they tell of allocations.
    nat_log: bool,
}

impl Layout {
    fn of(half: &ControlHalf) -> Self {
        let workers = half.workers.max(1);
        let core = |core: &u16| (*core != u16::MAX).then_some(usize::from(*core));
        let cores = half.cores.iter().take(workers.into()).map(core).collect();
        let nat_ports = half.uplinks.iter().map(|uplink| uplink.path(Family::V4));
        let nat_ports = nat_ports.map(|path| (path.nat_lo, path.nat_hi)).collect();
        let nat_log = half.nat_log != 0;
        Self { workers, cores, nat_ports, ipv6: half.serves_ipv6(), nat_log }
    }
}

impl Arguments {
    fn options(&self) -> Options {
        Options {
            xdp: match self.xdp {
                XdpArgument::Auto => XdpChoice::Auto,
                XdpArgument::Native => XdpChoice::Native,
                XdpArgument::Generic => XdpChoice::Generic,
            },
            bind: match self.bind {
                BindArgument::Auto => BindMode::Auto,
                BindArgument::Copy => BindMode::Copy,
                BindArgument::ZeroCopy => BindMode::ZeroCopy,
            },
            ring_size: self.ring_size,
        }
    }
}

/// Runs the workers until told to stop, or until what is published needs other ones than `half`.
fn run_workers(
    arguments: &Arguments,
    half: &ControlHalf,
    regions: &Regions,
    status: &Status,
    program: Program,
    entropy: [u64; 2],
    stop: &Arc<AtomicBool>,
) -> Result<()> {
    let (layout, plans) = (Layout::of(half), DevicePlan::all(half));
    let workers = layout.workers;
    let shared = Shared {
        regions: regions.clone(),
        status: status.clone(),
        handoff: Handoff::new(workers).context("cannot make the rings between workers")?,
        transmitter: Arc::default(),
        stop: Arc::new(AtomicBool::new(false)),
        board: Arc::new(Mutex::new(vec![
            [DeviceStatus::new_zeroed(); MAX_DEVICES];
            workers.into()
        ])),
    };
    let (told, channels, heard) = channels(workers);
    let mut devices = Devices::new(
        program,
        arguments.options(),
        told,
        heard,
        shared.handoff.clone(),
        shared.transmitter.clone(),
    );
    status.set_tap_refused(0);
    std::thread::scope(|scope| {
        let (ready, all_ready) = ready::expect(workers);
        let configs = (0..workers).map(|id| WorkerConfig {
            id,
            workers,
            core: layout.cores[usize::from(id)],
            memory: devices::memory_of(&plans, id, workers, arguments.ring_size),
            entropy,
        });
        let threads: Vec<_> = configs
            .zip(channels.into_iter().zip(ready))
            .map(|(config, (channel, ready))| start_worker(scope, config, &shared, channel, ready))
            .collect::<Result<_>>()
            .inspect_err(|_| shared.stop.store(true, Ordering::Relaxed))?;
        // The program goes onto a device when its sockets are there: no gap on a restart.
        let done = match all_ready.wait(stop) {
            Ok(true) => {
                let ended = || threads.iter().any(|thread| thread.is_finished());
                let over = || stop.load(Ordering::Relaxed) || ended();
                follow(&mut devices, &layout, &shared, plans, over)
            }
            Ok(false) => Ok(()),
            Err(error) => Err(error.into()),
        };
        shared.stop.store(true, Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a worker panicked"))??;
        }
        done
    })
}

/// A channel for each worker: the ends that the main thread sends by, the workers' own, and the one
/// by which all of them reply.
fn channels(workers: u8) -> (Vec<Sender<Command>>, Vec<Channel>, Receiver<Reply>) {
    let (replies, heard) = mpsc::channel();
    let channel = |_| {
        let (told, commands) = mpsc::channel();
        (told, Channel { commands, replies: replies.clone() })
    };
    let (told, channels) = (0..workers).map(channel).unzip();
    (told, channels, heard)
}

/// Starts a worker in a thread of its own.
fn start_worker<'s>(
    scope: &'s Scope<'s, '_>,
    config: WorkerConfig,
    shared: &'s Shared,
    channel: Channel,
    ready: Ready,
) -> Result<ScopedJoinHandle<'s, Result<()>>> {
    std::thread::Builder::new()
        .name(format!("worker-{}", config.id))
        .spawn_scoped(scope, move || worker::run(&config, shared, channel, move || ready.signal()))
        .context("cannot start a worker")
}

/// Gives the workers the devices as they are published, until it is over or other workers are needed.
fn follow(
    devices: &mut Devices,
    layout: &Layout,
    shared: &Shared,
    plans: Vec<DevicePlan>,
    over: impl Fn() -> bool,
) -> Result<()> {
    let (status, control) = (&shared.status, &shared.regions.control);
    let before = status.read().devices;
    devices.set(plans);
    devices.detach_others()?;
    // None: the state may have changed while the workers started.
    let mut epoch = 0;
    let (mut looked, mut forwarding) = (Instant::now(), false);
    while !over() {
        devices.step();
        publish_devices(status, shared, devices, &before);
        let busy = devices.is_busy();
        if !busy && !forwarding {
            forwarding = true;
            status.set_workers(layout.workers.into());
            tracing::info!(workers = layout.workers, devices = devices.count(), "forwarding");
        }
        if looked.elapsed() >= SECOND {
            looked = Instant::now();
            publish_refused(status, shared);
            // A worker that hangs is mended by a restart as this thread is.
            if silence_ms(&status.read(), worker::monotonic_ms()) < SILENT_MS {
                weir_service::alive();
            }
        }
        let now = control.epoch();
        if now != epoch
            && let Some(snapshot) = control.snapshot()
        {
            if Layout::of(&snapshot.half) != *layout {
                tracing::info!(
                    "workers, NAT ports or their log changed: starting the workers anew"
                );
                break;
            }
            devices.set(DevicePlan::all(&snapshot.half));
            epoch = now;
        }
        devices.wait(if busy { BUSY_LOOK } else { LOOK });
    }
    Ok(())
}

/// Says what the tap device took and lost: a device is down or gone, and `weir-control` has not said
/// so yet.
fn publish_refused(status: &Status, shared: &Shared) {
    let Some(transmitter) = shared.transmitter.get() else { return };
    let (before, now) = (status.read().tap_refused, transmitter.refused());
    if now > before {
        tracing::warn!(frames = now - before, "lost: the device they were for is down or gone");
    }
    status.set_tap_refused(now);
}

/// Adds the workers' figures to those of earlier workers, and says how each device is.
fn publish_devices(
    status: &Status,
    shared: &Shared,
    devices: &Devices,
    before: &[DeviceStatus; MAX_DEVICES],
) {
    let Ok(board) = shared.board.lock() else { return };
    for (device, before) in (0u8..).zip(before) {
        let mut sum = DeviceStatus { sockets: 0, mode: 0, ..*before };
        devices.describe(device, &mut sum);
        for of in board.iter().map(|worker| &worker[usize::from(device)]) {
            sum.mode = sum.mode.max(of.mode);
            sum.sockets += of.sockets;
            sum.rx_dropped += of.rx_dropped;
            sum.tx_invalid += of.tx_invalid;
            sum.rx_ring_full += of.rx_ring_full;
            sum.fill_ring_empty += of.fill_ring_empty;
            sum.tx_completed += of.tx_completed;
        }
        status.set_device(device, &sum);
    }
}

#[cfg(test)]
mod tests {
    use weir_shm::map::{self, Shape};
    use weir_wire::family::V4;

    use super::*;

    /// On the real BPF file system; needs root.
    #[test]
    fn a_flow_table_left_without_its_tags_is_taken_up_again() {
        let directory = format!("/sys/fs/bpf/weir-dataplane-test-{}", std::process::id());
        let pins = Pins::create(directory).unwrap();
        let status = Status::open(&pins, Access::Write).unwrap();
        let tags = pins.path(pins::name::TAGS4);
        let of_no_table = Shape { value_size: 8, entries: 1 };
        map::create(&tags, pins::name::TAGS4, of_no_table, |_| ()).unwrap();
        let failed = open_flows::<V4>(&pins, &status, 1001).map(|table| table.capacity());
        std::fs::remove_file(&tags).unwrap();
        let again = open_flows::<V4>(&pins, &status, 1001).map(|table| table.capacity());
        pins.remove().unwrap();
        assert!(failed.is_err());
        assert_eq!(again.unwrap(), 1024);
    }
}
