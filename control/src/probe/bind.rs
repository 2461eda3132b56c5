//! Sockets that leave by one uplink.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use weir_layout::Family;
use weir_site::{Site, UplinkConfig};
use weir_view::{Kernel, Link, is_beyond_site};

/// How an uplink's own sockets are told from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The interface (`SO_BINDTODEVICE`): the socket sends and receives there alone.
    pub device: String,
    /// The uplink's IPv4 address; without one the kernel takes one of the device.
    pub source4: Option<Ipv4Addr>,
    /// The address of the uplink's IPv6 path; without one nothing is sent beyond the site: the kernel
    /// would take an address of any interface (RFC 6724 §5), which another provider alone carries.
    pub source6: Option<Ipv6Addr>,
}

impl Binding {
    /// For the uplink of this link.
    pub fn of(site: &Site, uplink: &UplinkConfig, link: &Link, kernel: &Kernel) -> Self {
        let (mut source4, mut source6) = (None, None);
        for family in Family::ALL.into_iter().filter(|family| uplink.has_path(*family)) {
            match site.probe_source(uplink, family, link.index, kernel) {
                Some(IpAddr::V4(source)) => source4 = Some(source),
                Some(IpAddr::V6(source)) => source6 = Some(source),
                None => {}
            }
        }
        Self { device: link.name.clone(), source4, source6 }
    }

    /// Are sockets to this host, or to any, bound as by the other? An address of one family is
    /// nothing to those of the other.
    pub fn is_as(&self, other: &Self, host: Option<IpAddr>) -> bool {
        let same4 = host.is_some_and(|host| host.is_ipv6()) || self.source4 == other.source4;
        let same6 = host.is_some_and(|host| host.is_ipv4()) || self.source6 == other.source6;
        self.device == other.device && same4 && same6
    }

    /// A non-blocking socket for `peer` that is bound to the uplink; not connected.
    ///
    /// # Errors
    /// Those of socket(2) and setsockopt(2): EPERM without CAP_NET_RAW (raw
    /// sockets), ENODEV without the device, EADDRNOTAVAIL without the address or without any.
    pub fn socket(&self, peer: IpAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
        let (domain, source) = match peer {
            IpAddr::V4(_) => (Domain::IPV4, self.source4.map(IpAddr::V4)),
            IpAddr::V6(peer) if self.source6.is_none() && is_beyond_site(peer) => {
                return Err(Errno::ADDRNOTAVAIL.into());
            }
            IpAddr::V6(_) => (Domain::IPV6, self.source6.map(IpAddr::V6)),
        };
        let socket = Socket::new(domain, kind, Some(protocol))?;
        socket.set_nonblocking(true)?;
        socket.bind_device(Some(self.device.as_bytes()))?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        Ok(socket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_leave_with_an_address_of_the_pool_that_the_gateway_has() {
        let text = "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"fiber\"\n\
                    interface = \"wan0\"\naddresses = [\"203.0.113.8\", \"203.0.113.9\"]\n";
        let site = weir_site::parse("weir.toml", text).unwrap();
        let mut kernel = Kernel {
            links: vec![Link { index: 2, name: "wan0".into(), ..Link::default() }],
            addresses: vec![(2, "100.64.0.2/24".parse().unwrap())],
            ..Kernel::default()
        };
        let source = |kernel: &Kernel| {
            Binding::of(&site, &site.uplinks[0], &kernel.links[0], kernel).source4
        };
        assert_eq!(source(&kernel), Some("100.64.0.2".parse().unwrap()));
        kernel.addresses.push((9, "203.0.113.9/32".parse().unwrap()));
        assert_eq!(source(&kernel), Some("203.0.113.9".parse().unwrap()));
    }

    #[test]
    fn without_an_ipv6_path_probes_have_no_ipv6_address() {
        let text = "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"fiber\"\n\
                    interface = \"wan0\"\n";
        let mut site = weir_site::parse("weir.toml", text).unwrap();
        let kernel = Kernel {
            links: vec![Link { index: 2, name: "wan0".into(), ..Link::default() }],
            addresses: vec![(2, "2001:db8::2/64".parse().unwrap())],
            ipv6: true,
            ..Kernel::default()
        };
        let source =
            |site: &Site| Binding::of(site, &site.uplinks[0], &kernel.links[0], &kernel).source6;
        assert_eq!(source(&site), None);
        site.uplinks[0].ipv6 = Some(weir_site::Ipv6Config::default());
        assert_eq!(source(&site), Some("2001:db8::2".parse().unwrap()));
    }

    #[test]
    fn no_probe_leaves_for_the_internet_without_an_address_of_the_path() {
        let binding = Binding { device: "lo".into(), source4: None, source6: None };
        let socket = |peer: &str| {
            let made = binding.socket(peer.parse().unwrap(), Type::DGRAM, Protocol::UDP);
            made.map(drop).map_err(|error| error.raw_os_error())
        };
        assert_eq!(socket("2001:db8::1"), Err(Some(Errno::ADDRNOTAVAIL.raw_os_error())));
        assert_eq!(socket("fe80::1"), Ok(()), "a next hop is asked from an address of the link");
        assert_eq!(socket("192.0.2.1"), Ok(()));
    }
}
