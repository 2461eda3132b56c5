//! What is probed, and when it counts as failed or well.

mod passive;
#[cfg(test)]
mod tests;
mod url;

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize};

pub use passive::Passive;
pub use url::Url;

/// Most targets of one uplink.
pub const TARGETS: usize = 16;
/// Shortest probe interval, milliseconds.
pub const INTERVAL_MIN_MS: u32 = 100;
/// Longest probe interval, milliseconds.
pub const INTERVAL_MAX_MS: u32 = 3_600_000;
/// Most intervals that a timeout may last: so many probes of a target are under way at once.
pub const TIMEOUT_INTERVALS: u32 = 16;
/// Most probes that figures are made of.
pub const WINDOW_MAX: u32 = 1000;

/// The health settings of one uplink. Every field has a default; without targets the uplink is
/// judged by carrier, address, next hop and its users' connections alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Health {
    /// From one probe of a target to the next; 1 000 by default, at least [`INTERVAL_MIN_MS`].
    pub interval_ms: u32,
    /// How long a probe may take; by default one interval.
    pub timeout_ms: Option<u32>,
    /// What is probed.
    pub targets: Vec<Target>,
    /// How many targets must answer for the uplink to be well; 1 by default.
    pub quorum: u32,
    /// So many failures in a row make a target failed; 3 by default.
    pub down: u32,
    /// So many answers in a row make a failed target well; 5 by default.
    pub up: u32,
    /// Probes lost, in percent; 20 and 10 by default.
    pub loss_percent: Option<Limits>,
    /// Round-trip time, milliseconds; not judged by default.
    pub rtt_ms: Option<Limits>,
    /// Jitter, milliseconds; not judged by default.
    pub jitter_ms: Option<Limits>,
    /// How many probes of a target the windowed figures are made of; 30 by default.
    pub window: u32,
    /// How long an uplink must be well without a break before it is used again; 10 000 by default.
    pub hold_down_ms: u32,
    /// What the hold-down doubles to when the uplink flaps; 300 000 by default.
    pub hold_down_max_ms: u32,
    /// One doubling is forgiven after this long without a flap; 600 000 by default.
    pub flap_memory_ms: u32,
    /// What the connections of users say.
    pub passive: Passive,
    /// The one target is the next hop, for want of others: its silence makes nothing but doubt.
    #[serde(skip)]
    pub implied: bool,
}

/// A figure fails at `fail` or more and is well again at `recover` or less; between them it is
/// what it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Failed from here on.
    pub fail: u32,
    /// Well again from here down.
    pub recover: u32,
}

/// Something that is probed through an uplink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Target {
    /// Its name in views and logs; unique within the uplink.
    pub name: String,
    /// How it is probed.
    #[serde(flatten)]
    pub kind: Probe,
}

/// A flattened [`Probe`] would take keys that it does not know, so the name is taken out first.
impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let mut keys = toml::Table::deserialize(from)?;
        let name = keys.remove("name").ok_or_else(|| D::Error::missing_field("name"))?;
        let name = name.try_into().map_err(|e: toml::de::Error| D::Error::custom(e.message()))?;
        let kind = keys.try_into().map_err(|e: toml::de::Error| D::Error::custom(e.message()))?;
        Ok(Self { name, kind })
    }
}

/// How a target is probed. Hosts are addresses, never names: health must not hang on a resolver
/// that is reached by another uplink, or by the one that is judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "probe", rename_all = "lowercase", deny_unknown_fields)]
pub enum Probe {
    /// ICMP or ICMPv6 echo (RFC 792, RFC 4443 §4.1).
    Icmp {
        /// Who is asked.
        address: IpAddr,
    },
    /// A TCP connection, closed as soon as it is open.
    Tcp {
        /// Who is asked.
        #[serde(deserialize_with = "with_port")]
        address: SocketAddr,
    },
    /// `GET` by HTTP/1.1; redirects are answers, not followed.
    Http {
        /// `http://` or `https://`; its host goes into the request.
        url: String,
        /// Where to connect, unless the host of the URL is an address.
        #[serde(default)]
        address: Option<IpAddr>,
        /// The status that counts as an answer; by default any below 500: who answers is there,
        /// but not who says that a server behind is not (RFC 9110 §15.6).
        #[serde(default)]
        expect_status: Option<u16>,
        /// What must be in the first 64 KiB of the body.
        #[serde(default)]
        expect_body: Option<String>,
    },
    /// A query by UDP (RFC 1035); NOERROR and NXDOMAIN are answers.
    Dns {
        /// Who is asked.
        #[serde(deserialize_with = "with_port")]
        server: SocketAddr,
        /// The name that is asked for.
        #[serde(rename = "query")]
        name: String,
        /// The type that is asked for.
        #[serde(default)]
        kind: Record,
    },
}

