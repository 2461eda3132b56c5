//! Whom the gateway itself speaks with by protocols without ports.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use weir_layout::Family;
use weir_layout::control::{Address, ControlHalf, MAX_OWN_PEERS, OwnPeer};
use weir_site::Site;
use weir_view::{Kernel, Peer};

/// Enters them into the half. Where they are too many, the addresses of the gateway are for a protocol
/// whoever the remote is, that of which there are the most first; and where these are too many, all
/// addresses are.
pub fn publish(half: &mut ControlHalf, site: &Site, kernel: &Kernel) {
    let mut peers = peers(site, kernel);
    widen(&mut peers, |peer| peer.remote = Address::UNSPECIFIED);
    widen(&mut peers, |peer| peer.local = Address::UNSPECIFIED);
    peers.truncate(MAX_OWN_PEERS);
    half.own_peer_count = peers.len() as u32;
    half.own_peers[..peers.len()].copy_from_slice(&peers);
}

/// Makes them fit by this, of as few protocols as it takes.
fn widen(peers: &mut Vec<OwnPeer>, wide: fn(&mut OwnPeer)) {
    let mut widened = HashSet::new();
    while peers.len() > MAX_OWN_PEERS {
        let mut of: BTreeMap<u8, usize> = BTreeMap::new();
        let others = peers.iter().filter(|peer| !widened.contains(&peer.protocol));
        others.for_each(|peer| *of.entry(peer.protocol).or_default() += 1);
        let Some((protocol, _)) = of.into_iter().max_by_key(|(_, peers)| *peers) else { return };
        widened.insert(protocol);
        peers.iter_mut().filter(|peer| peer.protocol == protocol).for_each(wide);
        sort(peers);
    }
}

/// What hosts lose where they are too many, in words; none: they are not.
pub fn crowded(site: &Site, kernel: &Kernel) -> Option<String> {
    let found = peers(site, kernel).len();
    (found > MAX_OWN_PEERS).then(|| {
        format!(
            "the gateway itself speaks with more than {MAX_OWN_PEERS} remotes by protocols without \
             ports (tunnels, IPsec, raw sockets): by the protocol that most of them are of, its \
             addresses that it does so by are lent to no host, whoever the remote is"
        )
    })
}

/// Those whose answers come to the gateway, where a host's could. An association that goes out has its
/// ends the other way round, and one whose address is not here receives nothing. No host outside is
/// spoken with by an address that is on LANs alone.
fn peers(site: &Site, kernel: &Kernel) -> Vec<OwnPeer> {
    let lans = site.lans.iter().filter_map(|lan| kernel.link(&lan.interface));
    let lans: HashSet<u32> = lans.map(|link| link.index).collect();
    let elsewhere = kernel.addresses.iter().filter(|(index, _)| !lans.contains(index));
    let own: HashSet<IpAddr> = elsewhere.map(|(_, net)| net.addr()).collect();
    let tunnels = kernel.links.iter().filter(|link| link.up).flat_map(|link| &link.tunnels);
    let all = tunnels.chain(&kernel.peers);
    let here = all.filter(|peer| peer.local.is_unspecified() || own.contains(&peer.local));
    let mut peers = here.map(entry).collect();
    sort(&mut peers);
    peers
}

