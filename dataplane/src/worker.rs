//! A worker: one thread with its own UMEM, its queue of every device, and its engine.
//!
//! A turn of the loop: receive from each socket, run the engine, take over what other workers
//! handed over, send, recycle. With nothing to do the thread sleeps in `poll` until a device, a
//! neighbour or the tick wakes it.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weir_shm::map::prefetch;
use weir_shm::status::Status;
use weir_wire::layout::MAX_DEVICES;
use weir_wire::layout::status::{DeviceStatus, SocketMode, WorkerStatus};
use weir_xsk::{BindMode, Frame, Umem, UmemConfig};

use crate::attach::Program;
use crate::engine::{BATCH, Engine, Regions};
use crate::handover::{Handover, PARCELS};
use crate::owner::Owners;
use crate::packet::{Buffer, Output, Received};
use crate::ports::Ports;
use crate::transmitter::Transmitter;

/// Time between two rounds of housekeeping, milliseconds.
pub const TICK_MS: u32 = 20;
/// A full pass of expiry over the flow table takes about so many milliseconds.
pub const EXPIRY_PASS_MS: u32 = 10_000;

/// A device as a worker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlan {
    /// Index in the control page.
    pub device: u8,
    /// Kernel interface index.
    pub ifindex: u32,
    /// Interface name, for messages.
    pub name: String,
    /// The queues this worker serves.
    pub queues: Vec<u32>,
    /// MTU, bytes.
    pub mtu: u32,
    /// The XDP program may send frames by it.
    pub xdp_transmit: bool,
}

/// What a worker is started with.
pub struct Plan {
    /// Number of this worker.
    pub id: u8,
    /// Number of workers.
    pub workers: u8,
    /// CPU to run on.
    pub core: Option<usize>,
    /// Its part of each device.
    pub devices: Vec<DevicePlan>,
    /// Slots of each ring.
    pub ring_size: u32,
    /// Copy or zero-copy.
    pub bind: BindMode,
    /// Secret of the process.
    pub entropy: [u64; 2],
}

/// What the workers of a process share.
#[derive(Clone)]
pub struct Shared {
    /// The regions.
    pub regions: Regions,
    /// The status page.
    pub status: Status,
    /// Rings between the workers.
    pub handover: Handover,
    /// Another way out than sockets, once there is one.
    pub transmitter: Arc<OnceLock<Transmitter>>,
    /// Set to stop.
    pub stop: Arc<AtomicBool>,
    /// Socket figures per worker and device, summed up by the main thread.
    pub board: Arc<Mutex<Vec<[DeviceStatus; MAX_DEVICES]>>>,
}

/// Milliseconds of CLOCK_MONOTONIC, the clock of `last_seen` and heartbeats.
pub fn monotonic_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// Binds the worker's sockets, enters them in the program's map, reports that it is ready, and
/// forwards until told to stop. Errors are those of starting up.
pub fn run(
    plan: &Plan,
    shared: &Shared,
    program: &Mutex<Program>,
    ready: impl FnOnce(),
) -> Result<()> {
    if let Some(core) = plan.core {
        let mut cpus = rustix::thread::CpuSet::new();
        cpus.set(core);
        rustix::thread::sched_setaffinity(None, &cpus)
            .with_context(|| format!("cannot pin worker {} to CPU {core}", plan.id))?;
    }
    let owners = Owners::new().context("cannot ask the kernel for neighbours")?;
    let umem = Umem::new(umem_config(plan)).context("cannot map the packet memory")?;
    let mut ports = Ports::bind(plan, &umem, shared)?;
    let mut engine = Engine::new(plan.id, plan.workers, &shared.regions, plan.entropy);
    let adopted = engine.adopt();
    if adopted > 0 {
        tracing::info!(worker = plan.id, flows = adopted, "flows of the earlier process adopted");
    }
    {
        let mut program = program.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut socket = ports.sockets.iter();
        for device in &plan.devices {
            for (queue, (_, socket)) in device.queues.iter().zip(&mut socket) {
                program.set_socket(device.device, *queue, socket.as_raw_fd())?;
            }
        }
    }
    ready();
    turn_until_stopped(plan, shared, &umem, &mut ports, &mut engine, &owners);
    Ok(())
}

fn umem_config(plan: &Plan) -> UmemConfig {
    let sockets = plan.devices.iter().map(|device| device.queues.len() as u32).sum::<u32>();
    // Every ring can be full at once and there are still frames to receive into and to answer with.
    let frames = sockets * 2 * plan.ring_size + 4 * BATCH as u32;
    // A copy-mode frame begins after XDP_PACKET_HEADROOM (256) and has a tagged Ethernet header.
    let large = plan.devices.iter().any(|device| device.mtu > 2048 - 256 - 18);
    UmemConfig { frames, frame_size: if large { 4096 } else { 2048 }, huge_pages: true }
}

