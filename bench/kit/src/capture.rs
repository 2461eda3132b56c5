//! Watching one port: every IPv4 frame judged, sources and flows counted, none lost unnoticed.
//!
//! `tcpdump` reads the port and a thread tallies its output as it comes, so nothing goes to disk. It
//! runs without a filter: then its counters of packets received and captured agree exactly when it
//! has read everything, which is how a capture knows that it may end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, BufReader, Read};
use std::net::Ipv4Addr;
use std::process::{ChildStderr, Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::frame::{self, Flow};
use crate::netns::Netns;
use crate::process::Process;
use crate::topology::{TOWARDS_GATEWAY, Topology};
use crate::wait;

/// Kernel buffer, KiB, in slots of [`LONGEST`]: what 130 000 frames take, for tcpdump has no CPU of its
/// own to read them by.
const BUFFER: &str = "262144";

/// Longest frame captured whole. Slots of this size fill the buffer, so more would mean fewer.
const LONGEST: &str = "2048";

/// How many faults are kept word for word.
const FAULTS_KEPT: usize = 20;

/// What passed a port, in both directions: the addresses of a flow tell which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Frames of any kind.
    pub frames: u64,
    /// Packets by flow, for sound IPv4 frames.
    pub flows: BTreeMap<Flow, u64>,
    /// Number of frames with a fault: malformed, or a wrong checksum.
    pub faulty: u64,
    /// The first of the faults, with the frame in hexadecimal.
    pub faults: Vec<String>,
    /// The frames that were to be [kept](Capture::keeping), in their order.
    pub kept: Vec<Vec<u8>>,
}

impl Tally {
    /// The distinct flows of one protocol to one destination.
    #[must_use]
    pub fn flows_to(&self, destination: Ipv4Addr, protocol: u8) -> BTreeSet<Flow> {
        let wanted = |flow: &&Flow| flow.destination == destination && flow.protocol == protocol;
        self.flows.keys().filter(wanted).copied().collect()
    }

    /// Packets to one destination, by source address.
    #[must_use]
    pub fn sources_to(&self, destination: Ipv4Addr) -> BTreeMap<Ipv4Addr, u64> {
        let mut sources = BTreeMap::new();
        for (flow, packets) in self.flows.iter().filter(|(f, _)| f.destination == destination) {
            *sources.entry(flow.source).or_default() += packets;
        }
        sources
    }

    fn add(&mut self, bytes: &[u8], keep: fn(&[u8]) -> bool) {
        self.frames += 1;
        if keep(bytes) {
            self.kept.push(bytes.to_vec());
        }
        match frame::read(bytes) {
            Ok(Some(flow)) => *self.flows.entry(flow).or_default() += 1,
            Ok(None) => {}
            Err(fault) => {
                self.faulty += 1;
                if self.faults.len() < FAULTS_KEPT {
                    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    self.faults.push(format!("{fault:?}: {hex}"));
                }
            }
        }
    }
}

/// A running capture; dropping it ends it without a result.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Process,
    messages: BufReader<ChildStderr>,
    reader: Option<JoinHandle<io::Result<Tally>>>,
}

impl Capture {
    /// Watches `device` in `netns`. Frames are seen from the moment this returns.
    ///
    /// # Errors
    /// When `tcpdump` cannot capture there.
    pub fn start(netns: &Netns, device: &str) -> Result<Self> {
        Self::keeping(netns, device, |_| false)
    }

