//! Weir as the gateway.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use weir_kit::weir::{UPLINKS, Weir};
use weir_layout::counters::Counter;
use weir_site::health::Health;

use super::site::{Kind, Site};
use super::system::{Gateway, Prepared};
use super::{GATEWAY_CPU, linux, published};

/// Which tiers forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// The user tier alone.
    User,
    /// Both.
    Kernel,
}

/// Time between the first packets of flows: what the user tier keeps up with.
const PACE: Duration = Duration::from_micros(5);

/// Starts weir with room for so many flows and establishes those of the site.
///
/// # Errors
/// When it does not start, or does not make every flow.
pub fn prepare(kind: Kind, flows: u32, room: u32, tier: Tier) -> Result<Prepared> {
    let mut site = Site::build_for(kind, flows)?;
    let weir = start(&mut site, tier, room)?;
    establish(&mut site, &weir)?;
    Ok(Prepared { site, gateway: Box::new(Running { weir, tier }) })
}

/// Starts weir with room for this many flows.
///
/// # Errors
/// When it does not start.
pub fn start(site: &mut Site, tier: Tier, room: u32) -> Result<Weir> {
    start_with(site, tier, room, Health::default().hold_down_ms)
}

/// As [`start`]; an uplink must be well for so many milliseconds before it is used again.
///
/// # Errors
/// As [`start`].
pub fn start_with(site: &mut Site, tier: Tier, room: u32, hold_down_ms: u32) -> Result<Weir> {
    let hold =
        format!("[health]\nhold_down_ms = {hold_down_ms}\nhold_down_max_ms = {hold_down_ms}\n");
    let weir = Weir::start(&site.topology, &(hold + &configuration(site, tier, room)))?;
    weir.wait_until_usable_in(site.kind.family(), &[0, 1])?;
    site.count_at_far_side()?;
    if let Kind::V6(mode) = site.kind
        && !site.kind.has_entries()
    {
        // Without entries the kernel says where hosts are.
        let hosts = format!("{}/96", mode.crowd());
        site.topology.gateway.ip(&linux::route_hosts([&mode.host(0), &hosts]))?;
    }
    Ok(weir)
}

/// Establishes the flows of the site.
///
/// # Errors
/// When weir does not make every flow, or one that began outside is not proven.
pub fn establish(site: &mut Site, weir: &Weir) -> Result<()> {
    let flows = site.flows();
    if site.kind == Kind::Inbound {
        // The service has to be found first.
        site.wait_for_answer().with_context(|| drops(weir))?;
    }
    site.establish(PACE).with_context(|| drops(weir))?;
    if site.kind == Kind::Inbound {
        // A client is believed once it has gone on after the answer.
        site.establish(PACE).with_context(|| drops(weir))?;
        let proven = weir.proven()?;
        ensure!(proven == flows as usize, "{proven} of {flows} flows are proven");
    }
    let made = weir.counters()?.sum(Counter::FlowsCreated);
    let to_make = if site.kind.has_entries() { u64::from(flows) } else { 0 };
    ensure!(made == to_make, "weir made {made} of {to_make} flows");
    Ok(())
}

/// What weir dropped, and why.
fn drops(weir: &Weir) -> String {
    let Ok(counters) = weir.counters() else { return "weir's counters are gone".into() };
    let drops = counters.all().into_iter().filter(|(counter, n)| counter.is_drop() && *n > 0);
    drops.fold("weir's drops:".into(), |text, (counter, n)| {
        format!("{text} {}={n}", counter.label())
    })
}

/// Flows that weir makes room for, given how many there are: what began outside has no more of the
/// table than it leaves free.
#[must_use]
pub fn room_for(kind: Kind, flows: u32) -> u32 {
    match kind {
        Kind::V4 | Kind::V6(_) => flows,
        Kind::Inbound => flows / 2 * 3,
    }
}

/// The `flow_table` of a gateway with room for this many flows. A table filled to its last flow
/// refuses a few in a hundred thousand, one filled to eight ninths still one in some million: a run
/// of a million flows would fail now and then.
#[must_use]
pub fn flow_table(room: u32) -> u32 {
    room.max(1024) / 4 * 5
}

/// Its configuration, but for what is about health.
#[must_use]
pub fn configuration(site: &Site, tier: Tier, room: u32) -> String {
    let tier = match tier {
        Tier::User => "user",
        Tier::Kernel => "kernel",
    };
    let flows = flow_table(room);
    let lan = match site.kind {
        Kind::V4 | Kind::Inbound => String::new(),
        Kind::V6(mode) => mode.lan_line(site.topology.providers.len()),
    };
    let mut text = format!(
        "[gateway]\ntier = \"{tier}\"\nflow_table = {flows}\ncores = [{GATEWAY_CPU}]\n\
         [timeouts]\nudp = 3600\n\
         [[lan]]\ninterface = \"lan0\"\n{lan}"
    );
    for provider in &site.topology.providers {
        let (name, interface) = (UPLINKS[provider.index], provider.interface());
        let path = match site.kind {
            Kind::V4 | Kind::Inbound => String::new(),
            Kind::V6(mode) => mode.path(provider.index),
        };
        let _ = write!(text, "[[uplink]]\nname = \"{name}\"\ninterface = \"{interface}\"\n{path}");
    }
    if site.kind == Kind::Inbound {
        text += &published::by_weir(site.service());
    }
    text + "[[policy]]\nname = \"balanced\"\nselection = \"flow\"\n"
}

/// Weir, and the tier of it that is measured.
struct Running {
    weir: Weir,
    tier: Tier,
}

impl Gateway for Running {
    fn forwarded_in_kernel(&self) -> Result<Option<u64>> {
        Ok(Some(self.weir.counters()?.sum(Counter::XdpForwarded)))
    }

    fn astray(&self) -> Result<u64> {
        let counters = self.weir.counters()?;
        let all = counters.sum(Counter::XdpRx);
        let taken = counters.sum(match self.tier {
            Tier::User => Counter::XdpToUser,
            Tier::Kernel => Counter::XdpForwarded,
        });
        // What a worker is offered beyond what it can send is lost by the tier that is measured.
        let is_other = |drop: Counter| !drop.is_xdp_drop() && drop != Counter::DropTxFull;
        let drops = Counter::ALL.iter().copied().filter(|it| it.is_drop() && is_other(*it));
        let dropped: u64 = drops.map(|drop| counters.sum(drop)).sum();
        Ok(all.saturating_sub(taken) + dropped)
    }

    fn flows_made(&self) -> Result<u64> {
        Ok(self.weir.counters()?.sum(Counter::FlowsCreated))
    }
}
