//! What is compared.

use anyhow::Result;
use serde::Serialize;
use weir_kit::ipv6::Mode;
use weir_layout::Family;
use weir_layout::flow::{FlowEntry4, slots_for};
use weir_layout::flow6::FlowEntry6;

use super::site::{Kind, Site};
use super::weir::Tier;
use super::{linux, testpmd, weir};

/// A gateway, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum System {
    /// The generator straight to a sink.
    None,
    /// Two hardware addresses and a redirect: what any XDP gateway costs at least.
    XdpRedirect,
    /// The same, and one line of a table as large as weir's: what any XDP gateway costs at least
    /// that keeps state.
    XdpLimit,
    /// The kernel, routing.
    LinuxRoute,
    /// The kernel, routing and translating: address and port, of either family.
    LinuxNat,
    /// The kernel, routing and translating prefixes of IPv6 (`SNPT` and `DNPT` of ip6tables).
    LinuxNpt,
    /// DPDK's `testpmd` over AF_XDP, changing hardware addresses.
    Testpmd,
    /// Weir's user tier alone, with as many flows of IPv4 from inside behind NAT44, beside those from
    /// outside.
    WeirUserNat44,
    /// Weir's user tier alone.
    WeirUser,
    /// Weir with its kernel tier.
    WeirKernel,
    /// The same, with as many flows of IPv4 from inside behind NAT44, beside those of IPv6 or from
    /// outside.
    WeirNat44,
}

impl System {
    /// All, in the order of reports.
    pub const ALL: [Self; 11] = [
        Self::None,
        Self::XdpRedirect,
        Self::XdpLimit,
        Self::LinuxRoute,
        Self::LinuxNat,
        Self::LinuxNpt,
        Self::Testpmd,
        Self::WeirUserNat44,
        Self::WeirUser,
        Self::WeirKernel,
        Self::WeirNat44,
    ];

    /// Has it something to do with flows of this kind?
    #[must_use]
    pub fn suits(self, kind: Kind) -> bool {
        match self {
            Self::LinuxNpt => matches!(kind, Kind::V6(_)),
            // A service inside is not reached without translation.
            Self::LinuxRoute => kind != Kind::Inbound,
            Self::WeirNat44 => kind != Kind::V4,
            Self::WeirUserNat44 => kind == Kind::Inbound,
            _ => true,
        }
    }

    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::XdpRedirect => "xdp_redirect",
            Self::XdpLimit => "xdp_limit",
            Self::LinuxRoute => "linux_route",
            Self::LinuxNat => "linux_nat",
            Self::LinuxNpt => "linux_npt",
            Self::Testpmd => "testpmd",
            Self::WeirUserNat44 => "weir_user_nat44",
            Self::WeirUser => "weir_user",
            Self::WeirKernel => "weir_kernel",
            Self::WeirNat44 => "weir_nat44",
        }
    }

    /// Does it forward on a CPU of its own? The others forward on the generator's, so that their
    /// cost is the chain's less that of the chain without a gateway.
    #[must_use]
    pub fn has_own_cpu(self) -> bool {
        matches!(self, Self::Testpmd | Self::WeirUserNat44 | Self::WeirUser)
    }

    /// Builds a site of its own for it, and establishes all flows, which are of this kind. The kernel
    /// translates as its name says, whatever the uplinks of the kind do.
    ///
    /// # Errors
    /// When it is not installed, or does not work.
    pub fn prepare(self, kind: Kind, flows: u32) -> Result<Prepared> {
        // The same for all, so that nothing but the flows is different.
        let room = weir::room_for(kind, flows);
        let weir = |kind, tier| weir::prepare(kind, flows, room, tier);
        match self {
            Self::None => none(kind, flows),
            Self::XdpRedirect => redirected(Site::build_for(kind, flows)?, weir_traffic::REDIRECT),
            Self::XdpLimit => xdp_limit(kind, flows, room),
            Self::LinuxRoute => linux::route(kind, flows),
            Self::LinuxNat => linux::nat(kind, flows),
            Self::LinuxNpt => linux::npt(flows),
            Self::Testpmd => testpmd::prepare(kind, flows),
            Self::WeirUserNat44 => weir(Kind::V4, Tier::User),
            Self::WeirUser => weir(kind, Tier::User),
            Self::WeirKernel => weir(kind, Tier::Kernel),
            Self::WeirNat44 => weir(Kind::V4, Tier::Kernel),
        }
    }

    /// What the kernel has for flows of this kind: the system that does as weir does.
    #[must_use]
    pub fn linux_for(kind: Kind) -> Self {
        match kind {
            Kind::V4 | Kind::Inbound | Kind::V6(Mode::Nat66) => Self::LinuxNat,
            Kind::V6(Mode::Npt66) => Self::LinuxNpt,
            Kind::V6(_) => Self::LinuxRoute,
        }
    }
}

