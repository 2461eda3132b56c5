//! Rules and routes for the gateway's own traffic, in network namespaces. Needs root.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};
use weir_kernel::own;
use weir_kernel::watch::Watcher;
use weir_layout::Family;
use weir_layout::control::{OnDataplaneLoss, path_state};
use weir_publish::Overrides;
use weir_site::{Ipv6Config, Site};
use weir_view::own::{PRIORITY, answer_mark, mark};

const SITE: &str = r#"
[[lan]]
interface = "lan0"
[[uplink]]
name = "fiber"
interface = "wan0"
weight = 5
[[uplink]]
name = "lte"
interface = "wan1"
next_hop = "192.0.2.129"
"#;

/// A gateway on a LAN and two providers; `main` has a default route by the first.
fn in_gateway<F: Future>(body: impl FnOnce(Site) -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace needs root: run as root");
            for (name, address) in
                [("lan0", "10.77.0.1/24"), ("wan0", "192.0.2.2/25"), ("wan1", "192.0.2.130/25")]
            {
                ip(&format!("link add {name} type veth peer name far-{name}"));
                ip(&format!("addr add {address} dev {name}"));
                ip(&format!("link set {name} up"));
                ip(&format!("link set far-{name} up"));
            }
            ip("route add default via 192.0.2.1");
            let site = weir_site::parse("test", SITE).unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(body(site));
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// The device that a packet to a server on the Internet leaves by.
fn way(selector: &str) -> String {
    let text = ip(&format!("route get 198.51.100.1{selector}"));
    text.split_whitespace().skip_while(|word| *word != "dev").nth(1).unwrap().to_owned()
}

async fn install(site: &Site, usable: [bool; 2]) {
    install_by(site, usable.map(|usable| if usable { path_state::USABLE } else { 0 })).await;
}

async fn install_by(site: &Site, states: [u32; 2]) {
    install_with(site, &Overrides::default(), states).await;
}

async fn install_with(site: &Site, overrides: &Overrides, states: [u32; 2]) {
    install_for(site, overrides, [&states, &[]]).await;
}

async fn install_for(site: &Site, overrides: &Overrides, states: [&[u32]; Family::COUNT]) {
    let mut watcher = Watcher::new().unwrap();
    watcher.follow_ipv6(site.has_ipv6());
    let mut kernel = watcher.read().await.unwrap();
    let half = weir_publish::derive(site, &kernel, overrides, [&[]; 2], None).half;
    let wanted = weir_publish::own::wanted(site, &kernel, &half, states);
    own::install(&wanted, Arc::make_mut(&mut kernel.own), watcher.handle()).await.unwrap();
    assert_eq!(*kernel.own, wanted);
    assert_eq!(*watcher.read().await.unwrap().own, wanted);
}

#[test]
fn a_socket_that_names_an_uplink_leaves_by_it() {
    in_gateway(async |site| {
        install(&site, [true, true]).await;
        assert_eq!(way(" oif wan1"), "wan1");
        assert_eq!(way(" from 192.0.2.130"), "wan1");
        assert_eq!(way(" from 192.0.2.2"), "wan0");
        // Hosts of the LAN are reached whatever the source.
        let text = ip("route get 10.77.0.9 from 192.0.2.130");
        assert!(text.contains("dev lan0"), "{text}");
    });
}

#[test]
fn an_address_of_the_pool_leaves_by_its_uplink_wherever_the_gateway_has_it() {
    in_gateway(async |mut site| {
        ip("link set lo up");
        ip("addr add 203.0.113.9/32 dev lo");
        site.uplinks[0].addresses = vec!["203.0.113.9".parse().unwrap()];
        install(&site, [false, true]).await;
        assert_eq!(way(" from 203.0.113.9"), "wan0");
        assert_eq!(way(""), "wan1");
    });
}

#[test]
fn what_leaves_by_an_uplink_has_an_address_of_its_pool() {
    in_gateway(async |mut site| {
        ip("addr add 203.0.113.9/32 dev lan0");
        let pool = ["203.0.113.8", "203.0.113.9"].map(|address| address.parse().unwrap());
        site.uplinks[0].addresses = pool.to_vec();
        install(&site, [true, true]).await;
        for (selector, source) in
            [("", "203.0.113.9"), (" oif wan0", "203.0.113.9"), (" oif wan1", "192.0.2.130")]
        {
            let text = ip(&format!("route get 198.51.100.1{selector}"));
            assert!(text.contains(&format!("src {source} ")), "{text}");
        }
    });
}

#[test]
fn other_sockets_leave_by_the_best_usable_uplink() {
    in_gateway(async |site| {
        install(&site, [true, true]).await;
        assert_eq!(way(""), "wan0");
        install(&site, [false, true]).await;
        assert_eq!(way(""), "wan1");
        // The uplink that is down is still there for those that name it: to probe it, for one.
        assert_eq!(way(" oif wan0"), "wan0");
        install(&site, [false, false]).await;
        assert_eq!(way(""), "wan0");
    });
}

#[test]
fn other_sockets_leave_a_draining_uplink_to_its_flows_while_another_is_usable() {
    in_gateway(async |site| {
        let (usable, draining) = (path_state::USABLE, path_state::DRAINING);
        install_by(&site, [usable | draining, usable]).await;
        assert_eq!(way(""), "wan1");
        install_by(&site, [0, usable | draining]).await;
        assert_eq!(way(""), "wan1");
    });
}

#[test]
fn other_sockets_leave_a_degraded_uplink_while_another_is_well() {
    in_gateway(async |mut site| {
        let (usable, degraded) = (path_state::USABLE, path_state::DEGRADED);
        site.policies[0].members[1].tier = 2;
        install_by(&site, [usable | degraded, usable]).await;
        assert_eq!(way(""), "wan1");
        install_by(&site, [usable | degraded, usable | degraded]).await;
        assert_eq!(way(""), "wan0");
    });
}

#[test]
fn other_sockets_follow_weights_that_are_set_at_run_time() {
    in_gateway(async |mut site| {
        let states = [path_state::USABLE; 2];
        let mut overrides = Overrides::default();
        overrides.weights.insert(1, 6);
        install_with(&site, &overrides, states).await;
        assert_eq!(way(""), "wan1");
        overrides.member_weights.insert((0, 1), 1);
        install_with(&site, &overrides, states).await;
        assert_eq!(way(""), "wan0");
        // Without a weight, it is worse than any of another tier.
        site.policies[0].members[1].tier = 2;
        overrides.weights.insert(0, 0);
        install_with(&site, &overrides, states).await;
        assert_eq!(way(""), "wan1");
    });
}

/// The gateway forwards, and has a network behind `vpn0` whose rule wants `wan1`.
fn forward_a_vpn() {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
    ip("link add vpn0 type veth peer name far-vpn0");
    ip("addr add 10.9.0.1/24 dev vpn0");
    ip("link set vpn0 up");
    ip("rule add priority 20000 from 10.9.0.0/24 lookup 200");
    ip("route add default via 192.0.2.129 dev wan1 table 200");
}

#[test]
fn what_the_gateway_forwards_for_others_follows_their_rules() {
    in_gateway(async |mut site| {
        forward_a_vpn();
        for loss in [OnDataplaneLoss::Drop, OnDataplaneLoss::Kernel] {
            site.on_dataplane_loss = loss;
            install(&site, [true, true]).await;
            assert_eq!(way(" from 10.9.0.5 iif vpn0"), "wan1");
            assert_eq!(way(""), "wan0");
        }
    });
}

#[test]
fn what_answers_a_published_port_leaves_by_the_uplink_of_its_mark() {
    in_gateway(async |site| {
        forward_a_vpn();
        install(&site, [true, true]).await;
        for (uplink, device) in [(0, "wan0"), (1, "wan1")] {
            let mark = answer_mark(uplink);
            assert_eq!(way(&format!(" from 10.77.0.9 iif lan0 mark {mark}")), device);
        }
    });
}

#[test]
fn a_lan_that_the_kernel_forwards_leaves_by_the_best_usable_uplink() {
    in_gateway(async |mut site| {
        forward_a_vpn();
        site.on_dataplane_loss = OnDataplaneLoss::Kernel;
        install(&site, [false, true]).await;
        assert_eq!(way(" from 10.77.0.9 iif lan0"), "wan1");
        let text = ip("route get 10.9.0.5 from 10.77.0.9 iif lan0");
        assert!(text.contains("dev vpn0"), "{text}");
    });
}

#[test]
fn a_marked_socket_leaves_by_its_uplink_or_not_at_all() {
    in_gateway(async |site| {
        install(&site, [true, true]).await;
        let mark = format!(" mark {}", mark(1));
        assert_eq!(way(&mark), "wan1");
        ip("link set wan1 down");
        let command = format!("route get 198.51.100.1{mark}");
        let output = Command::new("ip").args(command.split(' ')).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains("unreachable"), "{output:?}");
        // Hosts of the LAN are reached whatever the mark.
        let text = ip(&format!("route get 10.77.0.9{mark}"));
        assert!(text.contains("dev lan0"), "{text}");
    });
}

