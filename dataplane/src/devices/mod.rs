//! The main thread's side of the devices: each comes, goes and fails by itself, while the workers and
//! all other devices go on.
//!
//! ```text
//!           workers make sockets      bound, in the map, program attached
//!   Out ─► Opening ─► Binding ────────────────────────────────────────────► In
//!    ▲        │          │   the kernel refuses                              │ it goes, changes, or
//!    │        ▼          ▼                                                   ▼ lost its sockets
//!    └── workers have closed theirs ◄── Closing ◄──────────────────────────────
//! ```
//! What is refused is tried again, after longer and longer pauses.

mod plan;
mod slot;

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Result;
use weir_layout::status::{DeviceState, DeviceStatus, Refusal};
use weir_layout::{MAX_DEVICES, MAX_QUEUES};
use weir_xsk::{BindMode, SocketConfig};

use crate::attach::{Attached, Program, XdpChoice};
use crate::command::{Command, Done, Refused, Reply, TransmitMode};
use crate::handoff::Handoff;
use crate::memory;
use crate::transmitter::Transmitter;
use plan::{ring_size, sockets_at_a_time};
use slot::{Bound, Slot, State};

pub use plan::{DevicePlan, memory_of};

/// How long a queue may be busy with its last owner, whom the kernel tears down after `close` returns.
const BUSY: Duration = Duration::from_secs(2);
/// Pause before a refused device is tried again; it doubles each time.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Pause after a device was lost.
const LOST_PAUSE: Duration = Duration::from_millis(100);
/// Time between looks at whether sockets have lost their device.
const LOOK: Duration = Duration::from_secs(1);

/// How devices are used.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Where the XDP program runs.
    pub xdp: XdpChoice,
    /// How frames reach user space.
    pub bind: BindMode,
    /// Slots of a ring.
    pub ring_size: u32,
}

/// All devices, and who serves them.
pub struct Devices {
    program: Program,
    options: Options,
    workers: Vec<Sender<Command>>,
    replies: Receiver<Reply>,
    bells: Handoff,
    transmitter: Arc<OnceLock<Transmitter>>,
    /// No tap device can be had.
    no_tap: bool,
    slots: Vec<Slot>,
    looked: Instant,
}

impl Devices {
    /// None yet. The program is not on any device, but perhaps an earlier process's.
    pub fn new(
        program: Program,
        options: Options,
        workers: Vec<Sender<Command>>,
        replies: Receiver<Reply>,
        bells: Handoff,
        transmitter: Arc<OnceLock<Transmitter>>,
    ) -> Self {
        let now = Instant::now();
        let slots = (0..MAX_DEVICES).map(|_| Slot::new(now)).collect();
        let no_tap = options.bind == BindMode::ZeroCopy;
        Self { program, options, workers, replies, bells, transmitter, no_tap, slots, looked: now }
    }

    /// Takes the devices that are to be used from now on.
    pub fn set(&mut self, plans: Vec<DevicePlan>) {
        let now = Instant::now();
        let mut wanted: Vec<Option<DevicePlan>> = vec![None; MAX_DEVICES];
        for plan in plans {
            let index = usize::from(plan.device) % MAX_DEVICES;
            wanted[index] = Some(plan);
        }
        for (slot, wanted) in self.slots.iter_mut().zip(wanted) {
            let news = match (&slot.wanted, &wanted) {
                (Some(old), Some(new)) => old.needs_other_sockets(new),
                (old, new) => old.is_some() != new.is_some(),
            };
            if news {
                (slot.refused, slot.tries, slot.again) = (None, 0, now);
            }
            slot.wanted = wanted;
        }
        // Before the program is attached: from then on it forwards established flows.
        self.enter_senders();
        for device in 0..MAX_DEVICES as u8 {
            self.serve_by_tap(device);
        }
    }

    /// Takes the program off interfaces that are not used.
    pub fn detach_others(&self) -> Result<()> {
        let wanted = self.slots.iter().filter_map(|slot| slot.wanted.as_ref());
        let ours: BTreeSet<u32> = wanted.map(|plan| plan.ifindex).collect();
        self.program.detach_others(&ours)
    }

