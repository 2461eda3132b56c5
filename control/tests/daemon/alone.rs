//! One control process per gateway.

use std::fs;
use std::path::Path;
use std::process::Command;

use weir_shm::Role;

use crate::gateway::{Gateway, on_its_own};

/// What a second control process says with the gateway's file, which is to be refused: on these pins,
/// and run by these words.
fn refusal(gateway: &Gateway, pins: &Path, run_by: &[&str]) -> String {
    let second = Command::new("timeout")
        .arg("20")
        .args(run_by)
        .arg(env!("CARGO_BIN_EXE_weir-control"))
        .arg("--config")
        .arg(gateway.path("weir.toml"))
        .arg("--pins")
        .arg(pins)
        .arg("--socket")
        .arg(gateway.path("another-socket"))
        .arg("--state")
        .arg(gateway.path("another-state"))
        .output()
        .unwrap();
    let error = String::from_utf8(second.stderr).unwrap();
    assert_eq!(second.status.code(), Some(1), "{error}");
    error
}

#[test]
fn a_second_control_process_in_another_pid_namespace_is_refused() {
    on_its_own(|| {
        let gateway = Gateway::start("second", "");
        let apart = ["unshare", "--pid", "--fork", "--kill-child"];
        let error = refusal(&gateway, gateway.pins().directory(), &apart);
        assert!(error.contains("weir-control already runs on"), "{error}");
        gateway.done(&["down", "lte"]);
    });
}

#[test]
fn a_second_gateway_that_is_refused_says_what_of_it_stays_and_how_to_remove_that() {
    on_its_own(|| {
        let gateway = Gateway::start("beside", "");
        let pins = gateway.pins().directory().with_file_name("weir-daemon-beside-second");
        let error = refusal(&gateway, &pins, &[]);
        assert!(error.contains("own_traffic = false"), "{error}");
        let remedy = format!("`weir --pins {} detach` removes them", pins.display());
        assert!(error.contains(&remedy), "{error}");
        let tables = || {
            let list = Command::new("nft").args(["list", "tables"]).output().unwrap();
            String::from_utf8(list.stdout).unwrap().matches("weir-daemon-beside-second").count()
        };
        assert!(tables() > 0 && pins.exists());
        let mut detach = Command::new(env!("CARGO_BIN_EXE_weir"));
        detach.arg("--pins").arg(&pins).arg("--socket").arg(gateway.path("another-socket"));
        let removed = detach.arg("detach").output().unwrap();
        assert!(removed.status.success(), "{removed:?}");
        assert!(tables() == 0 && !pins.exists());
        gateway.done(&["down", "lte"]);
    });
}

#[test]
fn what_a_control_process_publishes_in_is_not_removed_under_it() {
    on_its_own(|| {
        let mut gateway = Gateway::start("detach", "");
        for arguments in [&["detach"][..], &["detach", "--force"]] {
            let output = gateway.weir(arguments);
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{error}");
            assert!(error.contains("weir-control already runs on"), "{error}");
        }
        gateway.done(&["down", "lte"]);
        assert_eq!(gateway.uplink("lte")["state"], "down");
        gateway.kill_control();
        assert!(!gateway.pins().is_claimed(Role::Control).unwrap());
        let removed = gateway.done(&["detach"]);
        assert!(removed.contains("CONTROL") && !gateway.pins().directory().exists(), "{removed}");
    });
}

#[test]
fn nothing_is_removed_under_a_control_process_that_answers_whatever_it_holds() {
    on_its_own(|| {
        let gateway = Gateway::start("answers", "");
        // Early versions held no lock.
        fs::remove_dir(gateway.pins().path("lock-control")).unwrap();
        for arguments in [&["detach"][..], &["detach", "--force"]] {
            let output = gateway.weir(arguments);
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{error}");
            assert!(error.contains("weir-control already runs on"), "{error}");
        }
        assert!(gateway.pins().path("CONTROL").exists());
        assert_eq!(gateway.uplink("fiber")["state"], "up");
    });
}
