//! A gateway with two providers, `fiber` and `lte`, that both have the host [`HOST`]. There it tells
//! which of them was asked, by TCP and UDP, port 7.

use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use weir_shm::Pins;

/// A host on the Internet.
pub const HOST: &str = "198.51.100.1";
/// No test waits longer for anything.
const BOUND: Duration = Duration::from_secs(30);

const SITE: &str = r#"
[[lan]]
interface = "lan0"
[[uplink]]
name = "fiber"
interface = "wan0"
next_hop = "192.0.2.1"
health = { hold_down_ms = 0 }
[[uplink]]
name = "lte"
interface = "wan1"
next_hop = "192.0.2.129"
health = { hold_down_ms = 0 }
[[policy]]
name = "balanced"
members = [{ uplink = "fiber" }, { uplink = "lte", tier = 2 }]
"#;

/// The gateway, in the network namespace of the test's thread.
pub struct Gateway {
    directory: PathBuf,
    pins: PathBuf,
    pub control: Option<Child>,
    _providers: Vec<Provider>,
}

impl Gateway {
    /// With more for `[gateway]` of its file.
    pub fn start(test: &str, more: &str) -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root: run as root");
        for interface in ["all", "default"] {
            sysctl(&format!("net/ipv4/conf/{interface}/rp_filter"), "0");
        }
        // Weir turns it on.
        sysctl("net/ipv4/ip_forward", "0");
        run("ip link set lo up");
        run("ip link add lan0 type veth peer name host0");
        run("ip addr add 10.77.0.1/24 dev lan0");
        run("ip link set lan0 up");
        run("ip link set host0 up");
        let providers = vec![
            Provider::start("fiber", "wan0", "192.0.2.2/25", "192.0.2.1/25"),
            Provider::start("lte", "wan1", "192.0.2.130/25", "192.0.2.129/25"),
        ];
        run("ip route add default via 192.0.2.1");
        let name = format!("weir-daemon-{test}-{}", std::process::id());
        let directory = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&directory).unwrap();
        let site = format!("[gateway]\nnat_ports = \"16384-65535\"\n{more}\n{SITE}");
        std::fs::write(directory.join("weir.toml"), site).unwrap();
        let pins = PathBuf::from("/sys/fs/bpf").join(name);
        let mut gateway = Self { directory, pins, control: None, _providers: providers };
        gateway.start_control();
        gateway.wait("both uplinks up", |gateway| {
            gateway.uplinks().iter().all(|uplink| uplink["state"] == "up").then_some(())
        });
        gateway
    }

    /// A file of the test's.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Changes its file.
    pub fn edit(&self, change: impl FnOnce(&str) -> String) {
        let file = self.path("weir.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let changed = change(&text);
        assert_ne!(changed, text);
        std::fs::write(file, changed).unwrap();
    }

    /// Its pins.
    pub fn pins(&self) -> Pins {
        Pins::existing(&self.pins)
    }

    /// What weir-control has written since it was started.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Starts weir-control.
    pub fn spawn_control(&mut self) {
        let log = std::fs::File::create(self.path("log")).unwrap();
        let child = self.control_command().stderr(log).spawn();
        self.control = Some(child.unwrap());
    }

    /// Starts weir-control and waits until it uses both uplinks, or did when it was stopped.
    pub fn start_control(&mut self) {
        self.spawn_control();
        self.wait("uplinks with a health", |gateway| {
            let uplinks = gateway.uplinks();
            let known = |uplink: &Value| {
                uplink["health"].is_object() && uplink["why"] != "no next hop, last resort"
            };
            (uplinks.len() == 2 && uplinks.iter().all(known)).then_some(())
        });
    }

    /// weir-control, as it is to be run.
    pub fn control_command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir-control"));
        command.arg("--config").arg(self.path("weir.toml"));
        command.arg("--pins").arg(&self.pins).arg("--socket").arg(self.path("socket"));
        command.arg("--state").arg(self.path("state"));
        command
    }

    /// Has weir-control read its file again.
    pub fn reload(&self) {
        let control = self.control.as_ref().expect("a weir-control that runs");
        let pid = nix::unistd::Pid::from_raw(control.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).unwrap();
    }

    /// SIGKILL for weir-control.
    pub fn kill_control(&mut self) {
        if let Some(mut control) = self.control.take() {
            control.kill().unwrap();
            control.wait().unwrap();
        }
        let _ = std::fs::remove_file(self.path("socket"));
    }

    /// SIGTERM for weir-control, until it has ended.
    pub fn stop_control(&mut self) {
        if let Some(mut control) = self.control.take() {
            run(&format!("kill -TERM {}", control.id()));
            assert!(control.wait().unwrap().success());
        }
    }

    /// The `weir` command with these arguments.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.arg("--pins").arg(&self.pins).arg("--socket").arg(self.path("socket"));
        command.args(arguments);
        command
    }

    /// Runs the `weir` command.
    pub fn weir(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs the `weir` command, which must succeed; what it printed.
    pub fn done(&self, arguments: &[&str]) -> String {
        let output = self.weir(arguments);
        assert!(output.status.success(), "weir {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// `weir uplinks --json`.
    pub fn uplinks(&self) -> Vec<Value> {
        let uplinks = self.json("uplinks");
        uplinks.as_array().cloned().unwrap_or_default()
    }

    /// What a command says to programs.
    pub fn json(&self, command: &str) -> Value {
        let said = self.weir(&[command, "--json"]).stdout;
        let said: Value = serde_json::from_slice(&said).unwrap_or_default();
        said[command].clone()
    }

    /// One of them.
    pub fn uplink(&self, name: &str) -> Value {
        let uplinks = self.uplinks();
        uplinks.into_iter().find(|uplink| uplink["name"] == name).unwrap_or_default()
    }

    /// Waits until there is something.
    pub fn wait<T>(&self, what: &str, mut found: impl FnMut(&Self) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            if let Some(found) = found(self) {
                return found;
            }
            if start.elapsed() > BOUND {
                panic!("no {what}: {:#?}\n{}", self.uplinks(), self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.kill_control();
        self.weir(&["detach"]);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A provider's namespace, which lasts as long as its thread waits.
struct Provider {
    _alive: Sender<()>,
}

impl Provider {
    fn start(name: &'static str, device: &str, ours: &str, theirs: &str) -> Self {
        let (tell, told) = channel();
        let (alive, go_on) = channel::<()>();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(nix::unistd::gettid()).unwrap();
            go_on.recv().unwrap();
            serve(name);
            tell.send(nix::unistd::gettid()).unwrap();
            // Ends by the error that the sender is gone.
            let _ = go_on.recv();
        });
        let thread = told.recv().unwrap();
        let namespace = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
        run(&format!("ip link add {device} type veth peer name isp netns {namespace}"));
        run(&format!("ip addr add {ours} dev {device}"));
        run(&format!("ip link set {device} up"));
        let inside = |command: &str| run(&format!("nsenter --net={namespace} {command}"));
        inside("ip link set lo up");
        inside(&format!("ip addr add {theirs} dev isp"));
        inside("ip link set isp up");
        inside(&format!("ip addr add {HOST}/32 dev lo"));
        alive.send(()).unwrap();
        told.recv().unwrap();
        Self { _alive: alive }
    }
}

fn serve(name: &'static str) {
    let listener = TcpListener::bind((HOST, 7)).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = (&stream).write_all(format!("{name}\n").as_bytes());
        }
    });
    let socket = UdpSocket::bind((HOST, 7)).unwrap();
    std::thread::spawn(move || tell_by_udp(&socket, name));
}

/// Answers every datagram by a name.
pub fn tell_by_udp(socket: &UdpSocket, name: &str) {
    while let Ok((_, peer)) = socket.recv_from(&mut [0; 64]) {
        let _ = socket.send_to(format!("{name}\n").as_bytes(), peer);
    }
}

/// Is the table there that keeps the kernel from forwarding IPv4 on its own?
pub fn guards(gateway: &Gateway) -> bool {
    let name = gateway.pins.file_name().unwrap();
    let list = Command::new("nft").args(["list", "table", "ip"]).arg(name).output();
    list.unwrap().status.success()
}

/// Runs a command that must succeed.
pub fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
}

/// Sets a setting of the kernel's.
pub fn sysctl(key: &str, value: &str) {
    std::fs::write(format!("/proc/sys/{key}"), value).unwrap();
}

/// Runs a test on a thread of its own, whose namespace ends with it.
pub fn on_its_own(test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        scope.spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}
