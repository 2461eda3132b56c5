//! Whom the gateway itself speaks with by protocols without ports.

use std::net::IpAddr;

use weir_layout::Family;
use weir_layout::control::{Address, ControlHalf, MAX_OWN_PEERS, OwnPeer};
use weir_view::{Kernel, Peer};

/// Enters them into the half. Where they are too many, all addresses are the gateway's own for these
/// protocols.
pub fn publish(half: &mut ControlHalf, kernel: &Kernel) {
    let tunnels = kernel.links.iter().filter(|link| link.up).flat_map(|link| &link.tunnels);
    let mut peers: Vec<OwnPeer> = tunnels.chain(&kernel.peers).map(entry).collect();
    if peers.len() > MAX_OWN_PEERS {
        for peer in &mut peers {
            (peer.local, peer.remote) = (Address::UNSPECIFIED, Address::UNSPECIFIED);
        }
        peers.sort_unstable_by_key(|peer| (peer.protocol, peer.family));
        peers.dedup();
    }
    peers.truncate(MAX_OWN_PEERS);
    half.own_peer_count = peers.len() as u32;
    half.own_peers[..peers.len()].copy_from_slice(&peers);
}

fn entry(peer: &Peer) -> OwnPeer {
    let family = if peer.local.is_ipv4() { Family::V4 } else { Family::V6 };
    let address = |address: IpAddr| match address.is_unspecified() {
        true => Address::UNSPECIFIED,
        false => Address::from(address),
    };
    OwnPeer {
        local: address(peer.local),
        remote: address(peer.remote),
        protocol: peer.protocol,
        family: family.index() as u8,
        reserved: [0; 6],
    }
}

#[cfg(test)]
mod tests {
    use weir_shm::control::empty_half;
    use weir_view::Link;

    use super::*;

    const GRE: u8 = 47;

    fn peer(remote: u8) -> Peer {
        Peer { protocol: GRE, local: [192, 0, 2, 1].into(), remote: [198, 51, 100, remote].into() }
    }

    fn speaks(kernel: &Kernel, local: u8, remote: u8, protocol: u8) -> bool {
        let mut half = empty_half();
        publish(&mut half, kernel);
        let (local, remote) = ([192, 0, 2, local], [198, 51, 100, remote]);
        half.speaks(Family::V4, Address::v4(local), Address::v4(remote), protocol)
    }

    #[test]
    fn of_tunnels_those_that_are_up_are_the_gateways_own() {
        let link = |up| Link { up, tunnels: vec![peer(7)], ..Link::default() };
        let kernel = |up| Kernel { links: vec![link(up)], ..Kernel::default() };
        assert!(!speaks(&kernel(false), 1, 7, GRE));
        let kernel = kernel(true);
        assert!(speaks(&kernel, 1, 7, GRE));
        assert!(!speaks(&kernel, 2, 7, GRE), "another address");
        assert!(!speaks(&kernel, 1, 8, GRE), "another remote");
        assert!(!speaks(&kernel, 1, 7, 50), "another protocol");
    }

    #[test]
    fn one_that_names_no_end_is_for_all_of_its_family() {
        let any = IpAddr::from([0; 4]);
        let peers = vec![Peer { protocol: GRE, local: any, remote: any }];
        let kernel = Kernel { peers, ..Kernel::default() };
        assert!(speaks(&kernel, 1, 7, GRE) && speaks(&kernel, 9, 9, GRE));
        let mut half = empty_half();
        publish(&mut half, &kernel);
        assert!(!half.speaks(Family::V6, Address([1; 16]), Address([2; 16]), GRE));
    }

    #[test]
    fn more_than_there_is_room_for_leave_nothing_to_hosts() {
        let peers = (0..=MAX_OWN_PEERS as u8).map(peer).collect();
        let kernel = Kernel { peers, ..Kernel::default() };
        assert!(speaks(&kernel, 1, 200, GRE) && !speaks(&kernel, 1, 200, 50));
    }
}
