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
    Ok(is_answer(&String::from_utf8_lossy(&output.stdout)))
}

/// Whether `dig +short` printed the address and no other answer. A try that was not answered
/// prints a line of its own before it, which begins with `;;`.
fn is_answer(printed: &str) -> bool {
    let answers = printed.lines().filter(|line| !line.starts_with(";;"));
    answers.eq([ADDRESS.to_string()])
}

#[cfg(test)]
mod tests {
    use super::is_answer;

    #[test]
    fn an_answer_to_a_second_try_is_an_answer() {
        let lost = ";; communications error to 198.51.100.1#53: timed out\n";
        assert!(is_answer("192.0.2.1\n"));
        assert!(is_answer(&format!("{lost}192.0.2.1\n")));
        assert!(!is_answer(&lost.repeat(3)));
        assert!(!is_answer(""));
        assert!(!is_answer("192.0.2.2\n"));
    }
}
