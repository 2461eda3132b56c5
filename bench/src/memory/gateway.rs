//! An engine with its regions and a published site, in memory.

use std::fmt::Write;

use anyhow::{Context, Result};
use serde::Serialize;
use weir_dataplane::engine::{Engine, Regions};
use weir_health::load::Placement;
use weir_layout::Family;
use weir_layout::control::{PathId, path_state};
use weir_layout::counters::Counter;
use weir_layout::flow::{FlowEntry4, GROUP, PAGE, slots_for};
use weir_layout::flow6::FlowEntry6;
use weir_publish::Overrides;
use weir_shm::control::ControlWriter;
use weir_shm::flows::{FlowTable, Slot, Stored, TagWord};
use weir_view::{Kernel, Link, NeighbourEntry};

/// Uplinks of the site, of equal weight; each has 16 addresses if it translates.
pub const UPLINKS: u8 = 4;
/// Device of the LAN; uplink *n* is device `n + 1`.
pub const LAN: u8 = 0;
/// The gateway's hardware address, the same on every device.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// What the uplinks do with source addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Translation {
    /// Address and port become the uplink's.
    Nat44,
    /// They stay.
    Routed,
    /// Those of IPv6 stay.
    Routed6,
    /// They stay, and each leaves by the uplink that it is of.
    Source6,
    /// The prefix becomes the uplink's.
    Npt66,
    /// Address and port of IPv6 become the uplink's.
    Nat66,
}

impl Translation {
    /// All of a family.
    pub fn of(family: Family) -> &'static [Self] {
        match family {
            Family::V4 => &[Self::Nat44, Self::Routed],
            Family::V6 => &[Self::Routed6, Self::Source6, Self::Npt66, Self::Nat66],
        }
    }

    /// Of the flows.
    pub fn family(self) -> Family {
        match self {
            Self::Nat44 | Self::Routed => Family::V4,
            Self::Routed6 | Self::Source6 | Self::Npt66 | Self::Nat66 => Family::V6,
        }
    }

    /// Do flows get ports of the uplink's addresses?
    pub fn has_ports(self) -> bool {
        matches!(self, Self::Nat44 | Self::Nat66)
    }

    /// Does the far end of a flow know it by the uplink's address?
    pub fn is_known_outside(self) -> bool {
        self.has_ports() || self == Self::Npt66
    }

    /// Name in tables.
    pub fn label(self) -> &'static str {
        match self {
            Self::Nat44 => "NAT44",
            Self::Routed => "routed",
            Self::Routed6 => "IPv6, routed",
            Self::Source6 => "IPv6, by source",
            Self::Npt66 => "NPTv6",
            Self::Nat66 => "NAT66",
        }
    }
}

/// An engine, alone on its regions.
pub struct Gateway {
    /// What its uplinks do.
    pub translation: Translation,
    /// The regions.
    pub regions: Regions,
    /// The engine: worker 0 of 1.
    pub engine: Engine,
}

impl Gateway {
    /// A gateway whose flow table has `slots` slots, all of them in memory: a pinned table is
    /// mapped as a whole too, so no first packet pays for a page.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn new(translation: Translation, slots: u32) -> Result<Self> {
        let map = || format!("cannot map a flow table of {slots} slots");
        let key = [0x1234_5678, 0x9abc_def0];
        let regions = match translation.family() {
            Family::V4 => Regions::anonymous(slots, key).with_context(map)?,
            Family::V6 => Regions {
                flows6: FlowTable::anonymous(slots).with_context(map)?,
                ..Regions::anonymous(PAGE, key)?
            },
        };
        touch(&regions.flows);
        touch(&regions.flows6);
        let engine = Engine::new(0, 1, &regions, [1, 2]);
        let mut gateway = Self { translation, regions, engine };
        gateway.leave_up(u64::MAX)?;
        Ok(gateway)
    }

    /// Takes all uplinks out of use but those whose bit is set.
    ///
    /// # Errors
    /// When the engine does not accept it.
    pub fn leave_up(&mut self, uplinks: u64) -> Result<()> {
        publish(self.translation, &self.regions, uplinks)?;
        anyhow::ensure!(self.engine.refresh(), "the engine does not accept what was published");
        Ok(())
    }

    /// A gateway whose table is made for a quarter more flows, so that it refuses none of these.
    ///
    /// # Errors
    /// When memory cannot be had.
    pub fn for_flows(translation: Translation, flows: usize) -> Result<Self> {
        Self::new(translation, slots_for(u32::try_from(flows + flows / 4)?))
    }

    /// A counter's sum.
    pub fn count(&self, counter: Counter) -> u64 {
        self.regions.counters.sum(counter)
    }

    /// Slots of the flow table.
    pub fn capacity(&self) -> u32 {
        match self.translation.family() {
            Family::V4 => self.regions.flows.capacity(),
            Family::V6 => self.regions.flows6.capacity(),
        }
    }

    /// Bytes of the flow table's slots.
    pub fn table_bytes(&self) -> usize {
        let slot = match self.translation.family() {
            Family::V4 => size_of::<FlowEntry4>(),
            Family::V6 => size_of::<FlowEntry6>(),
        };
        self.capacity() as usize * slot
    }

    /// Bytes of the flow table's tags.
    pub fn tag_bytes(&self) -> usize {
        (self.capacity() / GROUP) as usize * size_of::<TagWord>()
    }
}

