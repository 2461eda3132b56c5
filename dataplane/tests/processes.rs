//! The program itself, beside another one. Needs root.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use weir_shm::map::Access;
use weir_shm::status::Status;
use weir_shm::{Pins, Role};

/// A dataplane that waits for a control process.
struct Waiting {
    pins: Pins,
    process: Child,
}

impl Waiting {
    fn start(test: &str) -> Self {
        Self::under(None, test)
    }

    /// With the socket of what started it, as systemd gives one.
    fn under(manager: Option<&Path>, test: &str) -> Self {
        let directory = format!("/sys/fs/bpf/weir-processes-{}-{test}", std::process::id());
        let pins = Pins::create(PathBuf::from(directory)).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_weir-dataplane"))
            .arg("--pins")
            .arg(pins.directory())
            .envs(manager.map(|socket| ("NOTIFY_SOCKET", socket)))
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let waiting = Self { pins, process };
        let start = Instant::now();
        while waiting.pid() != waiting.process.id().into() {
            assert!(start.elapsed() < Duration::from_secs(30), "the dataplane does not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        waiting
    }

    fn pid(&self) -> u64 {
        Status::open(&self.pins, Access::Read).map_or(0, |status| status.pid())
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = self.pins.remove();
    }
}

/// Another one in a PID namespace of its own, where the first has no number; ends within 20 s.
fn another(pins: &Path) -> Output {
    Command::new("timeout")
        .args(["20", "unshare", "--pid", "--fork", "--kill-child"])
        .arg(env!("CARGO_BIN_EXE_weir-dataplane"))
        .arg("--pins")
        .arg(pins)
        .env("RUST_BACKTRACE", "1")
        .output()
        .unwrap()
}

#[test]
fn a_second_dataplane_in_another_pid_namespace_is_refused_and_touches_nothing() {
    let first = Waiting::start("second");
    let second = another(first.pins.directory());
    let error = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{error}");
    assert!(error.contains("weir-dataplane already runs on"), "{error}");
    assert_eq!(first.pid(), first.process.id().into());
    assert!(first.pins.is_claimed(Role::Dataplane).unwrap());
}

#[test]
fn systemd_is_told_when_the_dataplane_is_ready_and_that_it_lives() {
    let path = std::env::temp_dir().join(format!("weir-processes-{}", std::process::id()));
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let _waiting = Waiting::under(Some(&path), "notify");
    let told = [(); 2].map(|()| {
        let mut text = [0; 64];
        let length = manager.recv(&mut text).unwrap_or(0);
        String::from_utf8(text[..length].into()).unwrap()
    });
    std::fs::remove_file(path).unwrap();
    assert_eq!(told, ["READY=1\n", "WATCHDOG=1\n"]);
}

#[test]
fn a_dataplane_that_was_killed_has_left_its_place() {
    let mut first = Waiting::start("killed");
    first.process.kill().unwrap();
    first.process.wait().unwrap();
    assert!(!first.pins.is_claimed(Role::Dataplane).unwrap());
    first.pins.claim(Role::Dataplane).unwrap();
}

/// With a second mount over the first, those that came late would not find what is pinned in it.
#[test]
fn processes_that_start_at_once_mount_the_bpf_file_system_once() {
    let start = format!(
        "while umount /sys/fs/bpf 2>/dev/null; do :; done; \
         for n in 1 2 3 4 5 6 7 8; do timeout 5 {} --pins /sys/fs/bpf/weir-$n 2>/dev/null & done; \
         wait; grep -c ' /sys/fs/bpf bpf ' /proc/self/mounts",
        env!("CARGO_BIN_EXE_weir-dataplane")
    );
    let output = Command::new("unshare").args(["--mount", "sh", "-c", &start]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1", "{output:?}");
}
