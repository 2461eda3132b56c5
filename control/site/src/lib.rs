//! The configuration of a site: one TOML file, read, checked by itself and against what the kernel
//! has, and resolved to indices.
//!
//! Everything wrong with a file is reported at once, each error with its place and what to do.
//!
//! | module | what it is |
//! |---|---|
//! | `schema` | the file as TOML has it |
//! | `read`, `place` | where in the file what is wrong stands |
//! | `check`, `checker` | from the file to a [`Site`] |
//! | `gateway`, `lans`, `uplinks`, `ipv6`, `capacity`, `policies`, `filter`, `ra` | its parts |
//! | `sets`, `set_files`, `set_ranges` | sets of prefixes, their files, which hold an address |
//! | `publish`, `service_ports` | services that uplinks are open for, and who else has their ports |
//! | `nat_log`, `ipfix` | where allocations of NAT are logged, and flows are told of |
//! | `metrics` | where metrics can be had |
//! | `port_mapping` | how much hosts may have that ask for ports |
//! | [`health`], [`mod@load`] | settings of the uplinks' health and load |
//! | `machine` | what is wrong on this machine |
//! | `warn`, `warn_ipv6`, `frames` | what is allowed and unwise |
//! | `paths` | which paths an uplink has, and what shows their health |
//! | `prefixes` | the prefixes that providers delegate |
//! | [`room`] | LANs that such a prefix has no room for |
//! | `sources` | which addresses an uplink's packets are sent from |
//! | `behind` | which networks are behind routers of a LAN |
//! | [`rules`] | others' routing rules, as far as they can be followed |
//! | [`closed`] | routes by uplinks that would take addresses from a LAN |
//! | [`hooks`], `trust` | which of the operator's programs are run |
//! | [`duration`], [`group`] | durations, users and groups |
#![forbid(unsafe_code)]

mod behind;
mod capacity;
mod check;
mod checker;
mod clamp;
pub mod closed;
pub mod duration;
mod filter;
mod frames;
mod gateway;
pub mod group;
pub mod health;
pub mod hooks;
mod ipfix;
mod ipv6;
mod lans;
pub mod load;
mod machine;
mod metrics;
mod nat_log;
mod paths;
mod place;
mod policies;
mod port_mapping;
mod prefixes;
mod publish;
mod ra;
mod read;
pub mod room;
pub mod rules;
mod schema;
mod service_ports;
mod set_files;
mod set_ranges;
mod sets;
mod sources;
mod trust;
mod uplinks;
mod warn;
mod warn_ipv6;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv6Net};
use weir_layout::Family;
use weir_layout::control::{
    Filtering, OnDataplaneLoss, OnUplinkDown, Selection, TcpMapping, Tier, Timeouts, Translate,
};
use weir_view::Kernel;

use crate::health::{Health, Target};
use crate::load::{Balance, Capacity, Spill};

pub use clamp::ClampMss;
pub use filter::Verdict;
pub use ipfix::IpfixConfig;
pub use machine::{against_kernel, clashes, overlap};
pub use nat_log::NatLogConfig;
pub use place::Problem;
pub use port_mapping::PortMapping;
pub use prefixes::{SHARED, fault_of_delegated, may_share};
pub use publish::{PublishConfig, Service, To};
pub use ra::RaConfig;
pub use service_ports::{LEASES, spoken};
pub use set_files::{SetFile, SetFiles};
pub use sets::{Among, SetConfig, Sets};

/// Is it a name that an interface can have (`dev_valid_name`, net/core/dev.c), of characters that
/// stand for themselves wherever weir writes it?
pub fn is_interface_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && !b"/:\"*\\".contains(&b);
    (1..16).contains(&name.len()) && name.bytes().all(plain) && name != "." && name != ".."
}