#[test]
fn a_marked_socket_with_an_address_of_another_uplink_leaves_by_none() {
    in_gateway(async |site| {
        install(&site, [true, true]).await;
        let mark = format!(" mark {}", mark(1));
        assert_eq!(way(&format!("{mark} from 192.0.2.130")), "wan1");
        for other in [" from 192.0.2.2", " from 10.77.0.1"] {
            let command = format!("route get 198.51.100.1{mark}{other}");
            let output = Command::new("ip").args(command.split(' ')).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(error.contains("unreachable"), "{other}: {output:?}");
        }
    });
}

/// As `wg-quick` does for a VPN that takes everything: rules without priorities, before all there are.
fn vpn_up() {
    ip("link add wg0 type veth peer name far-wg0");
    ip("link set wg0 up");
    for family in ["-4", "-6"] {
        ip(&format!("{family} rule add not fwmark 51820 table 51820"));
        ip(&format!("{family} rule add table main suppress_prefixlength 0"));
        ip(&format!("{family} route add default dev wg0 table 51820"));
    }
}

fn vpn_down() {
    for family in ["-4", "-6"] {
        let show = || ip(&format!("{family} rule show"));
        while show().contains("lookup 51820") {
            ip(&format!("{family} rule del table 51820"));
        }
        while show().contains("from all lookup main suppress_prefixlength 0") {
            ip(&format!("{family} rule del table main suppress_prefixlength 0"));
        }
    }
    ip("link del wg0");
}

