//! The filter of flows, as it is typed: the options of `weir flows`, with or without their dashes.

use std::net::IpAddr;

use anyhow::{Result, anyhow, bail};

use crate::flows::{FlowFilter, Order};

/// So many flows are kept, at most.
const LISTED: usize = 100;

/// Reads `uplink fiber protocol tcp source 10.0.0.5 destination 1.1.1.1`, in any order; nothing:
/// all flows.
///
/// # Errors
/// When a word is none of these, its value is missing, or it is no address.
pub fn read(text: &str, sort: Order) -> Result<FlowFilter> {
    let mut filter = FlowFilter { limit: LISTED, sort: Some(sort), ..FlowFilter::default() };
    let words: Vec<_> = text.split_whitespace().collect();
    for pair in words.chunks(2) {
        let word = pair[0].trim_start_matches('-');
        let value = || {
            let value = pair.get(1).copied();
            value.ok_or_else(|| anyhow!("{word} of what? Write a value behind it"))
        };
        match word {
            "uplink" => filter.uplink = Some(value()?.to_owned()),
            "protocol" => filter.protocol = Some(value()?.to_owned()),
            "source" => filter.source = Some(address(value()?)?),
            "destination" => filter.destination = Some(address(value()?)?),
            _ => bail!("\"{word}\" is no filter: write uplink, source, destination or protocol"),
        }
    }
    Ok(filter)
}

fn address(text: &str) -> Result<IpAddr> {
    let read = text.parse();
    read.map_err(|_| anyhow!("\"{text}\" is no address: write one as 10.0.0.5 or 2001:db8::5"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_with_and_without_dashes() {
        let filter = read("--uplink fiber protocol udp source 10.0.0.5", Order::Idle).unwrap();
        assert_eq!(filter.uplink.as_deref(), Some("fiber"));
        assert_eq!(filter.protocol.as_deref(), Some("udp"));
        assert_eq!(filter.source, "10.0.0.5".parse().ok());
        assert_eq!((filter.sort, filter.destination), (Some(Order::Idle), None));
        assert!(read("  ", Order::Bytes).unwrap().uplink.is_none());
    }

    #[test]
    fn what_is_no_filter_is_refused_with_what_is() {
        for (text, words) in [
            ("tcp", "write uplink, source, destination or protocol"),
            ("uplink", "Write a value"),
            ("source fiber", "is no address"),
            ("limit 5", "is no filter"),
        ] {
            let error = read(text, Order::Bytes).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
