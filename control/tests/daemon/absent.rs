//! What is not there yet.

use crate::gateway::{Gateway, on_its_own, run};

#[test]
fn an_uplink_without_its_interface_keeps_no_other_from_starting() {
    on_its_own(|| {
        let mut gateway = Gateway::start("absent", "");
        gateway.kill_control();
        run("ip link del wan1");
        gateway.start_control();
        gateway.wait("uplink that is left", |gateway| {
            let (fiber, lte) = (gateway.uplink("fiber"), gateway.uplink("lte"));
            (fiber["state"] == "up" && lte["state"] == "down" && lte["why"] == "no carrier")
                .then_some(())
        });
        let check = gateway.weir(&["check", gateway.path("weir.toml").to_str().unwrap()]);
        let refused = String::from_utf8(check.stderr).unwrap();
        assert!(!check.status.success() && refused.contains("no interface wan1"), "{refused}");
    });
}
