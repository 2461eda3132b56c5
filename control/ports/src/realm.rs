//! What the gateway has for the hosts of a LAN, in one family, and its bounds.

use std::net::IpAddr;

use ipnet::IpNet;
use weir_layout::Family;
use weir_layout::control::{MAX_MAPPED, PathPrefix};
use weir_wire::npt;

/// All that decides what hosts may have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Situation {
    /// Each LAN whose hosts may ask, in each family of the site.
    pub realms: Vec<Realm>,
    /// Ports that are the file's.
    pub reserved: Vec<Reserved>,
    /// How much hosts may have.
    pub limits: Limits,
    /// They may ask by UPnP too.
    pub upnp: bool,
}

impl Situation {
    /// The one of a LAN, in a family.
    pub fn realm(&self, lan: &str, family: Family) -> Option<&Realm> {
        self.realms.iter().find(|realm| realm.is(lan, family))
    }
}

/// A LAN whose hosts may ask, in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Realm {
    /// Its interface.
    pub lan: String,
    /// Its index; none: there is no such interface.
    pub link: Option<u32>,
    /// Family.
    pub family: Family,
    /// The gateway's addresses that are asked.
    pub servers: Vec<IpAddr>,
    /// Who may ask.
    pub networks: Vec<IpNet>,
    /// What hosts have outside by the uplink that is told of.
    pub outside: Outside,
    /// Some uplink translates ports: hosts share addresses. Else each has its own, and the port
    /// outside is the host's.
    pub shares_addresses: bool,
}

impl Realm {
    /// Is it the one of this LAN, in this family?
    pub fn is(&self, lan: &str, family: Family) -> bool {
        self.lan == lan && self.family == family
    }

    /// May this source ask?
    pub fn holds(&self, source: IpAddr) -> bool {
        self.networks.iter().any(|net| net.contains(&source)) && !self.servers.contains(&source)
    }
}

/// The address outside of a LAN's hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outside {
    /// No uplink takes new flows.
    Nowhere,
    /// All have this one.
    Shared(IpAddr),
    /// Each has its own, the one inside; a unique local one is none (RFC 4193).
    Own,
    /// Each has its own, of another prefix (RFC 6296).
    Translated(Vec<PathPrefix>),
}

impl Outside {
    /// The one of a host; none: it has none.
    pub fn of(&self, host: IpAddr) -> Option<IpAddr> {
        match (self, host) {
            (Self::Nowhere, _) => None,
            (Self::Shared(address), _) => Some(*address),
            (Self::Own, IpAddr::V6(host)) if host.is_unique_local() => None,
            (Self::Own, _) => Some(host),
            (Self::Translated(pairs), IpAddr::V6(host)) => {
                let pair = pairs.iter().find(|pair| pair.is_inside(host.octets()))?;
                Some(IpAddr::from(npt::outward(pair, host.octets()).ok()?))
            }
            (Self::Translated(_), IpAddr::V4(_)) => None,
        }
    }
}

/// A port that no host is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserved {
    /// Family.
    pub family: Family,
    /// IP protocol number.
    pub protocol: u8,
    /// First and last.
    pub ports: (u16, u16),
    /// The host whose it is; none: the gateway's. Where addresses are not shared, it is another's.
    pub host: Option<IpAddr>,
}

/// How much hosts may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ports outside at shared addresses, first and last.
    pub ports: (u16, u16),
    /// The longest lifetime, seconds.
    pub max_lifetime: u32,
    /// Mappings of a host.
    pub per_host: usize,
}

impl Limits {
    /// Mappings of all hosts.
    pub const TOTAL: usize = MAX_MAPPED;
    /// The longest lifetime that may be the longest, seconds: a day (RFC 6887 §15).
    pub const MAX_LIFETIME: u32 = 86_400;
    /// The shortest lifetime, unless the longest is shorter, seconds (RFC 6887 §15).
    pub const MIN_LIFETIME: u32 = 120;
    /// Ports below are for the file to publish, unless it lets hosts have them.
    pub const WELL_KNOWN: u16 = 1024;

    /// The lifetime that is granted for one that is asked for.
    pub fn lifetime(&self, asked: u32) -> u32 {
        asked.clamp(Self::MIN_LIFETIME.min(self.max_lifetime), self.max_lifetime)
    }

    /// May a host have this port outside?
    pub fn allows(&self, port: u16, shared: bool) -> bool {
        let (first, last) = self.ports;
        match shared {
            true => (first..=last).contains(&port),
            false => port >= first.min(Self::WELL_KNOWN),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { ports: (16_384, u16::MAX), max_lifetime: Self::MAX_LIFETIME, per_host: 32 }
    }
}
