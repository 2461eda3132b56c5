//! The gateway's own rules and routes, which somebody else may remove.

use std::process::Command;

use weir_shm::hosts::Hosts4;

use crate::gateway::{Gateway, HOST, on_its_own, run};

/// What a packet with this selector leaves by.
fn leaves_by(selector: &str, device: &str) -> Option<()> {
    let command = format!("route get {HOST} {selector}");
    let output = Command::new("ip").args(command.split_whitespace()).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains(&format!("dev {device} table")).then_some(())
}

fn rules() -> String {
    String::from_utf8(Command::new("ip").args(["rule", "show"]).output().unwrap().stdout).unwrap()
}

#[test]
fn routes_are_there_again_after_an_interface_was_set_down_and_up() {
    on_its_own(|| {
        let gateway = Gateway::start("routes-down-up", "");
        let back = |_: &Gateway| leaves_by("from 192.0.2.130", "wan1");
        gateway.wait("route by lte", back);
        run("ip link set wan1 down");
        run("ip link set wan1 up");
        gateway.wait("route by lte after a restart of its interface", back);
    });
}

#[test]
fn rules_that_somebody_flushed_are_there_again_and_it_is_said() {
    on_its_own(|| {
        let gateway = Gateway::start("rules-flushed", "");
        let before = rules();
        run("ip rule flush");
        run("ip rule add priority 32766 lookup main");
        gateway.wait("rules as before", |_| {
            let ours = |text: &str| text.lines().filter(|l| l.contains("lookup 117")).count();
            (ours(&rules()) == ours(&before)).then_some(())
        });
        let log = gateway.log();
        assert!(
            log.contains("of weir's rules (ip rule) were removed by others: put back"),
            "{log}"
        );
    });
}

#[test]
fn more_routes_than_there_is_room_for_are_no_reason_to_stop() {
    on_its_own(|| {
        let mut gateway = Gateway::start("routes-many", "");
        gateway.kill_control();
        std::fs::remove_file(gateway.pins().path("HOSTS4")).unwrap();
        let hosts = Hosts4::of_size(&gateway.pins(), 16).unwrap();
        gateway.start_control();
        for number in 0..20 {
            run(&format!("ip route add 10.{number}.0.0/16 via 10.77.0.9"));
        }
        gateway.wait("warning", |gateway| gateway.log().contains("there are more").then_some(()));
        run("ip route flush via 10.77.0.9");
        gateway.wait("end of the routes", |_| (hosts.prefixes().unwrap().len() < 14).then_some(()));
        gateway.done(&["down", "lte"]);
    });
}
