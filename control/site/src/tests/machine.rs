//! A site beside what the kernel has.

use weir_view::Route;

use super::*;

fn on_this_machine(change: impl FnOnce(&mut Kernel)) -> String {
    let mut kernel = kernel();
    change(&mut kernel);
    let found = against_kernel(&parse("weir.toml", GOOD).unwrap(), &kernel, "weir.toml");
    assert_eq!(found.len(), 1, "{found:#?}");
    found[0].to_string()
}

#[test]
fn what_befalls_one_part_keeps_the_others_from_nothing() {
    let passing = |name: &str, change: fn(&mut Link)| {
        let mut kernel = kernel();
        kernel.links.iter_mut().filter(|link| link.name == name).for_each(change);
        let found = against_kernel(&parse("weir.toml", GOOD).unwrap(), &kernel, "weir.toml");
        found.iter().map(|problem| problem.passing).collect::<Vec<_>>()
    };
    let gone = |link: &mut Link| link.name.clear();
    let raw = |link: &mut Link| link.headerless = true;
    for name in ["lan0", "wan1"] {
        assert_eq!((passing(name, gone), passing(name, raw)), (vec![true], vec![true]), "{name}");
    }
    let text = GOOD.replacen("weight = 5", "weight = 5\naddresses = [\"10.77.3.4\"]", 1);
    let mut clash = kernel();
    clash.addresses[1].1 = "10.77.9.2/24".parse().unwrap();
    let found = against_kernel(&parse("weir.toml", &text).unwrap(), &clash, "weir.toml");
    assert!(found.len() == 2 && found.iter().all(|problem| problem.passing), "{found:#?}");
}

#[test]
fn an_absent_interface_lists_what_is_there() {
    let text = on_this_machine(|kernel| kernel.links.retain(|l| l.name != "wan1"));
    let expected = "weir.toml:14:1: there is no interface wan1\n    help: there are: lan0, wan0";
    assert_eq!(text, expected);
}

#[test]
fn clashing_port_ranges_name_the_sysctl() {
    let given = format!("[gateway]\nsysctls = false\n{}", GOOD.replacen("[gateway]\n", "", 1));
    let mut kernel = kernel();
    kernel.local_ports = (32_768, 60_999);
    let found = against_kernel(&parse("weir.toml", &given).unwrap(), &kernel, "weir.toml");
    let text = found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(text.contains("sysctl -w net.ipv4.ip_local_port_range=\"1024 16383\""), "{text}");
}

#[test]
fn a_lan_that_overlaps_a_provider_is_refused() {
    let text = on_this_machine(|kernel| kernel.addresses[1].1 = "10.77.9.2/24".parse().unwrap());
    assert!(text.contains("10.77.9.0/24 of uplink fiber overlaps 10.77.0.0/16"), "{text}");
}

#[test]
fn a_lan_prefix_of_the_kernel_that_overlaps_another_lan_is_refused() {
    let two = format!("{GOOD}\n[[lan]]\ninterface = \"lan1\"\n");
    let mut kernel = kernel();
    let lan1 = Link { index: 4, name: "lan1".into(), ..kernel.links[0].clone() };
    kernel.links.push(lan1);
    kernel.addresses.push((4, "10.77.8.1/24".parse().unwrap()));
    let found = against_kernel(&parse("weir.toml", &two).unwrap(), &kernel, "weir.toml");
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(
        found[0].message,
        "network 10.77.8.0/24 of LAN lan1 overlaps 10.77.0.0/16 of LAN lan0"
    );
}

#[test]
fn an_interface_without_an_ethernet_header_is_told_of() {
    let text = on_this_machine(|kernel| kernel.links[1].headerless = true);
    assert!(text.contains("wan0 has no Ethernet header"), "{text}");
}

#[test]
fn a_vlan_whose_parent_takes_the_tags_off_is_told_with_the_command_that_stops_it() {
    let vlan_of = |kernel: &mut Kernel, strips_tags| {
        kernel.links[1].vlan = Some((8, 20));
        let (name, vlan) = ("eth0".into(), None);
        let parent = Link { index: 8, name, vlan, strips_tags, ..kernel.links[1].clone() };
        kernel.links.push(parent);
    };
    let text = on_this_machine(|kernel| vlan_of(kernel, true));
    assert!(text.contains("wan0 is a VLAN of eth0, which takes the tags off"), "{text}");
    assert!(text.contains("ethtool -K eth0 rxvlan off"), "{text}");
    let mut kernel = kernel();
    vlan_of(&mut kernel, false);
    let site = parse("weir.toml", GOOD).unwrap();
    assert!(against_kernel(&site, &kernel, "weir.toml").is_empty());
}

