//! The names of the gateway's devices: the same after a restart, another in each LAN, and none says
//! which machine it is (machine-id(5)).

use ring::hmac;

/// The number that a device's name in a LAN is made of. A machine without an identity has another
/// after each start, by the seed.
pub fn secret(seed: u64, lan: &str, device: &str) -> [u8; 16] {
    let machine =
        std::fs::read("/etc/machine-id").ok().filter(|text| !text.trim_ascii().is_empty());
    secret_of(&machine.unwrap_or_else(|| seed.to_be_bytes().to_vec()), lan, device)
}

fn secret_of(machine: &[u8], lan: &str, device: &str) -> [u8; 16] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, machine);
    let tag = hmac::sign(&key, format!("weir UPnP\n{lan}\n{device}").as_bytes());
    let mut secret = [0; 16];
    secret.copy_from_slice(&tag.as_ref()[..16]);
    secret
}

#[cfg(test)]
mod tests {
    use super::secret_of;

    #[test]
    fn a_device_has_one_name_in_a_lan_and_another_elsewhere() {
        let of = |machine: &[u8], lan, device| secret_of(machine, lan, device);
        assert_eq!(of(b"a", "lan0", "WANDevice"), of(b"a", "lan0", "WANDevice"));
        let all = [of(b"a", "lan0", "x"), of(b"b", "lan0", "x"), of(b"a", "lan1", "x")];
        assert!(all[0] != all[1] && all[0] != all[2] && of(b"a", "lan0", "y") != all[0]);
    }
}
