//! `iperf3` with typed results.

use std::net::IpAddr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::limits::bounded;
use crate::listeners;
use crate::netns::Netns;
use crate::process::Process;
use crate::wait;

/// The port `iperf3` listens on.
pub const PORT: u16 = 5201;

/// Starts an `iperf3` server on one address, which serves one client at a time until dropped. On no
/// particular address it would answer UDP from the link's, not from the one it was asked at.
///
/// # Errors
/// When it does not come to listen.
pub fn serve(netns: &Netns, address: impl Into<IpAddr>) -> Result<Process> {
    let mut command = Command::new("iperf3");
    command.args(["--server", "--bind", &address.into().to_string()]).stdout(Stdio::null());
    let server = netns.spawn(&mut command)?;
    listeners::wait_for(netns, PORT)?;
    Ok(server)
}

/// What to send, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Duration, at most 60 seconds.
    pub seconds: usize,
    /// Parallel streams, at most 64.
    pub streams: usize,
    /// From the server to the client.
    pub reverse: bool,
}

/// What a TCP transfer achieved.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TcpResult {
    /// Payload received, bytes.
    pub bytes: u64,
    /// Payload received, bits per second.
    pub bits_per_second: f64,
    /// Segments the sender repeated.
    pub retransmits: u64,
}

/// What a UDP transfer achieved.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct UdpResult {
    /// Payload sent, bits per second.
    pub bits_per_second: f64,
    /// Datagrams sent.
    pub packets: u64,
    /// Datagrams the receiver missed.
    pub lost: u64,
}

/// Runs a TCP transfer as fast as it goes.
///
/// # Errors
/// When the load is out of bounds, or `iperf3` reports an error.
pub fn tcp(netns: &Netns, server: impl Into<IpAddr>, load: Load) -> Result<TcpResult> {
    let end = run(netns, server.into(), load, &[])?;
    Ok(TcpResult {
        bytes: number(&end, "/sum_received/bytes")?,
        bits_per_second: rate(&end, "/sum_received/bits_per_second")?,
        retransmits: number(&end, "/sum_sent/retransmits")?,
    })
}

/// Runs a UDP transfer at a target rate, in bits of payload per second and stream.
///
/// # Errors
/// As [`tcp`].
pub fn udp(netns: &Netns, server: impl Into<IpAddr>, load: Load, bits: u64) -> Result<UdpResult> {
    let end = run(netns, server.into(), load, &["--udp", "--bitrate", &bits.to_string()])?;
    Ok(UdpResult {
        bits_per_second: rate(&end, "/sum/bits_per_second")?,
        packets: number(&end, "/sum/packets")?,
        lost: number(&end, "/sum/lost_packets")?,
    })
}

/// Is the server yet to put the last client away, by what this one prints?
fn is_busy(json: &Value, error: &str) -> bool {
    let begun = json["start"]["connected"].as_array().is_some_and(|streams| !streams.is_empty());
    ["server is busy", "Connection refused"].iter().any(|words| error.contains(words))
        || !begun && error.contains("control socket has closed")
}

/// The `end` object of the client's JSON.
fn run(netns: &Netns, server: IpAddr, load: Load, more: &[&str]) -> Result<Value> {
    bounded("the duration of iperf3 in seconds", load.seconds, 60)?;
    bounded("the number of iperf3 streams", load.streams, 64)?;
    let mut command = Command::new("iperf3");
    command.args(["--json", "--connect-timeout", "5000", "--client", &server.to_string()]);
    command.args(["--time", &load.seconds.to_string(), "--parallel", &load.streams.to_string()]);
    command.args(load.reverse.then_some("--reverse")).args(more);
    wait::until("iperf3's server to be free", wait::BOUND, || {
        let output = netns.run(|| command.output())?.context("cannot start iperf3")?;
        let mut json: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("iperf3 printed no JSON ({})", output.status))?;
        match json["error"].as_str() {
            Some(error) if is_busy(&json, error) => Ok(None),
            Some(error) => bail!("iperf3 to {server} failed: {error}"),
            None => Ok(Some(json["end"].take())),
        }
    })
}

fn number(end: &Value, path: &str) -> Result<u64> {
    end.pointer(path).and_then(Value::as_u64).with_context(|| missing(path))
}

fn rate(end: &Value, path: &str) -> Result<f64> {
    end.pointer(path).and_then(Value::as_f64).with_context(|| missing(path))
}

fn missing(path: &str) -> String {
    format!("iperf3 reports no end{path}")
}
