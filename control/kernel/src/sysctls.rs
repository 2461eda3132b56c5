//! The kernel's settings that a gateway takes: `net.ipv4.ip_forward`, and local ports that are not
//! the NAT's.
//!
//! They are set at the start and again whenever they are found otherwise, as after `sysctl
//! --system`. What was there before is kept in shared memory, where every version of weir finds it,
//! and put back by `weir detach`: what forwards no more should route no more either.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use weir_layout::sysctls::SysctlsBefore;
use weir_service::Complaint;
use weir_shm::control::ControlRegion;
use weir_shm::map::Access;
use weir_shm::sysctls::SysctlsRegion;
use weir_shm::{Error, Pins};
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
    region: SysctlsRegion,
    forward: Setting,
    ports: LocalPorts,
    refused: Complaint,
    changed: Complaint,
}

impl Sysctls {
    /// Keeps in the region what was there before.
    pub fn new(region: SysctlsRegion) -> Self {
        Self {
            region,
            forward: Setting::new(FORWARD),
            ports: LocalPorts::default(),
            refused: Complaint::default(),
            changed: Complaint::default(),
        }
    }

    /// Looks, and sets what is otherwise. The kernel is not set to forward unless it is `guarded`
    /// against forwarding on its own, and its own ports are left as they are if nothing is
    /// translated: then there are no `nat_ports`.
    pub fn hold(&mut self, nat_ports: Option<(u16, u16)>, guarded: bool) {
        let known = self.region.before();
        let mut before = known;
        let mut changed = Vec::new();
        let done = self.hold_ports(nat_ports, &mut changed, &mut before);
        let done = done.and_then(|()| self.hold_forward(guarded, &mut changed, &mut before));
        let text = changed.join(", ");
        if before != known {
            self.region.keep(before);
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
        before: &mut SysctlsBefore,
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
        before: &mut SysctlsBefore,
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

/// What was there before weir kept anything in a directory, whichever version it was.
///
/// # Errors
/// When that is not known and the kernel forwards: what keeps it from doing so on its own stays.
pub fn before(pins: &Pins) -> Result<SysctlsBefore> {
    let why = match SysctlsRegion::open(pins, Access::Read).map(|region| region.before()) {
        // weir-control makes the region before it changes anything; before this layout it did not.
        Err(Error::Missing { .. }) => match ControlRegion::open(pins, Access::Read) {
            Ok(_) | Err(Error::Missing { .. }) => return Ok(SysctlsBefore::default()),
            Err(error) => error,
        },
        Err(error) => error,
        Ok(before) => return Ok(before),
    };
    if Setting::new(FORWARD).read()?.trim() == "0" {
        return Ok(SysctlsBefore::default());
    }
    let why = match why {
        Error::Layout { path, .. } => format!("{} is of another version", path.display()),
        error => error.to_string(),
    };
    let (first, last) = LocalPorts::default().read()?;
    bail!(
        "{why}, so that it is not known what the kernel's settings were before weir, and it \
         forwards: without weir's nftables table packets of LANs would leave as they are. Run \
         `sysctl -w net.ipv4.ip_forward=0`, and set net.ipv4.ip_local_port_range, now {first} \
         {last}, as it was (by default it is 32768 60999); then run this again"
    )
}

/// Puts back what was there before weir; says what it did.
///
/// # Errors
/// When the kernel refuses.
pub fn put_back(before: SysctlsBefore) -> Result<Vec<String>> {
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

/// Does the kernel forward IPv6 by any interface (`ip6_forward`, net/ipv6/ip6_output.c)? Weir does
/// not turn that on, nor off.
pub fn forwards_ipv6() -> bool {
    let is_on = |path: PathBuf| fs::read_to_string(path).is_ok_and(|text| text.trim() != "0");
    let settings = PathBuf::from("/proc/sys/net/ipv6/conf");
    let mut all = fs::read_dir(&settings).into_iter().flatten().flatten();
    is_on(settings.join("all/forwarding"))
        || all.any(|of| is_on(of.path().join("force_forwarding")))
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
