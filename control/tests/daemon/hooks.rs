//! Hooks of a control process that runs.

use std::os::unix::fs::PermissionsExt;

use crate::gateway::{Gateway, on_its_own};

#[test]
fn hooks_hear_of_every_change_by_its_number() {
    on_its_own(|| {
        let directory = std::env::temp_dir().join(format!("weir-daemon-d-{}", std::process::id()));
        let out = directory.join("out");
        std::fs::create_dir_all(&directory).unwrap();
        let hook = directory.join("tell");
        let line = "$WEIR_NUMBER $WEIR_UPLINK $WEIR_INTERFACE $WEIR_FROM $WEIR_TO";
        // The daemon's own priority is not theirs.
        let script = format!("#!/bin/sh\nsleep 0.01\necho {line} $(nice) >> {}\n", out.display());
        std::fs::write(&hook, script).unwrap();
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
        let gateway = Gateway::start("hooks", &format!("hooks = \"{}\"", directory.display()));
        gateway.done(&["down", "lte"]);
        gateway.done(&["up", "lte"]);
        let history = gateway.json("history");
        let changes = history.as_array().unwrap().iter().filter(|entry| entry["command"].is_null());
        let numbers: Vec<u64> = changes.map(|entry| entry["number"].as_u64().unwrap()).collect();
        let told = gateway.wait("hooks that have run", |_| {
            let text = std::fs::read_to_string(&out).unwrap_or_default();
            (text.lines().count() == numbers.len()).then_some(text)
        });
        let heard = told.lines().map(|line| line.split(' ').next().unwrap().parse().unwrap());
        assert_eq!(heard.collect::<Vec<u64>>(), numbers);
        let words = |line: &str| line.split_once(' ').map(|(_, words)| words.to_owned());
        let last: Vec<_> = told.lines().rev().take(2).filter_map(words).collect();
        assert_eq!(last, ["lte wan1 down up 0", "lte wan1 up down 0"], "{told}");
        std::fs::remove_dir_all(&directory).unwrap();
    });
}
