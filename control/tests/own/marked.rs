//! Marked sockets, which commands have, leave by their uplink alone.

use std::process::Command;

use weir_view::own::mark;

use super::{in_gateway, install, ip, way};

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