#[test]
fn a_vlan_within_a_vlan_is_refused() {
    let text = on_this_machine(|kernel| {
        kernel.links[1].vlan = Some((8, 20));
        let outer = Link {
            index: 8,
            name: "eth0.10".into(),
            vlan: Some((9, 10)),
            ..kernel.links[1].clone()
        };
        kernel.links.push(outer);
    });
    assert!(text.contains("wan0 is a VLAN within a VLAN"), "{text}");
}

/// The problems of the good file with more said about the uplink `fiber`.
fn with_fiber(line: &str, change: impl FnOnce(&mut Kernel)) -> Vec<String> {
    let text = GOOD.replacen("weight = 5", &format!("weight = 5\n{line}"), 1);
    let mut kernel = kernel();
    change(&mut kernel);
    let site = parse("weir.toml", &text).unwrap();
    against_kernel(&site, &kernel, "weir.toml").iter().map(ToString::to_string).collect()
}

#[test]
fn a_next_hop_is_on_a_network_of_its_interface() {
    assert!(with_fiber("next_hop = \"100.64.0.1\"", |_| ()).is_empty());
    let found = with_fiber("next_hop = \"100.65.0.1\"", |_| ());
    assert!(found[0].contains("100.65.0.1 of uplink fiber is on no network of wan0"), "{found:?}");
}

#[test]
fn a_next_hop_may_be_routed_to_its_interface() {
    let route = |kernel: &mut Kernel| {
        let destination = "100.65.0.1/32".parse().unwrap();
        let route = Route::by(2, destination);
        kernel.routes = std::sync::Arc::new(vec![route].into());
    };
    assert!(with_fiber("next_hop = \"100.65.0.1\"", route).is_empty());
}

#[test]
fn a_next_hop_is_not_the_gateway_itself() {
    let found = with_fiber("next_hop = \"100.64.0.2\"", |_| ());
    assert!(found[0].contains("is the gateway itself"), "{found:?}");
}

#[test]
fn a_pool_address_in_a_lan_is_refused() {
    let found = with_fiber("addresses = [\"10.77.3.4\"]", |_| ());
    assert!(
        found[0].contains("10.77.3.4 of uplink fiber is in 10.77.0.0/16 of LAN lan0"),
        "{found:?}"
    );
}

#[test]
fn local_ports_that_weir_can_set_are_no_clash() {
    let clash = Kernel { local_ports: (32_768, 60_999), ..kernel() };
    let found =
        |text: &str| against_kernel(&parse("weir.toml", text).unwrap(), &clash, "weir.toml");
    assert_eq!(found(GOOD), []);
    let all = found(&GOOD.replace("16384-65535", "1024-65535"));
    assert!(all.len() == 1 && all[0].remedy.contains("fewer ports"), "{all:?}");
}

#[test]
fn the_sysctl_that_is_proposed_ends_the_clash() {
    for nat_ports in ["16384-65535", "1024-32767", "2048-40000"] {
        let text = GOOD.replace("16384-65535", nat_ports);
        let text = text.replacen("[gateway]", "[gateway]\nsysctls = false", 1);
        let site = parse("weir.toml", &text).unwrap();
        let clash = Kernel { local_ports: (20_000, 30_000), ..kernel() };
        let remedy = against_kernel(&site, &clash, "weir.toml").remove(0).remedy;
        let proposed = remedy.split('"').nth(1).unwrap().split_once(' ').unwrap();
        let local_ports = (proposed.0.parse().unwrap(), proposed.1.parse().unwrap());
        assert!(local_ports.0 < local_ports.1, "{remedy}");
        let cured = Kernel { local_ports, ..kernel() };
        assert!(against_kernel(&site, &cured, "weir.toml").is_empty(), "{nat_ports}: {remedy}");
    }
}

#[test]
fn nat_ports_that_leave_the_kernel_none_are_to_be_changed_themselves() {
    let site = parse("weir.toml", &GOOD.replace("16384-65535", "1024-65535")).unwrap();
    let problem = against_kernel(&site, &kernel(), "weir.toml").remove(0);
    assert!(problem.remedy.starts_with("set nat_ports"), "{}", problem.remedy);
}
