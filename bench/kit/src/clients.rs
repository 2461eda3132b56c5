//! `ping`, `curl`, `traceroute` and `tracepath` with typed results.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::limits::bounded;
use crate::netns::Netns;

/// Most echo requests that ping sends at once: fewer than any queue on their way has room for.
const AT_ONCE: usize = 50;

/// What `ping` counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ping {
    /// Echo requests sent.
    pub sent: usize,
    /// Distinct answers received.
    pub received: usize,
}

/// Sends `count` echo requests (at most 10 000): at once, or if they are many ten milliseconds apart.
///
/// # Errors
/// When `ping` cannot run. Lost answers are a result, not an error.
pub fn ping(netns: &Netns, destination: impl Into<IpAddr>, count: usize) -> Result<Ping> {
    echoes(netns, &mut Command::new("ping"), destination.into(), count)
}

/// As [`ping`], from this address.
///
/// # Errors
/// As [`ping`], and when the address is not there.
pub fn ping_from(
    netns: &Netns,
    source: impl Into<IpAddr>,
    destination: impl Into<IpAddr>,
    count: usize,
) -> Result<Ping> {
    let mut command = Command::new("ping");
    command.args(["-I", &source.into().to_string()]);
    echoes(netns, &mut command, destination.into(), count)
}

/// As [`ping_from`], with this identifier.
///
/// # Errors
/// As [`ping_from`].
pub fn ping_as(
    netns: &Netns,
    source: impl Into<IpAddr>,
    identifier: u16,
    destination: impl Into<IpAddr>,
    count: usize,
) -> Result<Ping> {
    let mut command = Command::new("ping");
    command.args(["-e", &identifier.to_string(), "-I", &source.into().to_string()]);
    echoes(netns, &mut command, destination.into(), count)
}

fn echoes(netns: &Netns, command: &mut Command, destination: IpAddr, count: usize) -> Result<Ping> {
    bounded("the number of pings", count, 10_000)?;
    let number = count.to_string();
    command.args(["-n", "-q", "-W", "2", "-c", &number]);
    // Once something was answered, ping waits for the rest no longer than its interval.
    match count <= AT_ONCE {
        true => command.args(["-i", "2", "-l", &number]),
        false => command.args(["-i", "0.01"]),
    };
    command.arg(destination.to_string());
    let output = netns.run(|| command.output())?.context("cannot start ping")?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    // 0: answers came; 1: none did; anything else: ping itself failed.
    if !matches!(output.status.code(), Some(0 | 1)) {
        bail!("ping failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    parse_ping(&stdout).with_context(|| format!("ping printed no summary: {stdout}"))
}

fn parse_ping(stdout: &str) -> Option<Ping> {
    let summary = stdout.lines().find(|line| line.contains("packets transmitted"))?;
    let number = |suffix: &str| {
        let part = summary.split(", ").find(|part| part.ends_with(suffix))?;
        part.split(' ').next()?.parse().ok()
    };
    Some(Ping { sent: number(" packets transmitted")?, received: number(" received")? })
}

/// Who answers on the way to `destination`, hop by hop, by `traceroute` with UDP; the last is the
/// destination if it was reached. A hop that does not answer is `None`.
///
/// # Errors
/// When `traceroute` cannot run.
pub fn traceroute(netns: &Netns, destination: impl Into<IpAddr>) -> Result<Vec<Option<IpAddr>>> {
    let mut command = Command::new("traceroute");
    command.args(["-n", "-q", "1", "-N", "1", "-w", "2", "-m", "8"]);
    let output = netns.output(command.arg(destination.into().to_string()))?;
    Ok(parse_traceroute(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_traceroute(stdout: &str) -> Vec<Option<IpAddr>> {
    let answerer = |line: &str| line.split_whitespace().nth(1)?.parse().ok();
    stdout.lines().skip(1).map(answerer).collect()
}

/// The way to a destination as `tracepath` finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The largest packet that it carries, bytes.
    pub mtu: u32,
    /// Hops to the destination; none if that did not answer.
    pub hops: Option<u32>,
}

/// Asks `tracepath` for the way to `destination`.
///
/// # Errors
/// When `tracepath` cannot run, or prints no MTU.
pub fn tracepath(netns: &Netns, destination: impl Into<IpAddr>) -> Result<Path> {
    let mut command = Command::new("tracepath");
    command.args(["-n", "-m", "8"]).arg(destination.into().to_string());
    let output = netns.output(&mut command)?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    parse_tracepath(&stdout).with_context(|| format!("tracepath printed no summary: {stdout}"))
}

fn parse_tracepath(stdout: &str) -> Option<Path> {
    let summary = stdout.lines().find_map(|line| line.trim().strip_prefix("Resume: "))?;
    let words: Vec<_> = summary.split_whitespace().collect();
    let behind = |word| words.iter().skip_while(|it| **it != word).nth(1)?.parse().ok();
    Some(Path { mtu: behind("pmtu")?, hops: behind("hops") })
}

/// What `curl` received.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Download {
    /// Length of the body, bytes.
    pub bytes: usize,
    /// SHA-256 of the body, lower-case hexadecimal.
    pub sha256: String,
}

/// Downloads `url` within a minute.
///
/// # Errors
/// When the transfer fails or ends early, or the server answers with an error.
pub fn curl(netns: &Netns, url: &str) -> Result<Download> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "60"]);
    let output = netns.output(command.arg(url))?;
    Ok(Download { bytes: output.stdout.len(), sha256: sha256(&output.stdout)? })
}

