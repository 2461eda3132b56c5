//! Rings between workers: a packet that another worker must handle, or send by a device that the
//! first has no socket of, is copied into a parcel of a fixed pool and queued; no lock, no allocation.
//!
//! Frames belong to one worker's UMEM, so the bytes travel and the frame stays. A worker that
//! sleeps is woken by an eventfd, once per batch.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_queue::ArrayQueue;
use rustix::event::{EventfdFlags, eventfd};

/// Parcels per receiving worker: what its inbox holds at most.
pub const PARCELS: usize = 1024;
/// Largest frame that travels.
const PARCEL_BYTES: usize = 4096;

/// What the other worker is to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Handle it as one that came in by the device.
    Handle,
    /// Send it by the device.
    Send,
}

#[derive(Debug)]
struct Parcel {
    device: u8,
    task: Task,
    len: usize,
    bytes: Box<[u8; PARCEL_BYTES]>,
}

#[derive(Debug)]
struct Inbox {
    full: ArrayQueue<Parcel>,
    empty: ArrayQueue<Parcel>,
    asleep: AtomicBool,
    bell: OwnedFd,
}

/// The inboxes of all workers.
#[derive(Clone, Debug)]
pub struct Handoff {
    inboxes: Arc<[Inbox]>,
}

impl Handoff {
    /// Inboxes for `workers` workers.
    pub fn new(workers: u8) -> std::io::Result<Self> {
        let inbox = |_| {
            let inbox = Inbox {
                full: ArrayQueue::new(PARCELS),
                empty: ArrayQueue::new(PARCELS),
                asleep: AtomicBool::new(false),
                bell: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            };
            // One worker has nobody to hand over to.
            for _ in 0..if workers > 1 { PARCELS } else { 0 } {
                let bytes = Box::new([0; PARCEL_BYTES]);
                let parcel = Parcel { device: 0, task: Task::Handle, len: 0, bytes };
                let _ = inbox.empty.push(parcel);
            }
            Ok(inbox)
        };
        Ok(Self { inboxes: (0..workers).map(inbox).collect::<std::io::Result<_>>()? })
    }

    /// Queues a copy of `frame` for `worker`; `false` when its inbox is full or the frame too long.
    pub fn push(&self, worker: u8, device: u8, task: Task, frame: &[u8]) -> bool {
        let Some(inbox) = self.inboxes.get(usize::from(worker)) else { return false };
        if frame.len() > PARCEL_BYTES {
            return false;
        }
        let Some(mut parcel) = inbox.empty.pop() else { return false };
        (parcel.device, parcel.task, parcel.len) = (device, task, frame.len());
        parcel.bytes[..frame.len()].copy_from_slice(frame);
        // The queues hold as many as there are parcels, so there is room.
        inbox.full.push(parcel).is_ok()
    }

    /// Lets `take` have the frames queued for `worker`, up to `max`, until it refuses one; that
    /// one is lost, and counted in the second number.
    pub fn collect(
        &self,
        worker: u8,
        max: usize,
        mut take: impl FnMut(u8, Task, &[u8]) -> bool,
    ) -> (usize, usize) {
        let inbox = &self.inboxes[usize::from(worker)];
        let (mut taken, mut lost) = (0, 0);
        while taken + lost < max {
            let Some(parcel) = inbox.full.pop() else { break };
            match take(parcel.device, parcel.task, &parcel.bytes[..parcel.len]) {
                true => taken += 1,
                false => lost += 1,
            }
            let _ = inbox.empty.push(parcel);
        }
        (taken, lost)
    }

    /// Wakes every other worker that sleeps on a full inbox.
    pub fn wake_others(&self, worker: u8) {
        for (index, inbox) in self.inboxes.iter().enumerate() {
            let waiting = index != usize::from(worker) && !inbox.full.is_empty();
            if waiting && inbox.asleep.swap(false, Ordering::AcqRel) {
                let _ = rustix::io::write(&inbox.bell, &1u64.to_ne_bytes());
            }
        }
    }

    /// Announces that `worker` is about to sleep; `false` when there is mail, so it should not.
    pub fn may_sleep(&self, worker: u8) -> bool {
        let inbox = &self.inboxes[usize::from(worker)];
        inbox.asleep.store(true, Ordering::SeqCst);
        let empty = inbox.full.is_empty();
        if !empty {
            inbox.asleep.store(false, Ordering::Relaxed);
        }
        empty
    }

    /// The worker is awake again.
    pub fn awake(&self, worker: u8) {
        let inbox = &self.inboxes[usize::from(worker)];
        inbox.asleep.store(false, Ordering::Relaxed);
        let _ = rustix::io::read(&inbox.bell, &mut [0u8; 8]);
    }

    /// Wakes `worker`, whatever its inbox has.
    pub fn wake(&self, worker: u8) {
        if let Some(inbox) = self.inboxes.get(usize::from(worker)) {
            let _ = rustix::io::write(&inbox.bell, &1u64.to_ne_bytes());
        }
    }

    /// What wakes `worker`.
    pub fn bell(&self, worker: u8) -> BorrowedFd<'_> {
        self.inboxes[usize::from(worker)].bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(handoff: &Handoff, worker: u8, frame: &[u8]) -> bool {
        handoff.push(worker, 0, Task::Handle, frame)
    }

    #[test]
    fn what_is_given_is_collected_in_order() {
        let handoff = Handoff::new(2).unwrap();
        assert!(handoff.push(1, 7, Task::Handle, b"first"));
        assert!(handoff.push(1, 8, Task::Send, b"second"));
        let mut seen = Vec::new();
        let counts = handoff.collect(1, 64, |device, task, frame| {
            seen.push((device, task, frame.to_vec()));
            true
        });
        assert_eq!(counts, (2, 0));
        let (first, second) = (b"first".to_vec(), b"second".to_vec());
        assert_eq!(seen, [(7, Task::Handle, first), (8, Task::Send, second)]);
        assert_eq!(handoff.collect(0, 64, |_, _, _| true), (0, 0));
    }

    #[test]
    fn a_full_inbox_refuses_and_recovers() {
        let handoff = Handoff::new(2).unwrap();
        let pushed = (0..PARCELS + 10).filter(|_| push(&handoff, 1, b"x")).count();
        assert_eq!(pushed, PARCELS);
        assert_eq!(handoff.collect(1, usize::MAX, |_, _, _| true), (PARCELS, 0));
        assert!(push(&handoff, 1, b"x"));
    }

    #[test]
    fn nobody_there_and_too_long_are_refused() {
        let handoff = Handoff::new(2).unwrap();
        assert!(!push(&handoff, 2, b"x"));
        assert!(!push(&handoff, 1, &[0; PARCEL_BYTES + 1]));
    }

    #[test]
    fn a_sleeper_with_mail_is_woken() {
        let handoff = Handoff::new(2).unwrap();
        assert!(handoff.may_sleep(1));
        push(&handoff, 1, b"x");
        handoff.wake_others(0);
        assert_eq!(rustix::io::read(handoff.bell(1), &mut [0u8; 8]), Ok(8));
        assert!(!handoff.may_sleep(1));
    }
}
