//! Many targets and few descriptors.

use std::fmt::Write;
use std::process::Command;
use std::time::Duration;

use crate::gateway::{Gateway, on_its_own, run};

/// Beside the two of the gateway.
const UPLINKS: usize = 60;
const TARGETS: usize = 16;
const LIMIT: usize = 1024;

/// Uplinks behind which nobody answers.
fn silent_uplinks() -> String {
    let mut text = String::new();
    for index in 0..UPLINKS {
        run(&format!("ip link add dead{index} type veth peer name end{index}"));
        run(&format!("ip addr add 100.64.{index}.2/24 dev dead{index}"));
        run(&format!("ip link set dead{index} up"));
        run(&format!("ip link set end{index} up"));
        let next_hop = format!("100.64.{index}.1 lladdr 02:00:00:00:00:01 dev dead{index}");
        run(&format!("ip neigh add {next_hop} nud permanent"));
        let interface = format!("interface = \"dead{index}\"\nnext_hop = \"100.64.{index}.1\"");
        write!(text, "[[uplink]]\nname = \"dead{index}\"\n{interface}\n").unwrap();
    }
    text.push_str("[health]\ntimeout_ms = 3000\n");
    for target in 0..TARGETS {
        let address = format!("198.51.100.{}:7", 100 + target);
        let probe = format!("probe = \"tcp\"\naddress = \"{address}\"");
        write!(text, "[[health.targets]]\nname = \"t{target}\"\n{probe}\n").unwrap();
    }
    text
}

#[test]
fn nearly_a_thousand_silent_targets_leave_descriptors_for_the_rest() {
    on_its_own(|| {
        let mut gateway = Gateway::start("descriptors", "");
        gateway.kill_control();
        let file = gateway.path("weir.toml");
        let site = std::fs::read_to_string(&file).unwrap() + &silent_uplinks();
        std::fs::write(&file, site).unwrap();
        let log = std::fs::File::create(gateway.path("log")).unwrap();
        let limited = format!("ulimit -n {LIMIT} && exec \"$0\" \"$@\"");
        let control = Command::new("sh")
            .args(["-c", &limited, env!("CARGO_BIN_EXE_weir-control"), "--config"])
            .arg(&file)
            .arg("--pins")
            .arg(gateway.pins().directory())
            .arg("--socket")
            .arg(gateway.path("socket"))
            .arg("--state")
            .arg(gateway.path("state"))
            .stderr(log)
            .spawn()
            .unwrap();
        let open = format!("/proc/{}/fd", control.id());
        gateway.control = Some(control);
        gateway.wait("answer of a target that is waited for", |gateway| {
            let waits = |target: &serde_json::Value| target["error"] == "crowded";
            let targets = |name: &str| gateway.uplink(name)["health"]["targets"].clone();
            targets("dead7").as_array()?.iter().any(waits).then_some(())
        });
        // Longer than probes last: by now there are as many as there ever will be.
        std::thread::sleep(Duration::from_secs(4));
        let descriptors = std::fs::read_dir(open).unwrap().count();
        assert!(descriptors < LIMIT - 50, "{descriptors}");
        run("ip link set wan1 down");
        gateway.wait("loss of carrier", |gateway| {
            let reason = gateway.uplink("lte")["health"]["reason"].clone();
            (reason["kind"] == "carrier").then_some(())
        });
        assert!(!gateway.log().contains("open files"), "{}", gateway.log());
    });
}
