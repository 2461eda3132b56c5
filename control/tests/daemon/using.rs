//! `weir use`.

use std::net::UdpSocket;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use crate::gateway::{Gateway, HOST, on_its_own, run, tell_by_udp};

const TCP: &str = "exec 3<>/dev/tcp/198.51.100.1/7 && head -n1 <&3";
const UDP: &str = "exec 3<>/dev/udp/198.51.100.1/7 && echo >&3 && head -n1 <&3";

fn said(gateway: &Gateway, uplink: &str, script: &str) -> String {
    gateway.done(&["use", uplink, "--", "timeout", "20", "bash", "-c", script]).trim().to_owned()
}

fn groups() -> usize {
    let found = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-name", "weir-use-*"])
        .output()
        .unwrap();
    String::from_utf8(found.stdout).unwrap().lines().count()
}

#[test]
fn a_command_leaves_by_its_uplink_whatever_the_routes_say() {
    on_its_own(|| {
        let gateway = Gateway::start("use", "");
        for uplink in ["fiber", "lte"] {
            assert_eq!(said(&gateway, uplink, TCP), uplink);
            assert_eq!(said(&gateway, uplink, UDP), uplink);
            // Its children too.
            assert_eq!(said(&gateway, uplink, &format!("bash -c '{TCP}'; true")), uplink);
            gateway.done(&["use", uplink, "--", "ping", "-n", "-c1", "-W9", HOST]);
        }
        // Others go by the default.
        let plain = std::process::Command::new("bash").args(["-c", TCP]).output().unwrap();
        assert_eq!(plain.stdout, b"fiber\n");
    });
}

#[test]
fn a_command_reaches_a_resolver_on_the_gateway_itself() {
    on_its_own(|| {
        let gateway = Gateway::start("use-local", "");
        for address in ["127.0.0.1", "10.77.0.1"] {
            let socket = UdpSocket::bind((address, 0)).unwrap();
            let port = socket.local_addr().unwrap().port();
            std::thread::spawn(move || tell_by_udp(&socket, "local"));
            let ask = UDP.replace("198.51.100.1/7", &format!("{address}/{port}"));
            assert_eq!(said(&gateway, "lte", &ask), "local");
        }
    });
}

#[test]
fn a_command_leaves_by_its_uplink_or_not_at_all() {
    on_its_own(|| {
        let gateway = Gateway::start("use-or-not", "");
        run("ip -6 addr add 2001:db8::2/64 dev wan0 nodad");
        run("ip -6 route add default via 2001:db8::1 dev wan0");
        let v6 = TCP.replace(HOST, "2001:db8:1::1");
        let run_by = |uplink: &str, script: &str| {
            gateway.weir(&["use", "--force", uplink, "--", "timeout", "20", "bash", "-c", script])
        };
        let unreachable = |output: std::process::Output| {
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && error.contains("unreachable"), "{output:?}");
        };
        // Without a route of IPv6 by this uplink.
        unreachable(run_by("lte", &v6));
        // With an address of the other, neither by that one nor by this.
        let ping = ["use", "lte", "--", "ping", "-n", "-c1", "-W1", "-I", "192.0.2.2", HOST];
        assert!(!gateway.weir(&ping).status.success());
        // Cut, and not diverted to the other one.
        run("ip link set wan1 down");
        unreachable(run_by("lte", TCP));
    });
}

#[test]
fn a_command_stays_on_its_uplink_while_weir_control_ends_and_starts() {
    on_its_own(|| {
        let mut gateway = Gateway::start("use-restart", "");
        // Its own sockets each time; who answers is written down.
        let asking = "while :; do timeout 2 bash -c \"$0\" >> \"$1\" 2>/dev/null; done";
        let answers = gateway.path("answers");
        let mut command = gateway.command(&["use", "lte", "--", "bash", "-c", asking, UDP]);
        let mut child = command.arg(&answers).spawn().unwrap();
        let text = || std::fs::read_to_string(&answers).unwrap_or_default();
        let go_on = |gateway: &Gateway, what: &str| {
            let before = text().lines().count();
            gateway.wait(what, |_| (text().lines().count() > before + 10).then_some(()));
        };
        go_on(&gateway, "answers");
        gateway.kill_control();
        go_on(&gateway, "answers without weir-control");
        gateway.start_control();
        gateway.stop_control();
        go_on(&gateway, "answers after its end");
        gateway.start_control();
        go_on(&gateway, "answers after its start");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(text().lines().all(|name| name == "lte"), "{}", text());
    });
}

#[test]
fn exit_status_and_signals_are_the_commands() {
    on_its_own(|| {
        let gateway = Gateway::start("use-status", "");
        assert_eq!(
            gateway.weir(&["use", "lte", "--", "sh", "-c", "exit 42"]).status.code(),
            Some(42)
        );
        assert_eq!(gateway.weir(&["use", "lte", "--", "/nonexistent"]).status.code(), Some(127));
        assert_eq!(gateway.weir(&["use", "lte", "--", "/etc"]).status.code(), Some(126));
        let mut command =
            gateway.command(&["use", "lte", "--", "sh", "-c", "echo; exec sleep 1000"]);
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        run(&format!("kill -TERM {}", child.id()));
        assert_eq!(child.wait().unwrap().signal(), Some(15));
    });
}

#[test]
fn nothing_is_left_of_a_command_that_has_ended() {
    on_its_own(|| {
        let gateway = Gateway::start("use-clean", "");
        let before = groups();
        gateway.done(&["use", "lte", "--", "true"]);
        gateway.wait("end of the cgroup", |_| (groups() <= before).then_some(()));
    });
}

#[test]
fn what_cannot_be_used_is_refused_with_the_reason() {
    on_its_own(|| {
        let gateway = Gateway::start("use-refused", "");
        let refused = |uplink: &str, why: &str| {
            let output = gateway.weir(&["use", uplink, "--", "true"]);
            let error = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(125));
            assert!(error.contains(why), "{error}");
        };
        refused("dsl", "there is no uplink \"dsl\"; known: fiber, lte");
        gateway.done(&["down", "lte"]);
        refused("lte", "lte is down");
        gateway.done(&["use", "--force", "lte", "--", "true"]);
    });
}
