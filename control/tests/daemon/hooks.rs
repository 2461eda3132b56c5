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

#[test]
fn hooks_and_the_history_hear_of_another_tier_of_a_policy() {
    on_its_own(|| {
        let directory = std::env::temp_dir().join(format!("weir-daemon-t-{}", std::process::id()));
        let out = directory.join("out");
        std::fs::create_dir_all(&directory).unwrap();
        let hook = directory.join("tell");
        let line = "$WEIR_NUMBER $WEIR_POLICY $WEIR_FAMILY $WEIR_FROM $WEIR_TO $WEIR_UPLINKS";
        let tell = format!("[ $WEIR_EVENT != policy ] || echo {line} >> {}", out.display());
        std::fs::write(&hook, format!("#!/bin/sh\n{tell}\n")).unwrap();
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
        let gateway = Gateway::start("tiers", &format!("hooks = \"{}\"", directory.display()));
        let told = |gateway: &Gateway, words: &str| {
            gateway.wait(words, |gateway| {
                let text = std::fs::read_to_string(&out).unwrap_or_default();
                let last = text.lines().last()?.to_owned();
                let (number, said) = last.split_once(' ')?;
                let number: u64 = number.parse().ok().filter(|_| said == words)?;
                let history = gateway.json("history");
                let mut entries = history.as_array()?.iter();
                entries.find(|entry| entry["number"] == number).cloned()
            })
        };
        gateway.done(&["down", "fiber"]);
        let entry = told(&gateway, "balanced ipv4 1 2 lte");
        assert_eq!((&entry["policy"], &entry["family"]), (&"balanced".into(), &"ipv4".into()));
        assert_eq!((&entry["from"], &entry["to"]), (&1.into(), &2.into()));
        gateway.done(&["down", "lte"]);
        assert!(told(&gateway, "balanced ipv4 2 none")["to"].is_null());
        gateway.done(&["up", "fiber"]);
        told(&gateway, "balanced ipv4 none 1 fiber");
        let text = gateway.done(&["history"]);
        for words in ["tier 1 tier 2 new flows leave by lte", "tier 2 none no uplink is usable"] {
            let is_it = |line: &str| {
                let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
                line.ends_with(&format!("policy balanced {words}"))
            };
            assert!(text.lines().any(is_it), "{words}: {text}");
        }
        let log = gateway.log();
        assert!(log.contains("policy balanced: now on tier 2 (lte)"), "{log}");
        std::fs::remove_dir_all(&directory).unwrap();
    });
}
