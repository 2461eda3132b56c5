//! Pins that another version of weir left.

use std::fs;
use std::process::Output;

use weir_layout::control::ControlPage;
use weir_layout::{RegionHeader, VERSION};
use weir_shm::map::{self, Access};
use weir_shm::pins::name;

use crate::gateway::{Gateway, guards, on_its_own, sysctl};

const FORWARD: &str = "net/ipv4/ip_forward";

/// Has the control page be of another layout.
fn change_layout(gateway: &Gateway) {
    let (path, size) = (gateway.pins().path(name::CONTROL), size_of::<ControlPage>() as u32);
    let (page, _) = map::open(&path, "weir-control", size, Some(1), Access::Write).unwrap();
    let header = RegionHeader { version: VERSION - 1, ..map::load(&page, 0) };
    map::store(&page, 0, &header);
}

fn forwards() -> bool {
    fs::read_to_string(format!("/proc/sys/{FORWARD}")).unwrap().trim() == "1"
}

/// What a command says that fails.
fn refused(gateway: &Gateway, arguments: &[&str], exit: i32) -> String {
    let Output { status, stderr, .. } = gateway.weir(arguments);
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(exit), "{said}");
    said
}

#[test]
fn settings_are_put_back_whatever_the_layout_of_the_rest() {
    on_its_own(|| {
        let mut gateway = Gateway::start("layout", "");
        gateway.kill_control();
        change_layout(&gateway);
        let started = gateway.control_command().output().unwrap();
        let said = String::from_utf8(started.stderr).unwrap();
        assert!(!started.status.success() && said.contains("run `weir detach`"), "{said}");
        assert!(forwards());
        let done = gateway.done(&["detach"]);
        assert!(done.contains("net.ipv4.ip_forward = 0"), "{done}");
        assert!(!forwards() && !guards(&gateway));
    });
}

#[test]
fn where_the_settings_before_weir_are_not_known_a_kernel_that_forwards_keeps_its_guard() {
    on_its_own(|| {
        let mut gateway = Gateway::start("unknown", "");
        gateway.kill_control();
        // Versions before this one kept them elsewhere.
        change_layout(&gateway);
        fs::remove_file(gateway.pins().path(name::SYSCTLS)).unwrap();
        let said = refused(&gateway, &["detach"], 1);
        assert!(said.contains("nothing is removed") && said.contains("net.ipv4.ip_forward=0"));
        assert!(said.contains("net.ipv4.ip_local_port_range, now 1024 16383"), "{said}");
        assert!(gateway.pins().path(name::CONTROL).exists() && guards(&gateway) && forwards());
        sysctl(FORWARD, "0");
        gateway.done(&["detach"]);
        assert!(!gateway.pins().directory().exists() && !guards(&gateway));
    });
}

#[test]
fn settings_that_no_control_process_has_changed_are_not_asked_for() {
    on_its_own(|| {
        let mut gateway = Gateway::start("unchanged", "");
        gateway.kill_control();
        // As a dataplane leaves it that started alone.
        fs::remove_file(gateway.pins().path(name::SYSCTLS)).unwrap();
        gateway.done(&["detach"]);
        assert!(forwards());
    });
}

#[test]
fn a_check_refuses_what_a_start_refuses_for_its_layout() {
    on_its_own(|| {
        let mut gateway = Gateway::start("check", "");
        let file = gateway.path("weir.toml");
        let file = file.to_str().unwrap();
        gateway.kill_control();
        gateway.done(&["check", file]);
        change_layout(&gateway);
        let said = refused(&gateway, &["check", file], 4);
        let help = "help: Stop weir-control and weir-dataplane, run `weir detach`";
        assert!(said.contains(&format!("layout {}", VERSION - 1)) && said.contains(help), "{said}");
        gateway.done(&["detach"]);
        gateway.done(&["check", file]);
    });
}
