//! The kernel's settings that a gateway takes.

use std::fs;

use crate::gateway::{Gateway, on_its_own, sysctl};

const FORWARD: &str = "net/ipv4/ip_forward";
const PORTS: &str = "net/ipv4/ip_local_port_range";

fn settings() -> [String; 2] {
    [FORWARD, PORTS].map(|key| {
        let text = fs::read_to_string(format!("/proc/sys/{key}")).unwrap();
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    })
}

#[test]
fn a_gateway_with_the_kernels_defaults_is_set_up_kept_so_and_put_back() {
    on_its_own(|| {
        let mut gateway = Gateway::start("sysctls", "");
        let set = ["1", "1024 16383"];
        assert_eq!(settings(), set);
        // As after `sysctl --system`.
        sysctl(PORTS, "32768 60999");
        sysctl(FORWARD, "0");
        gateway.wait("settings put right", |_| (settings() == set).then_some(()));
        gateway.wait("word of it", |gateway| {
            gateway.log().contains("somebody changed them").then_some(())
        });
        gateway.kill_control();
        assert_eq!(settings(), set);
        let done = gateway.done(&["detach"]);
        assert!(done.contains("net.ipv4.ip_forward = 0"), "{done}");
        assert_eq!(settings(), ["0", "32768 60999"]);
    });
}

#[test]
fn forwarding_is_not_turned_on_without_the_table_that_guards_it() {
    on_its_own(|| {
        let mut gateway = Gateway::start("sysctls-guard", "");
        gateway.kill_control();
        gateway.done(&["detach"]);
        let log = fs::File::create(gateway.path("log")).unwrap();
        let mut control = gateway.control_command();
        // Where there is no `nft`.
        gateway.control = Some(control.env("PATH", "/none").stderr(log).spawn().unwrap());
        gateway.wait("word of the setting that is missing", |gateway| {
            gateway.log().contains("net.ipv4.ip_forward stays 0").then_some(())
        });
        assert_eq!(settings(), ["0", "1024 16383"]);
        gateway.kill_control();
        gateway.start_control();
        assert_eq!(settings()[0], "1");
        gateway.kill_control();
        gateway.done(&["detach"]);
        assert_eq!(settings()[0], "0");
    });
}

#[test]
fn settings_are_left_alone_if_the_file_says_so() {
    on_its_own(|| {
        let mut gateway = Gateway::start("sysctls-own", "");
        gateway.kill_control();
        sysctl(FORWARD, "0");
        gateway.edit(|text| text.replacen("[gateway]", "[gateway]\nsysctls = false", 1));
        gateway.start_control();
        gateway.done(&["down", "lte"]);
        assert_eq!(settings(), ["0", "1024 16383"]);
    });
}
