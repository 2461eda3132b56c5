//! Many parallel TCP connections that keep echoing until they are told to stop.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
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

/// Between two rounds of a connection, so that hundreds of them fit in a small machine.
const PAUSE: Duration = Duration::from_millis(10);

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
    threads: Vec<JoinHandle<Result<Result<()>>>>,
}

impl TcpLoad {
    /// Opens `connections` connections (at most 1000) from every host to an echo server. They echo
    /// until [`Self::stop`], at most for `bound`.
    ///
    /// # Errors
    /// When a thread cannot be started. A connection that cannot be opened counts as broken.
    pub fn start(
        hosts: &[Host],
        server: SocketAddrV4,
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
        let deadline = Instant::now() + bound;
        for host in hosts {
            for number in 0..connections {
                let seed = load.threads.len();
                let (stop, rounds) = (Arc::clone(&load.stop), Arc::clone(&load.rounds));
                let settled = Arc::clone(&load.settled);
                let name = format!("{} connection {number}", host.address);
                let thread = host.netns.thread("tcp-load", move || {
                    let mut first = true;
                    let mut once = || {
                        if std::mem::take(&mut first) {
                            settled.fetch_add(1, Ordering::Relaxed);
                        }
                    };
                    let running = || !stop.load(Ordering::Relaxed) && Instant::now() < deadline;
                    let result = echo(server, seed, &rounds, running, &mut once);
                    once();
                    result.context(name)
                })?;
                load.threads.push(thread);
            }
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
            match thread.join().map_err(|_| anyhow!("a TCP generator panicked"))?? {
                Ok(()) => report.intact += 1,
                Err(error) => report.broken.push(format!("{error:#}")),
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

fn echo(
    server: SocketAddrV4,
    seed: usize,
    rounds: &AtomicUsize,
    running: impl Fn() -> bool,
    settled: &mut impl FnMut(),
) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&server.into(), SILENCE)
        .with_context(|| format!("cannot connect to {server}"))?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    stream.set_nodelay(true)?;
    let mut received = vec![0; BLOCK];
    for round in 0.. {
        let block = block(seed, round);
        stream.write_all(&block).with_context(|| format!("cannot send round {round}"))?;
        stream.read_exact(&mut received).with_context(|| format!("no echo of round {round}"))?;
        ensure!(received == block, "round {round} came back changed");
        rounds.fetch_add(1, Ordering::Relaxed);
        settled();
        // After the round, so that an intact connection has echoed at least once.
        if !running() {
            break;
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

/// Different for every connection and round, so that mixed-up or repeated data is noticed.
fn block(seed: usize, round: usize) -> Vec<u8> {
    let start = (seed as u64) << 32 | round as u64;
    (0..BLOCK as u64 / 8)
        .flat_map(|word| (start ^ word << 56).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect()
}
