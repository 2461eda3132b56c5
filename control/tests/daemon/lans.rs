//! LANs that come and go.

use serde_json::Value;

use crate::gateway::{Gateway, on_its_own, run};

/// What the history says of the LAN: states and kinds of reasons, oldest first.
fn told(gateway: &Gateway) -> Vec<(String, String)> {
    let history = gateway.json("history");
    let entries = history.as_array().cloned().unwrap_or_default();
    let of_lan = entries.iter().filter(|entry| entry["lan"] == "lan0");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    of_lan.map(|entry| (text(&entry["to"]), text(&entry["reason"]["kind"]))).collect()
}

#[test]
fn a_lan_that_goes_and_comes_back_is_in_the_log_and_in_the_history() {
    on_its_own(|| {
        let gateway = Gateway::start("lan", "");
        let until = |what: &str, entries: &[(&str, &str)]| {
            gateway.wait(what, |gateway| {
                let told = told(gateway);
                let told = told.iter().map(|(to, kind)| (to.as_str(), kind.as_str()));
                told.eq(entries.iter().copied()).then_some(())
            });
        };
        until("LAN that was there from the start", &[]);
        run("ip link del lan0");
        until("LAN that is gone", &[("down", "device")]);
        let worse =
            gateway.log().lines().find(|line| line.contains("lan=\"lan0\"")).map(str::to_owned);
        let worse = worse.unwrap_or_else(|| panic!("{}", gateway.log()));
        assert!(worse.contains("WARN") && worse.contains("to=down"), "{worse}");
        run("ip link add lan0 type veth peer name host0");
        run("ip link set lan0 up");
        run("ip link set host0 up");
        let words = gateway.wait("a LAN that is back", |gateway| {
            let last = told(gateway).last().cloned();
            (last == Some(("up".into(), "started".into()))).then(|| gateway.done(&["history"]))
        });
        assert!(
            words.lines().any(|line| line.contains("LAN lan0") && line.contains(" down ")),
            "{words}"
        );
        assert!(gateway.uplinks().iter().all(|uplink| uplink["state"] == "up"));
    });
}
