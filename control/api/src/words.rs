//! States of paths and devices, for people, and what of a text they may be shown.

use weir_layout::control::{Device, path_state};
use weir_layout::status::{DeviceState, DeviceStatus, SocketMode};

/// Is a character only what it looks like? Others end a line, command a terminal, or turn the
/// direction of the text.
pub fn is_printable(c: char) -> bool {
    // What Rust would escape, but for quotes.
    c.escape_debug().len() == 1 || matches!(c, '"' | '\'' | '\\')
}

/// What a path's state word may say beside its use, as short words.
pub const REASONS: [(u32, &str); 11] = [
    (path_state::ADMIN_DOWN, "by hand"),
    (path_state::NO_DEVICE, "interface not usable"),
    (path_state::NO_CARRIER, "no carrier"),
    (path_state::NO_ADDRESS, "no usable address"),
    (path_state::NO_NEXT_HOP, "no next hop"),
    (path_state::UNHEALTHY, "unhealthy"),
    (path_state::JOINT, "the other family is down"),
    (path_state::HELD_DOWN, "held down"),
    (path_state::DEGRADED, "degraded"),
    (path_state::LAST_RESORT, "last resort"),
    (path_state::SATURATED, "saturated"),
];

/// Why an uplink is as it is, as short words.
pub fn reasons(word: u32) -> Vec<&'static str> {
    REASONS.iter().filter(|(bit, _)| word & bit != 0).map(|(_, reason)| *reason).collect()
}

/// `"up"` or `"down"`, and why.
pub fn state(word: u32) -> String {
    let use_ = if word & path_state::USABLE != 0 { "up" } else { "down" };
    let draining = (word & path_state::DRAINING != 0).then_some("draining");
    let spared = (word & path_state::SPARED != 0).then_some("spared");
    let why: Vec<_> = reasons(word).into_iter().chain(draining).chain(spared).collect();
    if why.is_empty() { use_.into() } else { format!("{use_} ({})", why.join(", ")) }
}

/// How far a device has come, by what the dataplane says of it; `runs` says whether that runs.
pub fn device(device: &Device, status: &DeviceStatus, runs: bool) -> &'static str {
    let known = runs && status.ifindex == device.ifindex;
    match DeviceState::from_byte(status.state) {
        _ if device.ifindex == 0 => "waiting",
        DeviceState::Attached if known => "attached",
        DeviceState::Refused if known => "refused",
        _ if runs => "joining",
        _ => "-",
    }
}

/// Where XDP runs on a device.
pub fn xdp(status: &DeviceStatus) -> &'static str {
    match status.xdp {
        1 => "native",
        2 => "generic",
        _ => "off",
    }
}

/// How the sockets of a device have their frames.
pub fn socket_mode(status: &DeviceStatus) -> &'static str {
    match status.mode {
        mode if mode == SocketMode::ZeroCopy as u32 => "zero-copy",
        mode if mode == SocketMode::Copy as u32 => "copy",
        _ => "detached",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_word_is_told_by_its_names() {
        assert_eq!(state(path_state::USABLE), "up");
        let held = path_state::NO_CARRIER | path_state::HELD_DOWN;
        assert_eq!(state(held), "down (no carrier, held down)");
        assert_eq!(state(path_state::USABLE | path_state::DRAINING), "up (draining)");
    }
}
