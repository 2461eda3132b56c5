//! `weir counters`.

use anyhow::Result;
use serde_json::{Value, json};
use weir_layout::counters::Counter;
use weir_shm::Pins;
use weir_shm::counters::Counters;
use weir_shm::map::Access;

use super::output;
use super::table::table;

/// `weir counters`.
pub fn counters(pins: &Pins, json: bool) -> Result<String> {
    let counters = Counters::open(pins, Access::Read)?;
    let of = |counter| counters.sum(counter);
    let sum = |wanted: &dyn Fn(Counter) -> bool| -> u64 {
        Counter::ALL.iter().filter(|c| wanted(**c)).map(|c| of(*c)).sum()
    };
    let kernel_out = sum(&Counter::is_pass)
        + of(Counter::XdpToUser)
        + of(Counter::XdpForwarded)
        + sum(&Counter::is_xdp_drop);
    let user_drops = sum(&|c| c.is_drop() && !c.is_xdp_drop());
    let user_in = of(Counter::UserRx) + of(Counter::UserHandoffIn) + of(Counter::UserOriginated);
    let user_out = of(Counter::UserTx) + of(Counter::UserHandoffOut) + user_drops;
    let nonzero: Vec<_> = counters.all().into_iter().filter(|(_, n)| *n != 0).collect();
    if json {
        let all: serde_json::Map<_, _> =
            counters.all().into_iter().map(|(c, n)| (c.label().to_owned(), n.into())).collect();
        let value = json!({
            "packets": all,
            "kernel_tier": { "in": of(Counter::XdpRx), "out": kernel_out },
            "user_tier": { "in": user_in, "out": user_out },
        });
        return Ok(output::json("counters", value));
    }
    let values: Vec<Value> =
        nonzero.iter().map(|(c, n)| json!({ "counter": c.label(), "packets": n })).collect();
    let mut text = table(&values, &["counter", "packets"]);
    let line = |what: &str, entered: u64, left: u64| {
        format!("{what}: {entered} in, {left} out, difference {}\n", entered as i128 - left as i128)
    };
    text += &line("kernel tier", of(Counter::XdpRx), kernel_out);
    text += &line("user tier", user_in, user_out);
    Ok(text)
}