/// What `curl` says of a download within half a minute from an address or an interface: the body,
/// and how it went.
///
/// # Errors
/// When `curl` cannot run. A transfer that fails is a result, not an error.
pub fn curl_from(netns: &Netns, from: &str, url: &str) -> Result<Output> {
    let mut command = Command::new("curl");
    command.args(["--silent", "--verbose", "--fail", "--noproxy", "*", "--max-time", "30"]);
    command.args(["--interface", from, url]);
    netns.run(|| command.output())?.context("cannot start curl")
}

/// SHA-256 of `bytes`, lower-case hexadecimal.
///
/// # Errors
/// When `sha256sum` cannot run.
pub fn sha256(bytes: &[u8]) -> Result<String> {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start sha256sum")?;
    child.stdin.take().context("sha256sum has no stdin")?.write_all(bytes)?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let digest = text.split(' ').next().unwrap_or_default();
    ensure!(output.status.success() && digest.len() == 64, "sha256sum printed {text:?}");
    Ok(digest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_of_ping_is_read() {
        let text = "--- 198.51.100.1 ping statistics ---\n\
                    20 packets transmitted, 18 received, +2 errors, 10% packet loss, time 21ms\n";
        assert_eq!(parse_ping(text), Some(Ping { sent: 20, received: 18 }));
        assert_eq!(parse_ping("nothing"), None);
    }

    #[test]
    fn what_traceroute_and_tracepath_print_is_read() {
        let text = "traceroute to 2001:2:0:ff::1, 8 hops max, 80 byte packets\n \
                    1  2001:2:0:100::1  0.050 ms\n 2  *\n 3  2001:2:0:ff::1  0.121 ms\n";
        let at = |text: &str| text.parse::<IpAddr>().ok();
        assert_eq!(parse_traceroute(text), [at("2001:2:0:100::1"), None, at("2001:2:0:ff::1")]);
        let text = " 1?: [LOCALHOST]          0.007ms pmtu 1500\n \
                    2:  2001:2:0:a0::1        0.044ms pmtu 1480\n \
                    3:  2001:2:0:ff::1        0.097ms reached\n     \
                    Resume: pmtu 1480 hops 3 back 3 \n";
        assert_eq!(parse_tracepath(text), Some(Path { mtu: 1480, hops: Some(3) }));
        let lost = "     Too many hops: pmtu 1500\n     Resume: pmtu 1500 \n";
        assert_eq!(parse_tracepath(lost), Some(Path { mtu: 1500, hops: None }));
    }

    #[test]
    fn sha256_matches_the_published_vector() {
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc").unwrap(), expected);
    }
}
