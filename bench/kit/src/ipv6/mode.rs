//! What uplinks do with addresses of IPv6, and a site that is laid for it.

use std::net::Ipv6Addr;

use anyhow::{Result, ensure};
use serde::Serialize;
use weir_layout::Family;

use super::wait_for_answers;
use crate::plan::Plan;
use crate::topology::Topology;
use crate::weir::Weir;

/// What the uplinks of a site do with addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing: the LAN's prefix is the customer's own.
    None,
    /// The LAN's prefix becomes the provider's.
    Npt66,
    /// Address and port become those of the provider's prefix.
    Nat66,
    /// Nothing: hosts have an address of each provider, and each source its uplink.
    Source,
    /// As `None`, and whatever is for the LAN may come in: no flow needs an entry.
    Stateless,
    /// As `Source`, likewise.
    StatelessSource,
}

impl Mode {
    /// Those in which flows have entries.
    pub const ALL: [Self; 4] = [Self::None, Self::Npt66, Self::Nat66, Self::Source];

    /// Do flows have entries?
    #[must_use]
    pub fn has_entries(self) -> bool {
        !matches!(self, Self::Stateless | Self::StatelessSource)
    }

    /// Addresses that translated flows get by each uplink.
    const POOL: u16 = 16;

    /// Gives a built site its addresses and routes. What is for an own prefix comes by the last
    /// provider.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn lay(self, topology: &Topology) -> Result<()> {
        match self {
            Self::None | Self::Stateless => super::add(topology, topology.providers.len() - 1),
            Self::Npt66 | Self::Nat66 => super::add_delegated(topology),
            Self::Source | Self::StatelessSource => super::add_by_source(topology),
        }
    }

    /// The prefixes of the LAN, beyond a number of providers.
    #[must_use]
    pub fn lan(self, providers: usize) -> Vec<String> {
        match self {
            Self::None | Self::Stateless => vec![super::PREFIX.into()],
            Self::Npt66 | Self::Nat66 => vec![super::INSIDE.into()],
            Self::Source | Self::StatelessSource => {
                let network = |provider| super::by(provider, Ipv6Addr::UNSPECIFIED);
                (0..providers).map(|provider| format!("{}/64", network(provider))).collect()
            }
        }
    }

    /// What weir is told of the path to a provider: the table `ipv6` of its uplink.
    #[must_use]
    pub fn path(self, provider: usize) -> String {
        let prefix = super::delegated(provider);
        let path = match self {
            Self::None => "translate = \"none\"".into(),
            Self::Stateless => "translate = \"none\", inbound = true".into(),
            Self::Npt66 => format!("translate = \"npt66\", prefix = \"{prefix}\""),
            Self::Nat66 => {
                let network = super::by(provider, Ipv6Addr::UNSPECIFIED).segments();
                let [a, b, c, d, ..] = network;
                let pool = (1..=Self::POOL).map(|it| Ipv6Addr::new(a, b, c, d, 0, 0, 0, it));
                let pool = pool.map(|address| format!("\"{address}\"")).collect::<Vec<_>>();
                format!("translate = \"nat66\", addresses = [{}]", pool.join(", "))
            }
            Self::Source => format!("translate = \"source\", prefixes = [\"{prefix}\"]"),
            Self::StatelessSource => {
                format!("translate = \"source\", prefixes = [\"{prefix}\"], inbound = true")
            }
        };
        format!("ipv6 = {{ {path} }}\n")
    }

    /// The address of a LAN host; where it has several, that of the first provider.
    #[must_use]
    pub fn host(self, index: usize) -> Ipv6Addr {
        self.in_lan(super::host(index))
    }

    /// All addresses of a LAN host, by so many providers.
    #[must_use]
    pub fn hosts(self, index: usize, providers: usize) -> Vec<Ipv6Addr> {
        self.all_in_lan(super::host(index), providers)
    }

    /// All addresses of the gateway in the LAN, likewise.
    #[must_use]
    pub fn lan_gateways(self, providers: usize) -> Vec<Ipv6Addr> {
        self.all_in_lan(super::LAN_GATEWAY, providers)
    }

    fn all_in_lan(self, address: Ipv6Addr, providers: usize) -> Vec<Ipv6Addr> {
        match self {
            Self::Source | Self::StatelessSource => {
                (0..providers).map(|it| super::by(it, address)).collect()
            }
            _ => vec![self.in_lan(address)],
        }
    }

    /// The gateway's address in the LAN, as [`Self::host`].
    #[must_use]
    pub fn lan_gateway(self) -> Ipv6Addr {
        self.in_lan(super::LAN_GATEWAY)
    }

    /// Where hosts beyond those of the plan have their addresses, by the last 32 bits.
    #[must_use]
    pub fn crowd(self) -> Ipv6Addr {
        self.in_lan(super::CROWD)
    }

    fn in_lan(self, address: Ipv6Addr) -> Ipv6Addr {
        match self {
            Self::None | Self::Stateless => address,
            Self::Npt66 | Self::Nat66 => super::inside(address),
            Self::Source | Self::StatelessSource => super::by(0, address),
        }
    }

    /// What weir is told of the LAN, beyond a number of providers: the line `prefixes`.
    #[must_use]
    pub fn lan_line(self, providers: usize) -> String {
        format!("prefixes = [\"{}\"]\n", self.lan(providers).join("\", \""))
    }

    /// As [`Weir::configuration`], with IPv6 on each uplink.
    #[must_use]
    pub fn configuration(self, topology: &Topology, weights: &[u16]) -> String {
        let lan = self.lan_line(topology.providers.len());
        Weir::configuration_with(topology, weights, &lan, |provider| self.path(provider))
    }

    /// Builds a site with weir on its gateway, and waits until the first host is answered at all its
    /// addresses; `gateway` is more of that table of the configuration.
    ///
    /// # Errors
    /// When it cannot be built, or its uplinks carry nothing.
    pub fn start(self, plan: Plan, weights: &[u16], gateway: &str) -> Result<(Topology, Weir)> {
        let topology = Topology::build(plan)?;
        self.lay(&topology)?;
        let text = self.configuration(&topology, weights);
        let gateway = format!("[gateway]\n{gateway}");
        let weir = Weir::start(&topology, &text.replace("[gateway]\n", &gateway))?;
        let uplinks: Vec<_> = (0..topology.providers.len()).collect();
        weir.wait_until_usable_in(Family::V6, &uplinks)?;
        // The routers beyond have neighbours of their own to find.
        for source in self.hosts(0, topology.providers.len()) {
            wait_for_answers(&topology, source)?;
        }
        Ok((topology, weir))
    }

    /// Checks that flows of IPv6 had entries, if they have any in this mode, and none otherwise.
    ///
    /// # Errors
    /// When it is not so, or the counters cannot be read.
    pub fn check_entries(self, weir: &Weir) -> Result<()> {
        let made: u64 = weir.paths(Family::V6)?.iter().map(|path| path.flows_created).sum();
        ensure!((made > 0) == self.has_entries(), "{self:?}: {made} flows had entries");
        Ok(())
    }
}
