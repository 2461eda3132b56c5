//! Capacities, thresholds and ways to balance, as the file has them.

use serde::{Deserialize, Serialize};

use crate::health::Limits;

/// Which way traffic goes. Arrays by direction are in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the provider.
    Down = 0,
    /// To the provider.
    Up = 1,
}

impl Direction {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::Down, Self::Up];
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Down => "down",
            Self::Up => "up",
        })
    }
}

/// Least capacity, bits per second; a load below it teaches nothing either.
pub const LEAST: f64 = 1e6;
/// Greatest capacity, bits per second: the fastest Ethernet port there is.
pub const GREATEST: f64 = 800e9;

/// What a link can carry, bits per second from the IP header on, by [`Direction`];
/// none: it is learned.
pub type Capacity = [Option<u64>; 2];

/// When an uplink takes no new flows: from `above` percent of its capacity on, until it is down to
/// `below` percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spill {
    /// Too full from here on.
    pub above: u32,
    /// Room again from here down.
    pub below: u32,
}

impl Spill {
    /// For uplinks whose capacity is configured.
    pub const DEFAULT: Self = Self { above: 80, below: 60 };

    /// As limits of the load in percent.
    pub fn limits(self) -> Limits {
        Limits { fail: self.above, recover: self.below }
    }
}

/// How new flows are shared among the members of a policy's active tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// By the configured weights.
    #[default]
    Hash,
    /// By the room that each has left.
    LeastLoaded,
    /// By the configured weights, among those with the lowest round-trip time.
    LowestLatency,
}

/// Reads a rate: a number and K, M or G, decimal; bits per second. The error says what is wrong
/// and what to do.
pub fn parse_rate(text: &str) -> Result<u64, (String, &'static str)> {
    const HELP: &str = "write a number and K, M or G for bits per second, such as \"200M\"";
    let no_rate = || (format!("\"{text}\" is no rate"), HELP);
    let unit = text.chars().next_back().ok_or_else(no_rate)?;
    let factor = match unit {
        'K' | 'k' => 1e3,
        'M' => 1e6,
        'G' => 1e9,
        _ => return Err(no_rate()),
    };
    let number = text[..text.len() - 1].trim_end();
    if !number.chars().all(|c| c.is_ascii_digit() || c == '.') {
        return Err(no_rate());
    }
    let rate = number.parse::<f64>().map_err(|_| no_rate())? * factor;
    if !(LEAST..=GREATEST).contains(&rate) {
        return Err((format!("\"{text}\" is out of range"), "use \"1M\" to \"800G\""));
    }
    Ok(rate.round() as u64)
}

/// A rate for people: `185M`, three digits.
pub fn rate_text(bits: f64) -> String {
    let (value, unit) = match bits {
        b if b >= 999.5e6 => (b / 1e9, "G"),
        b if b >= 999.5e3 => (b / 1e6, "M"),
        b if b >= 1e3 => (b / 1e3, "K"),
        b => (b, ""),
    };
    let decimals = match value {
        v if v == v.round() || v >= 99.95 => 0,
        v if v >= 9.995 => 1,
        _ => 2,
    };
    format!("{value:.decimals$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_decimal() {
        for (text, bits) in [
            ("200M", 200_000_000),
            ("1.5G", 1_500_000_000),
            ("20000K", 20_000_000),
            ("2500 k", 2_500_000),
            ("1M", 1_000_000),
        ] {
            assert_eq!(parse_rate(text), Ok(bits), "{text}");
        }
    }

    #[test]
    fn what_is_no_rate_is_refused_with_an_example() {
        for text in
            ["", "200", "M", "200Mbit", "200 MB", "-5M", "1e3M", "1.2.3M", "ü", "infM", "5µ"]
        {
            let (what, help) = parse_rate(text).unwrap_err();
            assert!(what.contains("is no rate") && help.contains("\"200M\""), "{text}: {what}");
        }
        for text in ["0M", "999K", "801G"] {
            assert!(parse_rate(text).unwrap_err().0.contains("out of range"), "{text}");
        }
    }

    #[test]
    fn rates_are_told_in_three_digits() {
        for (bits, text) in [
            (0.0, "0"),
            (512.0, "512"),
            (1_500.0, "1.50K"),
            (185_400_000.0, "185M"),
            (200e6, "200M"),
            (93.21e6, "93.2M"),
            (999_600_000.0, "1.00G"),
            (10e9, "10G"),
        ] {
            assert_eq!(rate_text(bits), text);
        }
    }
}
