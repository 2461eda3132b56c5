//! What is told of delegated prefixes while weir-control is away.

use serde_json::{Value, json};

use crate::gateway::{Gateway, on_its_own, run};

const OLD: &str = "2001:2:0:a00::/56";
const NEW: &str = "2001:2:0:b00::/56";

/// The prefixes of `fiber`, once weir-control tells of these.
fn wait_for(gateway: &Gateway, prefixes: &[&str]) -> Vec<Value> {
    gateway.wait("prefixes", |gateway| {
        let output = gateway.weir(&["prefix", "--json"]);
        let text: Value = serde_json::from_slice(&output.stdout).ok()?;
        let found = text["prefix"][0]["prefixes"].as_array()?.clone();
        let named: Vec<_> = found.iter().map(|it| it["prefix"].as_str().unwrap()).collect();
        (named == prefixes).then_some(found)
    })
}

#[test]
fn what_hooks_tell_while_the_control_process_is_away_or_stopped_is_done_when_it_runs() {
    on_its_own(|| {
        let mut gateway = Gateway::start("untold", "");
        run("ip addr add fd00:1::1/64 dev lan0 nodad");
        let delegated = "interface = \"wan0\"\nipv6 = { translate = \"npt66\", prefix = \"delegated\", \
                         inside = \"fd00:1::/64\" }";
        gateway.edit(|text| text.replace("interface = \"wan0\"", delegated));
        gateway.done(&["reload"]);
        gateway.done(&["prefix", "wan0", "set", OLD, "--valid", "7200"]);
        gateway.kill_control();
        for told in [
            &["prefix", "wan0", "set", NEW, "--valid", "3600"][..],
            &["prefix", "lan0", "set", NEW],
            &["prefix", "wan0", "keep", NEW],
        ] {
            let output = gateway.weir(told);
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(
                output.status.code() == Some(3) && said.contains("as soon as it runs"),
                "{said}"
            );
        }
        gateway.spawn_control();
        let found = wait_for(&gateway, &[NEW]);
        assert!((3500..=3600).contains(&found[0]["valid_s"].as_u64().unwrap()), "{found:?}");
        assert!(gateway.log().contains("told while nobody answered"), "{}", gateway.log());
        // What is told later is not undone by what was told before, nor is that told again.
        gateway.done(&["prefix", "wan0", "set", OLD]);
        gateway.done(&["prefix", "wan0", "keep", OLD]);
        let pid = gateway.control.as_ref().unwrap().id();
        run(&format!("kill -STOP {pid}"));
        let output = gateway.weir(&["prefix", "wan0", "set", NEW, "--valid", "infinity"]);
        run(&format!("kill -CONT {pid}"));
        assert_eq!(output.status.code(), Some(3));
        let found = wait_for(&gateway, &[OLD, NEW]);
        assert_eq!(found[1]["valid_s"], json!(null));
        gateway.done(&["prefix", "wan0", "del", NEW]);
        gateway.kill_control();
        gateway.spawn_control();
        wait_for(&gateway, &[OLD]);
    });
}
