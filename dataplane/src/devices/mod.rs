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

use std::collections::BTreeSet;
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Result;
use weir_layout::control::ControlHalf;
use weir_layout::status::{DeviceState, DeviceStatus, Refusal};
use weir_layout::{MAX_DEVICES, MAX_QUEUES};
use weir_xsk::{BindMode, Binder, SocketConfig};

use crate::attach::{Attached, Program, XdpChoice};
use crate::command::{Command, Done, Refused, Reply, TransmitMode};
use crate::handoff::Handoff;
use crate::memory;
use crate::transmitter::Transmitter;

/// How long a queue may be busy with its last owner, whom the kernel tears down after `close` returns.
const BUSY: Duration = Duration::from_secs(2);
/// Pause before a refused device is tried again; it doubles each time.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Pause after a device was lost.
const FORESEEN: Duration = Duration::from_millis(100);
/// Time between looks at whether sockets have lost their device.
const LOOK: Duration = Duration::from_secs(1);
/// Sockets of a device and a worker that have rings of full size.
const FULL_RINGS: usize = 16;
/// Smallest ring.
const SMALLEST_RING: u32 = 64;
/// Frames that a worker maps in a turn, unless one socket needs more.
const MAPPED_AT_A_TIME: u32 = 4096;

/// A device that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePlan {
    /// Index in the control page.
    pub device: u8,
    /// Kernel interface index; 0: it is missing, or of a kind that cannot be used.
    pub ifindex: u32,
    /// Interface name.
    pub name: String,
    /// Its queues.
    pub queues: u32,
    /// MTU, bytes.
    pub mtu: u32,
    /// The XDP program may send frames by it.
    pub xdp_transmit: bool,
}

impl DevicePlan {
    /// Those of a published state.
    pub fn all(half: &ControlHalf) -> Vec<Self> {
        let named = (0u8..).zip(&half.devices).filter(|(_, device)| device.name.0[0] != 0);
        let plan = |(device, published): (u8, &weir_layout::control::Device)| Self {
            device,
            ifindex: published.ifindex,
            name: published.name.as_str().to_owned(),
            queues: published.queues.max(1),
            mtu: published.mtu,
            xdp_transmit: published.xdp_transmit == 1,
        };
        named.map(plan).collect()
    }

    /// The worker that serves a queue. Devices with fewer queues than there are workers do not all
    /// burden the first ones.
    fn worker_of(&self, queue: u32, workers: u8) -> u8 {
        let first = if self.queues < workers.into() { u32::from(self.device) } else { 0 };
        ((queue + first) % u32::from(workers.max(1))) as u8
    }

    fn queues_of(&self, worker: u8, workers: u8) -> Vec<u32> {
        (0..self.queues).filter(|queue| self.worker_of(*queue, workers) == worker).collect()
    }

    /// The worker that sends by the device for one that has no queue of it.
    fn sender_for(&self, worker: u8, workers: u8) -> Option<u8> {
        let queue = u32::from(worker) % self.queues;
        self.queues_of(worker, workers).is_empty().then(|| self.worker_of(queue, workers))
    }

    /// Does a change to this one need other sockets?
    fn needs_other_sockets(&self, new: &Self) -> bool {
        let frame_size = memory::frame_size(self.mtu) != memory::frame_size(new.mtu);
        frame_size || (self.ifindex, self.queues) != (new.ifindex, new.queues)
    }
}

/// Slots of each ring of a worker's sockets of one device. Many have smaller ones, because the
/// worker comes round to each as often, and each takes memory.
fn ring_size(wanted: u32, sockets: usize) -> u32 {
    let mut size = wanted;
    while size > SMALLEST_RING && sockets * size as usize > FULL_RINGS * wanted as usize {
        size /= 2;
    }
    size
}

/// Sockets that a worker opens in one turn: their frames may have to be mapped, and its packets wait
/// meanwhile.
fn sockets_at_a_time(ring_size: u32) -> usize {
    (MAPPED_AT_A_TIME / (2 * ring_size)).max(1) as usize
}

/// What a worker's packet memory begins with: for each UMEM the bytes of a frame, and how many frames
/// the rings of its sockets hold. A device that is missing is taken to have one queue.
pub fn memory_of(plans: &[DevicePlan], worker: u8, workers: u8, ring: u32) -> Vec<(u32, u32)> {
    let umems_of = |size: u32| {
        let plans = plans.iter().filter(|plan| memory::frame_size(plan.mtu) == size);
        let rings = plans.flat_map(|plan| {
            let sockets = plan.queues_of(worker, workers).len();
            std::iter::repeat_n(2 * ring_size(ring, sockets), sockets)
        });
        let frames: Vec<u32> = rings.collect();
        let umem = |rings: &[u32]| (size, rings.iter().sum());
        frames.chunks(memory::SHARERS).map(umem).collect::<Vec<_>>()
    };
    [2048, 4096].into_iter().flat_map(umems_of).collect()
}

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

