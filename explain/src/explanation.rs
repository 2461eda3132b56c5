//! What became of a packet, for machines (serde) and people (`Display`).

use std::fmt;

use serde::Serialize;

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// Which packet.
    pub packet: Packet,
    /// Where it goes.
    pub fate: Fate,
    /// What it is counted as, as `weir counters` has it.
    pub counter: &'static str,
    /// What that means.
    pub because: &'static str,
    /// Which tier had it last.
    pub tier: Tier,
    /// The rule that matches; null: none, or none is asked.
    pub rule: Option<String>,
    /// The policy that steers it, if one does.
    pub policy: Option<Policy>,
    /// Each uplink, and why it takes the packet or does not; empty where none is chosen.
    pub uplinks: Vec<Uplink>,
    /// Its flow, if it has one or begins one.
    pub flow: Option<Flow>,
    /// What is not known, or was taken for granted.
    pub notes: Vec<String>,
}

/// The packet that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Packet {
    /// By name, or its number.
    pub protocol: String,
    /// Address, and port if it has one.
    pub source: String,
    /// Likewise.
    pub destination: String,
    /// The uplink, or the LAN's interface, that it comes in by.
    pub from: String,
    /// Its sender's hardware address.
    pub mac: String,
    /// Of TCP, which segment: `SYN` or `ACK`; else null.
    pub segment: Option<&'static str>,
}

/// Where a packet goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Fate {
    /// Out by a port.
    Forwarded {
        /// The uplink; null: to a LAN.
        uplink: Option<String>,
        /// Interface, with its VLAN.
        interface: String,
        /// The hardware address of the next hop, or host.
        next_hop: String,
        /// As it leaves.
        source: String,
        /// As it leaves.
        destination: String,
    },
    /// To the gateway's kernel.
    Kernel,
    /// Nowhere.
    Dropped {
        /// Is its sender told, by ICMP or a reset?
        told: bool,
    },
}

/// Which tier of the dataplane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Tier {
    /// XDP.
    Kernel,
    /// A worker.
    User {
        /// Its number.
        worker: u8,
    },
}

/// The policy that steers a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// What selects a bucket, as the file has it.
    pub selection: &'static str,
    /// The buckets that were looked at, in order; the last one decided, if it led to an uplink.
    pub buckets: Vec<u16>,
}

/// An uplink, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Uplink {
    /// Its name.
    pub name: String,
    /// Does the packet take it?
    pub takes: bool,
    /// Why, or why not.
    pub why: Why,
}

/// Why an uplink takes a packet, or does not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Why {
    /// Its flow is there.
    Flow,
    /// Its endpoint has a port there, and keeps it (RFC 4787 REQ-1).
    Mapping,
    /// The bucket is its own.
    Bucket {
        /// Which.
        bucket: u16,
    },
    /// The flow promises to be heavy, and it has the most room.
    Heavy,
    /// No bucket that was looked at led to one; of the others it was its turn, by weight.
    Weight,
    /// Nothing else is left.
    LastResort,
    /// It translates the source, which no usable uplink carries.
    Rescue,
    /// The one before it had no port left, or translates what the protocol does not let it.
    NoPortBefore,
    /// It is no member of the policy.
    NotMember,
    /// It has none of the family.
    NoPath,
    /// It is out of use.
    Down {
        /// The bits of its state, see `weir uplinks`.
        state: Vec<&'static str>,
    },
    /// It is being emptied.
    Draining,
    /// A better tier has a usable one.
    WorseTier {
        /// Its own.
        tier: u8,
        /// The one that takes new flows.
        active: u8,
    },
    /// Its weight is 0.
    NoWeight,
    /// Its provider does not route the source back.
    ForeignSource,
    /// It had its turn, and no port left.
    NoPort,
    /// It could take it, but another does.
    Other {
        /// Which.
        uplink: String,
    },
    /// It was its turn, but the packet does not get that far.
    Turn,
    /// It could take it.
    Usable,
}

