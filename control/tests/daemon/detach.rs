//! What is said when all of weir leaves the kernel.

use crate::gateway::{Gateway, on_its_own, sysctl};

const FORWARD: &str = "net/ipv6/conf/all/forwarding";

/// A gateway that guards IPv6 or does not, after its last process.
fn ended(test: &str, guards: bool) -> Gateway {
    let mut gateway = Gateway::start(test, "");
    if guards {
        gateway.stop_control();
        let ipv6 = "interface = \"wan0\"\nipv6 = { translate = \"none\" }";
        gateway.edit(|text| text.replacen("interface = \"wan0\"", ipv6, 1));
        gateway.start_control();
    }
    gateway.stop_control();
    gateway
}

#[test]
fn a_kernel_that_goes_on_forwarding_ipv6_without_a_guard_is_told_of() {
    on_its_own(|| {
        let words = "IPv6: the kernel goes on forwarding it";
        for (guards, forwards) in [(true, true), (true, false), (false, true)] {
            let gateway = ended("detach-ipv6", guards);
            sysctl(FORWARD, if forwards { "1" } else { "0" });
            let said = gateway.done(&["detach"]);
            assert_eq!(said.contains(words), guards && forwards, "{guards} {forwards}: {said}");
            assert!(said.contains("removed "), "{said}");
        }
    });
}

#[test]
fn programs_are_told_of_it_too() {
    on_its_own(|| {
        let gateway = ended("detach-ipv6-json", true);
        sysctl(FORWARD, "1");
        let said = gateway.json("detach");
        assert_eq!(said["forwards_ipv6"], true, "{said}");
        assert_eq!(gateway.json("detach")["forwards_ipv6"], false, "there is nothing left");
    });
}
