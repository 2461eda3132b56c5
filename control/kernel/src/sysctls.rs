//! The kernel's settings that a gateway takes: `net.ipv4.ip_forward`, and local ports that are not
//! the NAT's.
//!
//! They are set at the start and again whenever they are found otherwise, as after `sysctl
//! --system`. What was there before is kept in shared memory, and put back by `weir detach`: what
//! forwards no more should route no more either.

use std::fs;

use anyhow::{Context, Result, ensure};
use weir_layout::control::SettingsBefore;
use weir_service::Complaint;
use weir_shm::control::{ControlRegion, ControlWriter};
use weir_view::local_ports;

const FORWARD: &str = "net/ipv4/ip_forward";
const PORTS: &str = "net/ipv4/ip_local_port_range";

/// Keeps the settings as they must be.
#[derive(Debug, Default)]
pub struct Sysctls {
    refused: Complaint,
    changed: Complaint,
}

impl Sysctls {
    /// Looks, and sets what is otherwise. The kernel is not set to forward unless it is `guarded`
    /// against forwarding on its own, and its own ports are left as they are if nothing is
    /// translated: then there are no `nat_ports`.
    pub fn hold(&mut self, nat_ports: Option<(u16, u16)>, writer: &ControlWriter, guarded: bool) {
        let known = writer.region().settings_before();
        let mut before = known;
        let mut changed = Vec::new();
        let done = ports(nat_ports, &mut changed, &mut before)
            .and_then(|()| forward(guarded, &mut changed, &mut before));
        let text = changed.join(", ");
        if before != known {
            writer.keep_settings(before);
            tracing::info!("set {text}");
        } else if !changed.is_empty() {
            self.changed.say(Some(format!("somebody changed them: set {text} again")));
        }
        self.refused.say(done.err().map(|error| format!("{error:#}")));
    }
}

fn forward(guarded: bool, changed: &mut Vec<String>, before: &mut SettingsBefore) -> Result<()> {
    if read(FORWARD)?.trim() != "0" {
        return Ok(());
    }
    ensure!(
        guarded,
        "net.ipv4.ip_forward stays 0 until the nftables table is in place that keeps the kernel \
         from forwarding between LANs and uplinks on its own"
    );
    write(FORWARD, "1")?;
    before.forwarded_nothing = true;
    changed.push("net.ipv4.ip_forward = 1".into());
    Ok(())
}

fn ports(
    nat_ports: Option<(u16, u16)>,
    changed: &mut Vec<String>,
    before: &mut SettingsBefore,
) -> Result<()> {
    let found = local_ports()?;
    let Some(nat_ports) = nat_ports.filter(|ports| local_ports::overlap(found, *ports)) else {
        return Ok(());
    };
    // The file is refused when there are none.
    let Some((first, last)) = local_ports::beside(nat_ports) else { return Ok(()) };
    write(PORTS, &format!("{first} {last}"))?;
    if before.local_ports == (0, 0) {
        before.local_ports = found;
    }
    changed.push(format!("net.ipv4.ip_local_port_range = {first} {last}"));
    Ok(())
}

/// `net.ipv4.ip_local_port_range`, first and last.
///
/// # Errors
/// When it cannot be read.
pub fn local_ports() -> Result<(u16, u16)> {
    let text = read(PORTS)?;
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok((first, last)),
        _ => anyhow::bail!("/proc/sys/{PORTS} holds {text:?}, not two ports"),
    }
}

/// Puts back what was there before weir; says what it did.
///
/// # Errors
/// When the kernel refuses.
pub fn put_back(region: &ControlRegion) -> Result<Vec<String>> {
    let before = region.settings_before();
    let mut done = Vec::new();
    if before.forwarded_nothing {
        write(FORWARD, "0")?;
        done.push("net.ipv4.ip_forward = 0".into());
    }
    if before.local_ports != (0, 0) {
        let (first, last) = before.local_ports;
        write(PORTS, &format!("{first} {last}"))?;
        done.push(format!("net.ipv4.ip_local_port_range = {first} {last}"));
    }
    Ok(done)
}

fn read(key: &str) -> Result<String> {
    let path = format!("/proc/sys/{key}");
    fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
}

fn write(key: &str, value: &str) -> Result<()> {
    fs::write(format!("/proc/sys/{key}"), value).with_context(|| {
        let name = key.replace('/', ".");
        format!(
            "cannot set {name} = {value}: set it, or say sysctls = false in [gateway] if it is \
             set elsewhere"
        )
    })
}
