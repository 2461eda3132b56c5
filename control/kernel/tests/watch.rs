//! The view of the kernel, in network namespaces of the tests' own. Needs root.

use std::net::IpAddr;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use weir_kernel::watch::Watcher;
use weir_layout::Family;
use weir_view::Kernel;

/// Long enough for any loaded machine; reached only when a change is never seen.
const NEVER: Duration = Duration::from_secs(20);

/// Runs `body` on a thread with a network namespace of its own, gone when the thread is.
fn in_namespace<R: Send>(body: impl FnOnce() -> R + Send) -> R {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            enter_new_namespace();
            body()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn enter_new_namespace() {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root: run as root");
}

/// Runs `body` in a new namespace that has `wan0` (192.0.2.1/24, up), whose other end is `isp0`
/// (192.0.2.254/24, 02:00:00:00:00:01, up) in the namespace of a [`Peer`].
fn with_uplink<F: Future>(body: impl FnOnce(Peer) -> F + Send) {
    in_namespace(|| {
        let peer = Peer::start();
        ip(&format!("link add wan0 type veth peer name isp0 netns {}", peer.thread));
        ip("addr add 192.0.2.1/24 dev wan0");
        ip("link set wan0 up");
        peer.run("ip addr add 192.0.2.254/24 dev isp0");
        peer.run("ip link set isp0 address 02:00:00:00:00:01 up");
        block_on(body(peer));
    });
}

fn block_on(future: impl Future) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future);
}

/// A second namespace, kept by a thread that runs commands in it.
struct Peer {
    thread: u32,
    commands: mpsc::Sender<(String, mpsc::Sender<()>)>,
}

impl Peer {
    fn start() -> Self {
        let (commands, queue) = mpsc::channel::<(String, mpsc::Sender<()>)>();
        let (ready, started) = mpsc::channel();
        std::thread::spawn(move || {
            enter_new_namespace();
            ready.send(nix::unistd::gettid().as_raw() as u32).unwrap();
            for (command, done) in queue {
                run(&command);
                done.send(()).unwrap();
            }
        });
        let thread = started.recv().expect("the peer's namespace needs root: run as root");
        Self { thread, commands }
    }

    fn run(&self, command: &str) {
        let (done, finished) = mpsc::channel();
        self.commands.send((command.into(), done)).unwrap();
        finished.recv().unwrap_or_else(|_| panic!("failed in the peer's namespace: {command}"));
    }
}

fn ip(arguments: &str) {
    run(&format!("ip {arguments}"));
}

fn run(command: &str) {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
}

/// Waits for events until the view satisfies `condition`.
async fn until(watcher: &mut Watcher, what: &str, condition: impl Fn(&Kernel) -> bool) -> Kernel {
    let wait = async {
        loop {
            let kernel = watcher.read().await.unwrap();
            if condition(&kernel) {
                return kernel;
            }
            watcher.changed().await;
        }
    };
    tokio::time::timeout(NEVER, wait).await.unwrap_or_else(|_| panic!("never seen: {what}"))
}

fn index(kernel: &Kernel, name: &str) -> u32 {
    kernel.link(name).unwrap_or_else(|| panic!("no {name} in {:?}", kernel.links)).index
}

fn addresses(kernel: &Kernel, name: &str) -> Vec<String> {
    kernel.addresses_of(Family::V4, index(kernel, name)).iter().map(ToString::to_string).collect()
}

fn default_next_hop(kernel: &Kernel, name: &str) -> Option<String> {
    kernel.default_next_hop(Family::V4, index(kernel, name)).map(|address| address.to_string())
}

fn mac(kernel: &Kernel, address: &str) -> Option<[u8; 6]> {
    let key = (index(kernel, "wan0"), address.parse().unwrap());
    kernel.neighbours.get(&key).map(|entry| entry.mac)
}