/// A flow of the packet.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Flow {
    /// Does the packet begin it?
    pub new: bool,
    /// Its uplink; null: it stays inside.
    pub uplink: Option<String>,
    /// The uplink that the packet makes it leave, if it does.
    pub left: Option<String>,
    /// Where it stands: `stateless`, `opening`, `established`, `closing`.
    pub state: &'static str,
    /// What the packet's direction is rewritten to: source, destination.
    pub rewritten: [String; 2],
    /// May XDP forward this direction?
    pub offered: bool,
    /// The worker that owns it.
    pub worker: u8,
    /// Seconds since its last packet; null where it begins.
    pub idle_s: Option<f64>,
    /// Bytes forwarded in this direction.
    pub bytes: u64,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Packet { protocol, source, destination, from, mac, segment } = &self.packet;
        let segment = segment.map_or(String::new(), |segment| format!(", {segment}"));
        writeln!(f, "{protocol} {source} → {destination}{segment}, from {mac} by {from}")?;
        writeln!(f, "{:10} {}", "fate", self.fate)?;
        writeln!(f, "{:10} {} ({})", "because", self.because, self.counter)?;
        match self.tier {
            Tier::Kernel => writeln!(f, "{:10} kernel (XDP)", "tier")?,
            Tier::User { worker } => writeln!(f, "{:10} user, worker {worker}", "tier")?,
        }
        if let Some(rule) = &self.rule {
            writeln!(f, "{:10} {rule}", "rule")?;
        } else if self.policy.is_some() {
            writeln!(f, "{:10} none matches", "rule")?;
        }
        if let Some(Policy { name, selection, buckets }) = &self.policy {
            let buckets: Vec<_> = buckets.iter().map(u16::to_string).collect();
            let buckets = match buckets.as_slice() {
                [] => String::new(),
                [one] => format!(", bucket {one}"),
                more => format!(", buckets {}", more.join(", ")),
            };
            writeln!(f, "{:10} {name}, by {selection}{buckets}", "policy")?;
        }
        if let Some(flow) = &self.flow {
            writeln!(f, "{:10} {flow}", "flow")?;
        }
        for uplink in &self.uplinks {
            let mark = if uplink.takes { "✓" } else { " " };
            writeln!(f, "{mark} {:8} {}", uplink.name, uplink.why)?;
        }
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forwarded { uplink, interface, next_hop, source, destination } => {
                let by = uplink.as_ref().map_or(String::new(), |uplink| format!("{uplink}, "));
                write!(f, "leaves by {by}{interface}, to {next_hop}, as {source} → {destination}")
            }
            Self::Kernel => f.write_str("the gateway's kernel gets it"),
            Self::Dropped { told: false } => f.write_str("dropped"),
            Self::Dropped { told: true } => f.write_str("dropped, and its sender is told"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flow => f.write_str("its flow is there"),
            Self::Mapping => f.write_str("its endpoint has a port there"),
            Self::Bucket { bucket } => write!(f, "bucket {bucket} is its own"),
            Self::Heavy => f.write_str("the flow promises to be heavy: it has the most room"),
            Self::Weight => f.write_str("by weight: no bucket leads to a usable one"),
            Self::LastResort => f.write_str("nothing else is left"),
            Self::Rescue => f.write_str("it translates the source, which no usable one carries"),
            Self::NoPortBefore => f.write_str("the one before it has no port left"),
            Self::NotMember => f.write_str("no member of the policy"),
            Self::NoPath => f.write_str("it has none of the family"),
            Self::Down { state } => write!(f, "down: {}", state.join(", ")),
            Self::Draining => f.write_str("being emptied"),
            Self::WorseTier { tier, active } => {
                write!(f, "of tier {tier}; new flows go by tier {active}")
            }
            Self::NoWeight => f.write_str("weight 0"),
            Self::ForeignSource => f.write_str("its provider does not route the source back"),
            Self::NoPort => f.write_str("no port left"),
            Self::Turn => f.write_str("it would be its turn"),
            Self::Usable => f.write_str("usable"),
            Self::Other { uplink } => write!(f, "usable; {uplink} has it"),
        }
    }
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.new, &self.left) {
            (_, Some(left)) => write!(f, "moves now, from {left}")?,
            (true, None) => f.write_str("begins now")?,
            (false, None) => {
                write!(f, "{}, {} bytes this way", self.state, self.bytes)?;
                if let Some(idle) = self.idle_s {
                    write!(f, ", idle for {idle:.1} s")?;
                }
            }
        }
        write!(f, "; by {}", self.uplink.as_deref().unwrap_or("no uplink, it stays inside"))?;
        let [source, destination] = &self.rewritten;
        write!(f, " as {source} → {destination}; worker {}", self.worker)?;
        f.write_str(if self.offered { ", offered to XDP" } else { ", not offered to XDP" })
    }
}
