//! Waiting for a server program to be ready.

use std::process::Command;

use anyhow::Result;

use crate::netns::Netns;
use crate::wait;

/// Waits until something listens on a TCP port in `netns`. Looks at the kernel's sockets rather
/// than connecting: some servers take a first connection for a client's.
///
/// # Errors
/// When nothing does within [`wait::BOUND`].
pub fn wait_for(netns: &Netns, port: u16) -> Result<()> {
    wait_for_socket(netns, "-Hltn", port)
}

/// As [`wait_for`], for UDP.
///
/// # Errors
/// As [`wait_for`].
pub fn wait_for_udp(netns: &Netns, port: u16) -> Result<()> {
    wait_for_socket(netns, "-Hlun", port)
}

fn wait_for_socket(netns: &Netns, kind: &str, port: u16) -> Result<()> {
    let what = format!("a listener on port {port} in {}", netns.name());
    wait::until(&what, wait::BOUND, || {
        let mut command = Command::new("ss");
        let output = netns.output(command.args([kind, &format!("sport = {port}")]))?;
        Ok((!output.stdout.is_empty()).then_some(()))
    })
}
