//! Rules and routes beside those of others: put there, replaced, removed.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_kernel::own;
use weir_kernel::watch::Watcher;
use weir_layout::control::path_state;
use weir_publish::Overrides;
use weir_view::own::{PRIORITY, mark};

use super::{in_gateway, install, ip, way};

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
        // A child of another test, which has yet to become `ip`, holds what the parent had open.
        let end = Instant::now() + Duration::from_secs(10);
        while let Err(error) = own::Claim::take(second) {
            assert!(Instant::now() < end, "{error:#}");
            std::thread::sleep(Duration::from_millis(1));
        }
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
        assert_eq!(rules.lines().count(), before.0.lines().count() + 24);
        // A second time, there is nothing to do.
        install(&site, [true, true]).await;
        assert_eq!(all().0, rules);
        Watcher::new().unwrap().remove_own(&[].into()).await.unwrap();
        assert_eq!(all(), before);
    });
}