    /// Does what can be done without waiting for anybody but the kernel.
    pub fn step(&mut self) {
        while let Ok(reply) = self.replies.try_recv() {
            self.on_reply(reply);
        }
        let now = Instant::now();
        let look = now.duration_since(self.looked) >= LOOK;
        if look {
            self.looked = now;
        }
        for device in 0..MAX_DEVICES as u8 {
            self.advance(device, now, look);
        }
    }

    /// Waits for a worker's answer, but no longer than this.
    pub fn wait(&mut self, timeout: Duration) {
        match self.replies.recv_timeout(timeout) {
            Ok(reply) => self.on_reply(reply),
            Err(RecvTimeoutError::Timeout) => {}
            // The workers have ended.
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(timeout),
        }
    }

    /// Is a device on its way in or out?
    pub fn is_busy(&self) -> bool {
        self.slots.iter().any(|slot| match slot.state {
            State::In(_) => false,
            State::Out => slot.may_come() && slot.refused.is_none(),
            State::Opening { .. } | State::Binding { .. } | State::Closing { .. } => true,
        })
    }

    /// Devices that are in.
    pub fn count(&self) -> usize {
        self.slots.iter().filter(|slot| matches!(slot.state, State::In(_))).count()
    }

    /// What the status page says of how a device is; the figures are others'.
    pub fn describe(&self, device: u8, status: &mut DeviceStatus) {
        let slot = self.slot(device);
        let refused = slot.refused.as_ref();
        let state = match (&slot.wanted, &slot.state) {
            (None, _) => DeviceState::Unknown,
            (Some(plan), _) if plan.ifindex == 0 => DeviceState::Waiting,
            (Some(_), State::In(_)) => DeviceState::Attached,
            (Some(_), _) if refused.is_some() => DeviceState::Refused,
            (Some(_), _) => DeviceState::Joining,
        };
        status.ifindex = slot.wanted.as_ref().map_or(0, |plan| plan.ifindex);
        status.xdp = if let State::In(mode) = slot.state { mode as u32 } else { 0 };
        status.state = state as u8;
        let refused = refused.filter(|_| state == DeviceState::Refused);
        status.refusal = refused.map_or(Refusal::None, |refused| refused.refusal) as u8;
        status.errno = refused.map_or(0, |refused| refused.errno as u16);
        status.queue = refused.map_or(0, |refused| refused.queue);
    }

    fn slot(&self, device: u8) -> &Slot {
        &self.slots[usize::from(device) % MAX_DEVICES]
    }

    fn slot_mut(&mut self, device: u8) -> &mut Slot {
        &mut self.slots[usize::from(device) % MAX_DEVICES]
    }

    fn count_workers(&self) -> u8 {
        self.workers.len() as u8
    }

    fn send(&self, worker: u8, command: Command) {
        // One that has ended is seen by the main thread.
        let _ = self.workers[usize::from(worker)].send(command);
        self.bells.wake(worker);
    }

    fn on_reply(&mut self, reply: Reply) {
        let Reply { device, done } = reply;
        let slot = self.slot_mut(device);
        match (done, &mut slot.state) {
            (Done::Opened(Ok(binders)), State::Opening { waiting }) => {
                *waiting -= 1;
                let bound = |binder| Bound { binder, zero_copy: None };
                slot.sockets.extend(binders.into_iter().map(bound));
            }
            (Done::Opened(Err(refused)), State::Opening { .. }) => self.refuse(device, refused),
            (Done::Closed, State::Closing { waiting }) => *waiting -= 1,
            // Opened after another worker's sockets were refused: all are to be closed already.
            _ => {}
        }
    }

    fn advance(&mut self, device: u8, now: Instant, look: bool) {
        let slot = self.slot(device);
        match &slot.state {
            State::Out if slot.may_come() && slot.again <= now => self.open(device),
            State::Opening { waiting: 0 } | State::Binding { .. } if slot.is_outdated() => {
                self.close(device);
            }
            State::Opening { waiting: 0 } => {
                self.slot_mut(device).state = State::Binding { since: now };
                self.bind(device, now, now);
            }
            State::Binding { since } => {
                let since = *since;
                self.bind(device, now, since);
            }
            State::In(_) if slot.is_outdated() => self.close(device),
            State::In(_) if look && slot.sockets.iter().any(|s| s.binder.is_dead()) => {
                tracing::warn!(interface = slot.name(), "its sockets lost it: they are made anew");
                // The control process is about to say that it is gone.
                self.slot_mut(device).again = now + LOST_PAUSE;
                self.close(device);
            }
            State::Closing { waiting: 0 } => self.release(device),
            State::Out | State::Opening { .. } | State::In(_) | State::Closing { .. } => {}
        }
    }