#[test]
fn addresses_that_come_and_go_are_seen() {
    with_uplink(async |_peer| {
        let mut watcher = Watcher::new().unwrap();
        let kernel = watcher.read().await.unwrap();
        assert_eq!(addresses(&kernel, "wan0"), ["192.0.2.1"]);
        ip("addr add 198.51.100.7/29 dev wan0");
        let kernel = until(&mut watcher, "a second address", |kernel| {
            addresses(kernel, "wan0") == ["192.0.2.1", "198.51.100.7"]
        })
        .await;
        let networks = kernel.networks(Family::V4, index(&kernel, "wan0"));
        assert_eq!(networks[1].to_string(), "198.51.100.0/29");
        ip("addr del 192.0.2.1/24 dev wan0");
        until(&mut watcher, "only the second address", |kernel| {
            addresses(kernel, "wan0") == ["198.51.100.7"]
        })
        .await;
    });
}

#[test]
fn an_interface_without_carrier_is_not_running() {
    with_uplink(async |peer| {
        let mut watcher = Watcher::new().unwrap();
        let running = |kernel: &Kernel| kernel.link("wan0").is_some_and(|link| link.running);
        until(&mut watcher, "carrier", running).await;
        peer.run("ip link set isp0 down");
        until(&mut watcher, "the loss of carrier", |kernel| !running(kernel)).await;
    });
}

#[test]
fn the_default_route_is_followed() {
    with_uplink(async |_peer| {
        let mut watcher = Watcher::new().unwrap();
        let kernel = watcher.read().await.unwrap();
        assert_eq!(default_next_hop(&kernel, "wan0"), None);
        for next_hop in ["192.0.2.254", "192.0.2.253"] {
            ip(&format!("route replace default via {next_hop}"));
            until(&mut watcher, next_hop, |kernel| {
                default_next_hop(kernel, "wan0").as_deref() == Some(next_hop)
            })
            .await;
        }
        ip("route del default");
        until(&mut watcher, "no default route", |kernel| {
            default_next_hop(kernel, "wan0").is_none()
        })
        .await;
    });
}

#[test]
fn the_default_route_of_least_metric_counts() {
    with_uplink(async |_peer| {
        ip("route add default via 192.0.2.9 metric 200");
        ip("route add default via 192.0.2.8 metric 100");
        let kernel = Watcher::new().unwrap().read().await.unwrap();
        assert_eq!(default_next_hop(&kernel, "wan0").as_deref(), Some("192.0.2.8"));
    });
}

#[test]
fn each_next_hop_of_a_multipath_default_route_belongs_to_its_interface() {
    with_uplink(async |peer| {
        ip(&format!("link add wan1 type veth peer name isp1 netns {}", peer.thread));
        ip("addr add 198.51.100.1/24 dev wan1");
        ip("link set wan1 up");
        ip("route add default nexthop via 192.0.2.254 dev wan0 weight 5 \
            nexthop via 198.51.100.254 dev wan1 weight 3");
        let kernel = Watcher::new().unwrap().read().await.unwrap();
        assert_eq!(default_next_hop(&kernel, "wan0").as_deref(), Some("192.0.2.254"));
        assert_eq!(default_next_hop(&kernel, "wan1").as_deref(), Some("198.51.100.254"));
    });
}

#[test]
fn routes_of_other_tables_are_not_seen() {
    with_uplink(async |_peer| {
        ip("route add default via 192.0.2.254 table 100");
        let kernel = Watcher::new().unwrap().read().await.unwrap();
        assert_eq!(default_next_hop(&kernel, "wan0"), None);
    });
}

/// Sees that the peer is resolved to 02:00:00:00:00:01, on request.
async fn resolve(watcher: &mut Watcher) -> Kernel {
    let kernel = watcher.read().await.unwrap();
    watcher.resolve(index(&kernel, "wan0"), "192.0.2.254".parse().unwrap()).await;
    until(watcher, "the hardware address", |kernel| {
        mac(kernel, "192.0.2.254") == Some([2, 0, 0, 0, 0, 1])
    })
    .await
}

#[test]
fn a_next_hop_is_resolved_on_request() {
    with_uplink(async |_peer| {
        let mut watcher = Watcher::new().unwrap();
        assert_eq!(mac(&watcher.read().await.unwrap(), "192.0.2.254"), None);
        resolve(&mut watcher).await;
    });
}

#[test]
fn a_next_hop_that_failed_is_resolved_on_request() {
    with_uplink(async |_peer| {
        ip("neigh add 192.0.2.254 nud failed dev wan0");
        resolve(&mut Watcher::new().unwrap()).await;
    });
}