fn turn_until_stopped<'u>(
    plan: &Plan,
    shared: &Shared,
    umem: &'u Umem,
    ports: &mut Ports<'u>,
    engine: &mut Engine,
    owners: &Owners,
) {
    let mut batch: Vec<Received<Frame<'u>>> = Vec::with_capacity(BATCH);
    let mut ticked = monotonic_ms();
    let slots = engine.capacity() / (EXPIRY_PASS_MS / TICK_MS) + 1;
    while !shared.stop.load(Ordering::Relaxed) {
        let now = monotonic_ms();
        let mut busy = 0;
        for index in 0..ports.sockets.len() {
            let (device, socket) = &mut ports.sockets[index];
            let device = *device;
            busy += socket.receive(BATCH, |frame| {
                // In copy mode another CPU wrote it.
                frame.data().first().inspect(|first| prefetch(*first));
                batch.push(Received { frame, device });
            });
            if !batch.is_empty() {
                engine.process(&mut batch, now as u32, ports);
            }
        }
        if plan.workers > 1 {
            busy += take_over(&shared.handover, plan.id, engine, &mut batch, now as u32, ports);
            shared.handover.wake_others(plan.id);
        }
        ports.flush();
        // Packets first: what this sends leaves with the next turn. While it is at work, the worker
        // does not sleep.
        busy += usize::from(engine.sweep(ports));
        if now - ticked >= u64::from(TICK_MS) {
            ticked = now;
            engine.refresh();
            engine.tend(slots, now as u32, ports);
            engine.judge(now);
            engine.settle_claims(|interface, address| owners.of(interface, address));
            report(plan, shared, umem, ports, engine, now);
        }
        if busy == 0 {
            sleep(plan, shared, ports);
        }
    }
    report(plan, shared, umem, ports, engine, monotonic_ms());
    shared.status.set_worker(plan.id, &<WorkerStatus as zerocopy::FromZeros>::new_zeroed());
}

/// Takes over what other workers have handed to this one, batch by batch, and says how many frames
/// that were: all of it, or as much as the inbox holds, for they may go on. A worker that took less
/// than comes would lose the rest.
pub fn take_over<B: Buffer>(
    handover: &Handover,
    worker: u8,
    engine: &mut Engine,
    batch: &mut Vec<Received<B>>,
    now: u32,
    out: &mut impl Output<B>,
) -> usize {
    let mut frames = 0;
    while frames < PARCELS {
        let (taken, lost) = handover.collect(worker, BATCH, |device, bytes| {
            let Some(mut frame) = out.allocate() else { return false };
            let fits = frame.set_data(bytes);
            if fits {
                batch.push(Received { frame, device });
            }
            fits
        });
        if taken + lost == 0 {
            break;
        }
        engine.process_handed_over(batch, lost, now, out);
        frames += taken + lost;
    }
    frames
}

fn sleep(plan: &Plan, shared: &Shared, ports: &Ports<'_>) {
    if plan.workers > 1 && !shared.handover.may_sleep(plan.id) {
        return;
    }
    let bell = shared.handover.bell(plan.id);
    let sockets = ports.sockets.iter().map(|(_, socket)| socket.as_fd());
    let mut waiting: Vec<_> =
        sockets.chain([bell]).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK_MS) * 1_000_000 };
    let _ = poll(&mut waiting, Some(&timeout));
    if plan.workers > 1 {
        shared.handover.awake(plan.id);
    }
}

fn report(plan: &Plan, shared: &Shared, umem: &Umem, ports: &Ports<'_>, engine: &Engine, now: u64) {
    let mut accounted = umem.free_frames() + umem.forfeited() + ports.waiting();
    let mut board = [<DeviceStatus as zerocopy::FromZeros>::new_zeroed(); MAX_DEVICES];
    for (device, socket) in &ports.sockets {
        let (filled, sending) = socket.in_flight();
        accounted += filled + sending;
        let Some(status) = board.get_mut(usize::from(*device)) else { continue };
        status.sockets += 1;
        let mode = if socket.zero_copy() { SocketMode::ZeroCopy } else { SocketMode::Copy };
        status.mode = mode as u32;
        status.tx_completed += socket.completed();
        if let Ok(kernel) = socket.statistics() {
            status.rx_dropped += kernel.rx_dropped;
            status.tx_invalid += kernel.tx_invalid_descs + socket.corrupt();
            status.rx_ring_full += kernel.rx_ring_full.unwrap_or(0);
            status.fill_ring_empty += kernel.rx_fill_ring_empty_descs.unwrap_or(0);
        }
    }
    for (status, sent) in board.iter_mut().zip(ports.by_transmitter()) {
        status.tx_completed += sent.done;
        status.tx_invalid += sent.lost;
    }
    if let Ok(mut boards) = shared.board.lock()
        && let Some(ours) = boards.get_mut(usize::from(plan.id))
    {
        *ours = board;
    }
    let status = WorkerStatus {
        heartbeat_ms: now,
        epoch: engine.snapshot().half.epoch,
        flows: engine.flows(),
        frames: umem.frames().into(),
        frames_accounted: accounted.into(),
        reserved: [0; 3],
    };
    shared.status.set_worker(plan.id, &status);
}
