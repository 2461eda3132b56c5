//! The services that are published: port forwards, as the dataplane reads them.

use weir_layout::Family;
use weir_layout::control::{Address, ControlHalf, Name, PortForward, Translate, Uplink};
use weir_site::{PublishConfig, Service, Site};
use zerocopy::FromZeros;

use crate::prefix::prefix;

/// Enters those of the site into the half: the file's, and what hosts have asked for. Whom the
/// gateway itself speaks with is there already.
pub fn publish(half: &mut ControlHalf, site: &Site) {
    let families: Vec<Family> = site.families().collect();
    for publish in site.publish.iter().chain(&site.mapped) {
        let services = publish.services(&families).into_iter();
        // One that is open to nobody is not there.
        for service in services.filter(|service| !publish.is_of_nobody(service.family)) {
            let number = half.port_forward_count as usize;
            if number >= half.port_forwards.len() {
                return;
            }
            let (allowed_first, allowed_count) = allow(half, publish, service.family);
            let mut forward = forward(site, publish, &service);
            forward.uplinks &= !spoken_by(half, &service);
            half.port_forwards[number] = PortForward { allowed_first, allowed_count, ..forward };
            half.port_forward_count += 1;
            half.port_blocks.enter([publish.ports.0, publish.ports.1]);
        }
    }
    let count = half.port_forward_count as usize;
    half.open_ports.fill(&half.port_forwards[..count]);
}

/// A service, by the uplinks that do not let in whatever is for a LAN.
fn forward(site: &Site, publish: &PublishConfig, service: &Service) -> PortForward {
    let is_closed = |uplink: &&u8| {
        let uplink = site.uplinks.get(usize::from(**uplink));
        uplink.is_some_and(|uplink| service.host.is_none() || !uplink.is_inbound(service.family))
    };
    let open = publish.uplinks.iter().filter(is_closed);
    PortForward {
        name: Name::new(&publish.name),
        uplinks: open.fold(0, |open, uplink| open | 1 << uplink),
        allowed_sets: publish.allowed_sets,
        barred_sets: publish.barred_sets,
        inside: service.host.map_or(Address::UNSPECIFIED, |host| host.ip().into()),
        ports: [publish.ports.0, publish.ports.1],
        inside_port: service.host.map_or(0, |host| host.port()),
        protocol: service.protocol,
        family: service.family.index() as u8,
        to_gateway: service.host.is_none().into(),
        ..PortForward::new_zeroed()
    }
}

/// The uplinks by whose addresses the gateway itself speaks a service's protocol, which has no
/// ports: what comes to them is the gateway's.
fn spoken_by(half: &ControlHalf, service: &Service) -> u64 {
    let peers = half.own_peers().iter().filter(|peer| {
        (peer.protocol, usize::from(peer.family)) == (service.protocol, service.family.index())
    });
    let locals: Vec<Address> = peers.map(|peer| peer.local).collect();
    let is_spoken = |(_, uplink): &(u8, &Uplink)| {
        let path = uplink.path(service.family);
        let has =
            |local: &Address| *local == Address::UNSPECIFIED || path.addresses().contains(local);
        path.translation() == Translate::Napt && locals.iter().any(has)
    };
    let uplinks = (0u8..).zip(&half.uplinks).filter(is_spoken);
    uplinks.fold(0, |spoken, (uplink, _)| spoken | 1 << uplink)
}

/// Enters whom it is open to; the first entry, and how many. Without room: one that is not there.
fn allow(half: &mut ControlHalf, publish: &PublishConfig, family: Family) -> (u16, u16) {
    let first = half.allowed_count;
    for net in publish.allowed(family) {
        let Some(slot) = half.allowed.get_mut(half.allowed_count as usize) else {
            return (u16::MAX, 1);
        };
        *slot = prefix(net);
        half.allowed_count += 1;
    }
    (first as u16, (half.allowed_count - first) as u16)
}

#[cfg(test)]
mod tests {
    use weir_layout::control::{OpenPorts, OwnPeer, PathId};
    use weir_view::Kernel;

    use crate::{Overrides, derive};

    use super::*;

    const SITE: &str = "[[lan]]\ninterface = \"lan0\"\n\
        [[uplink]]\nname = \"a\"\ninterface = \"wan0\"\nipv6 = { translate = \"none\" }\n\
        [[uplink]]\nname = \"b\"\ninterface = \"wan1\"\ntranslate = \"none\"\ninbound = true\n";