#[test]
fn a_stale_next_hop_is_checked_on_request_and_kept_meanwhile() {
    with_uplink(async |_peer| {
        ip("neigh add 192.0.2.254 lladdr 02:00:00:00:00:01 nud stale dev wan0");
        let mut watcher = Watcher::new().unwrap();
        let kernel = watcher.read().await.unwrap();
        let fresh = |kernel: &Kernel| {
            let key = (index(kernel, "wan0"), "192.0.2.254".parse().unwrap());
            kernel.neighbours[&key].fresh
        };
        assert!(!fresh(&kernel));
        assert!(fresh(&resolve(&mut watcher).await));
    });
}

#[test]
fn a_neighbour_that_the_kernel_begins_to_doubt_is_no_change() {
    with_uplink(async |_peer| {
        let mut watcher = Watcher::new().unwrap();
        resolve(&mut watcher).await;
        let was = "192.0.2.254 lladdr 02:00:00:00:00:01 dev wan0";
        for state in ["stale", "probe", "reachable"] {
            ip(&format!("neigh replace {was} nud {state}"));
        }
        ip("neigh replace 192.0.2.254 lladdr 02:00:00:00:00:03 dev wan0 nud stale");
        tokio::time::timeout(NEVER, watcher.changed()).await.expect("it has another one now");
        // All events are there, in their order: had a doubt been told, this one would be left.
        let more = tokio::time::timeout(Duration::ZERO, watcher.changed()).await;
        assert!(more.is_err(), "it had the same hardware address while it was doubted");
        watcher.read().await.unwrap();
        ip("neigh replace 192.0.2.254 dev wan0 nud failed");
        tokio::time::timeout(NEVER, watcher.changed()).await.expect("it has none now");
    });
}

#[test]
fn a_next_hop_that_announces_a_new_hardware_address_is_followed() {
    with_uplink(async |peer| {
        let mut watcher = Watcher::new().unwrap();
        resolve(&mut watcher).await;
        // With arp_notify the peer announces the change by gratuitous ARP, as a router that takes
        // over does.
        peer.run("echo 1 > /proc/sys/net/ipv4/conf/isp0/arp_notify");
        peer.run("ip link set isp0 address 02:00:00:00:00:02");
        until(&mut watcher, "the new hardware address", |kernel| {
            mac(kernel, "192.0.2.254") == Some([2, 0, 0, 0, 0, 2])
        })
        .await;
    });
}

#[test]
fn a_neighbour_that_does_not_answer_has_no_hardware_address() {
    with_uplink(async |_peer| {
        ip("neigh add 192.0.2.77 nud failed dev wan0");
        let kernel = Watcher::new().unwrap().read().await.unwrap();
        assert_eq!(mac(&kernel, "192.0.2.77"), None);
        let silent: Vec<_> = kernel.silent.iter().map(|(_, address)| address.to_string()).collect();
        assert_eq!(silent, ["192.0.2.77"]);
    });
}

#[test]
fn the_kernels_own_ports_are_those_of_the_namespace() {
    with_uplink(async |_peer| {
        std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "2000 2999").unwrap();
        let kernel = Watcher::new().unwrap().read().await.unwrap();
        assert_eq!(kernel.local_ports, (2000, 2999));
    });
}

