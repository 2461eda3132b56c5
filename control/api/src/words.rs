//! Uplinks' state words, for people.

use weir_layout::control::uplink_state;

/// Why an uplink is as it is, as short words.
pub fn reasons(word: u32) -> Vec<&'static str> {
    let reasons = [
        (uplink_state::ADMIN_DOWN, "by hand"),
        (uplink_state::NO_DEVICE, "interface not usable"),
        (uplink_state::NO_CARRIER, "no carrier"),
        (uplink_state::NO_ADDRESS, "no usable address"),
        (uplink_state::NO_NEXT_HOP, "no next hop"),
        (uplink_state::UNHEALTHY, "unhealthy"),
        (uplink_state::HELD_DOWN, "held down"),
        (uplink_state::DEGRADED, "degraded"),
        (uplink_state::LAST_RESORT, "last resort"),
        (uplink_state::SATURATED, "saturated"),
    ];
    reasons.iter().filter(|(bit, _)| word & bit != 0).map(|(_, reason)| *reason).collect()
}

/// `"up"` or `"down"`, and why.
pub fn state(word: u32) -> String {
    let use_ = if word & uplink_state::USABLE != 0 { "up" } else { "down" };
    let draining = (word & uplink_state::DRAINING != 0).then_some("draining");
    let spared = (word & uplink_state::SPARED != 0).then_some("spared");
    let why: Vec<_> = reasons(word).into_iter().chain(draining).chain(spared).collect();
    if why.is_empty() { use_.into() } else { format!("{use_} ({})", why.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_word_is_told_by_its_names() {
        assert_eq!(state(uplink_state::USABLE), "up");
        let held = uplink_state::NO_CARRIER | uplink_state::HELD_DOWN;
        assert_eq!(state(held), "down (no carrier, held down)");
        assert_eq!(state(uplink_state::USABLE | uplink_state::DRAINING), "up (draining)");
    }
}