/// The type of a DNS query.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Record {
    /// An IPv4 address.
    #[default]
    A,
    /// An IPv6 address.
    Aaaa,
    /// Name servers of a zone.
    Ns,
    /// Start of authority of a zone.
    Soa,
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}; {help}")]
pub struct Fault {
    /// Which setting, as in the file: `targets[1].url`.
    pub field: String,
    /// What is wrong with it.
    pub what: String,
    /// What to do.
    pub help: String,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            interval_ms: 1000,
            timeout_ms: None,
            targets: Vec::new(),
            quorum: 1,
            down: 3,
            up: 5,
            loss_percent: Some(Limits { fail: 20, recover: 10 }),
            rtt_ms: None,
            jitter_ms: None,
            window: 30,
            hold_down_ms: 10_000,
            hold_down_max_ms: 300_000,
            flap_memory_ms: 600_000,
            passive: Passive::default(),
            implied: false,
        }
    }
}

impl Health {
    /// How long a probe may take, milliseconds.
    pub fn timeout_ms(&self) -> u64 {
        u64::from(self.timeout_ms.unwrap_or(self.interval_ms))
    }

    /// How long a target that is probed may say nothing before it has failed, milliseconds:
    /// `down` intervals and a fifth after its last answer the next `down` answers are overdue,
    /// unless round-trip times vary by more than that. A timeout longer than the interval is waited
    /// for. So a blackhole is known within `down` intervals and a quarter, and a twentieth of one is
    /// left for this process to have its turn and for the dataplane to be told. A target whose jitter
    /// is more than a twentieth of the interval is given more time, up to the timeout of its probes.
    ///
    /// Counting timeouts alone would take up to `down + 1` intervals from the start of a blackhole,
    /// because its first probe leaves up to one interval later.
    pub fn silence_ms(&self) -> u64 {
        let interval = u64::from(self.interval_ms);
        let patience = self.timeout_ms().saturating_sub(interval);
        u64::from(self.down) * interval + interval / 5 + patience
    }

