//! Which bucket a packet selects, and so which packets share an uplink.

use weir_layout::control::{ControlHalf, Path, PathId, PathPrefix, Policy};
use weir_wire::bucket::{self, Fields};
use weir_wire::family::Family;
use weir_wire::protocol;

use crate::steering::Traffic;

/// A hash of what the policy selects by. Where a member translates, a UDP or ICMP endpoint must keep
/// one mapping whatever it talks to (RFC 4787 REQ-1, RFC 5508 REQ-1): the destination stays out. So must
/// one of TCP where a member maps those. What has no ports goes by its addresses and protocol.
pub fn hash<F: Family>(half: &ControlHalf, key: [u64; 2], policy: &Policy, t: &Traffic<F>) -> u64 {
    let endpoint_only = match t.proto {
        protocol::TCP => half.maps_tcp != 0 && maps_tcp::<F>(half, policy),
        proto => protocol::is_mapped(proto) && translates::<F>(half, policy),
    };
    let destination = if endpoint_only { 0 } else { F::digest(key, &t.dst) };
    let (sport, dport) = (u32::from(t.sport), u32::from(t.dport));
    let ports = if endpoint_only { sport } else { sport << 16 | dport };
    let label = if endpoint_only { 0 } else { t.label };
    let addresses = [F::digest(key, &t.src), destination];
    let (proto, host) = (t.proto, t.host);
    bucket::hash(key, policy.selection(), &Fields { addresses, proto, ports, label, host })
}

fn maps_tcp<F: Family>(half: &ControlHalf, policy: &Policy) -> bool {
    let path = |member| PathId::new(member, F::FAMILY);
    policy.members().iter().any(|member| half.maps(path(member.uplink), protocol::TCP))
}

fn translates<F: Family>(half: &ControlHalf, policy: &Policy) -> bool {
    policy.members().iter().any(|member| {
        let path = half.path(PathId::new(member.uplink, F::FAMILY));
        path.is_some_and(Path::translates)
            || F::FAMILY == weir_layout::Family::V6
                && half.prefixes_of(member.uplink).any(PathPrefix::is_pair)
    })
}
