//! The kernel's settings that a gateway takes: `net.ipv4.ip_forward`, and local ports that are not
//! the NAT's.
//!
//! They are set at the start and again whenever they are found otherwise, as after `sysctl
//! --system`. What was there before is kept in shared memory, and put back by `weir detach`: what
//! forwards no more should route no more either.

use std::fs;

use anyhow::{Context, Result, ensure};
use weir_shm::control::{ControlRegion, ControlWriter};
use weir_wire::layout::control::{SettingsBefore, Translate};

use crate::complaint::Complaint;
use crate::site::Site;

const FORWARD: &str = "net/ipv4/ip_forward";
const PORTS: &str = "net/ipv4/ip_local_port_range";

/// With fewer ports than this the gateway's own connections are likely to run out of them.
const FEWEST: u16 = 1024;
/// Ports below are privileged, and the kernel gives none of them away.
const FIRST: u16 = 1024;

/// Keeps the settings as they must be.
#[derive(Debug, Default)]
pub struct Sysctls {
    refused: Complaint,
    changed: Complaint,
}

impl Sysctls {
    /// Looks, and sets what is otherwise; does nothing for a site that says so. The kernel is not set
    /// to forward unless it is `guarded` against forwarding on its own.
    pub fn hold(&mut self, site: &Site, writer: &ControlWriter, guarded: bool) {
        if !site.sysctls {
            return;
        }
        let known = writer.region().settings_before();
        let mut before = known;
        let mut changed = Vec::new();
        let done = ports(site, &mut changed, &mut before)
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

fn ports(site: &Site, changed: &mut Vec<String>, before: &mut SettingsBefore) -> Result<()> {
    let found = local_ports()?;
    if !site.uplinks.iter().any(|uplink| uplink.translate == Translate::Nat44)
        || !overlap(found, site.nat_ports)
    {
        return Ok(());
    }
    // The file is refused when there are none.
    let Some((first, last)) = beside(site.nat_ports) else { return Ok(()) };
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

/// Has one range a port of the other?
pub fn overlap(a: (u16, u16), b: (u16, u16)) -> bool {
    a.0 <= b.1 && b.0 <= a.1
}

/// The wider of the ranges below and above the NAT's; `None`: neither is wide enough for the
/// gateway's own connections.
pub fn beside((nat_first, nat_last): (u16, u16)) -> Option<(u16, u16)> {
    let (below, above) = (nat_first.saturating_sub(FIRST), u16::MAX - nat_last);
    let enough = below.max(above) >= FEWEST;
    let wider = if below >= above {
        (FIRST, nat_first.saturating_sub(1))
    } else {
        (nat_last + 1, u16::MAX)
    };
    enough.then_some(wider)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_gets_the_wider_part_that_the_nat_leaves() {
        assert_eq!(beside((16_384, 65_535)), Some((1024, 16_383)));
        assert_eq!(beside((1024, 40_000)), Some((40_001, 65_535)));
        assert_eq!(beside((2048, 65_535)), Some((1024, 2047)));
        assert_eq!(beside((1024, 65_535)), None);
        assert_eq!(beside((1100, 65_000)), None);
    }
}