/// What is allowed on this machine but unwise, beyond [`Site::warnings`].
pub fn warnings_here(site: &Site, kernel: &Kernel) -> Vec<String> {
    let mut warnings = warn::on_machine(site, kernel, warn::is_strict);
    warnings.extend(unfollowed(site, kernel));
    warnings.extend(warn_ipv6::advertised_lans(site, kernel, warn::takes_advertisements));
    warnings.extend(warn::unadvertised(site, kernel, warn::takes_advertisements));
    warnings.extend(warn::without_pool(site, kernel));
    warnings.extend(warn::unaddressed(site, kernel));
    warnings.extend(warn_ipv6::unforwarded(site, warn_ipv6::forwards));
    warnings.extend(warn_ipv6::without_addresses(site, kernel));
    warnings.extend(warn_ipv6::unconnected(site, kernel));
    warnings.extend(room::warnings(site, kernel));
    warnings.extend(warn_ipv6::own_next_hops(site, &warn_ipv6::own_addresses()));
    warnings.extend(warn::unwatched(site));
    warnings.extend(frames::warnings(site, kernel));
    warnings.extend(site.nat_log.as_ref().and_then(nat_log::hindrance));
    warnings.extend(service_ports::spoken(site, kernel));
    warnings.extend(service_ports::lent(site, kernel, &service_ports::reserved()));
    warnings
}

/// What of the kernel's rules and routes is not followed, in words.
pub fn unfollowed(site: &Site, kernel: &Kernel) -> Vec<String> {
    let mut unfollowed = rules::unfollowed(site, kernel);
    unfollowed.extend(closed::unfollowed(site, kernel));
    unfollowed
}

/// A valid configuration.
#[derive(Clone, Debug)]
pub struct Site {
    /// Hash of the file's text.
    pub hash: u64,
    /// Worker threads.
    pub workers: u8,
    /// CPU of each worker; fewer than workers: the rest is not pinned.
    pub cores: Vec<u16>,
    /// Flows the table is made for.
    pub flow_table: u32,
    /// First and last NAT port.
    pub nat_ports: (u16, u16),
    /// What becomes of transit without a dataplane.
    pub on_dataplane_loss: OnDataplaneLoss,
    /// Which tier forwards established flows.
    pub tier: Tier,
    /// Routes and rules for the gateway's own traffic are weir's too.
    pub own_traffic: bool,
    /// `net.ipv4.ip_forward` and the kernel's local ports are weir's to set.
    pub sysctls: bool,
    /// Who may use the API's socket beside root; none: the usual group, if there is one.
    pub group: Option<String>,
    /// Where the programs are that run when an uplink's state, or what a LAN is told, changes.
    pub hooks: Option<PathBuf>,
    /// Index of the policy of packets that no rule matches.
    pub default_policy: u8,
    /// Idle timeouts.
    pub timeouts: Timeouts,
    /// Flows that a host may have at a time; 0: as many as there is room for.
    pub flows_per_host: u32,
    /// Flows that one may begin in a second; 0: as many as it likes.
    pub new_flows_per_host: u32,
    /// Where allocations of NAT are logged; none: nowhere.
    pub nat_log: Option<NatLogConfig>,
    /// Where flows are told of; none: nowhere.
    pub ipfix: Option<IpfixConfig>,
    /// Where metrics can be had; empty: nowhere.
    pub metrics: Vec<SocketAddr>,
    /// LAN ports.
    pub lans: Vec<Lan>,
    /// Uplinks.
    pub uplinks: Vec<UplinkConfig>,
    /// Policies.
    pub policies: Vec<PolicyConfig>,
    /// Sets of prefixes.
    pub sets: Sets,
    /// Rules, in order.
    pub rules: Vec<RuleConfig>,
    /// Published services, in order.
    pub publish: Vec<PublishConfig>,
    /// How much hosts may have that ask for ports.
    pub port_mapping: PortMapping,
    /// What they have, by all uplinks. Not of the file.
    pub mapped: Vec<PublishConfig>,
    /// What is allowed but unwise.
    pub warnings: Vec<String>,
}

