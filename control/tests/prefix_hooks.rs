//! The hooks of DHCPv6 clients: what each tells weir, run as its client runs it, with a `weir` that
//! writes down what it is asked.

mod script;

use std::fs;
use std::path::Path;
use std::process::Command;

/// Runs a hook with these arguments and variables, and these programs beside those of the machine;
/// the command lines that weir got, which then does as said.
fn run(
    hook: &str,
    arguments: &[&str],
    variables: &[(&str, &str)],
    programs: &[(&str, &str)],
) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let asked = directory.path().join("asked");
    for (name, text) in [("weir", "")].iter().chain(programs) {
        let path = directory.path().join(name);
        let notes = match *name {
            "weir" => format!("echo \"$@\" >> {}\n", asked.display()),
            _ => String::new(),
        };
        script::put(&path, &format!("#!/bin/sh\n{notes}{text}\n"));
    }
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", directory.path().display());
    let hooks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/hooks");
    let mut command = Command::new("sh");
    command.arg("-eu").arg(hooks.join(hook)).args(arguments);
    let output = command.env_clear().env("PATH", path).envs(variables.iter().copied()).output();
    let output = output.unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let asked = fs::read_to_string(asked).unwrap_or_default();
    asked.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// What dhcpcd says of the prefixes of one association, and what it said before.
const DHCPCD: [(&str, &str); 13] = [
    ("interface", "wan0"),
    ("new_dhcp6_ia_pd1_iaid", "00000001"),
    ("new_dhcp6_ia_pd1_prefix1", "2001:2:0:d000::"),
    ("new_dhcp6_ia_pd1_prefix1_length", "56"),
    ("new_dhcp6_ia_pd1_prefix1_pltime", "40"),
    ("new_dhcp6_ia_pd1_prefix1_vltime", "80"),
    ("new_dhcp6_ia_pd1_prefix2", "2001:2:0:c000::"),
    ("new_dhcp6_ia_pd1_prefix2_length", "56"),
    ("new_dhcp6_ia_pd1_prefix2_pltime", "0"),
    ("new_dhcp6_ia_pd1_prefix2_vltime", "0"),
    ("old_dhcp6_ia_pd1_iaid", "00000001"),
    ("old_dhcp6_ia_pd1_prefix1", "2001:2:0:c000::"),
    ("old_dhcp6_ia_pd1_prefix1_length", "56"),
];

fn dhcpcd(reason: &str, more: &[(&str, &str)]) -> Vec<String> {
    run("dhcpcd", &[], &[&DHCPCD[..], &[("reason", reason)], more].concat(), &[])
}

#[test]
fn dhcpcd_tells_of_what_is_delegated_and_of_what_is_no_more() {
    let told = [
        "prefix wan0",
        "prefix wan0 set 2001:2:0:d000::/56 --valid 80 --preferred 40",
        "prefix wan0 set 2001:2:0:c000::/56 --valid 0 --preferred 0",
        "prefix wan0 keep 2001:2:0:d000::/56",
    ];
    for reason in ["BOUND6", "RENEW6", "REBIND6", "REBOOT6"] {
        assert_eq!(dhcpcd(reason, &[]), told);
    }
    let more = [
        ("new_dhcp6_ia_pd2_iaid", "00000002"),
        ("new_dhcp6_ia_pd2_prefix1", "2001:2:0:e000::"),
        ("new_dhcp6_ia_pd2_prefix1_length", "60"),
        ("new_dhcp6_ia_pd2_prefix1_pltime", "4294967295"),
        ("new_dhcp6_ia_pd2_prefix1_vltime", "4294967295"),
    ];
    let told = dhcpcd("BOUND6", &more);
    assert_eq!(told.last().unwrap(), "prefix wan0 keep 2001:2:0:d000::/56 2001:2:0:e000::/60");
    assert_eq!(told.len(), 5);
}

/// A `weir` that has room for one prefix, once all others are ended.
const FULL: &str = "case \"$3\" in
    set) [ -e \"$0.room\" ] ;;
    keep) : > \"$0.room\" ;;
esac";