/// Has all of a table in memory.
fn touch<F: Stored>(table: &FlowTable<F>) {
    for index in (0..table.capacity()).step_by(4096 / size_of::<Slot<F>>()) {
        // Ending no flow writes to the slot and to its tag.
        table.retire(index);
    }
}

fn publish(translation: Translation, regions: &Regions, up: u64) -> Result<()> {
    let text = site_text(translation)?;
    let site = weir_site::parse("built in", &text).map_err(|p| anyhow::anyhow!("{}", p[0]))?;
    let link = |index, name: &str| Link {
        index,
        name: name.into(),
        mac: MAC,
        mtu: 1500,
        running: true,
        ..Link::default()
    };
    let mut kernel = Kernel { links: vec![link(1, "lan0")], ..Kernel::default() };
    for (index, uplink) in (2..).zip(&site.uplinks) {
        kernel.links.push(link(index, &uplink.interface));
        let mac = [2, 0, 0, 1, 0, index as u8];
        let entry = NeighbourEntry { mac, fresh: true, trusted: true };
        for family in site.families() {
            let next_hop = uplink.next_hop_by(family, index, &kernel);
            let next_hop = next_hop.context("every path has a next hop")?;
            kernel.neighbours.insert((index, next_hop), entry);
        }
    }
    let mut published = weir_publish::derive(&site, &kernel, &Overrides::default(), [&[]; 2], None);
    let mut writer = ControlWriter::new(regions.control.clone(), regions.adjacencies.next_hops());
    let mut tables = Family::ALL.map(weir_publish::Tables::new);
    for family in site.families() {
        let mut takers = 0;
        for (uplink, problems) in (0u8..).zip(&published.problems[family.index()]) {
            anyhow::ensure!(*problems == 0, "uplink {uplink} is not usable: {problems}");
            let usable = up & 1 << uplink != 0;
            let state = if usable { path_state::USABLE } else { 0 };
            writer.set_path_state(PathId::new(uplink, family), state);
            takers |= u64::from(usable) << uplink;
        }
        let takers = vec![takers; site.policies.len()];
        tables[family.index()].update(&mut published.half, &takers, None, Placement::plain);
    }
    let [v4, v6] = &tables;
    writer.publish(&mut published.half, [&v4.live(), &v6.live()]);
    Ok(())
}

fn site_text(translation: Translation) -> Result<String> {
    let mut text = "[gateway]\nnat_ports = \"1024-65535\"\n\
        [[lan]]\ninterface = \"lan0\"\nprefixes = [\"10.0.0.0/8\""
        .to_owned();
    if translation.family() == Family::V6 {
        write!(text, ", \"{LAN6}\"")?;
    }
    if translation == Translation::Source6 {
        (1..UPLINKS).try_for_each(|n| write!(text, ", \"{}\"", delegated(n)))?;
    }
    text += "]\n";
    for n in 0..UPLINKS {
        let path = match translation {
            Translation::Nat44 => format!("addresses = [\"192.0.2.{}/28\"]", n * 16),
            Translation::Routed => "translate = \"none\"".into(),
            _ => path6(translation, n),
        };
        writeln!(
            text,
            "[[uplink]]\nname = \"wan{n}\"\ninterface = \"wan{n}\"\n\
             next_hop = \"100.64.{n}.1\"\n{path}"
        )?;
    }
    Ok(text)
}

/// The prefix of the flows' hosts.
const LAN6: &str = "2001:2:0:100::/64";

/// What a provider delegates.
fn delegated(uplink: u8) -> String {
    format!("2001:2:0:a{uplink:x}00::/56")
}

fn path6(translation: Translation, uplink: u8) -> String {
    let network = delegated(uplink).replace("/56", "");
    let quoted = |prefix: &str| format!("\"{prefix}\"");
    let (name, more, addresses) = match translation {
        Translation::Npt66 => {
            let prefix = quoted(&delegated(uplink));
            ("npt66", format!("prefix = {prefix}, "), quoted(&format!("{network}1")))
        }
        Translation::Nat66 => {
            let pool = (1..=16).map(|it| quoted(&format!("{network}{it:x}")));
            ("nat66", String::new(), pool.collect::<Vec<_>>().join(", "))
        }
        // All flows are of the first uplink's prefix.
        Translation::Source6 => {
            let prefix = if uplink == 0 { LAN6.to_owned() } else { delegated(uplink) };
            let address = prefix.split_once("::").map_or("", |(network, _)| network);
            let address = quoted(&format!("{address}::1"));
            ("source", format!("prefixes = [{}], ", quoted(&prefix)), address)
        }
        _ => ("none", String::new(), quoted(&format!("2001:2:0:100::{:x}", uplink + 1))),
    };
    format!(
        "translate = \"none\"\nipv6 = {{ translate = \"{name}\", {more}next_hop = \"fe80::1\", \
         addresses = [{addresses}] }}"
    )
}
