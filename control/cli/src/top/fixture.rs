//! Values for tests.

use weir_layout::Family;

use super::sample::PathSample;

/// An uplink that is well.
pub fn path(name: &str) -> PathSample {
    PathSample {
        uplink: name.into(),
        label: name.into(),
        family: Family::V4,
        state: "up".into(),
        why: String::new(),
        lasts: None,
        by_hand: false,
        weight: 1,
        share: 50.0,
        created: 0,
        tx_bytes: 0,
        rx_bytes: 0,
        load: None,
        targets: Vec::new(),
    }
}
