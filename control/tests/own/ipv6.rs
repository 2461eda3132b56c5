//! IPv6.

use std::process::Command;

use weir_layout::control::path_state;
use weir_publish::Overrides;
use weir_site::{Ipv6Config, Site};
use weir_view::own::mark;

use super::{in_gateway, install_for, ip, way};

/// The gateway with an IPv6 path for each uplink: `2001:db8:1::2` on `wan0`, `2001:db8:2::2` on
/// `wan1`, and routers at `fe80::1` of both links.
fn in_gateway6<F: Future>(body: impl FnOnce(Site) -> F + Send) {
    in_gateway(async |mut site| {
        for (name, address) in
            [("lan0", "2001:2:7::1"), ("wan0", "2001:db8:1::2"), ("wan1", "2001:db8:2::2")]
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
        let text = ip("-6 route get 2001:2:7::9 from 2001:db8:2::2");
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

#[test]
fn what_leaves_by_a_link_without_an_address_of_its_own_has_none_of_another_uplink() {
    in_gateway6(async |mut site| {
        ip("addr del 2001:db8:2::2/64 dev wan1");
        ip("addr add fd00:2::2/64 dev wan1 nodad");
        install_for(&site, &Overrides::default(), [&[UP; 2]; 2]).await;
        let text = ip("-6 route get 2001:db8:ffff::1 oif wan1");
        assert!(text.contains("dev wan1") && text.contains("src 2001:2:7::1 "), "{text}");
        ip("addr del 2001:2:7::1/64 dev lan0");
        install_for(&site, &Overrides::default(), [&[UP; 2]; 2]).await;
        assert_eq!(way6(" oif wan1"), None, "rather than from an address of wan0");
        site.on_dataplane_loss = weir_layout::control::OnDataplaneLoss::Kernel;
        install_for(&site, &Overrides::default(), [&[UP; 2]; 2]).await;
        assert_eq!(way6(" oif wan1").as_deref(), Some("wan1"), "what is forwarded has a source");
    });
}
