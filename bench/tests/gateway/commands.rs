//! The command line beside a running weir.

use std::process::Command;
use std::time::Instant;

use weir_kit::plan::Plan;
use weir_kit::udp_flows;
use weir_kit::weir::Weir;
use weir_shm::control::ControlRegion;

use super::{ECHO, site};

#[test]
fn a_weight_is_in_force_when_the_command_returns() {
    let (topology, _server, weir) = site(Plan::new(3, 1));
    let started = Instant::now();
    let epoch = weir.weight("fiber", 1).unwrap();
    let region = ControlRegion::open(
        &weir_shm::Pins::existing(topology.run.pin_directory().unwrap()),
        weir_shm::map::Access::Read,
    )
    .unwrap();
    assert!(region.epoch() >= epoch, "published {:?} after the request", started.elapsed());
}

#[test]
fn the_command_line_reads_and_changes_a_running_weir() {
    let (topology, _server, mut weir) = site(Plan::new(3, 1));
    let run = |weir: &Weir, arguments: &[&str]| {
        let mut command = weir.cli(arguments).unwrap();
        let output = topology.gateway.run(|| command.output().unwrap()).unwrap();
        (output.status.code().unwrap(), String::from_utf8(output.stdout).unwrap())
    };
    udp_flows::run(&topology.hosts, ECHO, 50).unwrap();
    let (code, text) = run(&weir, &["weight", "fiber", "1"]);
    assert_eq!(code, 0);
    assert!(text.starts_with("weight of fiber is 1"), "{text}");
    assert_eq!(run(&weir, &["weight", "nobody", "1"]).0, 1);
    assert_eq!(run(&weir, &["weight", "fiber", "many"]).0, 2);
    weir.kill_control();
    assert_eq!(run(&weir, &["down", "fiber"]).0, 3);
    for command in ["status", "uplinks", "policies", "rules", "flows", "counters"] {
        // All are shown; the one that looks at the processes says that one is missing.
        let wanted = if command == "status" { 3 } else { 0 };
        let (code, text) = run(&weir, &[command]);
        assert_eq!(code, wanted, "{command} needs no control process");
        assert!(text.lines().count() > 1, "{text}");
        let (code, json) = run(&weir, &[command, "--json"]);
        assert_eq!(code, wanted);
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["version"], 1);
        assert!(!json[command].is_null(), "{json}");
    }
    let (_, json) = run(&weir, &["uplinks", "--json"]);
    let uplinks: serde_json::Value = serde_json::from_str(&json).unwrap();
    let fiber = &uplinks["uplinks"][0];
    assert_eq!((&fiber["name"], &fiber["weight"]), (&"fiber".into(), &1.into()));
    let (_, json) = run(&weir, &["flows", "--json", "--limit", "7"]);
    let flows: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(flows["flows"]["shown"].as_array().unwrap().len(), 7);
    let all = flows["flows"]["of"].as_u64().unwrap();
    assert!(
        run(&weir, &["flows", "--limit", "7"])
            .1
            .ends_with(&format!("\n7 of {all} flows; --limit shows more\n"))
    );
    assert_eq!(run(&weir, &["flows", "--uplink", "nobody"]).0, 1);
    assert_eq!(run(&weir, &["detach"]).0, 1, "not under a running dataplane");
    weir.kill_dataplane();
    let (code, text) = run(&weir, &["detach"]);
    assert_eq!(code, 0);
    assert!(text.contains("CONTROL") && text.contains("link-"), "{text}");
    assert_eq!(run(&weir, &["status"]).0, 3);
}

#[test]
fn a_detach_with_nothing_to_remove_names_the_interfaces_with_a_program() {
    let (topology, _server, mut weir) = site(Plan::new(3, 1));
    weir.kill_control();
    weir.kill_dataplane();
    let detach = weir.cli(&["detach"]).unwrap();
    // As `ip netns exec` would run it.
    let mut apart = Command::new("unshare");
    apart.args(["--mount", "sh", "-c", "mount -t bpf bpf /sys/fs/bpf && exec \"$@\"", "sh"]);
    apart.arg(detach.get_program()).args(detach.get_args());
    let output = topology.gateway.run(|| apart.output().unwrap()).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.starts_with("nothing to remove"), "{said}");
    let line = said.lines().find(|line| line.contains("an XDP program is on ")).expect(&said);
    let devices = topology.providers.iter().map(|provider| provider.interface());
    for device in devices {
        assert!(line.contains(&device), "{device}: {said}");
    }
}