    /// Every setting that cannot be used.
    pub fn check(&self) -> Vec<Fault> {
        let faults = RefCell::new(Vec::new());
        let refuse = |field: &str, what: String, help: String| {
            faults.borrow_mut().push(Fault { field: field.into(), what, help });
        };
        let range = |field: &str, value: u32, least: u32, most: u32| {
            if !(least..=most).contains(&value) {
                refuse(field, format!("{value} is out of range"), format!("use {least} to {most}"));
            }
        };
        range("interval_ms", self.interval_ms, INTERVAL_MIN_MS, INTERVAL_MAX_MS);
        range("down", self.down, 1, 100);
        range("up", self.up, 1, 100);
        range("window", self.window, 5, WINDOW_MAX);
        range("hold_down_ms", self.hold_down_ms, 0, self.hold_down_max_ms);
        range("hold_down_max_ms", self.hold_down_max_ms, 0, 86_400_000);
        range("flap_memory_ms", self.flap_memory_ms, 1, 604_800_000);
        if let Some(timeout) = self.timeout_ms {
            range("timeout_ms", timeout, 10, self.interval_ms.saturating_mul(TIMEOUT_INTERVALS));
        }
        if self.targets.is_empty() {
            range("quorum", self.quorum, 0, 1);
        } else {
            range("quorum", self.quorum, 1, self.targets.len() as u32);
        }
        let figures = [
            ("loss_percent", self.loss_percent, 100),
            ("rtt_ms", self.rtt_ms, u32::MAX),
            ("jitter_ms", self.jitter_ms, u32::MAX),
        ];
        for (field, limits, most) in figures {
            let Some(Limits { fail, recover }) = limits else { continue };
            range(&format!("{field}.fail"), fail, 1, most);
            if recover >= fail {
                refuse(
                    &format!("{field}.recover"),
                    format!("{recover} is not below fail, {fail}"),
                    "leave room between them, or the uplink goes to and fro".into(),
                );
            }
        }
        if self.targets.len() > TARGETS {
            refuse(
                "targets",
                format!("{} targets are too many", self.targets.len()),
                format!("use up to {TARGETS}"),
            );
        }
        for (index, target) in self.targets.iter().enumerate() {
            let field = |part: &str| format!("targets[{index}].{part}");
            if self.targets[..index].iter().any(|t| t.name == target.name) {
                refuse(
                    &field("name"),
                    format!("\"{}\" is there twice", target.name),
                    "rename or remove one of them".into(),
                );
            }
            if let Err((part, what, help)) = target.kind.check() {
                refuse(&field(part), what, help.into());
            }
        }
        let mut faults = faults.into_inner();
        faults.extend(self.passive.check());
        faults
    }
}

impl Probe {
    /// Who is asked, once it is checked.
    pub fn host(&self) -> Option<IpAddr> {
        match self {
            Self::Icmp { address } => Some(*address),
            Self::Tcp { address } => Some(address.ip()),
            Self::Dns { server, .. } => Some(server.ip()),
            Self::Http { url, address, .. } => {
                address.or_else(|| Url::parse(url).ok()?.host.parse().ok())
            }
        }
    }

    fn check(&self) -> Result<(), (&'static str, String, &'static str)> {
        match self {
            Self::Icmp { address } => {
                unicast(*address).map_err(|(what, help)| ("address", what, help))
            }
            Self::Tcp { address } => {
                socket(*address).map_err(|(what, help)| ("address", what, help))
            }
            Self::Dns { server, name, .. } => {
                socket(*server).map_err(|(what, help)| ("server", what, help))?;
                let label = |l: &str| (1..=63).contains(&l.len()) && l.is_ascii();
                let bare = name.strip_suffix('.').unwrap_or(name);
                let good = name == "." || bare.len() <= 253 && bare.split('.').all(label);
                if !good {
                    let help = "use labels of 1 to 63 ASCII characters with dots between";
                    return Err(("query", format!("\"{name}\" is no domain name"), help));
                }
                Ok(())
            }
            Self::Http { url, address, expect_status, .. } => {
                if let Some(status) = expect_status
                    && !(100..=599).contains(status)
                {
                    return Err((
                        "expect_status",
                        format!("{status} is no status"),
                        "use 100 to 599",
                    ));
                }
                let parts = Url::parse(url).map_err(|(what, help)| ("url", what, help))?;
                match address.or(parts.host.parse().ok()) {
                    Some(address) => {
                        unicast(address).map_err(|(what, help)| ("address", what, help))
                    }
                    None => Err((
                        "address",
                        format!("it is not known where {} is", parts.host),
                        "say `address`: probes ask no resolver",
                    )),
                }
            }
        }
    }
}

fn unicast(address: IpAddr) -> Result<(), (String, &'static str)> {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_multicast() || broadcast {
        return Err((format!("{address} is no host"), "use the address of one host"));
    }
    Ok(())
}

/// An address and a port, of IPv6 with brackets.
fn with_port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        D::Error::custom(format!(
            "\"{text}\" is no address with a port: write one such as \"192.0.2.1:443\", or \
             \"[2001:db8::1]:443\", with brackets"
        ))
    })
}

fn socket(address: SocketAddr) -> Result<(), (String, &'static str)> {
    if address.port() == 0 {
        return Err((format!("{address} has no port"), "use a port from 1 to 65535"));
    }
    unicast(address.ip())
}
