//! A worker: one thread with its own packet memory, its queue of every device, and its engine.
//!
//! A turn of the loop: do what the main thread says, receive from each socket, run the engine, take
//! over what other workers handed off, send, recycle. With nothing to do the thread sleeps in `poll`
//! until a device, a neighbour, the main thread or the tick wakes it.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, OnceLock};

use anyhow::{Context, Result};
use core_affinity::CoreId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weir_layout::MAX_DEVICES;
use weir_layout::status::{DeviceStatus, WorkerStatus};
use weir_shm::map::prefetch;
use weir_shm::status::Status;
use weir_xsk::Frame;

use crate::allowance::Pressure;
use crate::command::{Command, Reply};
use crate::engine::{BATCH, Engine, Regions};
use crate::handoff::{Handoff, PARCELS, Task};
use crate::memory::PacketMemory;
use crate::owner::Owners;
use crate::packet::{Buffer, Output, Received};
use crate::ports::Ports;
use crate::transmitter::Transmitter;

/// Time between two rounds of housekeeping, milliseconds.
pub const TICK_MS: u32 = 20;
/// A full pass of expiry over the flow table takes about so many milliseconds.
pub const EXPIRY_PASS_MS: u32 = 10_000;

/// What a worker is started with.
pub struct WorkerConfig {
    /// Number of this worker.
    pub id: u8,
    /// Number of workers.
    pub workers: u8,
    /// CPU to run on.
    pub core: Option<usize>,
    /// Packet memory to begin with: bytes of a frame, and how many frames rings hold.
    pub memory: Vec<(u32, u32)>,
    /// Secret of the process.
    pub entropy: [u64; 2],
}

/// What a worker hears of the main thread, and tells it.
pub struct Channel {
    /// Devices come and go by these.
    pub commands: Receiver<Command>,
    /// Its answers.
    pub replies: Sender<Reply>,
}

/// What the workers of a process share.
#[derive(Clone)]
pub struct Shared {
    /// The regions.
    pub regions: Regions,
    /// The status page.
    pub status: Status,
    /// Rings between the workers.
    pub handoff: Handoff,
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

/// Takes over the worker's flows, reports that it is ready, and forwards until told to stop. Errors
/// are those of starting up.
pub fn run(
    config: &WorkerConfig,
    shared: &Shared,
    channel: Channel,
    ready: impl FnOnce(),
) -> Result<()> {
    if let Some(core) = config.core
        && !core_affinity::set_for_current(CoreId { id: core })
    {
        let error = io::Error::last_os_error();
        return Err(error).context(format!("cannot pin worker {} to CPU {core}", config.id));
    }
    let owners = Owners::new().context("cannot ask the kernel for neighbours")?;
    let memory = PacketMemory::default();
    for (frame_size, frames) in &config.memory {
        if let Err(error) = memory.add(*frame_size, *frames) {
            // Devices that find no room are out of use, and say so.
            tracing::warn!(worker = config.id, "cannot map all packet memory: {error}");
            break;
        }
    }
    let mut ports = Ports::new(&memory, shared);
    let mut engine = Engine::new(config.id, config.workers, &shared.regions, config.entropy);
    let adopted = engine.adopt();
    if adopted > 0 {
        tracing::info!(worker = config.id, flows = adopted, "flows of the earlier process adopted");
    }
    ready();
    turn_until_stopped(config, shared, &channel, &memory, &mut ports, &mut engine, &owners);
    Ok(())
}

fn turn_until_stopped<'u>(
    config: &WorkerConfig,
    shared: &Shared,
    channel: &Channel,
    memory: &'u PacketMemory,
    ports: &mut Ports<'u>,
    engine: &mut Engine,
    owners: &Owners,
) {
    let mut batch: Vec<Received<Frame<'u>>> = Vec::with_capacity(BATCH);
    let mut pressure = Pressure::new(shared.regions.allowances.clone());
    let mut ticked = monotonic_ms();
    let slots = engine.capacity() / (EXPIRY_PASS_MS / TICK_MS) + 1;
    while !shared.stop.load(Ordering::Relaxed) {
        let now = monotonic_ms();
        let mut busy = 0;
        // One in a turn, for packets wait meanwhile.
        if let Ok(command) = channel.commands.try_recv() {
            busy = 1;
            if let Command::Close { device } = command {
                drain(device, &mut batch, now as u32, ports, engine);
                engine.drop_waiting(|of| of == device);
                pressure.forget(device);
            }
            if let Some((device, done)) = ports.obey(command) {
                // Without a main thread the worker is about to stop.
                let _ = channel.replies.send(Reply { device, done });
            }
        }
        for index in 0..ports.sockets.len() {
            let (device, socket) = &mut ports.sockets[index];
            let device = *device;
            let received = socket.receive(BATCH, |frame| {
                // In copy mode another CPU wrote it.
                frame.data().first().inspect(|first| prefetch(*first));
                batch.push(Received { frame, device });
            });
            busy += received;
            // A batch that is not full has emptied the ring.
            let left = if received == BATCH { socket.waiting() } else { 0 };
            let waited = received as u32 + left;
            pressure.look((device, socket.queue()), waited, socket.ring_size(), now);
            if !batch.is_empty() {
                engine.process(&mut batch, now as u32, ports);
            }
        }
        if config.workers > 1 {
            busy += take_over(&shared.handoff, config.id, engine, &mut batch, now as u32, ports);
            shared.handoff.wake_others(config.id);
        }
        ports.flush();
        // Packets first: what this sends leaves with the next turn. While it is at work, the worker
        // does not sleep.
        busy += usize::from(engine.sweep(ports));
        if now - ticked >= u64::from(TICK_MS) {
            ticked = now;
            engine.refresh();
            engine.age(slots, now as u32, ports);
            engine.judge(now);
            engine.settle_claims(|interface, address| owners.of(interface, address));
            engine.ask_about_hosts(|interface, address| owners.known(interface, address, now));
            report(config, shared, memory, ports, engine, now);
        }
        if busy == 0 {
            sleep(config, shared, ports);
        }
    }
    engine.drop_waiting(|_| true);
    report(config, shared, memory, ports, engine, monotonic_ms());
    shared.status.set_worker(config.id, &<WorkerStatus as zerocopy::FromZeros>::new_zeroed());
}

