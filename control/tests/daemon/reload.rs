//! Another file, taken over or refused, and what was set by hand.

use std::fs;

use rustix::process::{Pid, Signal, kill_process};

use crate::gateway::{Gateway, on_its_own, run, sysctl};

/// What `weir status` says while no dataplane runs.
fn shown(gateway: &Gateway) -> String {
    let output = gateway.weir(&["status"]);
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_file_that_a_reload_refuses_keeps_no_restart_from_going_on_with_the_last_good_one() {
    on_its_own(|| {
        let mut gateway = Gateway::start("refused", "");
        let file = gateway.path("weir.toml");
        let file = file.to_str().unwrap();
        let good = fs::read_to_string(file).unwrap();
        gateway.edit(|text| text.replace("\"lte\"", "\"dsl\""));
        for arguments in [&["check", file][..], &["reload"]] {
            let output = gateway.weir(arguments);
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && said.contains("was \"lte\""), "{said}");
        }
        let pid = gateway.json("status")["control"]["pid"].as_i64().unwrap();
        kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::HUP).unwrap();
        gateway.wait("word of it in the log", |gateway| {
            gateway.log().contains("configuration not reloaded").then_some(())
        });
        assert!(shown(&gateway).contains("is REFUSED since"));
        gateway.kill_control();
        gateway.start_control();
        let status = shown(&gateway);
        assert!(status.contains("last-good.toml") && status.contains("was \"lte\""), "{status}");
        assert!(gateway.log().contains("going on with the last good configuration"));
        let json = gateway.json("status");
        assert!(json["configuration"]["refused"]["why"].is_string(), "{json}");
        fs::write(file, good).unwrap();
        assert!(gateway.done(&["reload"]).starts_with("configuration reloaded"));
        let status = shown(&gateway);
        assert!(status.contains(file) && !status.contains("REFUSED"), "{status}");
        gateway.done(&["check", file]);
    });
}

#[test]
fn what_is_set_by_hand_lasts_until_it_is_undone_whatever_the_file() {
    on_its_own(|| {
        let mut gateway = Gateway::start("overrides", "");
        gateway.done(&["down", "lte"]);
        gateway.done(&["weight", "fiber", "7"]);
        gateway.done(&["weight", "lte", "3", "--policy", "balanced"]);
        let holds = |gateway: &Gateway| {
            assert_eq!(gateway.uplink("lte")["state"], "down");
            assert_eq!(gateway.uplink("fiber")["weight"], 7);
            let list = gateway.json("overrides");
            let values = list.as_array().unwrap().iter().map(|entry| entry["value"].clone());
            assert_eq!(values.collect::<Vec<_>>(), ["down", "7", "3"], "{list}");
            assert!(list.as_array().unwrap().iter().all(|entry| {
                entry["by"].as_str().is_some_and(|by| by.starts_with("user 0, process "))
                    && entry["since_s"].is_u64()
            }));
        };
        holds(&gateway);
        gateway.edit(|text| format!("# a remark\n{text}"));
        gateway.done(&["reload"]);
        holds(&gateway);
        // Another policy before it: names decide, not places.
        let policy = "[[policy]]\nname = \"voice\"\n[[policy]]\nname = \"balanced\"";
        gateway.edit(|text| text.replace("[[policy]]\nname = \"balanced\"", policy));
        gateway.kill_control();
        gateway.start_control();
        holds(&gateway);
        assert!(gateway.done(&["overrides"]).contains("lte"));
        gateway.done(&["up", "lte"]);
        gateway.done(&["weight", "fiber", "--reset"]);
        gateway.done(&["weight", "lte", "--reset", "--policy", "balanced"]);
        assert_eq!(gateway.done(&["overrides"]), "nothing is set by hand\n");
        assert_eq!(gateway.uplink("fiber")["weight"], 1);
        let again = gateway.weir(&["weight", "fiber", "--reset"]);
        assert!(String::from_utf8(again.stderr).unwrap().contains("is not set by hand"));
        assert_eq!(gateway.weir(&["weight", "fiber"]).status.code(), Some(2));
    });
}