/// The rules for what names an uplink.
fn of_uplinks() -> Vec<String> {
    let rules = ["-4", "-6"].map(|family| ip(&format!("{family} rule show"))).concat();
    let names_one = |rule: &&str| {
        ["fwmark 0x776569", "from 192.0.2.", "oif wan"].iter().any(|words| rule.contains(words))
    };
    rules.lines().filter(names_one).map(str::to_owned).collect()
}

#[test]
fn a_marked_socket_leaves_by_its_uplink_whatever_rules_come_before() {
    in_gateway(async |site| {
        install(&site, [true, true]).await;
        let before = of_uplinks();
        vpn_up();
        let mark = format!(" mark {}", mark(1));
        assert_eq!(way(&mark), "wg0", "until they are seen");
        install(&site, [true, true]).await;
        assert_eq!(way(&mark), "wan1");
        assert_eq!(way(" oif wan1"), "wan1", "as probes are bound");
        assert_eq!(way(""), "wg0", "what names no uplink is the VPN's");
        for family in ["-4", "-6"] {
            let rules = ip(&format!("{family} rule show"));
            let rules = rules.lines().skip_while(|rule| rule.contains("lookup local"));
            let marked = |rule: &&str| rule.contains("fwmark 0x776569");
            assert!(rules.take_while(marked).count() >= 4, "{family}");
        }
        let moved = of_uplinks();
        vpn_down();
        assert_eq!(of_uplinks(), moved, "none is deleted in place of the VPN's");
        install(&site, [true, true]).await;
        assert_eq!(of_uplinks(), before, "back in their place");
        assert_eq!(way(&mark), "wan1");
    });
}

#[test]
fn a_vpn_that_was_there_before_takes_no_rule_of_an_uplink_along() {
    in_gateway(async |site| {
        vpn_up();
        install(&site, [true, true]).await;
        let before = of_uplinks();
        assert_eq!(before.len(), 20, "{before:?}");
        vpn_down();
        assert_eq!(of_uplinks(), before);
    });
}

#[test]
fn what_names_an_uplink_follows_no_route_for_half_of_everything() {
    in_gateway(async |site| {
        ip("route add 128.0.0.0/1 via 10.77.0.9");
        install(&site, [true, true]).await;
        assert_eq!(way(""), "lan0");
        for named in [" oif wan1".into(), " from 192.0.2.130".into(), format!(" mark {}", mark(1))]
        {
            assert_eq!(way(&named), "wan1", "{named}");
        }
    });
}