#[test]
fn a_prefix_without_room_is_told_again_when_those_that_are_no_more_have_ended() {
    let told =
        run("dhcpcd", &[], &[&DHCPCD[..], &[("reason", "RENEW6")]].concat(), &[("weir", FULL)]);
    let set = "prefix wan0 set 2001:2:0:d000::/56 --valid 80 --preferred 40";
    assert_eq!(
        told.iter().map(|it| it == set).collect::<Vec<_>>(),
        [false, true, false, false, true, false]
    );
    assert_eq!(told[3], "prefix wan0 keep 2001:2:0:d000::/56");
}

#[test]
fn where_nobody_answers_all_is_told_once_as_it_is_kept() {
    let told = |hook: &str, variables: &[(&str, &str)], rc: &str| {
        let programs = [("weir", rc), ("networkctl", NETWORKCTL)];
        run(hook, &["wan0", "up"], variables, &programs)
    };
    let dhcpcd = [&DHCPCD[..], &[("reason", "RENEW6")]].concat();
    let network_manager = [("DHCP6_IP6_PREFIX", "2001:2:0:d000::/56")];
    for (hook, variables, count) in
        [("dhcpcd", &dhcpcd[..], 4), ("NetworkManager", &network_manager, 2), ("networkd", &[], 4)]
    {
        let answered = told(hook, variables, "exit 0");
        assert_eq!(told(hook, variables, "exit 3"), answered, "{hook}");
        assert_eq!(answered.len(), count, "{hook}");
    }
}

#[test]
fn a_carrier_that_is_lost_or_a_client_that_stops_ends_no_prefix_and_a_release_does() {
    for reason in ["NOCARRIER", "EXPIRE6", "STOP6", "STOPPED", "DELEGATED6", "ROUTERADVERT"] {
        assert_eq!(dhcpcd(reason, &[]), [""; 0], "{reason}");
    }
    assert_eq!(dhcpcd("RELEASE6", &[]), ["prefix wan0 keep"]);
}

#[test]
fn an_answer_without_a_delegation_ends_those_of_an_uplink_and_no_other_interface_is_told_of() {
    let address = [("interface", "wan0"), ("reason", "BOUND6"), ("new_dhcp6_ia_na1_iaid", "1")];
    assert_eq!(run("dhcpcd", &[], &address, &[]), ["prefix wan0", "prefix wan0 keep"]);
    for (hook, variables, program) in
        [("dhcpcd", &address[..], ("weir", "exit 1")), ("networkd", &[], ("weir", "exit 1"))]
    {
        let programs = [program, ("networkctl", NETWORKCTL)];
        assert_eq!(run(hook, &[], variables, &programs), ["prefix wan0"]);
    }
}

#[test]
fn network_manager_tells_of_the_prefix_that_its_client_got() {
    let prefix = [
        ("DHCP6_IP6_PREFIX", "2001:2:0:d000::/56"),
        ("DHCP6_MAX_LIFE", "7200"),
        ("DHCP6_PREFERRED_LIFE", "3600"),
    ];
    let told = [
        "prefix wan0 set 2001:2:0:d000::/56 --valid 7200 --preferred 3600",
        "prefix wan0 keep 2001:2:0:d000::/56",
    ];
    for action in ["up", "dhcp6-change"] {
        assert_eq!(run("NetworkManager", &["wan0", action], &prefix, &[]), told);
        assert_eq!(run("NetworkManager", &["wan0", action], &[], &[]), [""; 0]);
    }
    assert_eq!(run("NetworkManager", &["wan0", "down"], &prefix, &[]), [""; 0]);
}

/// An uplink whose lease has two prefixes, one of them over.
const NETWORKCTL: &str = r#"cat << END
{ "Interfaces": [ { "Name": "lo" }, { "Name": "wan0", "DHCPv6Client": { "Lease": {}, "Prefixes": [
    { "Prefix": [32,1,0,2,0,0,208,0,0,0,0,0,0,0,0,0], "PrefixLength": 56,
      "PreferredLifetimeUSec": 1, "ValidLifetimeUSec": 2 },
    { "Prefix": [32,1,13,184,0,16,0,0,0,0,0,0,0,0,0,0], "PrefixLength": 60 } ] } } ] }
