//! The next hop's hardware address.

use std::process::Command;

use crate::gateway::{Gateway, on_its_own, run};

#[test]
fn a_next_hop_that_is_forgotten_is_asked_again_and_that_is_all() {
    on_its_own(|| {
        let gateway = Gateway::start("forgotten", "");
        let before = gateway.done(&["history"]);
        for forget in ["ip neigh flush dev wan0", "ip link set wan0 address 02:00:00:00:00:07"] {
            run(forget);
            gateway.wait("next hop that has answered", |_| {
                let show = ["neigh", "show", "192.0.2.1", "dev", "wan0"];
                let output = Command::new("ip").args(show).output().unwrap();
                String::from_utf8_lossy(&output.stdout).contains("lladdr").then_some(())
            });
            assert_eq!(gateway.done(&["history"]), before, "{forget}");
        }
    });
}
