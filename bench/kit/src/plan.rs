//! The address plan: which host, uplink and server has which name, address and MAC.
//!
//! ```text
//! host h    10.P.x.y ─┐                    ┌─ provider 0: 100.64.0.1 ─┐
//! host h+1  10.P.x.z ─┤ lanP ─ gateway ─ wan0, wan1, …                ├─ Internet: 198.51.100.1, .2, …
//!            switch ──┘ 10.P.0.1           └─ provider 1: 100.65.0.1 ─┘
//! ```
//!
//! Everything is a pure function of an index, so that tests can name an address before it exists.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};

/// Most providers a plan can hold: 100.64.0.0/10 (RFC 6598) has that many second octets.
pub const MAX_PROVIDERS: usize = 64;

/// Most hosts a plan can hold.
pub const MAX_HOSTS: usize = 200;

/// The prefix the customer owns (TEST-NET-3, RFC 5737), as address and length.
pub const OWNED_PREFIX: (Ipv4Addr, u8) = (Ipv4Addr::new(203, 0, 113, 0), 24);

/// What weir is told of a LAN that has [`OWNED_PREFIX`]: the line `prefixes`.
#[must_use]
pub fn owned_line() -> String {
    let (prefix, length) = OWNED_PREFIX;
    format!("prefixes = [\"{prefix}/{length}\"]\n")
}

/// How LAN hosts reach the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lan {
    /// All on one port (`lan0`) through a switch.
    Switched,
    /// Every host on a port of its own: `lan0`, `lan1`, …
    Direct,
}

/// One provider's link to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Addresses the gateway has on this link, at least one.
    pub addresses: usize,
    /// MTU of both ends, bytes of IP packet.
    pub mtu: u32,
}

/// The shape of a site. Start from [`Plan::new`] and change what matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One entry per provider.
    pub uplinks: Vec<Uplink>,
    /// Number of LAN hosts.
    pub hosts: usize,
    /// How the hosts are connected.
    pub lan: Lan,
    /// Number of servers (addresses) in the Internet.
    pub servers: usize,
    /// Receive and transmit queues of every veth device.
    pub queues: u32,
    /// Whether hosts have a second address from [`OWNED_PREFIX`] that every provider routes.
    pub owned_prefix: bool,
    /// Uplinks whose link to the provider is a [`Line`](crate::line::Line), which can be made to
    /// fail while it runs; the others are plain.
    pub lines: Vec<usize>,
    /// What hosts and providers leave to their devices.
    pub offloads: Offloads,
}

/// What hosts and providers leave to their devices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offloads {
    /// Nothing: every packet on the wire is complete and alone.
    #[default]
    None,
    /// What a fresh veth device takes: checksums, and segments that are yet to be cut.
    Fresh,
    /// As `Fresh`, and frames may be redirected to the gateway's peers, so that the kernel tier
    /// forwards.
    FreshWithGro,
}

impl Plan {
    /// A switched LAN, two servers, one address per uplink, MTU 1500, one queue.
    #[must_use]
    pub fn new(providers: usize, hosts: usize) -> Self {
        Self {
            uplinks: vec![Uplink { addresses: 1, mtu: 1500 }; providers],
            hosts,
            lan: Lan::Switched,
            servers: 2,
            queues: 1,
            owned_prefix: false,
            lines: Vec::new(),
            offloads: Offloads::None,
        }
    }

    /// Checks that the numbers fit the address plan.
    ///
    /// # Errors
    /// Which number does not, and its bounds.
    pub fn check(&self) -> Result<()> {
        let within = |what: &str, value: usize, most: usize| {
            ensure!((1..=most).contains(&value), "{what} must be 1 to {most}, not {value}");
            Ok(())
        };
        within("the number of providers", self.uplinks.len(), MAX_PROVIDERS)?;
        within("the number of hosts", self.hosts, MAX_HOSTS)?;
        within("the number of servers", self.servers, 200)?;
        within("the number of queues", self.queues as usize, 256)?;
        for line in &self.lines {
            ensure!(
                *line < self.uplinks.len(),
                "there is no uplink {line} to make a line of: there are {}",
                self.uplinks.len()
            );
        }
        for uplink in &self.uplinks {
            within("the number of addresses of an uplink", uplink.addresses, 200)?;
            ensure!(
                (576..=9000).contains(&uplink.mtu),
                "the MTU of an uplink must be 576 to 9000, not {}",
                uplink.mtu
            );
        }
        Ok(())
    }
}

