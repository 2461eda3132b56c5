//! Many parallel TCP connections that keep echoing until they are told to stop.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;

use crate::limits::bounded;
use crate::topology::Host;
use crate::wait;

/// Bytes of one round: sent, echoed, compared.
const BLOCK: usize = 1024;

/// Connections of a host with a block on its way at the same time. All are open all the time; this
/// bounds the load, so that what is tested is the gateway and not how it queues.
const IN_FLIGHT: usize = 16;

/// Between two groups of blocks, so that a small machine has room for what else is tested.
const PAUSE: Duration = Duration::from_millis(5);

/// How long a connection may be silent before it counts as broken.
const SILENCE: Duration = Duration::from_secs(10);

/// What became of the connections.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TcpReport {
    /// Connections that were opened and still echoed faithfully when told to stop.
    pub intact: usize,
    /// Rounds completed over all connections.
    pub rounds: usize,
    /// Why each of the others broke.
    pub broken: Vec<String>,
}

/// Running connections; dropping it stops them.
#[derive(Debug)]
pub struct TcpLoad {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicUsize>,
    settled: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Result<Vec<Connection>>>>,
}

impl TcpLoad {
    /// Opens `connections` connections (at most 1000) from every host to an echo server. They echo
    /// in turn, a few of each host at a time, until [`Self::stop`], at most for `bound`.
    ///
    /// # Errors
    /// When a thread cannot be started. A connection that cannot be opened counts as broken.
    pub fn start(
        hosts: &[Host],
        server: impl Into<SocketAddr>,
        connections: usize,
        bound: Duration,
    ) -> Result<Self> {
        bounded("the number of TCP connections per host", connections, 1000)?;
        let mut load = Self {
            stop: Arc::default(),
            rounds: Arc::default(),
            settled: Arc::default(),
            threads: Vec::new(),
        };
        let (server, deadline) = (server.into(), Instant::now() + bound);
        for (index, host) in hosts.iter().enumerate() {
            let (stop, rounds) = (Arc::clone(&load.stop), Arc::clone(&load.rounds));
            let (settled, address) = (Arc::clone(&load.settled), host.address);
            load.threads.push(host.netns.thread("tcp-load", move || {
                let open = |number| {
                    let name = format!("{address} connection {number}");
                    Connection::open(server, name, (index * connections + number) as u64)
                };
                let mut all: Vec<_> = (0..connections).map(open).collect();
                pass(&mut all, &rounds, || true);
                settled.fetch_add(1, Ordering::Relaxed);
                let running = || !stop.load(Ordering::Relaxed) && Instant::now() < deadline;
                while running() {
                    pass(&mut all, &rounds, running);
                }
                // Each must still be alive at the end, also those whose turn was long ago.
                pass(&mut all, &rounds, || true);
                all
            })?);
        }
        Ok(load)
    }

    /// Waits until every connection has completed a round or has broken.
    ///
    /// # Errors
    /// When one does neither within [`wait::BOUND`].
    pub fn wait_until_settled(&self) -> Result<()> {
        wait::until("every connection to echo once or to break", wait::BOUND, || {
            let settled = self.settled.load(Ordering::Relaxed);
            Ok((settled == self.threads.len()).then_some(()))
        })
    }

    /// Rounds completed so far over all connections.
    #[must_use]
    pub fn rounds(&self) -> usize {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Ends the connections and reports what became of them.
    ///
    /// # Errors
    /// When a thread could not enter its namespace, or panicked.
    pub fn stop(mut self) -> Result<TcpReport> {
        self.stop.store(true, Ordering::Relaxed);
        let mut report = TcpReport::default();
        for thread in self.threads.drain(..) {
            let host = thread.join().map_err(|_| anyhow!("a TCP generator panicked"))??;
            for connection in host {
                match connection.stream {
                    Ok(_) => report.intact += 1,
                    Err(error) => report.broken.push(format!("{}: {error:#}", connection.name)),
                }
            }
        }
        report.rounds = self.rounds();
        Ok(report)
    }
}

impl Drop for TcpLoad {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// One connection, or why it is none any more.
#[derive(Debug)]
struct Connection {
    name: String,
    stream: Result<TcpStream>,
    seed: u64,
    round: u64,
}

impl Connection {
    fn open(server: SocketAddr, name: String, seed: u64) -> Self {
        let connect = || -> Result<TcpStream> {
            let stream = TcpStream::connect_timeout(&server, SILENCE)
                .with_context(|| format!("cannot connect to {server}"))?;
            stream.set_write_timeout(Some(SILENCE))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        Self { name, stream: connect(), seed, round: 0 }
    }

    fn send(&mut self) {
        let block = self.block();
        self.step(|stream| Ok(stream.write_all(&block)?), "cannot send");
    }

    /// Takes back what was sent; whether it came back.
    fn receive(&mut self, deadline: Instant) -> bool {
        let expected = self.block();
        let receive = |stream: &mut TcpStream| {
            // Zero would mean to wait forever.
            let left = deadline.saturating_duration_since(Instant::now());
            stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            let mut received = vec![0; BLOCK];
            stream.read_exact(&mut received)?;
            ensure!(received == expected, "it came back changed");
            Ok(())
        };
        self.step(receive, "no echo of");
        self.round += 1;
        self.stream.is_ok()
    }

    fn step(&mut self, work: impl FnOnce(&mut TcpStream) -> Result<()>, what: &str) {
        let Ok(stream) = &mut self.stream else { return };
        if let Err(error) = work(stream) {
            self.stream = Err(error.context(format!("{what} round {}", self.round)));
        }
    }

    /// Different for every connection and round, so that mixed-up or repeated data is noticed.
    fn block(&self) -> Vec<u8> {
        let start = self.seed << 32 | self.round;
        (0..BLOCK as u64 / 8)
            .flat_map(|word| (start ^ word << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
            .collect()
    }
}

/// A round of every connection, a group at a time while `running`; counts those completed.
fn pass(all: &mut [Connection], rounds: &AtomicUsize, running: impl Fn() -> bool) {
    for group in all.chunks_mut(IN_FLIGHT).take_while(|_| running()) {
        group.iter_mut().for_each(Connection::send);
        let deadline = Instant::now() + SILENCE;
        for connection in group {
            if connection.receive(deadline) {
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        }
        std::thread::sleep(PAUSE);
    }
}