/// A socket of a worker.
#[derive(Debug)]
struct Bound {
    binder: Binder,
    /// It works on the UMEM itself; none: it is not bound yet.
    zero_copy: Option<bool>,
}

#[derive(Debug)]
enum State {
    Out,
    /// For so many answers.
    Opening {
        waiting: u32,
    },
    Binding {
        since: Instant,
    },
    In(Attached),
    /// For the answers of so many workers.
    Closing {
        waiting: u8,
    },
}

/// One device.
#[derive(Debug)]
struct Slot {
    /// As published; none: nobody names it.
    wanted: Option<DevicePlan>,
    /// As its sockets were made for.
    had: Option<DevicePlan>,
    state: State,
    sockets: Vec<Bound>,
    /// Why it is out, or was when it was tried last.
    refused: Option<Refused>,
    tries: u32,
    /// Not before this.
    again: Instant,
    /// What stands in the program's map of devices, as far as that is known.
    sender: Option<u32>,
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
        let slot = |_| Slot {
            wanted: None,
            had: None,
            state: State::Out,
            sockets: Vec::new(),
            refused: None,
            tries: 0,
            again: now,
            sender: None,
        };
        let slots = (0..MAX_DEVICES).map(slot).collect();
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
                self.slot_mut(device).again = now + FORESEEN;
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

impl Slot {
    fn name(&self) -> String {
        let plan = self.wanted.as_ref().or(self.had.as_ref());
        plan.map_or_else(String::new, |plan| plan.name.clone())
    }

    fn may_come(&self) -> bool {
        self.wanted.as_ref().is_some_and(|plan| plan.ifindex != 0)
    }

    fn mode(&self) -> Option<Attached> {
        if let State::In(mode) = self.state { Some(mode) } else { None }
    }

    /// Are its sockets not those that are wanted?
    fn is_outdated(&self) -> bool {
        match (&self.had, &self.wanted) {
            (Some(had), Some(wanted)) => had.needs_other_sockets(wanted),
            _ => true,
        }
    }
}

impl Refused {
    fn program(errno: Option<i32>, message: String) -> Self {
        Self { refusal: Refusal::Program, errno: errno.unwrap_or(0), queue: 0, message }
    }

    fn of_program(error: &anyhow::Error) -> Self {
        let os = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
        Self::program(os.and_then(std::io::Error::raw_os_error), format!("{error:#}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(device: u8, queues: u32, mtu: u32) -> DevicePlan {
        DevicePlan { device, ifindex: 7, name: "wan0".into(), queues, mtu, xdp_transmit: true }
    }

    #[test]
    fn every_queue_has_one_worker_and_every_worker_a_way_out() {
        for (queues, workers) in [(1, 1), (1, 4), (3, 4), (4, 4), (96, 4), (5, 3), (256, 32)] {
            for device in [0, 1, 5] {
                let plan = plan(device, queues, 1500);
                let of = |worker| plan.queues_of(worker, workers);
                let mut served: Vec<u32> = (0..workers).flat_map(of).collect();
                served.sort_unstable();
                assert_eq!(served, (0..queues).collect::<Vec<_>>());
                for worker in 0..workers {
                    let sender = plan.sender_for(worker, workers);
                    assert_eq!(sender.is_none(), !of(worker).is_empty());
                    assert!(sender.is_none_or(|sender| !of(sender).is_empty()));
                }
            }
        }
    }

    #[test]
    fn devices_with_one_queue_are_spread_over_the_workers() {
        let of = |device| plan(device, 1, 1500).worker_of(0, 4);
        assert_eq!([0, 1, 2, 3, 4].map(of), [0, 1, 2, 3, 0]);
    }

    #[test]
    fn the_rings_of_many_queues_are_smaller_and_never_too_small() {
        assert_eq!([1, 16, 17, 96, 256].map(|n| ring_size(2048, n)), [2048, 2048, 1024, 256, 128]);
        assert_eq!(ring_size(64, 256), 64);
    }

    #[test]
    fn memory_is_for_the_rings_of_all_devices_by_the_size_of_their_frames() {
        let plans = [plan(0, 2, 1500), plan(1, 1, 1400), plan(2, 1, 3000)];
        assert_eq!(memory_of(&plans, 0, 2, 2048), [(2048, 4096), (4096, 4096)]);
        assert_eq!(memory_of(&plans, 1, 2, 2048), [(2048, 8192)]);
        assert_eq!(memory_of(&[], 0, 1, 2048), []);
        let many = vec![(2048, 16 * 512); 6];
        assert_eq!(memory_of(&[plan(0, 96, 1500)], 0, 1, 2048), many);
    }

    #[test]
    fn a_change_of_mtu_needs_other_sockets_only_for_frames_of_another_size() {
        let needs = |from, to| plan(0, 1, from).needs_other_sockets(&plan(0, 1, to));
        assert!(!needs(1500, 1400) && !needs(1400, 1774) && !needs(3000, 3800));
        assert!(needs(1500, 3000) && needs(3000, 1500));
        assert!(plan(0, 1, 1500).needs_other_sockets(&plan(0, 2, 1500)), "another queue");
    }
}