/// A LAN port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lan {
    /// Interface name.
    pub interface: String,
    /// Prefixes behind it; none of a family: the interface's own.
    pub prefixes: Vec<IpNet>,
    /// What its hosts are told by router advertisements; none: weir tells them nothing.
    pub ra: Option<RaConfig>,
    /// Its hosts may ask for ports.
    pub port_mapping: bool,
    /// Where in the file.
    pub line: usize,
}

/// An uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UplinkConfig {
    /// Name.
    pub name: String,
    /// Interface name.
    pub interface: String,
    /// Weight in policies that give none.
    pub weight: u16,
    /// Next hop; none: the kernel's default route on the interface.
    pub next_hop: Option<Ipv4Addr>,
    /// Source addresses; empty: the interface's own.
    pub addresses: Vec<Ipv4Addr>,
    /// Address translation.
    pub translate: Translate,
    /// Its IPv6 path; none: it is used for IPv4 alone.
    pub ipv6: Option<Ipv6Config>,
    /// By [`Family`]: what is probed of a path for want of targets.
    pub implied: [Option<Target>; Family::COUNT],
    /// What no flow asked for may come in by it, for the prefixes of the LANs.
    pub inbound: bool,
    /// Its IPv4 flows have entries, also where none needs any.
    pub pin: bool,
    /// Who may come in by its mappings.
    pub filtering: Filtering,
    /// Which TCP flows have a port in common outside.
    pub tcp_mapping: TcpMapping,
    /// The greatest segment size that SYNs by it may name.
    pub clamp_mss: ClampMss,
    /// How its health is judged.
    pub health: Health,
    /// What it can carry.
    pub capacity: Capacity,
    /// When it takes no new flows; none: however full it is, it does.
    pub spill: Option<Spill>,
    /// Where in the file.
    pub line: usize,
}

/// An uplink's IPv6 path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ipv6Config {
    /// How source addresses change.
    pub translate: Translate,
    /// Next hop; none: the kernel's default route on the interface.
    pub next_hop: Option<Ipv6Addr>,
    /// Source addresses of probes and of what the gateway sends, and the pool of NAT66; empty: the
    /// interface's own.
    pub addresses: Vec<Ipv6Addr>,
    /// What its provider delegates, as the file says, or as it is [told](Self::delegation).
    pub prefixes: Vec<PrefixPair>,
    /// Its prefixes are told while weir runs, by a client of DHCPv6; none: the file has them.
    pub delegation: Option<Delegation>,
    /// A source of another uplink's prefix, whose uplink is down, leaves by this one, translated.
    pub rescue: bool,
    /// What no flow asked for may come in by it, for the prefixes of the LANs.
    pub inbound: bool,
    /// Its flows have entries, also where none needs any.
    pub pin: bool,
    /// Where one path of the uplink is out of use the other is too.
    pub joint: bool,
}

/// What is made of the prefixes that are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delegation {
    /// The prefix of LANs that is translated to one of them; none: LANs have parts of them.
    pub inside: Option<Ipv6Net>,
}

/// A prefix that a provider delegates, and what stands inside for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixPair {
    /// The prefix of LANs that is translated to it; none: hosts have addresses of the provider's.
    pub inside: Option<Ipv6Net>,
    /// The provider's.
    pub outside: Ipv6Net,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyConfig {
    /// Name.
    pub name: String,
    /// Key of the buckets.
    pub selection: Selection,
    /// How new flows are shared.
    pub balance: Balance,
    /// New flows avoid uplinks that are too full.
    pub spillover: bool,
    /// Members.
    pub members: Vec<MemberConfig>,
    /// What becomes of translated TCP connections when their uplink goes down.
    pub on_uplink_down: OnUplinkDown,
    /// Which flows leave a worse tier when a better one is back.
    pub failback: Failback,
    /// After how long without a packet a flow may be moved, seconds.
    pub idle_s: u16,
    /// Most flows that are moved home each second.
    pub failback_rate: u32,
}

