//! A real name server, and `dig`.

use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::listeners;
use crate::netns::Netns;
use crate::process::Process;

/// A name that the server knows, and its address.
pub const NAME: &str = "www.example";
const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Starts `dnsmasq` on one address; it answers until dropped.
///
/// # Errors
/// When it does not come to listen.
pub fn serve(netns: &Netns, address: Ipv4Addr) -> Result<Process> {
    let mut command = Command::new("dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", "--user=root"]);
    command.args(["--no-resolv", "--no-hosts", "--bind-interfaces"]);
    command.arg(format!("--listen-address={address}"));
    command.arg(format!("--host-record={NAME},{ADDRESS}"));
    let server = netns.spawn(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    listeners::wait_for_udp(netns, 53)?;
    Ok(server)
}

/// Asks for [`NAME`] as resolvers do, again after a second without an answer, twice; was it
/// answered?
///
/// # Errors
/// When `dig` cannot run.
pub fn query(netns: &Netns, server: Ipv4Addr) -> Result<bool> {
    let mut command = Command::new("dig");
    command.args(["+short", "+time=1", "+tries=3", &format!("@{server}"), NAME]);
    let output = netns.run(|| command.output())?.context("cannot start dig")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim() == ADDRESS.to_string())
}
