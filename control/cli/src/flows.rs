//! `weir flows`.

use std::net::Ipv4Addr;

use anyhow::{Result, bail};
use serde_json::{Value, json};
use weir_api::time;
use weir_layout::flow::{FlowState, flag};
use weir_shm::Pins;
use weir_shm::flows::{Entry4, FlowTable4};

use super::criteria::protocol_name;
use super::output;
use super::state::State;
use super::table::table;

/// Which flows to show.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct FlowFilter {
    /// Only on this uplink.
    #[arg(long)]
    pub uplink: Option<String>,
    /// Only from this inside address.
    #[arg(long)]
    pub source: Option<Ipv4Addr>,
    /// Only to this address.
    #[arg(long)]
    pub destination: Option<Ipv4Addr>,
    /// Only this protocol: tcp, udp, icmp or a number.
    #[arg(long)]
    pub protocol: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 100)]
    pub limit: usize,
}

/// `weir flows`.
pub fn flows(pins: &Pins, filter: &FlowFilter, json: bool) -> Result<String> {
    let state = State::open(pins)?;
    let uplinks = state.uplinks();
    if let Some(name) = filter.uplink.as_deref().filter(|name| !uplinks.contains(name)) {
        bail!("there is no uplink \"{name}\"; known: {}", uplinks.join(", "));
    }
    if let Some(name) = filter.protocol.as_deref()
        && !["tcp", "udp", "icmp"].contains(&name)
        && name.parse::<u8>().is_err()
    {
        bail!("there is no protocol \"{name}\": use tcp, udp, icmp or a number up to 255");
    }
    let table4 = FlowTable4::read_only(pins)?;
    let now_ms = time::monotonic_ms() as u32;
    let wanted = |e: &Entry4| {
        e.flags & flag::INITIATED != 0
            && filter.uplink.as_ref().is_none_or(|name| state.uplink_name(e.uplink) == name)
            && filter.source.is_none_or(|a| a.octets() == e.key.src())
            && filter.destination.is_none_or(|a| a.octets() == e.key.dst())
            && filter.protocol.as_ref().is_none_or(|p| *p == protocol_name(e.key.proto()))
    };
    let mut entries =
        (0..table4.capacity()).filter_map(|index| table4.slot(index).read()).filter(wanted);
    let values: Vec<Value> = entries
        .by_ref()
        .take(filter.limit)
        .map(|e| {
            let back = table4.slot(e.peer).read();
            let end =
                |a: [u8; 4], p: [u8; 2]| format!("{}:{}", Ipv4Addr::from(a), u16::from_be_bytes(p));
            let seen = back.map_or(e.last_seen, |b| {
                if (b.last_seen.wrapping_sub(e.last_seen) as i32) > 0 {
                    b.last_seen
                } else {
                    e.last_seen
                }
            });
            json!({
                "protocol": protocol_name(e.key.proto()),
                "inside": end(e.key.src(), e.key.sport()),
                "outside": end(e.rewrite.src, e.rewrite.sport),
                "destination": end(e.key.dst(), e.key.dport()),
                "uplink": state.uplink_name(e.uplink),
                "state": match e.state_owner.state() {
                    FlowState::Stateless => "-",
                    FlowState::Opening => "opening",
                    FlowState::Established => "established",
                    FlowState::Closing => "closing",
                },
                "idle_s": now_ms.wrapping_sub(seen) / 1000,
                "tx_packets": e.packets,
                "tx_bytes": e.bytes,
                "rx_packets": back.map_or(0, |b| b.packets),
                "rx_bytes": back.map_or(0, |b| b.bytes),
                "offered": e.flags & flag::OFFLOAD != 0,
            })
        })
        .collect();
    let all = values.len() + entries.count();
    if json {
        return Ok(output::json("flows", json!({ "shown": values, "of": all })));
    }
    let columns = [
        "protocol",
        "inside",
        "outside",
        "destination",
        "uplink",
        "state",
        "idle_s",
        "tx_bytes",
        "rx_bytes",
    ];
    let mut text = table(&values, &columns);
    if values.len() < all {
        text += &format!("{} of {all} flows; --limit shows more\n", values.len());
    }
    Ok(text)
}
