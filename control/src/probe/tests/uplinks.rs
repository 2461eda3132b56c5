//! Two uplinks that are probed by the same address, in network namespaces of the test's own.
//! Needs root.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};

use super::*;

/// The address that both uplinks are probed by; each provider has it.
const MONITOR: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A provider: a namespace that lasts as long as its thread waits.
struct Provider {
    namespace: String,
    _alive: Sender<()>,
}

impl Provider {
    fn start() -> Self {
        let (ready, started) = channel();
        let (alive, over) = channel::<()>();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a namespace needs root: run as root");
            ready.send(nix::unistd::gettid()).unwrap();
            // Ends by the error that the sender is gone.
            let _ = over.recv();
        });
        let thread = started.recv().expect("the provider's namespace");
        let namespace = format!("/proc/{}/task/{thread}/ns/net", std::process::id());
        Self { namespace, _alive: alive }
    }

    fn run(&self, command: &str) {
        run(&format!("nsenter --net={} {command}", self.namespace));
    }
}

pub fn run(command: &str) {
    let mut words = command.split_whitespace();
    let status = Command::new(words.next().unwrap()).args(words).status().unwrap();
    assert!(status.success(), "{command}: {status}");
}

/// Uplink `index`: `wan<index>` in our namespace with a table that its device finds, and the
/// provider at its other end.
fn uplink(index: u8) -> (Provider, Binding) {
    let provider = Provider::start();
    let (device, net) = (format!("wan{index}"), format!("198.51.{index}"));
    run(&format!("ip link add {device} type veth peer name isp netns {}", provider.namespace));
    run(&format!("ip addr add {net}.1/24 dev {device}"));
    run(&format!("ip link set {device} up"));
    provider.run(&format!("ip addr add {net}.254/24 dev isp"));
    provider.run("ip link set isp up");
    provider.run("ip link set lo up");
    provider.run(&format!("ip addr add {MONITOR}/32 dev lo"));
    run(&format!("ip route add default via {net}.254 dev {device} table {}", 100 + index));
    run(&format!("ip rule add oif {device} lookup {}", 100 + index));
    let source4 = Some(Ipv4Addr::new(198, 51, index, 1));
    (provider, Binding { device, source4, source6: None })
}

/// How many probes each uplink answered when one of them has answered five.
fn replies(uplinks: [(&str, &Binding); 2]) -> BTreeMap<String, u32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let health = health(vec![Probe::Icmp { address: MONITOR }]);
        let (sender, mut events) = mpsc::channel(100);
        let mut probers = Probers::new(sender, Trust::default(), 1);
        let probed = uplinks.map(|(name, binding)| ProbedUplink {
            name,
            binding: binding.clone(),
            health: &health,
            silent: false,
        });
        probers.set(&probed);
        let mut replies = BTreeMap::new();
        let mut sent = BTreeMap::new();
        while replies.values().all(|count| *count < 5) || sent.len() < 2 {
            let event = next(&mut events).await;
            let count = match event.finding {
                Finding::Sent => &mut sent,
                Finding::Reply(_) => &mut replies,
                Finding::Failed(_) => continue,
            };
            *count.entry(event.uplink.to_string()).or_default() += 1;
        }
        replies
    })
}

#[test]
fn one_address_shows_each_uplink_as_it_is() {
    let test = || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace needs root: run as root");
        let (_fiber, fiber) = uplink(1);
        let (lte_provider, lte) = uplink(2);
        // What the gateway itself would take for everything.
        run("ip route add default via 198.51.1.254 dev wan1");
        let both = [("fiber", &fiber), ("lte", &lte)];
        let well = replies(both);
        assert!(well["fiber"] >= 1 && well["lte"] >= 1, "{well:?}");
        lte_provider.run(&format!("ip addr del {MONITOR}/32 dev lo"));
        let broken = replies(both);
        assert_eq!(broken.get("lte"), None, "a dead uplink is shown alive by another");
        assert_eq!(broken["fiber"], 5);
    };
    std::thread::spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}
