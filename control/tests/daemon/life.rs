//! The process's own life: signals, silence, what it says when it ends.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::gateway::{Gateway, on_its_own};

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), signal).unwrap();
}

/// weir-control, for a gateway that has none.
fn control(gateway: &Gateway) -> Command {
    let mut command = gateway.control_command();
    command.stderr(fs::File::create(gateway.path("log")).unwrap());
    command
}

#[test]
fn a_stopped_control_process_is_not_waited_for_and_does_not_do_later_what_it_was_asked() {
    on_its_own(|| {
        let gateway = Gateway::start("stopped", "");
        let pid = gateway.json("status")["control"]["pid"].as_u64().unwrap() as u32;
        signal(pid, Signal::STOP);
        let output = gateway.weir(&["down", "lte"]);
        signal(pid, Signal::CONT);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(3), "{said}");
        assert!(said.contains("has not answered for 3 s"), "{said}");
        gateway.wait("word of what was not done", |gateway| {
            gateway.log().contains("not done").then_some(())
        });
        assert_eq!(gateway.uplink("lte")["state"], "up");
        assert_eq!(gateway.done(&["overrides"]), "nothing is set by hand\n");
    });
}

#[test]
fn a_stopped_control_process_is_told_from_one_that_answers() {
    on_its_own(|| {
        let gateway = Gateway::start("silent", "");
        let said = |of: &str| gateway.json("status")["control"][of].clone();
        assert_eq!((said("running"), said("answering")), (true.into(), true.into()));
        let pid = said("pid").as_u64().unwrap() as u32;
        signal(pid, Signal::STOP);
        let (json, text) = (gateway.json("status"), gateway.weir(&["status"]));
        let uplinks = gateway.weir(&["uplinks"]);
        signal(pid, Signal::CONT);
        let control = &json["control"];
        assert_eq!((&control["running"], &control["answering"]), (&true.into(), &false.into()));
        assert_eq!(text.status.code(), Some(3));
        let text = String::from_utf8(text.stdout).unwrap();
        let line = text.lines().next().unwrap();
        assert!(line.starts_with("control") && line.contains("NOT ANSWERING for "), "{line}");
        assert!(line.contains(&format!("process {pid}: stopped or hung")), "{line}");
        let said = String::from_utf8(uplinks.stderr).unwrap();
        assert!(said.contains("no health: weir-control has not answered for 3 s"), "{said}");
    });
}

#[test]
fn a_hangup_while_it_starts_does_not_end_it() {
    on_its_own(|| {
        let mut gateway = Gateway::start("hangup", "");
        gateway.kill_control();
        gateway.weir(&["detach"]);
        let mut child = control(&gateway).spawn().unwrap();
        while !gateway.pins().directory().exists() {
            assert!(child.try_wait().unwrap().is_none(), "{}", gateway.log());
            std::thread::sleep(Duration::from_micros(100));
        }
        signal(child.id(), Signal::HUP);
        gateway.wait("a reload", |gateway| {
            gateway.log().contains("configuration reloaded").then_some(())
        });
        signal(child.id(), Signal::TERM);
        assert!(child.wait().unwrap().success());
    });
}

#[test]
fn systemd_is_told_when_it_is_ready_and_that_it_lives() {
    on_its_own(|| {
        let mut gateway = Gateway::start("notify", "");
        gateway.kill_control();
        let manager = UnixDatagram::bind(gateway.path("notify")).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let mut child =
            control(&gateway).env("NOTIFY_SOCKET", gateway.path("notify")).spawn().unwrap();
        let told = ["READY=1\n", "WATCHDOG=1\n", "WATCHDOG=1\n"].map(|_| {
            let mut text = [0; 64];
            let length = manager.recv(&mut text).unwrap_or(0);
            String::from_utf8(text[..length].into()).unwrap()
        });
        signal(child.id(), Signal::TERM);
        assert!(child.wait().unwrap().success());
        assert_eq!(told, ["READY=1\n", "WATCHDOG=1\n", "WATCHDOG=1\n"]);
    });
}

#[test]
fn a_wrong_file_is_told_in_one_paragraph_and_with_a_status_of_its_own() {
    on_its_own(|| {
        let mut gateway = Gateway::start("wrong", "");
        gateway.kill_control();
        fs::remove_dir_all(gateway.path("state")).unwrap();
        fs::write(gateway.path("weir.toml"), "[[uplink]]\nwieght = 5\n").unwrap();
        let status = control(&gateway).env("RUST_BACKTRACE", "1").status().unwrap();
        let log = gateway.log();
        assert_eq!(status.code(), Some(78), "{log}");
        assert!(
            log.starts_with("weir-control: ") && log.contains("did you mean `weight`"),
            "{log}"
        );
        assert!(!log.contains("backtrace") && log.lines().count() < 12, "{log}");
    });
}

