//! `ping` and `curl` with typed results.

use std::io::Write;
use std::net::IpAddr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

use crate::limits::bounded;
use crate::netns::Netns;

/// What `ping` counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Ping {
    /// Echo requests sent.
    pub sent: usize,
    /// Distinct answers received.
    pub received: usize,
}

/// Sends `count` echo requests (at most 10 000), ten milliseconds apart.
///
/// # Errors
/// When `ping` cannot run. Lost answers are a result, not an error.
pub fn ping(netns: &Netns, destination: impl Into<IpAddr>, count: usize) -> Result<Ping> {
    bounded("the number of pings", count, 10_000)?;
    let mut command = Command::new("ping");
    command.args(["-n", "-q", "-i", "0.01", "-W", "2", "-c", &count.to_string()]);
    command.arg(destination.into().to_string());
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
    fn sha256_matches_the_published_vector() {
        // FIPS 180-2, appendix B.1.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc").unwrap(), expected);
    }
}
