//! Two uplinks that are probed by the same address, in network namespaces of the test's own.
//! Needs root.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};

use super::*;

/// The addresses that both uplinks are probed by; each provider has them.
const MONITORS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1)),
];

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
    let net6 = format!("2001:db8:{index}:");
    run(&format!("ip link add {device} type veth peer name isp netns {}", provider.namespace));
    run(&format!("ip addr add {net}.1/24 dev {device}"));
    run(&format!("ip addr add {net6}:1/64 dev {device} nodad"));
    run(&format!("ip link set {device} up"));
    provider.run(&format!("ip addr add {net}.254/24 dev isp"));
    provider.run(&format!("ip addr add {net6}:254/64 dev isp nodad"));
    provider.run("ip link set isp up");
    provider.run("ip link set lo up");
    MONITORS.iter().for_each(|monitor| provider.run(&format!("ip addr add {monitor} dev lo")));
    let table = 100 + index;
    run(&format!("ip route add default via {net}.254 dev {device} table {table}"));
    run(&format!("ip rule add oif {device} lookup {table}"));
    run(&format!("ip -6 route add default via {net6}:254 dev {device} table {table}"));
    run(&format!("ip -6 rule add oif {device} lookup {table}"));
    let source4 = Some(Ipv4Addr::new(198, 51, index, 1));
    let source6 = format!("{net6}:1").parse().ok();
    (provider, Binding { device, source4, source6 })
}

/// How many probes of this address each uplink answered when one of them has answered five, and the
/// other one, or has had the time to.
fn replies(monitor: IpAddr, uplinks: [(&str, &Binding); 2]) -> BTreeMap<String, u32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let health = health(vec![Probe::Icmp { address: monitor }]);
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
        let mut sent: BTreeMap<String, u32> = BTreeMap::new();
        // The first to a neighbour wait until that is found.
        let waits = |sent: &BTreeMap<String, u32>, uplink| sent.get(uplink).is_none_or(|n| *n < 10);
        while replies.values().all(|count| *count < 5)
            || uplinks
                .iter()
                .any(|(uplink, _)| !replies.contains_key(*uplink) && waits(&sent, *uplink))
        {
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
        run("ip -6 route add default via 2001:db8:1::254 dev wan1");
        let both = [("fiber", &fiber), ("lte", &lte)];
        for monitor in MONITORS {
            let well = replies(monitor, both);
            assert!(well["fiber"] >= 1 && well["lte"] >= 1, "{well:?}");
            lte_provider.run(&format!("ip addr del {monitor} dev lo"));
            let broken = replies(monitor, both);
            assert_eq!(broken.get("lte"), None, "a dead uplink is shown alive by another");
            assert!(broken["fiber"] >= 5, "{broken:?}");
        }
    };
    std::thread::spawn(test).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// As the next hop of an IPv6 path is, which is of the link alone.
#[test]
fn a_next_hop_of_the_link_alone_is_asked_by_its_uplink() {
    in_namespace(async || {
        let (provider, binding) = uplink(1);
        provider.run("ip addr add fe80::254/64 dev isp nodad");
        let address = "fe80::254".parse().unwrap();
        let pinger = Pinger::new(binding);
        // The first may go before the kernel has found the neighbour, as those of a prober may.
        let ask = async || pinger.ask(address, 7, Arc::default()).await?.await;
        let answered =
            async { while timeout(Duration::from_secs(1), ask()).await != Ok(Ok(())) {} };
        timeout(LONG, answered).await.expect("an answer");
    });
}
