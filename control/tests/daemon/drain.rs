//! `weir drain`, and the memory of what was set by hand.

use rustix::time::{ClockId, clock_gettime};
use weir_shm::control::ControlRegion;
use weir_shm::map::Access;

use crate::gateway::{Gateway, on_its_own};

#[test]
fn a_drain_and_its_deadline_survive_the_control_process() {
    on_its_own(|| {
        let mut gateway = Gateway::start("drain", "");
        gateway.done(&["drain", "fiber", "--deadline", "1h"]);
        let fiber = gateway.uplink("fiber");
        assert_eq!((&fiber["state"], &fiber["draining"]), (&"up".into(), &true.into()));
        assert_eq!(fiber["health"]["state"], "draining");
        assert_eq!(gateway.uplink("lte")["share"], 100.0);
        let before = fiber["drain_left_s"].as_u64().unwrap();
        assert!((3500..=3600).contains(&before), "{before}");
        gateway.kill_control();
        gateway.start_control();
        gateway.wait("draining uplink", |gateway| {
            let fiber = gateway.uplink("fiber");
            (fiber["health"]["state"] == "draining").then(|| {
                assert!(fiber["drain_left_s"].as_u64().unwrap() <= before);
            })
        });
        gateway.done(&["up", "fiber"]);
        let fiber = gateway.uplink("fiber");
        assert_eq!((&fiber["draining"], &fiber["share"]), (&false.into(), &100.0.into()));
    });
}

#[test]
fn the_deadline_of_a_drain_is_kept_in_a_clock_that_nobody_sets() {
    on_its_own(|| {
        let gateway = Gateway::start("drain-clock", "");
        let now = || clock_gettime(ClockId::Boottime).tv_sec as u64;
        let before = now();
        gateway.done(&["drain", "fiber", "--deadline", "1h"]);
        let control = ControlRegion::open(&gateway.pins(), Access::Read).unwrap();
        let until = control.snapshot().unwrap().half.uplinks[0].drain_until;
        assert!((before + 3600..=now() + 3600).contains(&until), "{until}");
    });
}

#[test]
fn at_the_deadline_the_uplink_is_out_of_use_and_says_why() {
    on_its_own(|| {
        let mut gateway = Gateway::start("drained", "");
        gateway.done(&["drain", "fiber", "--deadline", "1s"]);
        let drained = |gateway: &Gateway| {
            let fiber = gateway.uplink("fiber");
            (fiber["state"] == "down" && fiber["health"]["reason"]["kind"] == "drained")
                .then_some(())
        };
        gateway.wait("drained uplink", drained);
        assert!(gateway.done(&["history"]).contains("drained: the time to empty it is over"));
        gateway.kill_control();
        gateway.start_control();
        gateway.wait("drained uplink", drained);
        gateway.done(&["up", "fiber"]);
        assert_eq!(gateway.uplink("fiber")["state"], "up");
    });
}

#[test]
fn what_cannot_be_drained_is_refused_with_the_reason() {
    on_its_own(|| {
        let gateway = Gateway::start("drain-refused", "");
        let error = |arguments: &[&str]| String::from_utf8(gateway.weir(arguments).stderr).unwrap();
        assert!(error(&["drain", "dsl"]).contains("known: fiber, lte"));
        assert!(error(&["drain", "lte", "--deadline", "10"]).contains("10m"));
        gateway.done(&["down", "lte"]);
        assert!(error(&["drain", "lte"]).contains("`weir up lte` first"));
        assert_eq!(gateway.uplink("lte")["state"], "down");
        assert!(error(&["home", "voip"]).contains("known: balanced"));
        gateway.done(&["home"]);
    });
}