/// Takes over what other workers have handed to this one, batch by batch, and says how many frames
/// that were: all of it, or as much as the inbox holds, for they may go on. A worker that took less
/// than comes would lose the rest.
pub fn take_over<B: Buffer>(
    handoff: &Handoff,
    worker: u8,
    engine: &mut Engine,
    batch: &mut Vec<Received<B>>,
    now: u32,
    out: &mut impl Output<B>,
) -> usize {
    let mut frames = 0;
    while frames < PARCELS {
        let (taken, lost) = handoff.collect(worker, BATCH, |device, task, bytes| {
            if task == Task::Send {
                out.send_for_another(device, bytes);
                return true;
            }
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
        engine.process_handed_off(batch, lost, now, out);
        frames += taken + lost;
    }
    frames
}

/// Takes what the sockets of a device have received, before they are closed.
fn drain<'u>(
    device: u8,
    batch: &mut Vec<Received<Frame<'u>>>,
    now: u32,
    ports: &mut Ports<'u>,
    engine: &mut Engine,
) {
    for index in 0..ports.sockets.len() {
        // No more than its rings hold, should it go on receiving.
        let mut left = ports.sockets[index].1.capacity() as usize;
        while left > 0 && ports.sockets[index].0 == device {
            let socket = &mut ports.sockets[index].1;
            match socket.receive(BATCH, |frame| batch.push(Received { frame, device })) {
                0 => break,
                count => left = left.saturating_sub(count),
            }
            engine.process(batch, now, ports);
        }
    }
}

fn sleep(config: &WorkerConfig, shared: &Shared, ports: &Ports<'_>) {
    if config.workers > 1 && !shared.handoff.may_sleep(config.id) {
        return;
    }
    let bell = shared.handoff.bell(config.id);
    let sockets = ports.sockets.iter().map(|(_, socket)| socket.as_fd());
    let mut waiting: Vec<_> =
        sockets.chain([bell]).map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(TICK_MS) * 1_000_000 };
    let _ = poll(&mut waiting, Some(&timeout));
    let rung = waiting.last().is_some_and(|bell| bell.revents().contains(PollFlags::IN));
    if config.workers > 1 || rung {
        shared.handoff.awake(config.id);
    }
}

fn report(
    config: &WorkerConfig,
    shared: &Shared,
    memory: &PacketMemory,
    ports: &Ports<'_>,
    engine: &Engine,
    now: u64,
) {
    let idle: u32 = memory.umems().map(|umem| umem.free_frames() + umem.forfeited()).sum();
    let frames: u32 = memory.umems().map(weir_xsk::Umem::frames).sum();
    let accounted = idle + ports.in_flight();
    let board = ports.figures();
    if let Ok(mut boards) = shared.board.lock()
        && let Some(ours) = boards.get_mut(usize::from(config.id))
    {
        *ours = board;
    }
    let status = WorkerStatus {
        heartbeat_ms: now,
        epoch: engine.snapshot().half.epoch,
        flows: engine.flows(),
        frames: frames.into(),
        frames_accounted: accounted.into(),
        reserved: [0; 3],
    };
    shared.status.set_worker(config.id, &status);
}
