//! Others' routing rules (`ip rule`), as far as packets from a LAN can meet them.

use std::fmt;

use ipnet::Ipv4Net;

/// The main table.
pub const MAIN: u32 = 254;
/// Priority of the rule that leads to it (`fib_default_rules_init` in net/ipv4/fib_rules.c, and
/// `fib6_rules_net_init`).
pub const MAIN_PRIORITY: u32 = 32_766;
/// The gateway's addresses and broadcast addresses (`RT_TABLE_LOCAL`).
pub const LOCAL: u32 = 255;

/// A rule of IPv4 that packets from a LAN can meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Order; lower is first.
    pub priority: u32,
    /// What it does.
    pub action: Action,
    /// Routes of its table count only if their prefix is longer (`suppress_prefixlength`).
    pub suppress: Option<u8>,
    /// The device that packets come in by.
    pub interface: Option<String>,
    /// Where packets come from.
    pub source: Ipv4Net,
    /// Where packets go to.
    pub destination: Ipv4Net,
    /// What else it asks for.
    pub asks: Option<&'static str>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Looks the destination up in a table.
    Table(u32),
    /// Sends the packet nowhere.
    Refuse,
    /// Goes to another rule.
    Goto,
}

impl fmt::Display for Rule {
    /// Much as `ip rule` has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.priority)?;
        for (word, net) in [("from", self.source), ("to", self.destination)] {
            if net.prefix_len() != 0 {
                write!(f, " {word} {net}")?;
            }
        }
        if let Some(interface) = &self.interface {
            write!(f, " iif {interface}")?;
        }
        match self.action {
            Action::Table(table) => write!(f, " lookup {table}"),
            Action::Refuse => write!(f, " unreachable"),
            Action::Goto => write!(f, " goto"),
        }
    }
}