/// Which flows leave a worse tier when a better one is back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failback {
    /// None; new flows take the better tier.
    #[default]
    NewFlows,
    /// Those that survive a move, once idle.
    Idle,
    /// Those, and all others when the better tier has been back for so long, seconds.
    Deadline(u32),
}

impl PolicyConfig {
    /// After how long without a packet a flow may be moved, unless told otherwise, seconds.
    pub const IDLE_S: u16 = 30;
    /// Most flows that are moved home each second, unless told otherwise.
    pub const FAILBACK_RATE: u32 = 100;
}

/// A member of a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemberConfig {
    /// Index of the uplink.
    pub uplink: u8,
    /// Tier, 1 = best.
    pub tier: u8,
    /// Weight; none: the uplink's.
    pub weight: Option<u16>,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleConfig {
    /// Name.
    pub name: String,
    /// Indices of the uplinks that it is about; none: it is about what LANs send.
    pub uplinks: Option<Vec<u8>>,
    /// LAN port, as an index into [`Site::lans`].
    pub in_lan: Option<usize>,
    /// Sources; packets of a family that they are not of do not match.
    pub source: Option<Among>,
    /// Destinations, likewise.
    pub destination: Option<Among>,
    /// IP protocol, 0 = any.
    pub protocol: u8,
    /// Source ports, inclusive.
    pub source_ports: Option<(u16, u16)>,
    /// Destination ports, inclusive.
    pub destination_ports: Option<(u16, u16)>,
    /// Code point.
    pub dscp: Option<u8>,
    /// What becomes of what matches.
    pub verdict: Verdict,
}

/// Reads and checks a file, and those of its sets, without looking at the kernel. The errors are
/// ready to print.
pub fn load(path: &Path) -> Result<Site, Vec<Problem>> {
    let file = path.display().to_string();
    read(path, SetFiles::Beside(sets::folder(&file))).map(|reading| reading.site)
}

/// What was read.
#[derive(Debug)]
pub struct Reading {
    /// The file's text.
    pub text: String,
    /// The files of its sets.
    pub set_files: Vec<SetFile>,
    /// What they say.
    pub site: Site,
}

/// As [`load()`], with what was read; the files of sets are where `set_files` says.
pub fn read(path: &Path, set_files: SetFiles<'_>) -> Result<Reading, Vec<Problem>> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|e| {
        vec![Problem::whole(
            &file,
            format!("cannot be read: {e}"),
            "give the right path with --config",
        )]
    })?;
    let (site, set_files) = resolve(&file, &text, set_files)?;
    Ok(Reading { text, set_files, site })
}

/// As [`load()`], for text that is at hand.
pub fn parse(file: &str, text: &str) -> Result<Site, Vec<Problem>> {
    resolve(file, text, SetFiles::Beside(sets::folder(file))).map(|(site, _)| site)
}

fn resolve(
    file: &str,
    text: &str,
    set_files: SetFiles<'_>,
) -> Result<(Site, Vec<SetFile>), Vec<Problem>> {
    let places = place::Places::new(file, text);
    let mut problems = Vec::new();
    let site = read::read(text, &places, &mut problems).and_then(|raw| {
        let unread: BTreeSet<_> = problems.iter().map(|problem| problem.line).collect();
        // What stands beside that, lacks it, and all is said.
        let is_its_own = |problem: &Problem| {
            problem.line == 0 || problem.file != file || !unread.contains(&problem.line)
        };
        check::resolve(&raw, &places, weir_layout::checksum64(text.as_bytes()), set_files)
            .map_err(|more| problems.extend(more.into_iter().filter(is_its_own)))
            .ok()
    });
    // What is wrong with other files comes behind, as it was found.
    problems.sort_by_key(|problem| match problem.file == file {
        true => (false, problem.line, problem.column),
        false => (true, 0, 0),
    });
    site.filter(|_| problems.is_empty()).ok_or(problems)
}

#[cfg(test)]
mod tests;