/// What runs on the gateway. Dropping it ends it.
pub trait Gateway {
    /// Ends idling, if it idles while others are measured.
    ///
    /// # Errors
    /// When it has died.
    fn wake(&mut self) -> Result<()> {
        Ok(())
    }

    /// Begins idling.
    ///
    /// # Errors
    /// As [`Self::wake`].
    fn idle(&mut self) -> Result<()> {
        Ok(())
    }

    /// Frames that its kernel tier has forwarded so far, of those that have one.
    ///
    /// # Errors
    /// When its counters cannot be read.
    fn forwarded_in_kernel(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// Frames that have gone another way so far than by the tier that is measured: dropped, left to
    /// the kernel, or the other tier's.
    ///
    /// # Errors
    /// As [`Self::forwarded_in_kernel`].
    fn astray(&self) -> Result<u64> {
        Ok(0)
    }

    /// Flows that it has made so far, if it counts them.
    ///
    /// # Errors
    /// As [`Self::forwarded_in_kernel`].
    fn flows_made(&self) -> Result<u64> {
        Ok(0)
    }
}

/// Nothing to run: the kernel or a program forwards.
impl Gateway for () {}

/// A gateway on its site, with all flows established.
pub struct Prepared {
    /// What runs on the gateway; dropped before the site.
    pub gateway: Box<dyn Gateway>,
    /// The site.
    pub site: Site,
}

fn none(kind: Kind, flows: u32) -> Result<Prepared> {
    let mut site = Site::build_for(kind, flows)?;
    let [entrance, _] = site.gateway_ports();
    site.traffic.attach(weir_traffic::FAR, &site.topology.gateway, entrance)?;
    site.establish(std::time::Duration::ZERO)?;
    Ok(Prepared { site, gateway: Box::new(()) })
}

/// The table is as large as the slots of weir's; weir has tags besides. One line of it is looked at.
fn xdp_limit(kind: Kind, flows: u32, room: u32) -> Result<Prepared> {
    let (slot, program) = match kind.family() {
        Family::V4 => (size_of::<FlowEntry4>(), weir_traffic::LIMIT),
        Family::V6 => (size_of::<FlowEntry6>(), weir_traffic::LIMIT6),
    };
    let lines = slots_for(weir::flow_table(room)) * u32::try_from(slot / weir_traffic::LINE)?;
    let pages = lines.div_ceil(weir_traffic::LINES as u32);
    redirected(Site::with_table(kind, flows, pages)?, program)
}

/// One way and by one uplink: it has no flows to establish.
fn redirected(mut site: Site, program: &str) -> Result<Prepared> {
    site.count_at_far_side()?;
    let [entrance, exit] = site.gateway_ports();
    site.traffic.attach(program, &site.topology.gateway, entrance)?;
    site.traffic.redirect_to(&site.topology.gateway, exit)?;
    Ok(Prepared { site, gateway: Box::new(()) })
}