/// The gateway's address on LAN port `port`, a /16.
#[must_use]
pub fn lan_gateway(port: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, octet(port), 0, 1)
}

/// The address of host `host`, on LAN port `port`, a /16.
#[must_use]
pub fn host_address(port: usize, host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, octet(port), 1, octet(host + 1))
}

/// The second address of host `host`, from [`OWNED_PREFIX`].
#[must_use]
pub fn owned_address(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, octet(host + 1))
}

/// The /24 of provider `provider`.
#[must_use]
pub fn provider_prefix(provider: usize) -> (Ipv4Addr, u8) {
    (Ipv4Addr::new(100, 64 + octet(provider), 0, 0), 24)
}

/// The router of provider `provider`: the gateway's next hop on that uplink.
#[must_use]
pub fn next_hop(provider: usize) -> Ipv4Addr {
    Ipv4Addr::new(100, 64 + octet(provider), 0, 1)
}

/// The gateway's address number `number` on the uplink to provider `provider`.
#[must_use]
pub fn uplink_address(provider: usize, number: usize) -> Ipv4Addr {
    Ipv4Addr::new(100, 64 + octet(provider), 0, octet(number + 2))
}

/// Both ends of the link between provider `provider` and the Internet, a /30: router, Internet.
#[must_use]
pub fn transit(provider: usize) -> (Ipv4Addr, Ipv4Addr) {
    let third = octet(provider);
    (Ipv4Addr::new(172, 31, third, 1), Ipv4Addr::new(172, 31, third, 2))
}

/// The address of server `server` in the Internet (TEST-NET-2, RFC 5737).
#[must_use]
pub fn server_address(server: usize) -> Ipv4Addr {
    Ipv4Addr::new(198, 51, 100, octet(server + 1))
}

/// One end of a link, which decides its MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// The gateway's LAN port.
    GatewayLan(usize),
    /// The gateway's uplink.
    GatewayWan(usize),
    /// The switch's port towards the gateway.
    SwitchUp,
    /// The switch's port towards a host.
    SwitchDown(usize),
    /// A host.
    Host(usize),
    /// A provider's router, towards the gateway.
    RouterCustomer(usize),
    /// A provider's router, towards the Internet.
    RouterTransit(usize),
    /// The Internet, towards a provider.
    Internet(usize),
    /// A line, towards the gateway.
    LineCustomer(usize),
    /// A line, towards the provider's router.
    LineProvider(usize),
}

impl Port {
    /// The port's MAC address in the usual colon form: locally administered and unique in a plan.
    #[must_use]
    pub fn mac(self) -> String {
        let (kind, index) = match self {
            Self::GatewayLan(index) => (0, index),
            Self::GatewayWan(index) => (1, index),
            Self::SwitchUp => (2, 0),
            Self::SwitchDown(index) => (3, index),
            Self::Host(index) => (4, index),
            Self::RouterCustomer(index) => (5, index),
            Self::RouterTransit(index) => (6, index),
            Self::Internet(index) => (7, index),
            Self::LineCustomer(index) => (8, index),
            Self::LineProvider(index) => (9, index),
        };
        format!("02:57:45:00:{kind:02x}:{:02x}", octet(index))
    }
}

/// Indices are bounded by [`Plan::check`], well below an octet.
fn octet(index: usize) -> u8 {
    u8::try_from(index).expect("an index within the bounds of a checked plan")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_out_of_bounds_are_refused() {
        assert!(Plan::new(64, 200).check().is_ok());
        let line = Plan { lines: vec![2], ..Plan::new(2, 1) };
        for plan in [Plan::new(0, 1), Plan::new(65, 1), Plan::new(1, 0), Plan::new(1, 201), line] {
            assert!(plan.check().is_err(), "{plan:?}");
        }
    }

    #[test]
    fn macs_are_unique_unicast_and_locally_administered() {
        let indexed = [
            Port::GatewayLan,
            Port::GatewayWan,
            Port::SwitchDown,
            Port::Host,
            Port::RouterCustomer,
            Port::RouterTransit,
            Port::Internet,
            Port::LineCustomer,
            Port::LineProvider,
        ];
        let macs: Vec<_> = indexed
            .iter()
            .flat_map(|port| (0..MAX_HOSTS).map(move |index| port(index).mac()))
            .chain([Port::SwitchUp.mac()])
            .collect();
        let unique: std::collections::HashSet<_> = macs.iter().collect();
        assert_eq!(unique.len(), macs.len());
        assert!(macs.iter().all(|mac| mac.starts_with("02:") && mac.len() == 17));
    }
}
