//! Nothing outlives a run, however it ends.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use weir_kit::netns::{Netns, require_root};
use weir_kit::process::Process;
use weir_kit::run::{Run, Tag};
use weir_kit::{cleanup, wait};

#[test]
fn a_killed_builder_leaves_nothing_behind() {
    require_root().unwrap();
    let mut builder = Process::spawn(
        Command::new(env!("CARGO_BIN_EXE_weir-kit"))
            .args(["topo", "up", "--providers", "2", "--hosts", "2"])
            .stdout(Stdio::piped()),
    )
    .unwrap();
    let tag = Tag { pid: builder.child().id(), number: 0 };
    let lines = BufReader::new(builder.child().stdout.take().unwrap()).lines();
    assert!(lines.map(Result::unwrap).any(|line| line.starts_with("ready")), "it was not built");

    let namespaces = cleanup::namespaces_of(tag).unwrap();
    assert_eq!(namespaces.len(), 7, "{namespaces:?}");
    let mut sleeper = namespaces[0].spawn(Command::new("sleep").arg("600")).unwrap();
    std::fs::create_dir(tag.file_directory()).unwrap();

    builder.child().kill().unwrap();

    wait::until("the reaper to remove the namespaces", wait::BOUND, || {
        Ok(cleanup::namespaces_of(tag)?.is_empty().then_some(()))
    })
    .unwrap();
    wait::until("the reaper to remove the files", wait::BOUND, || {
        Ok((!tag.file_directory().exists()).then_some(()))
    })
    .unwrap();
    let ended =
        wait::until("the process inside to end", wait::BOUND, || Ok(sleeper.child().try_wait()?));
    assert!(!ended.unwrap().success(), "the process was not killed");
}

#[test]
fn a_dropped_run_is_gone_when_drop_returns() {
    let run = Run::start().unwrap();
    let tag = run.tag();
    let inside = tag.netns("only");
    run.ip(&format!("netns add {}\n", inside.name())).unwrap();
    let mut sleeper = inside.spawn(Command::new("sleep").arg("600")).unwrap();
    let pins = run.pin_directory().unwrap();
    std::fs::create_dir(pins.join("maps")).unwrap();
    let files = run.file_directory().unwrap();
    std::fs::write(files.join("some"), "thing").unwrap();

    drop(run);

    assert!(!inside.path().exists());
    assert!(!pins.exists());
    assert!(!files.exists());
    let ended = || Ok(sleeper.child().try_wait()?);
    wait::until("the end of the process inside", Duration::from_secs(2), ended).unwrap();
}

#[test]
fn clean_removes_dead_runs_and_spares_live_ones() {
    let live = Run::start().unwrap();
    let spared = live.tag().netns("only");
    live.ip(&format!("netns add {}\n", spared.name())).unwrap();
    // No process can have this identifier: it is the largest possible limit (PID_MAX_LIMIT).
    let dead = Tag { pid: 1 << 22, number: std::process::id() }.netns("left");
    live.ip(&format!("netns add {}\n", dead.name())).unwrap();

    let status = Command::new(env!("CARGO_BIN_EXE_weir-kit")).arg("clean").status().unwrap();

    assert!(status.success());
    assert!(!dead.path().exists());
    assert!(spared.path().exists());
}

#[test]
fn entering_keeps_the_mount_namespace() {
    let run = Run::start().unwrap();
    let inside = run.tag().netns("only");
    run.ip(&format!("netns add {}\n", inside.name())).unwrap();
    let outside = std::fs::read_link("/proc/self/ns/mnt").unwrap();
    let net = std::fs::read_link("/proc/self/ns/net").unwrap();
    let seen = |kind: &str| std::fs::read_link(format!("/proc/thread-self/ns/{kind}")).unwrap();

    let (mount, network) = inside.run(|| (seen("mnt"), seen("net"))).unwrap();

    assert_eq!(mount, outside);
    assert_ne!(network, net);
}

#[test]
fn a_missing_namespace_is_named_in_the_error() {
    let error = Netns::named("weir-no-such").run(|| ()).unwrap_err();
    assert!(format!("{error:#}").contains("weir-no-such"), "{error:#}");
}