    /// Watches each provider's link to the gateway, in their order.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn at_providers(topology: &Topology) -> Result<Vec<Self>> {
        topology.providers.iter().map(|it| Self::start(&it.netns, TOWARDS_GATEWAY)).collect()
    }

    /// As [`Self::start`]; the tally has those frames too that `keep` says.
    ///
    /// # Errors
    /// When `tcpdump` cannot capture there.
    pub fn keeping(netns: &Netns, device: &str, keep: fn(&[u8]) -> bool) -> Result<Self> {
        let mut command = Command::new("tcpdump");
        // Immediate mode gives a buffer slot to each frame, and the reader each frame at once.
        command.args(["-n", "-U", "--immediate-mode", "-Z", "root", "-B", BUFFER, "-s", LONGEST]);
        command.args(["-i", device, "-w", "-"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut tcpdump = netns.spawn(&mut command)?;
        let stderr = tcpdump.child().stderr.take().context("tcpdump has no stderr")?;
        let stdout = tcpdump.child().stdout.take().context("tcpdump has no stdout")?;
        let reader = std::thread::Builder::new()
            .name("capture".into())
            .spawn(move || tally(BufReader::with_capacity(1 << 20, stdout), keep))?;
        let mut capture = Self { tcpdump, messages: BufReader::new(stderr), reader: Some(reader) };
        capture
            .message("listening on")
            .with_context(|| format!("cannot capture on {device} in {}", netns.name()))?;
        Ok(capture)
    }

    /// Ends the capture once everything that has passed the port is read.
    ///
    /// # Errors
    /// When `tcpdump` lost a frame or cannot be asked, or its output cannot be read.
    pub fn stop(mut self) -> Result<Tally> {
        wait::until("tcpdump to read what passed", wait::BOUND, || {
            let status = self.status()?;
            let Status { received, dropped, .. } = status;
            ensure!(dropped == 0, "tcpdump lost {dropped} of {received} frames");
            Ok((status.captured == status.received).then_some(()))
        })?;
        self.signal(Signal::TERM)?;
        let status = self.tcpdump.child().wait().context("cannot wait for tcpdump")?;
        ensure!(status.success(), "tcpdump failed: {status}");
        let reader = self.reader.take().context("the capture has no reader")?;
        let tally = reader.join().map_err(|_| anyhow!("the capture's reader panicked"))?;
        tally.context("cannot read what tcpdump wrote")
    }

    /// Asks `tcpdump` for its counters.
    fn status(&mut self) -> Result<Status> {
        self.signal(Signal::USR1)?;
        // "1 packet captured", but "2 packets captured".
        let line = self.message(" captured, ")?;
        Status::parse(&line).with_context(|| format!("tcpdump's counters are unreadable: {line}"))
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let pid = Pid::from_child(self.tcpdump.child());
        kill_process(pid, signal).context("cannot signal tcpdump")
    }

    /// The next message that contains `part`.
    fn message(&mut self, part: &str) -> Result<String> {
        let mut seen = String::new();
        loop {
            let start = seen.len();
            if self.messages.read_line(&mut seen)? == 0 {
                return Err(anyhow!("tcpdump ended: {}", seen.trim()));
            }
            if seen[start..].contains(part) {
                return Ok(seen.split_off(start));
            }
        }
    }
}

/// `tcpdump`'s counters, as SIGUSR1 prints them.
#[derive(Debug, PartialEq, Eq)]
struct Status {
    captured: u64,
    received: u64,
    dropped: u64,
}

impl Status {
    fn parse(line: &str) -> Option<Self> {
        let counts = line.trim().strip_prefix("tcpdump: ").unwrap_or(line.trim());
        let mut numbers = counts.split(", ").map(|part| part.split(' ').next()?.parse().ok());
        Some(Self {
            captured: numbers.next()??,
            received: numbers.next()??,
            dropped: numbers.next()??,
        })
    }
}

/// Reads a pcap stream to its end (draft-ietf-opsawg-pcap, in the machine's byte order).
fn tally(mut stream: impl Read, keep: fn(&[u8]) -> bool) -> io::Result<Tally> {
    let mut tally = Tally::default();
    let mut file_header = [0; 24];
    stream.read_exact(&mut file_header)?;
    let mut record = [0; 16];
    let mut bytes = Vec::new();
    loop {
        match stream.read_exact(&mut record) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(tally),
            Err(error) => return Err(error),
        }
        let captured = u32::from_ne_bytes([record[8], record[9], record[10], record[11]]);
        bytes.resize(captured as usize, 0);
        stream.read_exact(&mut bytes)?;
        tally.add(&bytes, keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_tcpdump_are_read() {
        let line = "tcpdump: 5 packets captured, 7 packets received by filter, \
                    1 packet dropped by kernel\n";
        assert_eq!(Status::parse(line), Some(Status { captured: 5, received: 7, dropped: 1 }));
        assert_eq!(Status::parse("listening on gw"), None);
    }
}
