//! The hook that has radvd send what weir decides, with a `weir` and a `radvd` that say what they are
//! told to.

mod script;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

/// A machine with a file of radvd's that it reads when it is told to.
struct Machine(TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        machine.write("radvd.conf", "interface lan0 { };\n");
        machine.program("weir", "[ \"$*\" = 'ra --format radvd' ] && cat \"$0.says\"");
        machine.program("radvd", "! grep nonsense \"$3\"");
        machine.program("reload", "echo >> \"$0.count\"");
        machine
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    fn program(&self, name: &str, text: &str) {
        script::put(&self.0.path().join(name), &format!("#!/bin/sh\n{text}\n"));
    }

    /// Runs the hook for an event, where weir says this.
    fn tell(&self, event: &str, says: &str) -> Output {
        self.write("weir.says", says);
        let directory = self.0.path().display();
        let hook = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/hooks/radvd");
        let mut command = Command::new("sh");
        command.arg(hook).env("WEIR_EVENT", event);
        command.env("PATH", format!("{directory}:/usr/bin:/bin"));
        command.env("RADVD_CONF", format!("{directory}/radvd.conf"));
        command.env("RADVD_RELOAD", "reload").output().unwrap()
    }

    /// What the file says, and how often radvd was told to read it.
    fn read(&self) -> (String, usize) {
        let read = |name: &str| fs::read_to_string(self.0.path().join(name)).unwrap_or_default();
        let files = fs::read_dir(self.0.path()).unwrap().map(|it| it.unwrap().file_name());
        let left = files.filter(|it| it.to_string_lossy().starts_with("radvd.conf.")).count();
        assert_eq!(left, 0, "nothing half done is left");
        (read("radvd.conf"), read("reload.count").lines().count())
    }
}

const NEW: &str = "# new\ninterface lan0 { AdvSendAdvert on; };\n";

#[test]
fn a_change_is_put_in_place_and_read_once() {
    let machine = Machine::new();
    for _ in 0..2 {
        assert!(machine.tell("ra", NEW).status.success());
        assert_eq!(machine.read(), (NEW.into(), 1));
    }
    let mode = fs::metadata(machine.0.path().join("radvd.conf")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644, "radvd reads it as another user");
}

#[test]
fn what_is_of_an_uplink_or_refused_by_radvd_or_empty_changes_nothing() {
    let machine = Machine::new();
    let before = machine.read();
    assert!(machine.tell("uplink", NEW).status.success());
    assert_eq!(machine.read(), before);
    for (wrong, words) in [("interface nonsense\n", "nonsense"), ("# none\n", "stop it")] {
        let output = machine.tell("ra", wrong);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(words), "{said}");
        assert_eq!(machine.read(), before);
    }
}

#[test]
fn what_radvd_was_not_made_to_read_is_told_to_it_with_the_next_run() {
    let machine = Machine::new();
    machine.program("reload", "exit 7");
    for _ in 0..2 {
        assert!(!machine.tell("ra", NEW).status.success());
    }
    machine.program("reload", "echo >> \"$0.count\"");
    assert!(machine.tell("ra", NEW).status.success());
    assert_eq!(machine.read(), (NEW.into(), 1));
}
