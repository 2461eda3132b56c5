//! The devices that the configuration names: what carries each, or why nothing does.

use std::io;

use serde_json::{Value, json};
use weir_api::words;
use weir_layout::MAX_QUEUES;
use weir_layout::control::{ControlHalf, Device, DeviceFault};
use weir_layout::status::{DeviceStatus, Refusal, StatusPage};

const EBUSY: u16 = 16;
const EEXIST: u16 = 17;

/// One value for each device; `runs` says whether the dataplane does.
pub fn values(half: &ControlHalf, page: &StatusPage, runs: bool) -> Vec<Value> {
    let named = half.devices.iter().zip(&page.devices).filter(|(d, _)| d.name.0[0] != 0);
    named.map(|(device, status)| value(device, status, runs)).collect()
}

fn value(device: &Device, status: &DeviceStatus, runs: bool) -> Value {
    let state = words::device(device, status, runs);
    let why = match state {
        "waiting" => fault(device),
        "refused" => refusal(device.name.as_str(), status),
        _ => String::new(),
    };
    json!({
        "interface": device.name.as_str(),
        "state": state,
        "why": why,
        "xdp": words::xdp(status),
        "sockets": status.sockets,
        "mode": words::socket_mode(status),
        "mtu": device.mtu,
        "rx_lost": status.rx_dropped + status.rx_ring_full,
    })
}

fn fault(device: &Device) -> String {
    let text = match DeviceFault::from_byte(device.fault) {
        DeviceFault::NoEthernet => "no Ethernet header: not supported",
        DeviceFault::StackedVlan => "a VLAN within a VLAN: not supported",
        DeviceFault::MissingVlan => "its VLAN interface is missing",
        DeviceFault::None | DeviceFault::Missing => "there is no such interface",
    };
    text.into()
}

fn refusal(name: &str, status: &DeviceStatus) -> String {
    let (queue, errno) = (status.queue, status.errno);
    let error = || match errno {
        0 => "see the log of weir-dataplane".to_owned(),
        errno => io::Error::from_raw_os_error(errno.into()).to_string(),
    };
    match (Refusal::from_byte(status.refusal), errno) {
        (Refusal::Queues, _) => format!(
            "{queue} queues, at most {MAX_QUEUES} can be served: `ethtool -L {name} combined \
             {MAX_QUEUES}`"
        ),
        (Refusal::Socket, EBUSY) => {
            format!("queue {queue} has an AF_XDP socket of another process: stop it")
        }
        (Refusal::Socket, _) => format!("no socket on queue {queue}: {}", error()),
        (Refusal::Program, EBUSY | EEXIST) => {
            format!("another XDP program is there: `ip link set dev {name} xdp off`")
        }
        (Refusal::Program, _) => format!("the XDP program cannot be attached: {}", error()),
        (Refusal::Memory, _) => format!("no packet memory: {}", error()),
        (Refusal::None, _) => error(),
    }
}

#[cfg(test)]
mod tests {
    use weir_layout::control::Name;
    use weir_layout::status::DeviceState;
    use zerocopy::FromZeros;

    use super::*;

    fn told(change: impl FnOnce(&mut Device, &mut DeviceStatus)) -> (String, String) {
        let (mut device, mut status) = (Device::new_zeroed(), DeviceStatus::new_zeroed());
        (device.name, device.ifindex, status.ifindex) = (Name::new("wan1"), 7, 7);
        change(&mut device, &mut status);
        let value = value(&device, &status, true);
        let text = |key: &str| value[key].as_str().unwrap().to_owned();
        (text("state"), text("why"))
    }

    #[test]
    fn a_device_that_is_not_there_waits_and_says_why() {
        for (fault, words) in [
            (DeviceFault::Missing, "no such interface"),
            (DeviceFault::NoEthernet, "not supported"),
            (DeviceFault::StackedVlan, "not supported"),
            (DeviceFault::MissingVlan, "VLAN interface is missing"),
        ] {
            let (state, why) = told(|device, status| {
                (device.ifindex, device.fault) = (0, fault as u8);
                status.state = DeviceState::Attached as u8;
            });
            assert_eq!(state, "waiting");
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn a_refused_device_says_what_to_do() {
        for (refusal, errno, words) in [
            (Refusal::Queues, 0, "`ethtool -L wan1 combined 256`"),
            (Refusal::Socket, EBUSY, "queue 3 has an AF_XDP socket of another process"),
            (Refusal::Socket, 22, "no socket on queue 3: Invalid argument"),
            (Refusal::Program, EBUSY, "`ip link set dev wan1 xdp off`"),
            (Refusal::Program, 0, "see the log"),
            (Refusal::Memory, 12, "no packet memory: Cannot allocate memory"),
        ] {
            let (state, why) = told(|_, status| {
                status.state = DeviceState::Refused as u8;
                (status.refusal, status.errno, status.queue) = (refusal as u8, errno, 3);
            });
            assert_eq!(state, "refused");
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn what_was_said_of_another_interface_is_not_said_of_this_one() {
        let (state, why) = told(|_, status| {
            (status.ifindex, status.state) = (6, DeviceState::Refused as u8);
        });
        assert_eq!((state.as_str(), why.as_str()), ("joining", ""));
    }
}