#[test]
fn the_log_has_states_by_name_and_who_set_what() {
    on_its_own(|| {
        let gateway = Gateway::start("log", "");
        gateway.done(&["down", "lte"]);
        let log = gateway.log();
        assert!(log.contains("state=\"down (by hand)\""), "{log}");
        let who = log.lines().find(|line| line.contains("set by hand"));
        let who = who.unwrap_or_else(|| panic!("{log}"));
        for part in ["uplink=\"lte\"", "from=\"as in the file\"", "to=\"down\"", "user 0", "weir"] {
            assert!(who.contains(part), "{who}");
        }
        let worse = log.lines().find(|line| line.contains("to=down")).unwrap();
        assert!(worse.contains("WARN") && !log.contains('\u{1b}'), "{worse}");
    });
}

#[test]
fn the_history_goes_on_after_a_crash() {
    on_its_own(|| {
        let mut gateway = Gateway::start("history", "");
        let of_lte = |gateway: &Gateway| -> Vec<serde_json::Value> {
            let history = gateway.json("history");
            let all = history.as_array().unwrap().iter();
            all.filter(|entry| entry["uplink"] == "lte").cloned().collect()
        };
        gateway.done(&["down", "lte"]);
        let down = |gateway: &Gateway| of_lte(gateway).pop().filter(|it| it["to"] == "down");
        let before = gateway.wait("lte down", down);
        // Another thread writes it.
        let file = gateway.path("state").join("history.jsonl");
        let is_kept = |_: &Gateway| {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            text.lines()
                .any(|line| serde_json::from_str(line).ok().as_ref() == Some(&before))
                .then_some(())
        };
        gateway.wait("history on disk", is_kept);
        gateway.kill_control();
        gateway.start_control();
        gateway.done(&["up", "lte"]);
        let after = gateway.wait("lte's next change", |gateway| {
            of_lte(gateway).pop().filter(|it| it["number"].as_u64() > before["number"].as_u64())
        });
        assert_ne!(after["to"], "down", "{after}");
        assert!(of_lte(&gateway).contains(&before), "told by the process before");
    });
}

#[test]
fn for_how_much_of_the_time_an_uplink_was_usable_is_known_after_a_crash() {
    on_its_own(|| {
        let mut gateway = Gateway::start("availability", "");
        gateway.kill_control();
        let epoch = std::time::SystemTime::UNIX_EPOCH;
        let now_s = epoch.elapsed().unwrap().as_secs();
        let [hour, day] = [3600, 86_400].map(|span| (now_s / span).to_string());
        let half = json!({ "usable_ms": 500_000, "watched_ms": 1_000_000 });
        let of = |name: &str| json!({ "uplink": name, "hours": { &hour: half }, "days": { &day: half } });
        let file = gateway.path("state").join("availability.json");
        std::fs::write(&file, json!([of("lte"), of("gone")]).to_string()).unwrap();
        for _ in 0..2 {
            gateway.start_control();
            gateway.wait("lte to be usable on", |gateway| {
                let known = &gateway.uplink("lte")["health"]["availability"]["day"];
                let [usable, watched] = ["usable_ms", "watched_ms"].map(|key| known[key].as_u64());
                (usable? > 500_000 && watched? > 1_000_000 && watched? < 1_900_000).then_some(())
            });
            // It is written at the first look; what the file does not name goes.
            gateway.wait("a file without what is gone", |_| {
                let text = std::fs::read_to_string(&file).unwrap();
                (text.contains("lte") && !text.contains("gone")).then_some(())
            });
            gateway.kill_control();
        }
    });
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    on_its_own(|| {
        let gateway = Gateway::start("pipe", "");
        for arguments in [&["policies"][..], &["policies", "--json"], &["completions", "bash"]] {
            let (reader, writer) = std::io::pipe().unwrap();
            drop(reader);
            let mut command = gateway.command(arguments);
            let child = command.stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
            // The command has the last copies of the pipe's end.
            drop(command);
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        }
    });
}

#[test]
fn a_failure_is_told_to_programs_too() {
    on_its_own(|| {
        let mut gateway = Gateway::start("failure", "");
        let output = gateway.weir(&["down", "dsl", "--json"]);
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&said["version"], &said["error"]["exit"]), (&1.into(), &1.into()));
        gateway.kill_control();
        let output = gateway.weir(&["history", "--json"]);
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((output.status.code(), &said["error"]["exit"]), (Some(3), &3.into()));
    });
}
