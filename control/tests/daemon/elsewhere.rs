//! Programs that do not see the same pins, as `ip netns exec` starts them: each in a mount namespace
//! with a BPF file system of its own.

use std::process::{Command, Output};

use rustix::process::{Pid, Signal, kill_process};

use crate::gateway::{Gateway, on_its_own};

/// The same command with a BPF file system of its own.
fn apart(command: &Command) -> Command {
    let mut apart = Command::new("unshare");
    apart.args(["--mount", "sh", "-c", "mount -t bpf bpf /sys/fs/bpf && exec \"$@\"", "sh"]);
    apart.arg(command.get_program()).args(command.get_args());
    apart
}

fn weir_apart(gateway: &Gateway, arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = apart(&gateway.command(arguments)).output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

#[test]
fn what_another_mount_namespace_hides_is_told_and_not_detached() {
    on_its_own(|| {
        let gateway = Gateway::start("elsewhere", "");
        let pid = gateway.json("status")["control"]["pid"].as_u64().unwrap();
        let tables = || Command::new("nft").args(["list", "tables"]).output().unwrap().stdout;
        let table = || String::from_utf8(tables()).unwrap();
        let before = table();
        assert!(before.contains("weir"), "{before}");
        for (command, status) in [("detach", 1), ("status", 3), ("uplinks", 3)] {
            let (code, said) = weir_apart(&gateway, &[command]);
            assert_eq!(code, Some(status), "{said}");
            let words = format!("weir-control, process {pid}, listens on ");
            assert!(said.contains(&words) && said.contains("another BPF file system"), "{said}");
            assert!(said.contains(&format!("`nsenter --target {pid} --mount weir …`")), "{said}");
        }
        assert_eq!(table(), before);
        assert_eq!(gateway.uplink("fiber")["state"], "up");
    });
}

#[test]
fn a_detach_with_nothing_to_remove_names_who_has_other_pins() {
    on_its_own(|| {
        let gateway = Gateway::start("other", "");
        let other = format!("{}-other", gateway.pins().directory().display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
        command.args(["--pins", &other, "--socket"]).arg(gateway.path("socket")).arg("detach");
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{said}");
        assert!(said.starts_with(&format!("nothing to remove in {other}\n")), "{said}");
        assert!(said.contains("give the --pins that it was started with"), "{said}");
    });
}

#[test]
fn a_control_process_with_pins_that_others_do_not_see_says_so() {
    on_its_own(|| {
        let mut gateway = Gateway::start("apart", "");
        gateway.kill_control();
        gateway.weir(&["detach"]);
        let log = std::fs::File::create(gateway.path("log")).unwrap();
        let mut control = apart(&gateway.control_command()).stderr(log).spawn().unwrap();
        let words = "is on a BPF file system of this mount namespace alone";
        let told =
            || gateway.wait("a warning", |gateway| gateway.log().contains(words).then_some(()));
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(told));
        kill_process(Pid::from_child(&control), Signal::TERM).unwrap();
        control.wait().unwrap();
        told.unwrap();
    });
}