#[test]
fn what_commands_need_stays_when_all_else_goes() {
    in_gateway(async |site| {
        install(&site, [true, true]).await;
        Watcher::new().unwrap().remove_own(&[1].into()).await.unwrap();
        assert_eq!(way(&format!(" mark {}", mark(1))), "wan1");
        assert_eq!(way(" from 192.0.2.130"), "wan0", "as the main table says");
        assert_eq!(way(&format!(" mark {}", mark(0))), "wan0", "likewise");
        let rules = ip("rule show");
        assert_eq!(rules.matches("lookup 11702").count(), 2, "{rules}");
        ip("link set wan1 down");
        let command = format!("route get 198.51.100.1 mark {}", mark(1));
        let output = Command::new("ip").args(command.split(' ')).output().unwrap();
        assert!(String::from_utf8_lossy(&output.stderr).contains("unreachable"), "{output:?}");
        Watcher::new().unwrap().remove_own(&[].into()).await.unwrap();
        assert!(!ip("rule show").contains("117"), "nothing is left");
    });
}

#[test]
fn rules_and_routes_of_a_namespace_have_one_keeper() {
    in_gateway(async |_site| {
        let (first, second) = (Path::new("/sys/fs/bpf/one"), Path::new("/sys/fs/bpf/two"));
        let claim = own::Claim::take(first).unwrap();
        let error = own::Claim::take(second).unwrap_err().to_string();
        let named =
            format!("weir-control, process {} with --pins /sys/fs/bpf/one", std::process::id());
        assert!(error.contains(&named) && error.contains("own_traffic = false"), "{error}");
        drop(claim);
        own::Claim::take(second).unwrap();
    });
}

#[test]
fn an_uplink_that_is_set_down_takes_nothing_from_the_others() {
    in_gateway(async |site| {
        ip("link set wan1 down");
        install(&site, [true, false]).await;
        assert_eq!(way(" from 192.0.2.2"), "wan0");
        ip("link set wan1 up");
        install(&site, [true, false]).await;
        assert_eq!(way(" from 192.0.2.130"), "wan1");
    });
}

#[test]
fn a_rule_of_an_earlier_build_that_suppresses_otherwise_is_replaced() {
    in_gateway(async |site| {
        let priority = PRIORITY + 3;
        let rule = format!("priority {priority} oif wan1 lookup main suppress_prefixlength 0");
        ip(&format!("rule add {rule} protocol 117"));
        install(&site, [true, true]).await;
        let rules = ip("rule show");
        let by_device = rules.lines().filter(|rule| rule.contains("oif wan1 lookup main"));
        let by_device: Vec<_> = by_device.map(|rule| rule.contains("prefixlength 1")).collect();
        assert_eq!(by_device, [true], "{rules}");
    });
}

#[test]
fn a_route_that_the_kernel_refuses_stops_no_other() {
    in_gateway(async |mut site| {
        // Its own address.
        site.uplinks[0].next_hop = Some("192.0.2.2".parse().unwrap());
        let mut watcher = Watcher::new().unwrap();
        let mut kernel = watcher.read().await.unwrap();
        let half = weir_publish::derive(&site, &kernel, &Overrides::default(), [&[]; 2], None).half;
        let wanted =
            weir_publish::own::wanted(&site, &kernel, &half, [&[0, path_state::USABLE], &[]]);
        let error = own::install(&wanted, Arc::make_mut(&mut kernel.own), watcher.handle())
            .await
            .unwrap_err();
        assert!(error.to_string().contains("192.0.2.2"), "{error}");
        assert_eq!(way(" from 192.0.2.130"), "wan1");
        assert_eq!(way(""), "wan1");
    });
}

#[test]
fn what_others_have_put_there_stays_and_all_of_weirs_goes() {
    in_gateway(async |site| {
        ip("rule add priority 11701 from 203.0.113.7 lookup 77");
        ip("route add 203.0.113.0/24 via 192.0.2.1 table 11701");
        // Links get their carrier, and addresses of IPv6, meanwhile.
        let routes = || ip("-4 route show table 0").replace(" linkdown", "");
        let all = || (ip("rule show"), routes());
        let before = all();
        // Of an earlier version: too wide.
        ip("rule add priority 11702 lookup main suppress_prefixlength 0 protocol 117");
        ip("rule add priority 11703 lookup 11700 protocol 117");
        install(&site, [true, true]).await;
        let (rules, _) = all();
        assert_eq!(rules.matches("from all iif lo lookup").count(), 2, "{rules}");
        assert_eq!(rules.lines().count(), before.0.lines().count() + 22);
        // A second time, there is nothing to do.
        install(&site, [true, true]).await;
        assert_eq!(all().0, rules);
        Watcher::new().unwrap().remove_own(&[].into()).await.unwrap();
        assert_eq!(all(), before);
    });
}