    fn open(&mut self, device: u8) {
        let Some(plan) = self.slot(device).wanted.clone() else { return };
        if plan.queues > MAX_QUEUES as u32 {
            let message = format!(
                "it has {} queues, and at most {MAX_QUEUES} can be served: `ethtool -L {} combined \
                 {MAX_QUEUES}`",
                plan.queues, plan.name
            );
            let refusal = Refusal::Queues;
            self.refuse(device, Refused { refusal, errno: 0, queue: plan.queues, message });
            return;
        }
        let mut waiting = 0;
        for worker in 0..self.count_workers() {
            let queues = plan.queues_of(worker, self.count_workers());
            let ring_size = ring_size(self.options.ring_size, queues.len());
            let config = |queue: &u32| SocketConfig {
                ifindex: plan.ifindex,
                queue: *queue,
                ring_size,
                mode: self.options.bind,
            };
            for queues in queues.chunks(sockets_at_a_time(ring_size)) {
                let sockets = queues.iter().map(config).collect();
                let frame_size = memory::frame_size(plan.mtu);
                self.send(worker, Command::Open { device, frame_size, sockets });
                waiting += 1;
            }
        }
        let slot = self.slot_mut(device);
        (slot.state, slot.had) = (State::Opening { waiting }, Some(plan));
    }

    /// Binds what can be bound now; attaches the program when all is.
    fn bind(&mut self, device: u8, now: Instant, since: Instant) {
        let mut sockets = std::mem::take(&mut self.slot_mut(device).sockets);
        let done = self.bind_all(&mut sockets);
        self.slot_mut(device).sockets = sockets;
        match done {
            Ok(()) => match self.attach(device) {
                Ok(mode) => self.come_in(device, mode),
                Err(error) => self.refuse(device, error),
            },
            Err(error) if error.is_busy() && now.duration_since(since) < BUSY => {}
            Err(error) => self.refuse(device, error.into()),
        }
    }

    fn bind_all(&self, sockets: &mut [Bound]) -> Result<(), weir_xsk::Error> {
        for index in 0..sockets.len() {
            let (before, rest) = sockets.split_at_mut(index);
            let Some(socket) = rest.first_mut().filter(|s| s.zero_copy.is_none()) else { continue };
            let others = self.slots.iter().flat_map(|slot| &slot.sockets).chain(before.iter());
            let shared = others.filter(|other| other.zero_copy.is_some()).find(|other| {
                socket.binder.shares_memory_with(&other.binder) && !other.binder.is_dead()
            });
            socket.zero_copy = Some(socket.binder.bind(shared.map(|other| &other.binder))?);
        }
        Ok(())
    }

    fn attach(&mut self, device: u8) -> Result<Attached, Refused> {
        let slot = &self.slots[usize::from(device) % MAX_DEVICES];
        let Some(plan) = slot.had.clone() else {
            return Err(Refused::program(None, String::new()));
        };
        for socket in &slot.sockets {
            let queue = socket.binder.config().queue;
            let entered = self.program.set_socket(device, queue, socket.binder.as_raw_fd());
            entered.map_err(|error| Refused::of_program(&error))?;
        }
        let attached = self.program.attach(plan.ifindex, &plan.name, self.options.xdp);
        attached.map_err(|error| Refused::of_program(&error))
    }

    fn come_in(&mut self, device: u8, mode: Attached) {
        let workers = self.count_workers();
        let slot = self.slot_mut(device);
        let again = slot.refused.take().is_some();
        (slot.state, slot.tries, slot.sender) = (State::In(mode), 0, None);
        let Some(plan) = slot.had.clone() else { return };
        let zero_copy = slot.sockets.iter().all(|socket| socket.zero_copy == Some(true));
        for worker in 0..workers {
            let mode = TransmitMode { zero_copy, by: plan.sender_for(worker, workers) };
            self.send(worker, Command::Use { device, mode });
        }
        self.enter_senders();
        self.serve_by_tap(device);
        tracing::info!(interface = plan.name, queues = plan.queues, again, "forwarding");
        if !plan.xdp_transmit && mode == Attached::Native {
            tracing::warn!(
                interface = plan.name,
                "the driver cannot transmit for XDP, or not from every CPU: what leaves by this \
                 device takes the user tier"
            );
        }
    }