    fn published(publish: &str) -> Box<ControlHalf> {
        let text = format!("{SITE}[[publish]]\nname = \"web\"\nports = 443\n{publish}");
        let site = weir_site::parse("weir.toml", &text).unwrap();
        derive(&site, &Kernel::default(), &Overrides::default(), [&[]; 2], None).half
    }

    #[test]
    fn a_service_is_published_once_for_each_protocol_and_family() {
        let to = "[\"10.0.0.5:8443\", \"2001:db8::5\"]";
        let half = published(&format!("protocol = [\"tcp\", \"udp\"]\nto = {to}\n"));
        let told = half.port_forwards().iter().map(|it| (it.family, it.protocol, it.inside_port));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [(0, 6, 8443), (1, 6, 443), (0, 17, 8443), (1, 17, 443)]
        );
        // By the other all that is for LANs comes in anyway.
        let open = |family| half.open_ports.uplinks(OpenPorts::key(family, 6, 443));
        assert_eq!(Family::ALL.map(open), [0b1, 0b11]);
        assert!(half.is_published(PathId::v4(0), 6, 443));
        assert!(!half.is_published(PathId::v4(0), 6, 444));
    }

    #[test]
    fn whom_a_service_is_open_to_is_told_by_family() {
        let half = published(
            "protocol = \"tcp\"\nto = [\"10.0.0.5\", \"2001:db8::5\"]\n\
             from = [\"192.0.2.0/24\", \"2001:db8:9::/48\", \"198.51.100.0/24\"]\n",
        );
        let allowed = half.port_forwards().iter().map(|it| half.allowed(it).unwrap());
        let allowed: Vec<Vec<u8>> =
            allowed.map(|of| of.iter().map(|net| net.length).collect()).collect();
        assert_eq!(allowed, [vec![24, 24], vec![48]]);
    }

    #[test]
    fn a_service_of_a_family_that_it_is_open_to_nobody_of_is_not_published() {
        let text = format!(
            "{SITE}[[publish]]\nname = \"web\"\nports = 443\nprotocol = \"tcp\"\n\
             to = [\"10.0.0.5\", \"2001:db8::5\"]\nfrom = [\"192.0.2.0/24\", \"2001:db8:9::/48\"]\n"
        );
        let mut site = weir_site::parse("weir.toml", &text).unwrap();
        site.publish[0].from.retain(|net| net.addr().is_ipv4());
        let half = derive(&site, &Kernel::default(), &Overrides::default(), [&[]; 2], None).half;
        let [v4] = half.port_forwards() else { panic!("{:?}", half.port_forwards().len()) };
        assert_eq!((usize::from(v4.family), v4.allowed_count), (Family::V4.index(), 1));
    }

    #[test]
    fn a_protocol_without_ports_is_the_gateways_by_the_addresses_that_it_speaks_it_by() {
        const GRE: u8 = 47;
        let text =
            format!("{SITE}[[publish]]\nname = \"t\"\nprotocol = \"gre\"\nto = \"10.0.0.5\"\n");
        let site = weir_site::parse("weir.toml", &text).unwrap();
        let open = |local: Address, protocol| {
            let mut half = weir_shm::control::empty_half();
            half.uplinks[0].path_mut(Family::V4).translate = Translate::Napt as u8;
            half.uplinks[0].path_mut(Family::V4).pool_len = 1;
            half.uplinks[0].path_mut(Family::V4).pool[0] = Address::v4([192, 0, 2, 1]);
            half.own_peers[0] = OwnPeer { local, protocol, ..OwnPeer::new_zeroed() };
            half.own_peer_count = 1;
            publish(&mut half, &site);
            half.open_ports.uplinks(OpenPorts::key(Family::V4, GRE, 0))
        };
        let [its, anothers] = [1, 2].map(|last| Address::v4([192, 0, 2, last]));
        assert_eq!([open(its, GRE), open(Address::UNSPECIFIED, GRE)], [0, 0]);
        assert_eq!([open(anothers, GRE), open(its, 50)], [1, 1]);
    }

    #[test]
    fn a_port_of_the_gateway_is_kept_and_leads_to_nobody() {
        let half = published("protocol = \"tcp\"\nto = \"gateway\"\n");
        assert!(half.is_published(PathId::v4(0), 6, 443));
        assert_eq!(half.open_ports.uplinks(OpenPorts::key(Family::V4, 6, 443)), 0);
    }
}
