//! The kernel's settings that a gateway takes: `net.ipv4.ip_forward`, and local ports that are not
//! the NAT's.
//!
//! They are set at the start and again whenever they are found otherwise, as after `sysctl
//! --system`. What was there before is kept in shared memory, and put back by `weir detach`: what
//! forwards no more should route no more either.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use weir_layout::control::SettingsBefore;
use weir_service::Complaint;
use weir_shm::control::{ControlRegion, ControlWriter};
use weir_view::local_ports;

const FORWARD: &str = "net/ipv4/ip_forward";
const PORTS: &str = "net/ipv4/ip_local_port_range";

/// A setting that is looked at again and again: its file stays open.
#[derive(Debug)]
struct Setting {
    key: &'static str,
    file: Option<File>,
}

impl Setting {
    const fn new(key: &'static str) -> Self {
        Self { key, file: None }
    }

    fn read(&mut self) -> Result<String> {
        let path = || format!("/proc/sys/{}", self.key);
        let file = match self.file.take() {
            Some(file) => Ok(file),
            None => File::open(path()),
        };
        let mut text = [0; 64];
        let read = file.and_then(|file| {
            let length = file.read_at(&mut text, 0)?;
            self.file = Some(file);
            Ok(length)
        });
        let length = read.with_context(|| format!("cannot read {}", path()))?;
        Ok(String::from_utf8_lossy(&text[..length]).into_owned())
    }
}

/// `net.ipv4.ip_local_port_range`.
#[derive(Debug)]
pub struct LocalPorts(Setting);

impl Default for LocalPorts {
    fn default() -> Self {
        Self(Setting::new(PORTS))
    }
}

impl LocalPorts {
    /// First and last.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn read(&mut self) -> Result<(u16, u16)> {
        let text = self.0.read()?;
        let mut numbers = text.split_whitespace().map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(first)), Some(Ok(last))) => Ok((first, last)),
            _ => anyhow::bail!("/proc/sys/{PORTS} holds {text:?}, not two ports"),
        }
    }
}

/// Keeps the settings as they must be.
#[derive(Debug)]
pub struct Sysctls {
    forward: Setting,
    ports: LocalPorts,
    refused: Complaint,
    changed: Complaint,
}

impl Default for Sysctls {
    fn default() -> Self {
        Self {
            forward: Setting::new(FORWARD),
            ports: LocalPorts::default(),
            refused: Complaint::default(),
            changed: Complaint::default(),
        }
    }
}

impl Sysctls {
    /// Looks, and sets what is otherwise. The kernel is not set to forward unless it is `guarded`
    /// against forwarding on its own, and its own ports are left as they are if nothing is
    /// translated: then there are no `nat_ports`.
    pub fn hold(&mut self, nat_ports: Option<(u16, u16)>, writer: &ControlWriter, guarded: bool) {
        let known = writer.region().settings_before();
        let mut before = known;
        let mut changed = Vec::new();
        let done = self.hold_ports(nat_ports, &mut changed, &mut before);
        let done = done.and_then(|()| self.hold_forward(guarded, &mut changed, &mut before));
        let text = changed.join(", ");
        if before != known {
            writer.keep_settings(before);
            tracing::info!("set {text}");
        } else if !changed.is_empty() {
            self.changed.say(Some(format!("somebody changed them: set {text} again")));
        }
        self.refused.say(done.err().map(|error| format!("{error:#}")));
    }

    fn hold_forward(
        &mut self,
        guarded: bool,
        changed: &mut Vec<String>,
        before: &mut SettingsBefore,
    ) -> Result<()> {
        if self.forward.read()?.trim() != "0" {
            return Ok(());
        }
        ensure!(
            guarded,
            "net.ipv4.ip_forward stays 0 until the nftables table is in place that keeps the \
             kernel from forwarding between LANs and uplinks on its own"
        );
        write(FORWARD, "1")?;
        before.forwarded_nothing = true;
        changed.push("net.ipv4.ip_forward = 1".into());
        Ok(())
    }

    fn hold_ports(
        &mut self,
        nat_ports: Option<(u16, u16)>,
        changed: &mut Vec<String>,
        before: &mut SettingsBefore,
    ) -> Result<()> {
        let found = self.ports.read()?;
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
    fn a_setting_that_could_not_be_read_is_opened_again() {
        // A directory opens, and cannot be read from.
        let file = File::open("/proc").ok();
        let mut setting = Setting { key: PORTS, file };
        setting.read().unwrap_err();
        assert!(setting.read().unwrap().ends_with('\n'));
        assert!(setting.file.is_some(), "it stays open");
    }
}