#[test]
fn what_is_set_by_hand_is_undone_of_one_uplink_or_of_all() {
    on_its_own(|| {
        let gateway = Gateway::start("reset", "");
        let set = || {
            gateway.done(&["down", "lte"]);
            gateway.done(&["weight", "fiber", "7"]);
            gateway.done(&["weight", "lte", "3", "--policy", "balanced"]);
        };
        let values = || {
            let list = gateway.json("overrides");
            list.as_array().unwrap().iter().map(|entry| entry["value"].clone()).collect::<Vec<_>>()
        };
        set();
        assert!(gateway.done(&["overrides", "--reset", "lte"]).contains("lte is as in the file"));
        assert_eq!(values(), ["7"]);
        assert_ne!(gateway.uplink("lte")["state"], "down");
        set();
        let refused = gateway.weir(&["overrides", "--reset", "nosuch"]);
        let told = String::from_utf8(refused.stderr).unwrap();
        assert!(told.contains("there is no uplink \"nosuch\"; known: fiber, lte"), "{told}");
        assert_eq!(values(), ["down", "7", "3"], "nothing has changed");
        gateway.done(&["overrides", "--reset"]);
        assert_eq!(gateway.done(&["overrides"]), "nothing is set by hand\n");
        assert_eq!(gateway.uplink("fiber")["weight"], 1);
    });
}

#[test]
fn a_reload_tells_of_a_missing_interface_in_the_words_of_the_check() {
    on_its_own(|| {
        let gateway = Gateway::start("missing", "");
        let file = gateway.path("weir.toml");
        let file = file.to_str().unwrap();
        gateway.edit(|text| text.replace("\"wan1\"", "\"wan9\""));
        let check = gateway.weir(&["check", file]);
        assert_eq!(check.status.code(), Some(4));
        let check = String::from_utf8(check.stderr).unwrap();
        let (words, _) = check.split_once(&format!("\n{file}: 1 errors")).unwrap();
        assert!(words.contains("there is no interface wan9\n    help: there are: "), "{check}");
        let told = gateway.done(&["reload"]);
        assert!(told.starts_with(&format!("configuration reloaded\nwarning: {words}\n")), "{told}");
        assert!(gateway.log().contains("there is no interface wan9"));
    });
}

#[test]
fn a_check_and_a_reload_tell_that_other_workers_cost_packets() {
    on_its_own(|| {
        let gateway = Gateway::start("workers", "");
        let file = gateway.path("weir.toml");
        let _dataplane = gateway.pins().claim(weir_shm::Role::Dataplane).unwrap();
        gateway.edit(|text| text.replace("[gateway]", "[gateway]\nworkers = 2"));
        let check = gateway.weir(&["check", file.to_str().unwrap()]);
        assert!(check.status.success(), "{check:?}");
        let check = String::from_utf8(check.stderr).unwrap();
        let words = "warning: workers, cores or nat_ports differ from what runs";
        assert!(check.contains(words), "{check}");
        let told = gateway.done(&["reload"]);
        assert!(told.contains(words), "{told}");
        let again = gateway.done(&["reload"]);
        assert!(!again.contains(words), "it is what runs now: {again}");
    });
}

#[test]
fn the_first_ipv6_costs_packets_once() {
    on_its_own(|| {
        let gateway = Gateway::start("first6", "");
        let _dataplane = gateway.pins().claim(weir_shm::Role::Dataplane).unwrap();
        let ipv6 = "interface = \"wan0\"\nipv6 = { translate = \"none\" }";
        gateway.edit(|text| text.replace("interface = \"wan0\"", ipv6));
        let words = "it has the first `ipv6`";
        let told = gateway.done(&["reload"]);
        assert!(told.contains(words), "{told}");
        let again = gateway.done(&["reload"]);
        assert!(!again.contains(words), "it is what runs now: {again}");
    });
}

#[test]
fn a_reload_that_adds_ipv6_looks_for_its_next_hops_before_it_warns() {
    on_its_own(|| {
        let gateway = Gateway::start("ipv6", "");
        run("ip -6 route add default via fe80::1 dev wan0");
        for interface in ["wan0", "wan1"] {
            sysctl(&format!("net/ipv6/conf/{interface}/accept_ra"), "0");
            let line = format!("interface = \"{interface}\"");
            let more = format!("{line}\nipv6 = {{ translate = \"none\" }}");
            gateway.edit(|text| text.replace(&line, &more));
        }
        let told = gateway.done(&["reload"]);
        let deaf = |uplink| format!("uplink {uplink}: the kernel takes no router advertisements");
        assert!(told.contains(&deaf("lte")) && !told.contains(&deaf("fiber")), "{told}");
    });
}
