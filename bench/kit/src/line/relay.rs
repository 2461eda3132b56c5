//! One direction of a line: a thread between two packet sockets.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pnet_datalink::{Config, NetworkInterface};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::impairment::{Impairment, Judge, Outcome};
use crate::netns::Netns;

/// Longest frame, bytes: an MTU of 9000 with header and tag.
const LONGEST: usize = 9018;
/// Receive buffer of a port, bytes.
const BUFFER: usize = 8 << 20;
/// Most frames on the way at a time.
const HELD: usize = 16_384;
/// Frames taken before those that are due are looked at again.
const BURST: usize = 64;
/// How often a relay without work looks whether it should end.
const PATIENCE: Duration = Duration::from_millis(50);

/// What a relay shares with its line.
#[derive(Debug, Default)]
pub(super) struct Way {
    pub impairment: Mutex<Impairment>,
    pub carried: AtomicU64,
    pub lost: AtomicU64,
    pub overflowed: AtomicU64,
    pub stop: AtomicBool,
}

/// A packet socket on a device, which receives what arrives there and nothing that it sends itself:
/// the kernel gives a packet to all sockets of the device but its own sender (`skb_loop_sk`,
/// `net/core/dev.c`). So both directions use the same socket of a device.
pub(super) fn port(netns: &Netns, device: &str) -> Result<OwnedFd> {
    netns
        .run(|| -> Result<OwnedFd> {
            let (family, kind) = (AddressFamily::PACKET, SocketType::RAW);
            let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
            sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)?;
            let interface: NetworkInterface = pnet_datalink::interfaces()
                .into_iter()
                .find(|interface| interface.name == device)
                .context("there is no such device")?;
            // Binds it and makes the device promiscuous; closes its own copy when dropped.
            let socket_fd = Some(socket.try_clone()?.into_raw_fd());
            pnet_datalink::channel(&interface, Config { socket_fd, ..Config::default() })?;
            Ok(socket)
        })?
        .with_context(|| format!("cannot open {device} in {}", netns.name()))
}

/// A frame on its way; the first to leave is the smallest.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Held {
    leaves: Duration,
    number: u64,
    bytes: Box<[u8]>,
}

pub(super) struct Relay {
    from: OwnedFd,
    to: OwnedFd,
    way: Arc<Way>,
    judge: Judge,
    start: Instant,
    held: BinaryHeap<Reverse<Held>>,
    number: u64,
}

impl Relay {
    pub(super) fn new(from: OwnedFd, to: OwnedFd, way: Arc<Way>, seed: u64) -> Self {
        let (judge, start) = (Judge::new(seed), Instant::now());
        Self { from, to, way, judge, start, held: BinaryHeap::new(), number: 0 }
    }

    pub(super) fn run(mut self) -> Result<()> {
        let mut frame = vec![0; LONGEST];
        while !self.way.stop.load(Ordering::Relaxed) {
            self.release();
            self.sleep().context("a line cannot wait for frames")?;
            for _ in 0..BURST {
                match rustix::net::recv(&self.from, &mut frame[..], RecvFlags::DONTWAIT) {
                    Ok((_, length)) => self.take(&frame[..length.min(LONGEST)]),
                    // Told once when the device goes down; its frames come again with it.
                    Err(Errno::NETDOWN) => {}
                    Err(Errno::AGAIN | Errno::INTR) => break,
                    Err(error) => return Err(error).context("a line cannot receive"),
                }
            }
        }
        Ok(())
    }

    /// Until a frame comes, or is due.
    fn sleep(&self) -> Result<()> {
        let due = |held: &Reverse<Held>| held.0.leaves.saturating_sub(self.start.elapsed());
        let patience = self.held.peek().map_or(PATIENCE, due).min(PATIENCE);
        match poll(
            &mut [PollFd::new(&self.from, PollFlags::IN)],
            Some(&Timespec::try_from(patience)?),
        ) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn take(&mut self, frame: &[u8]) {
        let impairment = self.impairment();
        let now = self.start.elapsed();
        let add = |counter: &AtomicU64| _ = counter.fetch_add(1, Ordering::Relaxed);
        match self.judge.judge(&impairment, frame.len(), now) {
            Outcome::Lost => add(&self.way.lost),
            Outcome::Overflows => add(&self.way.overflowed),
            Outcome::Leaves(leaves) if leaves <= now && self.held.is_empty() => self.send(frame),
            Outcome::Leaves(_) if self.held.len() == HELD => add(&self.way.overflowed),
            Outcome::Leaves(leaves) => {
                self.number += 1;
                let held = Held { leaves, number: self.number, bytes: frame.into() };
                self.held.push(Reverse(held));
            }
        }
    }

    /// Sends what is due. What is on its way when a direction dies does not arrive.
    fn release(&mut self) {
        let now = self.start.elapsed();
        while self.held.peek().is_some_and(|held| held.0.leaves <= now)
            && let Some(Reverse(held)) = self.held.pop()
        {
            match self.impairment().dead {
                true => _ = self.way.lost.fetch_add(1, Ordering::Relaxed),
                false => self.send(&held.bytes),
            }
        }
    }

    fn send(&self, frame: &[u8]) {
        // A port that is down, or whose peer is, carries nothing.
        let counter = match rustix::net::send(&self.to, frame, SendFlags::empty()) {
            Ok(_) => &self.way.carried,
            Err(_) => &self.way.lost,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn impairment(&self) -> Impairment {
        *self.way.impairment.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