/// The gateway with an IPv6 path for each uplink: `2001:db8:1::2` on `wan0`, `2001:db8:2::2` on
/// `wan1`, and routers at `fe80::1` of both links.
fn in_gateway6<F: Future>(body: impl FnOnce(Site) -> F + Send) {
    in_gateway(async |mut site| {
        for (name, address) in
            [("lan0", "2001:db8:7::1"), ("wan0", "2001:db8:1::2"), ("wan1", "2001:db8:2::2")]
        {
            ip(&format!("addr add {address}/64 dev {name} nodad"));
        }
        ip("-6 route add default via fe80::1 dev wan0");
        let next_hop = "fe80::1".parse().ok();
        let ipv6 = Ipv6Config { next_hop, ..Ipv6Config::default() };
        site.uplinks.iter_mut().for_each(|uplink| uplink.ipv6 = Some(ipv6.clone()));
        body(site).await;
    });
}

/// As [`way`], by IPv6; none: there is no way.
fn way6(selector: &str) -> Option<String> {
    let arguments = format!("-6 route get 2001:db8:ffff::1{selector}");
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let device = || text.split_whitespace().skip_while(|word| *word != "dev").nth(1);
    output.status.success().then(|| device().unwrap().to_owned())
}

const UP: u32 = path_state::USABLE;

#[test]
fn each_family_leaves_by_the_uplink_that_works_in_it() {
    in_gateway6(async |site| {
        install_for(&site, &Overrides::default(), [&[UP, 0], &[0, UP]]).await;
        assert_eq!(way(""), "wan0");
        assert_eq!(way6("").as_deref(), Some("wan1"));
        install_for(&site, &Overrides::default(), [&[0, UP], &[UP, 0]]).await;
        assert_eq!(way(""), "wan1");
        assert_eq!(way6("").as_deref(), Some("wan0"));
    });
}

#[test]
fn a_socket_that_names_an_uplink_leaves_by_it_with_ipv6_too() {
    in_gateway6(async |site| {
        install_for(&site, &Overrides::default(), [&[UP; 2]; 2]).await;
        assert_eq!(way6(" oif wan1").as_deref(), Some("wan1"));
        assert_eq!(way6(" from 2001:db8:2::2").as_deref(), Some("wan1"));
        assert_eq!(way6(" from 2001:db8:1::2").as_deref(), Some("wan0"));
        let text = ip("-6 route get 2001:db8:7::9 from 2001:db8:2::2");
        assert!(text.contains("dev lan0"), "{text}");
    });
}

#[test]
fn a_command_of_an_uplink_leaves_by_it_or_not_at_all_with_ipv6_too() {
    in_gateway6(async |mut site| {
        install_for(&site, &Overrides::default(), [&[UP; 2]; 2]).await;
        let by = |uplink: u8, from: &str| way6(&format!(" mark {:#x}{from}", mark(uplink)));
        for (uplink, device) in [(0, "wan0"), (1, "wan1")] {
            assert_eq!(by(uplink, "").as_deref(), Some(device));
        }
        assert_eq!(by(1, " from 2001:db8:2::2").as_deref(), Some("wan1"));
        assert_eq!(by(1, " from 2001:db8:1::2"), None, "from an address of the other");
        site.uplinks[1].ipv6 = None;
        install_for(&site, &Overrides::default(), [&[UP; 2], &[UP, 0]]).await;
        assert_eq!(by(1, ""), None, "it has no path");
        assert_eq!(by(0, "").as_deref(), Some("wan0"));
    });
}

#[test]
fn an_address_that_is_tentative_yet_is_no_source_and_keeps_no_route_from_others() {
    in_gateway6(async |site| {
        ip("addr add 2001:db8:1::9/64 dev wan0");
        install_for(&site, &Overrides::default(), [&[UP; 2]; 2]).await;
        let text = ip("-6 route get 2001:db8:ffff::1");
        assert!(text.contains("src 2001:db8:1::2 "), "{text}");
    });
}
