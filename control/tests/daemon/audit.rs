//! Who had what done, in the history and the log.

use std::os::unix::process::CommandExt;
use std::process::Stdio;

use serde_json::Value;

use crate::gateway::{Gateway, on_its_own};

/// What was done by hand, as the history has it, oldest first.
fn commands(gateway: &Gateway) -> Vec<Value> {
    let history = gateway.json("history");
    let all = history.as_array().cloned().unwrap_or_default();
    all.into_iter().filter(|entry| entry["command"].is_string()).collect()
}

#[test]
fn what_is_done_by_hand_is_in_the_history_with_who_did_it_after_a_crash_too() {
    on_its_own(|| {
        let mut gateway = Gateway::start("audit", "");
        gateway.done(&["weight", "fiber", "3"]);
        assert!(!gateway.weir(&["down", "dsl"]).status.success());
        gateway.done(&["down", "lte"]);
        let told = commands(&gateway);
        let words: Vec<_> = told.iter().map(|entry| entry["command"].as_str().unwrap()).collect();
        assert_eq!(words, ["weir weight fiber 3", "weir down lte"]);
        let by = &told[0]["by"];
        assert_eq!((&by["uid"], &by["user"]), (&0.into(), &"root".into()));
        assert!(by["pid"].as_u64().is_some(), "{by}");
        let process = by["process"].as_str().unwrap();
        // Empty where it could not be read in time.
        assert!(process.is_empty() || process.ends_with("weight fiber 3"), "{by}");
        let down = gateway.wait("lte down", |gateway| {
            let history = gateway.json("history");
            let of_lte = |entry: &&Value| entry["uplink"] == "lte" && entry["to"] == "down";
            history.as_array()?.iter().find(of_lte).cloned()
        });
        let number = |entry: &Value| entry["number"].as_u64().unwrap();
        assert!(number(&told[1]) < number(&down), "what is done comes before what follows");
        let log = gateway.log();
        let refused = log.lines().find(|line| line.contains("weir down dsl"));
        let refused = refused.unwrap_or_else(|| panic!("{log}"));
        for part in ["WARN", "refused", "by=root, process ", "there is no uplink"] {
            assert!(refused.contains(part), "{refused}");
        }
        gateway.reload();
        let all = gateway.wait("a reload", |gateway| {
            let told = commands(gateway);
            let last = told.last().is_some_and(|last| last["command"] == "weir reload (SIGHUP)");
            last.then_some(told)
        });
        assert!(all[2]["by"].is_null(), "{all:?}");
        // Another thread writes it.
        let file = gateway.path("state").join("history.jsonl");
        gateway.wait("history on disk", |_| {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            text.contains("SIGHUP").then_some(())
        });
        gateway.kill_control();
        gateway.start_control();
        assert_eq!(commands(&gateway), all);
    });
}

#[test]
fn no_name_that_a_process_gives_itself_makes_a_line_of_its_own() {
    on_its_own(|| {
        let gateway = Gateway::start("forged", "");
        let forged = "weir\n99 2026-01-01T00:00:00Z root - - weir up lte\r\u{1b}[2K\u{202e}";
        let hostile = |arguments: &[&str]| {
            let mut command = gateway.command(arguments);
            command.arg0(forged).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command.status().unwrap()
        };
        assert!(hostile(&["weight", "fiber", "3"]).success());
        assert!(!hostile(&["down", "dsl\nWARN forged"]).success());
        let text = gateway.done(&["history"]);
        let number = |line: &str| line.split_whitespace().next().unwrap().parse::<usize>();
        let numbers = text.lines().skip(1).map(|line| number(line).expect("a line's number"));
        assert!(numbers.eq(0..text.lines().count() - 1), "each entry has one line: {text}");
        let log = gateway.log();
        assert!(log.lines().any(|line| line.contains("dsl\\nWARN forged")), "{log}");
        for text in [&text, &log] {
            let begins = |line: &str| line.starts_with("99 ") || line.starts_with("WARN");
            assert!(!text.lines().any(begins), "{text}");
            assert!(!text.contains(['\u{1b}', '\u{202e}', '\r']), "{text}");
        }
    });
}
