//! What leaves by which uplink: sockets that name one, others, and what the gateway forwards.

use weir_layout::control::{OnDataplaneLoss, path_state};
use weir_publish::Overrides;
use weir_view::own::answer_mark;

use super::{in_gateway, install, install_by, install_with, ip, way};

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
