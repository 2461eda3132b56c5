//! Prefix delegation by real programs: a DHCPv6 server of a provider (Kea), and the gateway's client
//! (dhcpcd) with the hook that weir ships.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::netns::Netns;
use crate::process::Process;
use crate::slaac;
use crate::topology::{Provider, TOWARDS_GATEWAY, Topology};
use crate::wait;
use crate::weir::Weir;

/// A provider's server. Dropping it kills it.
pub struct Server {
    file: PathBuf,
    link: String,
    process: Process,
}

impl Server {
    /// Starts one that delegates this prefix.
    ///
    /// # Errors
    /// When its configuration cannot be written, or it cannot be started.
    pub fn start(topology: &Topology, provider: usize, prefix: &str) -> Result<Self> {
        let directory = topology.run.file_directory()?.join(format!("kea{provider}"));
        fs::create_dir_all(&directory)?;
        let file = directory.join("kea.conf");
        let link = format!("{}/64", crate::ipv6::link(provider, 0));
        fs::write(&file, configuration(&link, prefix))?;
        let Provider { netns, .. } = &topology.providers[provider];
        // Kea does not come back to an interface whose address it could not use.
        wait::until("the server's own address on the link", wait::BOUND, || {
            Ok(slaac::has_link_local(netns, TOWARDS_GATEWAY)?.then_some(()))
        })?;
        let mut kea = in_rooms(&["/var/lib/kea"], "kea-dhcp6 -c \"$0\"");
        kea.arg(&file).envs([("KEA_PIDFILE_DIR", &directory), ("KEA_LOCKFILE_DIR", &directory)]);
        let process = spawn(netns, &mut kea, &directory.join("log"))?;
        Ok(Self { file, link, process })
    }

    /// Has it delegate another prefix with its next answer, and the one before no more.
    ///
    /// # Errors
    /// When its configuration cannot be written, or it does not run.
    pub fn delegate(&mut self, prefix: &str) -> Result<()> {
        fs::write(&self.file, configuration(&self.link, prefix))?;
        let pid = i32::try_from(self.process.child().id()).ok().and_then(Pid::from_raw);
        kill_process(pid.context("no process number")?, Signal::HUP)?;
        Ok(())
    }
}

/// Clients ask again every few seconds, and may keep what they have for hours.
fn configuration(link: &str, prefix: &str) -> String {
    let (pool, length) = prefix.split_once('/').unwrap_or((prefix, "64"));
    format!(
        r#"{{ "Dhcp6": {{
            "interfaces-config": {{
                "interfaces": ["{TOWARDS_GATEWAY}"]
            }},
            "lease-database": {{ "type": "memfile", "persist": false }},
            "renew-timer": 3, "rebind-timer": 3600,
            "preferred-lifetime": 7200, "valid-lifetime": 14400,
            "subnet6": [ {{
                "subnet": "{link}", "interface": "{TOWARDS_GATEWAY}",
                "pd-pools": [ {{
                    "prefix": "{pool}", "prefix-len": {length}, "delegated-len": {length}
                }} ]
            }} ],
            "loggers": [ {{
                "name": "kea-dhcp6", "severity": "INFO",
                "output_options": [ {{ "output": "stdout" }} ]
            }} ]
        }} }}"#
    )
}

/// Starts the gateway's client, which asks every provider for a prefix and gives the LAN at `lan0`
/// subnet 1 of each, or no LAN any. Its hook is the one that weir ships.
///
/// # Errors
/// When its files cannot be written, or it cannot be started.
pub fn client(topology: &Topology, weir: &Weir, of_lan: bool) -> Result<Process> {
    let directory = topology.run.file_directory()?.join("dhcpcd");
    fs::create_dir_all(&directory)?;
    let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/hooks/dhcpcd");
    let mut text =
        format!("noipv4\nipv6only\nnogateway\nscript {}\nallowinterfaces", hook.display());
    topology.providers.iter().for_each(|it| text += &format!(" {}", it.interface()));
    text += "\n";
    for provider in &topology.providers {
        let (interface, index) = (provider.interface(), provider.index + 1);
        let lan = if of_lan { "lan0/1/64" } else { "-" };
        text += &format!("interface {interface}\n ipv6rs\n ia_pd {index} {lan}\n");
    }
    let file = directory.join("dhcpcd.conf");
    fs::write(&file, text)?;
    weir.put_on_path(&directory)?;
    let path = std::env::var("PATH").unwrap_or_default();
    let rooms = ["/var/lib/dhcpcd", "/run/dhcpcd"];
    let mut dhcpcd = in_rooms(&rooms, "dhcpcd -B -d -f \"$0\"");
    dhcpcd.arg(&file).env("PATH", format!("{}:{path}", directory.display()));
    spawn(&topology.gateway, &mut dhcpcd, &directory.join("log"))
}

/// A command of the shell's for which these directories are empty and its own.
fn in_rooms(rooms: &[&str], command: &str) -> Command {
    let room = |room: &&str| format!("mkdir -p {room} && mount -t tmpfs none {room} && ");
    let script: String = rooms.iter().map(room).collect();
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", &format!("{script}exec {command}")]);
    unshare
}

fn spawn(netns: &Netns, command: &mut Command, log: &Path) -> Result<Process> {
    let log = File::create(log)?;
    netns.spawn(command.stdout(log.try_clone()?).stderr(log))
}