END"#;

const ENDED: &str =
    "prefix wan0 set 2001:0002:0000:d000:0000:0000:0000:0000/56 --valid 0 --preferred 0";
const ENDLESS: &str = "prefix wan0 set 2001:0db8:0010:0000:0000:0000:0000:0000/60 --valid infinity \
                       --preferred infinity";
const KEPT: &str = "prefix wan0 keep 2001:0002:0000:d000:0000:0000:0000:0000/56 \
                    2001:0db8:0010:0000:0000:0000:0000:0000/60";

#[test]
fn networkd_tells_of_the_prefixes_of_all_interfaces() {
    let told = run("networkd", &[], &[], &[("networkctl", NETWORKCTL)]);
    assert_eq!(told, ["prefix wan0", ENDED, ENDLESS, KEPT]);
    let told = run("networkd", &[], &[], &[("networkctl", NETWORKCTL), ("weir", FULL)]);
    assert_eq!(told, ["prefix wan0", ENDED, ENDLESS, KEPT, ENDED, ENDLESS]);
}

#[test]
fn a_lease_of_networkds_without_a_prefix_ends_those_that_were_and_no_lease_or_no_answer_none() {
    let told = |networkctl: &str| run("networkd", &[], &[], &[("networkctl", networkctl)]);
    let client = |text: &str| {
        let interfaces = r#"{ "Interfaces": [ { "Name": "wan0", "DHCPv6Client": "#;
        told(&format!("echo '{interfaces} {text} }}, {{ \"Name\": \"lan0\" }} ] }}'"))
    };
    assert_eq!(
        client(r#"{ "Lease": { "Timeout1USec": 7 } }"#),
        ["prefix wan0", "prefix wan0 keep"]
    );
    assert_eq!(client(r#"{ "DUID": [0] }"#), [""; 0]);
    assert_eq!(told("exit 1"), [""; 0]);
}

/// What the kernel of a networkd that delegates a /56, or a /64, says of its routes.
const ROUTES: [&str; 2] = [
    "case \"$*\" in
    *unreachable*) echo 'unreachable 2001:2:0:d000::/56 dev lo proto dhcp metric 1024 pref medium' ;;
    *) echo '2001:2:0:d001::/64 proto kernel metric 256 expires 7100sec pref medium' ;;
esac",
    "case \"$*\" in
    *unreachable*) ;;
    *lan0*) cat << END
2001:2:0:e000::/64 proto kernel metric 256 expires 7100sec pref medium
2001:2:0:5::/64 proto kernel metric 256 pref medium
2001:2:0:6::/64 via fe80::1 proto static metric 1024 expires 60sec pref medium
fd00::/64 proto kernel metric 256 expires 7100sec pref medium
fe80::/64 proto kernel metric 256 pref medium
END
esac",
];

#[test]
fn an_older_networkd_is_asked_by_its_routes_where_it_is_said_whose_they_are() {
    let told = |routes: &str, variables: &[(&str, &str)]| {
        let networkctl = "echo '{ \"Interfaces\": [ { \"Name\": \"wan0\" } ] }'";
        run("networkd", &[], variables, &[("networkctl", networkctl), ("ip", routes)])
    };
    let (uplink, lan) = (("WEIR_NETWORKD_UPLINK", "wan0"), ("WEIR_NETWORKD_LAN", "lan0"));
    assert_eq!(told(ROUTES[0], &[lan]), [""; 0]);
    let wanted = |net: &str, seconds: u32| {
        let set = format!("prefix wan0 set {net} --valid {seconds} --preferred {seconds}");
        ["prefix wan0".into(), set, format!("prefix wan0 keep {net}")]
    };
    for variables in [&[uplink][..], &[uplink, lan]] {
        assert_eq!(told(ROUTES[0], variables), wanted("2001:2:0:d000::/56", 7200));
    }
    assert_eq!(told(ROUTES[1], &[uplink, lan]), wanted("2001:2:0:e000::/64", 7100));
    assert_eq!(told(ROUTES[1], &[uplink]), [""; 0]);
}