/// Adds `count` addresses at once, without the runtime running.
fn burst(count: u32) {
    let lines: String = (0..count)
        .map(|i| format!("addr add 10.{}.{}.1/24 dev wan0\n", i / 256, i % 256))
        .collect();
    let path = std::env::temp_dir().join(format!("weir-watch-{}", nix::unistd::gettid()));
    std::fs::write(&path, lines).unwrap();
    ip(&format!("-batch {}", path.display()));
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn a_burst_of_changes_is_one_change() {
    with_uplink(async |_peer| {
        let mut watcher = Watcher::new().unwrap();
        watcher.read().await.unwrap();
        burst(500);
        watcher.changed().await;
        let kernel = watcher.read().await.unwrap();
        assert_eq!(addresses(&kernel, "wan0").len(), 501);
        let more = tokio::time::timeout(Duration::ZERO, watcher.changed()).await;
        assert!(more.is_err(), "the burst is told again after it was read");
    });
}

#[test]
fn changes_beyond_the_sockets_buffer_are_seen_and_so_are_later_ones() {
    with_uplink(async |_peer| {
        let mut watcher = Watcher::new().unwrap();
        watcher.read().await.unwrap();
        burst(4000);
        tokio::time::timeout(NEVER, watcher.changed()).await.expect("lost events are an event");
        assert_eq!(addresses(&watcher.read().await.unwrap(), "wan0").len(), 4001);
        ip("addr add 198.51.100.7/29 dev wan0");
        until(&mut watcher, "one address more", |kernel| addresses(kernel, "wan0").len() == 4002)
            .await;
    });
}

#[test]
fn a_device_that_takes_vlan_tags_off_what_it_receives_is_known() {
    with_uplink(async |_peer| {
        let mut watcher = Watcher::new().unwrap();
        for (word, strips) in [("on", true), ("off", false)] {
            run(&format!("ethtool -K wan0 rxvlan {word}"));
            until(&mut watcher, &format!("rxvlan {word}"), |kernel| {
                kernel.link("wan0").is_some_and(|link| link.strips_tags == strips)
            })
            .await;
        }
    });
}

/// The view once `wan0` has this address and the kernel has found that nobody else does.
async fn with_address(watcher: &mut Watcher, address: &str) -> Kernel {
    let address: IpAddr = address.parse().unwrap();
    until(watcher, "an address of this host's alone", |kernel| {
        let key = (index(kernel, "wan0"), address);
        kernel.addresses_of(Family::V6, key.0).contains(&address) && !kernel.unfit.contains(&key)
    })
    .await
}

#[test]
fn an_ipv6_address_is_unfit_until_it_is_found_to_be_nobody_elses() {
    with_uplink(async |_peer| {
        let mut watcher = Watcher::new().unwrap();
        watcher.follow_ipv6(true);
        ip("addr add 2001:db8::1/64 dev wan0");
        let kernel = watcher.read().await.unwrap();
        let key = (index(&kernel, "wan0"), "2001:db8::1".parse().unwrap());
        assert!(kernel.unfit.contains(&key), "it is tentative yet");
        assert_eq!(kernel.networks(Family::V6, key.0)[0].to_string(), "2001:db8::/64");
        with_address(&mut watcher, "2001:db8::1").await;
        ip("addr change 2001:db8::1/64 dev wan0 preferred_lft 0");
        until(&mut watcher, "a deprecated address", |kernel| kernel.unfit.contains(&key)).await;
        ip("addr del 2001:db8::1/64 dev wan0");
        until(&mut watcher, "no address", |kernel| {
            kernel.addresses_of(Family::V6, key.0).is_empty()
        })
        .await;
    });
}

#[test]
fn an_ipv6_next_hop_of_the_link_alone_is_followed_and_resolved() {
    with_uplink(async |peer| {
        peer.run("ip addr add fe80::254/64 dev isp0 nodad");
        let mut watcher = Watcher::new().unwrap();
        watcher.follow_ipv6(true);
        watcher.read().await.unwrap();
        ip("-6 route add default via fe80::254 dev wan0");
        let next_hop = |kernel: &Kernel| {
            kernel.default_next_hop(Family::V6, index(kernel, "wan0")).map(|hop| hop.to_string())
        };
        let kernel = until(&mut watcher, "an IPv6 default route", |kernel| {
            next_hop(kernel).as_deref() == Some("fe80::254")
        })
        .await;
        assert_eq!(default_next_hop(&kernel, "wan0"), None, "IPv4 has none");
        watcher.resolve(index(&kernel, "wan0"), "fe80::254".parse().unwrap()).await;
        until(&mut watcher, "the hardware address", |kernel| {
            mac(kernel, "fe80::254") == Some([2, 0, 0, 0, 0, 1])
        })
        .await;
        ip("-6 route del default");
        until(&mut watcher, "no IPv6 default route", |kernel| next_hop(kernel).is_none()).await;
    });
}

/// Reads until nothing is told for a while.
async fn settle(watcher: &mut Watcher) -> Kernel {
    loop {
        let kernel = watcher.read().await.unwrap();
        // Of a link that is up it tells a second later (`linkwatch_schedule_work`,
        // net/core/link_watch.c).
        let quiet = Duration::from_millis(1500);
        if tokio::time::timeout(quiet, watcher.changed()).await.is_err() {
            return kernel;
        }
    }
}

#[test]
fn ipv6_that_is_not_followed_is_not_heard_and_its_routes_are_not_read() {
    with_uplink(async |_peer| {
        let mut watcher = Watcher::new().unwrap();
        settle(&mut watcher).await;
        ip("addr add 2001:db8::1/64 dev wan0 nodad");
        ip("-6 route add default via 2001:db8::254 dev wan0");
        ip("addr add 192.0.2.7/24 dev wan0");
        watcher.changed().await;
        let kernel = watcher.read().await.unwrap();
        assert_eq!(addresses(&kernel, "wan0"), ["192.0.2.1", "192.0.2.7"]);
        assert_eq!(kernel.default_next_hop(Family::V6, index(&kernel, "wan0")), None);
        ip("-6 route replace default via 2001:db8::253 dev wan0");
        ip("addr add 2001:db8::2/64 dev wan0 nodad");
        let heard = tokio::time::timeout(Duration::from_millis(300), watcher.changed()).await;
        assert!(heard.is_err(), "IPv6 was heard");
        watcher.follow_ipv6(true);
        until(&mut watcher, "the IPv6 default route, once it is followed", |kernel| {
            kernel.default_next_hop(Family::V6, index(kernel, "wan0")).is_some()
        })
        .await;
    });
}

#[test]
fn an_ipv6_address_that_is_told_again_as_it_was_is_no_news() {
    with_uplink(async |_peer| {
        let mut watcher = Watcher::new().unwrap();
        watcher.follow_ipv6(true);
        // The link's own may be found to be nobody else's at any time.
        ip("-6 addr flush dev wan0 scope link");
        ip("addr add 2001:db8::1/64 dev wan0 nodad");
        settle(&mut watcher).await;
        // As an advertisement does that makes it last longer.
        ip("addr change 2001:db8::1/64 dev wan0 valid_lft 7200 preferred_lft 3600");
        ip("addr change 2001:db8::1/64 dev wan0 valid_lft 7201 preferred_lft 3601");
        let heard = tokio::time::timeout(Duration::from_millis(300), watcher.changed()).await;
        assert!(heard.is_err(), "it was read again");
    });
}

#[test]
fn what_a_router_advertises_is_told_from_what_the_gateway_was_given() {
    let directory = tempfile::tempdir().unwrap();
    let [file, pid] = ["conf", "pid"].map(|name| directory.path().join(name));
    let text = "interface isp0 { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4;\n\
        prefix 2001:db8:1::/64 { }; prefix 2001:db8:2::/72 { AdvAutonomous off; }; };\n";
    std::fs::write(&file, text).unwrap();
    with_uplink(async |peer| {
        run("sysctl -qw net.ipv6.conf.wan0.accept_ra=2");
        ip("addr add 2001:db8:5::1/64 dev wan0 nodad");
        let mut watcher = Watcher::new().unwrap();
        watcher.follow_ipv6(true);
        peer.run("sysctl -qw net.ipv6.conf.all.forwarding=1");
        let radvd = format!("timeout 30 radvd -n -C {} -p {}", file.display(), pid.display());
        peer.run(&format!("{radvd} >/dev/null 2>&1 &"));
        let route = |kernel: &Kernel, to: &str| {
            let to = to.parse().unwrap();
            kernel.routes6.iter().find(|route| route.destination == to).copied()
        };
        let kernel = until(&mut watcher, "what the router says", |kernel| {
            route(kernel, "2001:db8:1::/64").is_some()
                && route(kernel, "2001:db8:2::/72").is_some()
                && kernel.networks(Family::V6, index(kernel, "wan0")).len() == 2
        })
        .await;
        for (to, advertised) in
            [("2001:db8:1::/64", true), ("2001:db8:2::/72", true), ("2001:db8:5::/64", false)]
        {
            assert_eq!(route(&kernel, to).unwrap().advertised, advertised, "{to}");
        }
        let given = kernel.given_networks(Family::V6, index(&kernel, "wan0"));
        assert_eq!(given, ["2001:db8:5::/64".parse().unwrap()]);
        peer.run(&format!("kill $(cat {})", pid.display()));
    });
}
