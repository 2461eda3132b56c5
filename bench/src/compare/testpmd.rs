//! DPDK's `testpmd` as the gateway: AF_XDP like weir's user tier, and nothing done to a frame but
//! new hardware addresses.

use std::fs::File;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use weir_kit::plan::Port;
use weir_kit::process::Process;
use weir_kit::traffic::GENERATOR_CPU;
use weir_kit::wait;

use super::GATEWAY_CPU;
use super::site::{Kind, Site};
use super::system::{Gateway, Prepared};

const PROGRAM: &str = "dpdk-testpmd";

struct Testpmd {
    process: Process,
}

/// Starts it on `lan0` and `wan0`.
///
/// # Errors
/// When it is not installed, or does not forward.
pub fn prepare(kind: Kind, flows: u32) -> Result<Prepared> {
    if Command::new(PROGRAM).arg("--version").output().is_err() {
        bail!("{PROGRAM} is not installed (Debian: apt-get install dpdk-dev)");
    }
    let mut site = Site::build_for(kind, flows)?;
    let log = site.topology.run.file_directory()?.join("testpmd.log");
    // By lines, or what it says stays in its buffer.
    let mut command = Command::new("stdbuf");
    command
        .args(["-oL", PROGRAM])
        .args(["--no-pci", "--no-huge", "-m", "256", "--no-shconf"])
        .args(["-l", &format!("{GENERATOR_CPU},{GATEWAY_CPU}")])
        .args(["--vdev", "net_af_xdp0,iface=lan0", "--vdev", "net_af_xdp1,iface=wan0"])
        .args(["--", "--forward-mode=mac", "--nb-cores=1", "--total-num-mbufs=32768"])
        .args([&format!("--eth-peer=0,{}", Port::Host(0).mac())])
        .args([&format!("--eth-peer=1,{}", Port::RouterCustomer(0).mac())])
        // Dispatchers need tracing BTF, which not every kernel has; without one it is faster.
        .env("LIBXDP_SKIP_DISPATCHER", "1")
        // It forwards until there is something to read.
        .stdin(Stdio::piped())
        .stdout(File::options().create(true).append(true).open(&log)?)
        .stderr(File::options().create(true).append(true).open(&log)?);
    let mut process = site.topology.gateway.spawn(&mut command)?;
    site.count_at_far_side()?;
    wait::until("testpmd to forward", wait::BOUND, || {
        if let Some(status) = process.child().try_wait()? {
            bail!("{PROGRAM} ended ({status})");
        }
        Ok(std::fs::read_to_string(&log)?.contains("Press enter to exit").then_some(()))
    })
    .with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
    site.establish(Duration::from_micros(5))
        .with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
    let mut gateway = Testpmd { process };
    gateway.idle()?;
    Ok(Prepared { site, gateway: Box::new(gateway) })
}

impl Testpmd {
    fn signal(&mut self, signal: Signal) -> Result<()> {
        let child = self.process.child();
        if let Some(status) = child.try_wait()? {
            bail!("{PROGRAM} ended ({status})");
        }
        Ok(kill_process(Pid::from_child(child), signal)?)
    }
}

/// It polls without pause, so it is stopped while others are measured.
impl Gateway for Testpmd {
    fn wake(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn idle(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }
}
