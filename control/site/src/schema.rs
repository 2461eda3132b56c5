//! The file as TOML has it.

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Unexpected};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use toml::Spanned;
use weir_view::Preference;

use crate::health::Health;
use crate::load::{Balance, Spill};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    #[serde(default)]
    pub gateway: Gateway,
    #[serde(default)]
    pub timeouts: Timeouts,
    #[serde(default)]
    pub limits: Limits,
    pub nat_log: Option<Spanned<NatLog>>,
    pub ipfix: Option<Ipfix>,
    pub health: Option<Spanned<Health>>,
    #[serde(default)]
    pub lan: Vec<Spanned<Lan>>,
    #[serde(default)]
    pub uplink: Vec<Spanned<Uplink>>,
    #[serde(default)]
    pub policy: Vec<Spanned<Policy>>,
    #[serde(default)]
    pub set: Vec<Spanned<Set>>,
    #[serde(default)]
    pub rule: Vec<Spanned<Rule>>,
    #[serde(default)]
    pub publish: Vec<Spanned<Publish>>,
    pub port_mapping: Option<PortMapping>,
    pub metrics: Option<Metrics>,
}

impl File {
    /// Has an uplink an IPv6 path?
    pub fn has_ipv6(&self) -> bool {
        self.uplink.iter().any(|uplink| uplink.get_ref().ipv6.is_some())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gateway {
    pub workers: Option<Spanned<i64>>,
    pub cores: Vec<u16>,
    pub flow_table: Option<Spanned<i64>>,
    pub nat_ports: Option<Spanned<String>>,
    pub on_dataplane_loss: OnDataplaneLoss,
    pub tier: Tier,
    pub own_traffic: bool,
    pub sysctls: bool,
    pub group: Option<Spanned<String>>,
    pub default_policy: Option<Spanned<String>>,
    pub hooks: Option<Spanned<PathBuf>>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            workers: None,
            cores: Vec::new(),
            flow_table: None,
            nat_ports: None,
            on_dataplane_loss: OnDataplaneLoss::Drop,
            tier: Tier::Kernel,
            own_traffic: true,
            sysctls: true,
            group: None,
            default_policy: None,
            hooks: None,
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDataplaneLoss {
    Drop,
    Kernel,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tier {
    Kernel,
    User,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    pub tcp_opening: Option<Spanned<u32>>,
    pub tcp_established: Option<Spanned<u32>>,
    pub tcp_closing: Option<Spanned<u32>>,
    pub udp: Option<Spanned<u32>>,
    pub icmp: Option<Spanned<u32>>,
    pub other: Option<Spanned<u32>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table, such as { file = \"/var/log/weir/nat.log\" }")]
pub struct NatLog {
    pub file: Spanned<PathBuf>,
    pub max_size: Option<Spanned<i64>>,
    pub keep: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table, such as { collector = \"10.0.0.9:4739\" }")]
pub struct Ipfix {
    pub collector: Spanned<String>,
    pub source: Option<Spanned<String>>,
    pub interface: Option<Spanned<String>>,
    pub active: Option<Spanned<String>>,
    pub idle: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table, such as { listen = \"127.0.0.1:9745\" }")]
pub struct Metrics {
    pub listen: Spanned<Texts>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub flows_per_host: Option<Spanned<i64>>,
    pub new_flows_per_host: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lan {
    pub interface: Spanned<String>,
    #[serde(default)]
    pub prefixes: Vec<Spanned<IpNet>>,
    pub ra: Option<Spanned<Ra>>,
    #[serde(default)]
    pub port_mapping: bool,
}

/// A table, or the name of the sender alone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default, remote = "Self")]
pub struct Ra {
    pub sender: Sender,
    pub prefixes: Vec<Spanned<IpNet>>,
    pub dns: Vec<Spanned<Ipv6Addr>>,
    pub search: Vec<Spanned<String>>,
    pub routes: Vec<Spanned<IpNet>>,
    pub mtu: Option<Spanned<i64>>,
    pub default_router: bool,
    pub router_lifetime: Option<Spanned<String>>,
    pub preference: Preference,
    pub managed: bool,
    pub autonomous: bool,
    pub other: bool,
}

impl Default for Ra {
    fn default() -> Self {
        Self {
            sender: Sender::Weir,
            prefixes: Vec::new(),
            dns: Vec::new(),
            search: Vec::new(),
            routes: Vec::new(),
            mtu: None,
            default_router: true,
            router_lifetime: None,
            preference: Preference::Medium,
            managed: false,
            autonomous: true,
            other: false,
        }
    }
}

/// Not an untagged enum, which would not say what is wrong within the table.
impl<'de> Deserialize<'de> for Ra {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Ra;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"others\", or a table, such as {} or { sender = \"others\" }")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ra, E> {
                match text {
                    "others" => Ok(Ra { sender: Sender::Others, ..Ra::default() }),
                    _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Ra, A::Error> {
                Ra::deserialize(MapAccessDeserializer::new(map))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// Who sends a LAN's router advertisements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Sender {
    Weir,
    Others,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    pub name: Spanned<String>,
    pub interface: Spanned<String>,
    pub weight: Option<Spanned<i64>>,
    pub next_hop: Option<Ipv4Addr>,
    #[serde(default)]
    pub addresses: Vec<Spanned<Addresses>>,
    #[serde(default = "Translation::default")]
    pub translate: Translation,
    pub inbound: Option<Spanned<bool>>,
    #[serde(default)]
    pub pin: bool,
    pub filtering: Option<Spanned<Filtering>>,
    pub tcp_mapping: Option<Spanned<TcpMapping>>,
    pub clamp_mss: Option<Spanned<ClampMss>>,
    pub ipv6: Option<Spanned<Ipv6>>,
    pub health: Option<Spanned<Health>>,
    pub capacity: Option<Capacity>,
    pub spill: Option<Spanned<Spill>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Capacity {
    pub down: Option<Spanned<String>>,
    pub up: Option<Spanned<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected an IPv4 address or prefix")]
pub enum Addresses {
    One(Ipv4Addr),
    Prefix(Ipv4Net),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    AddressAndPort,
    Address,
    Endpoint,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TcpMapping {
    Flow,
    Endpoint,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, expecting = "expected \"auto\", \"off\" or a number of bytes")]
pub enum ClampMss {
    Word(ClampWord),
    Bytes(i64),
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClampWord {
    Auto,
    Off,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Translation {
    #[default]
    Nat44,
    None,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table, such as { translate = \"none\" }")]
pub struct Ipv6 {
    pub translate: Spanned<Translation6>,
    pub next_hop: Option<Spanned<Ipv6Addr>>,
    #[serde(default)]
    pub addresses: Vec<Spanned<Ipv6Addr>>,
    pub prefix: Option<Spanned<Prefix>>,
    pub inside: Option<Spanned<Ipv6Net>>,
    pub pairs: Option<Spanned<Vec<Pair>>>,
    pub prefixes: Option<Spanned<Prefixes>>,
    pub rescue: Option<Spanned<bool>>,
    #[serde(default)]
    pub inbound: bool,
    #[serde(default)]
    pub pin: bool,
    #[serde(default)]
    pub joint: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Translation6 {
    None,
    Npt66,
    Nat66,
    Source,
}

/// What a provider delegates, where it is not known yet.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Told {
    Delegated,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged, expecting = "expected an IPv6 prefix, or \"delegated\"")]
pub enum Prefix {
    Later(Told),
    Here(Ipv6Net),
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a list of IPv6 prefixes, or \"delegated\"")]
pub enum Prefixes {
    Later(Told),
    Here(Vec<Ipv6Net>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    pub inside: Spanned<Ipv6Net>,
    pub outside: Spanned<Ipv6Net>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    pub name: Spanned<String>,
    #[serde(default)]
    pub selection: Selection,
    #[serde(default)]
    pub balance: Balance,
    #[serde(default = "yes")]
    pub spillover: bool,
    pub members: Option<Vec<Spanned<Member>>>,
    #[serde(default)]
    pub on_uplink_down: OnUplinkDown,
    #[serde(default)]
    pub failback: Failback,
    pub failback_deadline: Option<Spanned<String>>,
    pub idle: Option<Spanned<String>>,
    pub failback_rate: Option<Spanned<i64>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUplinkDown {
    #[default]
    Reset,
    Keep,
    Drop,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Failback {
    #[default]
    NewFlows,
    Idle,
    Deadline,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    #[default]
    SourceDestination,
    Flow,
    Source,
    Host,
    FlowLabel,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    pub uplink: Spanned<String>,
    pub tier: Option<Spanned<i64>>,
    pub weight: Option<Spanned<i64>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Set {
    pub name: Spanned<String>,
    pub file: Option<Spanned<PathBuf>>,
    pub prefixes: Option<Vec<Spanned<String>>>,
}

/// Addresses: of a prefix, or of a set by its name, or all that this does not hold.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "String")]
pub enum Among {
    Prefix(IpNet),
    Set { name: String, negated: bool },
}

impl TryFrom<String> for Among {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (rest, negated) = match text.strip_prefix('!') {
            Some(rest) => (rest, true),
            None => (text.as_str(), false),
        };
        if let Some(name) = rest.strip_prefix('@') {
            return Ok(Self::Set { name: name.to_owned(), negated });
        }
        if negated {
            return Err(format!(
                "\"{text}\": `!` stands before a set. Write \"!@name\", and [[set]] with this name \
                 and prefixes = [\"{rest}\"]"
            ));
        }
        text.parse().map(Self::Prefix).map_err(|error: ipnet::AddrParseError| {
            format!("\"{text}\": {error}. Write a prefix, or \"@name\" of a set")
        })
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub name: Option<Spanned<String>>,
    #[serde(default)]
    pub from: RuleFrom,
    pub uplinks: Option<Spanned<Vec<Spanned<String>>>>,
    pub in_interface: Option<Spanned<String>>,
    pub source: Option<Spanned<Among>>,
    pub destination: Option<Spanned<Among>>,
    pub protocol: Option<Spanned<Protocol>>,
    pub source_ports: Option<Spanned<String>>,
    pub destination_ports: Option<Spanned<String>>,
    pub dscp: Option<Spanned<i64>>,
    #[serde(default)]
    pub action: RuleAction,
    pub policy: Option<Spanned<String>>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleAction {
    #[default]
    Policy,
    Drop,
    Reject,
    Accept,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleFrom {
    #[default]
    Lan,
    Uplink,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    pub name: Spanned<String>,
    pub protocol: Spanned<Protocols>,
    pub ports: Option<Spanned<Ports>>,
    pub to: Spanned<Texts>,
    pub uplinks: Option<Vec<Spanned<String>>>,
    pub from: Option<Vec<Spanned<Among>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PortMapping {
    pub ports: Option<Spanned<String>>,
    pub max_lifetime: Option<Spanned<String>>,
    pub per_host: Option<Spanned<i64>>,
    pub upnp: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a text, or a list of texts")]
pub enum Texts {
    One(String),
    Many(Vec<String>),
}

impl Texts {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let texts = match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        };
        texts.iter().map(String::as_str)
    }
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a port or a range of ports, such as 443 or \"8000-8010\"")]
pub enum Ports {
    One(u16),
    Range(String),
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a protocol's name, such as \"tcp\" or \"gre\", or its number"
)]
pub enum Protocol {
    Number(u8),
    Name(String),
}

#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "expected a protocol's name, such as \"tcp\" or \"gre\", or its number, or a list of them"
)]
pub enum Protocols {
    One(Protocol),
    Many(Vec<Protocol>),
}

impl Protocols {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Protocol> {
        match self {
            Self::One(protocol) => std::slice::from_ref(protocol),
            Self::Many(protocols) => protocols,
        }
        .iter()
    }
}