    fn refuse(&mut self, device: u8, refused: Refused) {
        let slot = self.slot_mut(device);
        let pause = PAUSE.saturating_mul(1 << slot.tries.min(8)).min(LONGEST_PAUSE);
        (slot.tries, slot.again) = (slot.tries + 1, Instant::now() + pause);
        if slot.refused.as_ref() != Some(&refused) {
            let interface = slot.name();
            tracing::error!(interface, "out of use, and tried again: {}", refused.message);
        }
        slot.refused = Some(refused);
        if !matches!(slot.state, State::Out) {
            self.close(device);
        }
    }

    /// Has the workers close their sockets. Nothing comes to them any more when they hear of it.
    fn close(&mut self, device: u8) {
        let slot = &self.slots[usize::from(device) % MAX_DEVICES];
        for socket in &slot.sockets {
            self.program.clear_socket(device, socket.binder.config().queue);
        }
        let is = |plan: &Option<DevicePlan>| plan.as_ref().map(|plan| plan.ifindex);
        if let Some(ifindex) = is(&slot.had).filter(|_| is(&slot.had) != is(&slot.wanted)) {
            self.program.detach(ifindex);
        }
        if let Some(transmitter) = self.transmitter.get() {
            transmitter.serve(device, false);
        }
        let workers = self.count_workers();
        for worker in 0..workers {
            self.send(worker, Command::Close { device });
        }
        let slot = self.slot_mut(device);
        slot.state = State::Closing { waiting: workers };
        self.enter_senders();
    }

    /// Lets go of the sockets, which waits until the kernel has ended its work with them.
    fn release(&mut self, device: u8) {
        let sockets = std::mem::take(&mut self.slot_mut(device).sockets);
        // A driver that works on the memory itself is told to stop after that.
        let reclaim = sockets.iter().all(|socket| socket.zero_copy != Some(true));
        drop(sockets);
        for worker in 0..self.count_workers() {
            self.send(worker, Command::Release { device, reclaim });
        }
        let slot = self.slot_mut(device);
        (slot.state, slot.had) = (State::Out, None);
    }

    /// Enters the devices that the program may send by in its map. Frames from a device that carries
    /// the program in its driver need the help of the driver they leave by; the generic hook sends by
    /// any device.
    fn enter_senders(&mut self) {
        let modes = || self.slots.iter().filter_map(Slot::mode);
        let generic = modes().count() > 0 && modes().all(|mode| mode == Attached::Generic);
        for (device, slot) in (0u8..).zip(&mut self.slots) {
            let may = |plan: &&DevicePlan| plan.xdp_transmit || generic;
            let ifindex = slot.wanted.as_ref().filter(may).map_or(0, |plan| plan.ifindex);
            if slot.sender == Some(ifindex) || (slot.sender.is_none() && ifindex == 0) {
                continue;
            }
            match self.program.send_by(device, ifindex) {
                Ok(()) => slot.sender = Some(ifindex),
                Err(error) => tracing::debug!(interface = slot.name(), "{error:#}"),
            }
        }
    }

    /// Has the tap device send by a device, if that carries the program in its driver, which sends
    /// for XDP.
    fn serve_by_tap(&mut self, device: u8) {
        let slot = &self.slots[usize::from(device) % MAX_DEVICES];
        let able = |plan: &DevicePlan| plan.xdp_transmit && Transmitter::fits(plan.mtu);
        let able = slot.wanted.as_ref().is_some_and(able) && !self.no_tap;
        let serve = able && slot.mode() == Some(Attached::Native) && !slot.is_outdated();
        if serve && self.transmitter.get().is_none() {
            match Transmitter::new(&mut self.program) {
                Ok(new) => drop(self.transmitter.set(new)),
                Err(error) => {
                    self.no_tap = true;
                    tracing::warn!(
                        "the user tier sends by its sockets, which is slower: {error:#}"
                    );
                }
            }
        }
        if let Some(transmitter) = self.transmitter.get() {
            transmitter.serve(device, serve);
        }
    }
}