/// In an order, and none twice.
fn sort(peers: &mut Vec<OwnPeer>) {
    peers.sort_unstable_by_key(|peer| (peer.protocol, peer.family, peer.local.0, peer.remote.0));
    peers.dedup();
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
    use crate::fixture;

    const GRE: u8 = 47;
    const ESP: u8 = 50;

    fn peer(remote: u8) -> Peer {
        Peer { protocol: GRE, local: [192, 0, 2, 1].into(), remote: [198, 51, 100, remote].into() }
    }

    /// The gateway has 192.0.2.1 and .2.
    fn gateway(peers: Vec<Peer>) -> Kernel {
        let addresses = ["192.0.2.1/24", "192.0.2.2/24"].map(|net| (2, net.parse().unwrap()));
        Kernel { addresses: addresses.into(), peers, ..Kernel::default() }
    }

    fn speaks(kernel: &Kernel, local: u8, remote: u8, protocol: u8) -> bool {
        let mut half = empty_half();
        publish(&mut half, &fixture::site(&["fiber"]), kernel);
        let (local, remote) = ([192, 0, 2, local], [198, 51, 100, remote]);
        half.speaks(Family::V4, Address::v4(local), Address::v4(remote), protocol)
    }

    #[test]
    fn of_tunnels_those_that_are_up_are_the_gateways_own() {
        let link = |up| Link { up, tunnels: vec![peer(7)], ..Link::default() };
        let kernel = |up| Kernel { links: vec![link(up)], ..gateway(Vec::new()) };
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
        let kernel = gateway(vec![Peer { protocol: GRE, local: any, remote: any }]);
        assert!(speaks(&kernel, 1, 7, GRE) && speaks(&kernel, 9, 9, GRE));
        let mut half = empty_half();
        publish(&mut half, &fixture::site(&["fiber"]), &kernel);
        assert!(!half.speaks(Family::V6, Address([1; 16]), Address([2; 16]), GRE));
    }

    #[test]
    fn what_has_another_address_than_the_gateways_receives_nothing_here() {
        let Peer { protocol, local, remote } = peer(7);
        let out = Peer { protocol, local: remote, remote: local };
        let mut half = empty_half();
        publish(&mut half, &fixture::site(&["fiber"]), &gateway(vec![peer(7), out]));
        assert_eq!(half.own_peers(), [entry(&peer(7))]);
    }

    #[test]
    fn more_than_there_is_room_for_leave_hosts_nothing_of_their_addresses_and_this_is_said() {
        let site = fixture::site(&["fiber"]);
        let peers = |number: usize| gateway((0..number as u8).map(peer).collect());
        assert_eq!(crowded(&site, &peers(MAX_OWN_PEERS)), None);
        assert!(!speaks(&peers(MAX_OWN_PEERS), 1, 200, GRE));
        let kernel = peers(MAX_OWN_PEERS + 1);
        assert!(crowded(&site, &kernel).unwrap().contains("more than 64 remotes"));
        assert!(speaks(&kernel, 1, 200, GRE) && !speaks(&kernel, 1, 200, ESP));
        assert!(!speaks(&kernel, 2, 200, GRE), "by its other address it speaks with none");
    }

    #[test]
    fn too_many_of_one_protocol_take_nothing_of_another() {
        let many = 0..MAX_OWN_PEERS as u8 + 1;
        let few = (0..3).map(|n| Peer { protocol: ESP, ..peer(n) });
        let kernel = gateway(many.map(peer).chain(few).collect());
        assert!(speaks(&kernel, 1, 200, GRE));
        assert!(speaks(&kernel, 1, 2, ESP) && !speaks(&kernel, 1, 200, ESP));
    }

    #[test]
    fn whom_it_speaks_with_by_an_address_on_a_lan_takes_no_room() {
        let site = fixture::site(&["fiber"]);
        let lan = Link { index: 9, name: site.lans[0].interface.clone(), ..Link::default() };
        let mut kernel = gateway((0..100).map(peer).collect());
        kernel.addresses.iter_mut().for_each(|(index, _)| *index = lan.index);
        kernel.links.push(lan);
        assert!(crowded(&site, &kernel).is_none() && !speaks(&kernel, 1, 7, GRE));
    }

    #[test]
    fn more_addresses_than_there_is_room_for_leave_nothing_to_hosts() {
        let address = |n: u8| IpAddr::from([192, 0, 2, n]);
        let locals = 1..=MAX_OWN_PEERS as u8 + 1;
        let addresses = locals.clone().map(|n| (2, address(n).into())).collect();
        let peers = locals.map(|n| Peer { local: address(n), ..peer(7) }).collect();
        let kernel = Kernel { addresses, peers, ..Kernel::default() };
        assert!(speaks(&kernel, 200, 200, GRE) && !speaks(&kernel, 200, 200, 50));
    }
}
