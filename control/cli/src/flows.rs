//! `weir flows`.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, bail};
use serde_json::{Value, json};
use weir_api::time;
use weir_layout::flow::{FlowState, flag};
use weir_layout::{Family, NONE, protocol};
use weir_shm::flows::{FlowTable, Stored, ago_ms};
use weir_shm::published::Published;
use weir_shm::{Error, Pins};
use weir_wire::entry::Entry;
use weir_wire::family::{V4, V6};
use weir_wire::protocol::is_portless;

use super::best::Best;
use super::criteria::protocol_name;
use super::output;
use super::state::{published, uplink_name};
use super::table::table;

/// What stands in place of an uplink's name where a flow stays inside.
pub const INSIDE: &str = "-";

/// By what flows are in order: the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// Bytes of both directions.
    Bytes,
    /// Packets of both directions; those of IPv6 are not counted, and come last.
    Packets,
    /// Time since the last packet.
    Idle,
}

/// Which flows to show.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct FlowFilter {
    /// Only on this uplink; `-`: only those that stay inside.
    #[arg(long)]
    pub uplink: Option<String>,
    /// Only from this inside address.
    #[arg(long)]
    pub source: Option<IpAddr>,
    /// Only to this address.
    #[arg(long)]
    pub destination: Option<IpAddr>,
    /// Only this protocol: tcp, udp, icmp (of both families), icmpv6, gre, esp, ah, sctp, ipip,
    /// 6in4 or a number.
    #[arg(long)]
    pub protocol: Option<String>,
    /// At most so many.
    #[arg(long, default_value_t = 100)]
    pub limit: usize,
    /// Those with most of it, and these first. Without, as the table has them.
    #[arg(long)]
    pub sort: Option<Order>,
    /// Those with least of it.
    #[arg(long, requires = "sort")]
    pub reverse: bool,
}

impl FlowFilter {
    /// Does it ask for what there can be?
    pub fn check(&self, uplinks: &[&str]) -> Result<()> {
        let is_known = |name: &&str| uplinks.contains(name) || *name == INSIDE;
        if let Some(name) = self.uplink.as_deref().filter(|name| !is_known(name)) {
            bail!("there is no uplink \"{name}\"; known: {}", uplinks.join(", "));
        }
        if let Some(name) = self.protocol.as_deref()
            && protocol::number(name).is_none()
            && name.parse::<u8>().is_err()
        {
            let names: Vec<_> = protocol::NAMES.iter().map(|(name, _)| *name).collect();
            bail!(
                "there is no protocol \"{name}\": use {} or a number up to 255",
                names.join(", ")
            );
        }
        Ok(())
    }

    /// Is the flow wanted, given the direction that began it and its uplink's name?
    pub fn wants<F: Stored>(&self, entry: &Entry<F>, uplink: &str) -> bool {
        let protocol = entry.key.proto();
        let is_named = |name: &String| {
            *name == protocol_name(protocol)
                || name.parse::<u8>() == Ok(protocol)
                || name == "icmp" && protocol == F::ICMP
        };
        let ends = Ends::of(entry);
        self.uplink.as_ref().is_none_or(|name| name == uplink)
            && self.source.is_none_or(|address| address == ends.inside.ip())
            && self.destination.is_none_or(|address| {
                address == ends.remote.ip() || ends.led_to.is_some_and(|to| address == to.ip())
            })
            && self.protocol.as_ref().is_none_or(is_named)
    }

    /// How early the flow comes, given the direction that began it and the one back; the highest
    /// first.
    pub fn rank<F: Stored>(
        &self,
        sort: Order,
        entry: &Entry<F>,
        back: Option<&Entry<F>>,
        now_ms: u32,
    ) -> u64 {
        let both = |of: fn(&Entry<F>) -> u64| of(entry).saturating_add(back.map_or(0, of));
        let most = match sort {
            Order::Bytes => both(|entry| entry.bytes),
            Order::Packets if F::FAMILY == Family::V6 => 0,
            Order::Packets => both(|entry| entry.packets.into()),
            Order::Idle => idle_ms(entry, back, now_ms).into(),
        };
        if self.reverse { !most } else { most }
    }
}

/// `weir flows`.
pub fn flows(pins: &Pins, filter: &FlowFilter, json: bool) -> Result<String> {
    let state = published(pins)?;
    filter.check(&state.uplinks())?;
    let (now_ms, best) = (time::monotonic_ms() as u32, Best::new(filter.limit));
    let mut listing = Listing { state: &state, filter, now_ms, best };
    visit(pins, &mut listing)?;
    let all = listing.best.offered();
    let values = listing.best.into_vec();
    if json {
        return Ok(output::json("flows", json!({ "shown": values, "of": all })));
    }
    let columns = [
        "protocol",
        "inside",
        "outside",
        "destination",
        "began",
        "uplink",
        "state",
        "idle_s",
        "tx_bytes",
        "rx_bytes",
    ];
    let mut text = table(&values, &columns);
    if (values.len() as u64) < all {
        text += &format!("{} of {all} flows; --limit shows more\n", values.len());
    }
    Ok(text)
}

/// Who looks at all flows, one after the other.
pub trait Visitor {
    /// A flow: the direction that began it, and what reads the one back if it is there.
    fn visit<F: Stored>(&mut self, entry: &Entry<F>, back: &dyn Fn() -> Option<Entry<F>>);
}

/// Has somebody look at the flows of both families.
pub fn visit(pins: &Pins, visitor: &mut impl Visitor) -> Result<()> {
    visit_table::<V4>(&FlowTable::read_only(pins)?, visitor);
    match FlowTable::read_only(pins) {
        Ok(table) => visit_table::<V6>(&table, visitor),
        // The dataplane makes it when it first starts.
        Err(Error::Missing { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn visit_table<F: Stored>(table: &FlowTable<F>, visitor: &mut impl Visitor) {
    let entries = (0..table.capacity()).filter_map(|index| table.slot(index).read());
    for entry in entries.filter(|entry| entry.flags & flag::INITIATED != 0) {
        visitor.visit(&entry, &|| table.slot(entry.peer).read());
    }
}

/// The flows that are wanted, as values.
struct Listing<'a> {
    state: &'a Published,
    filter: &'a FlowFilter,
    now_ms: u32,
    best: Best<Value>,
}

impl Visitor for Listing<'_> {
    fn visit<F: Stored>(&mut self, entry: &Entry<F>, back: &dyn Fn() -> Option<Entry<F>>) {
        let Self { filter, now_ms, .. } = *self;
        let uplink = uplink_name(self.state, entry.uplink);
        if !filter.wants(entry, uplink) {
            return;
        }
        let rank = |sort| filter.rank(sort, entry, back().as_ref(), now_ms);
        let rank = filter.sort.map_or(0, rank);
        self.best.offer(rank, || value(entry, back().as_ref(), uplink, now_ms));
    }
}

/// How long ago the last packet of either direction was, ms. The time wraps around.
fn idle_ms<F: Stored>(entry: &Entry<F>, back: Option<&Entry<F>>, now_ms: u32) -> u32 {
    let idle = |entry: &Entry<F>| ago_ms(now_ms, entry.last_seen);
    back.map_or(idle(entry), |back| idle(entry).min(idle(back)))
}

/// Did the flow begin outside, given the flags of the direction that began it? It is one of a
/// published service.
pub const fn began_outside(flags: u8) -> bool {
    flags & (flag::INITIATED | flag::INSIDE) == flag::INITIATED
}

/// Does the flow stay inside, given the direction that began it? It asks for a published service.
pub fn stays_inside<F: Stored>(entry: &Entry<F>) -> bool {
    entry.uplink == NONE && entry.flags & flag::INITIATED != 0
}

/// Who speaks with whom.
pub struct Ends {
    /// The LAN's host.
    pub inside: SocketAddr,
    /// What it looks like outside.
    outside: SocketAddr,
    /// Whom it speaks with.
    remote: SocketAddr,
    /// The host of a LAN that it is led to, if it stays inside.
    led_to: Option<SocketAddr>,
}

impl Ends {
    /// Of a flow, given the direction that began it.
    pub fn of<F: Stored>(entry: &Entry<F>) -> Self {
        let end = |address: F::Address, port: [u8; 2]| {
            SocketAddr::new(address.into(), u16::from_be_bytes(port))
        };
        let (key, new) = (&entry.key, &entry.rewrite);
        // Both ends of a ping have its identifier.
        let dport = if key.proto() == F::ICMP { key.sport() } else { key.dport() };
        let (from, to) = (end(key.src(), key.sport()), end(key.dst(), dport));
        let new_to = end(new.dst, new.dport);
        let led_to = stays_inside(entry).then_some(new_to);
        match began_outside(entry.flags) {
            true => Self { inside: new_to, outside: to, remote: from, led_to },
            false => Self { inside: from, outside: end(new.src, new.sport), remote: to, led_to },
        }
    }
}

/// Of a flow the direction to its uplink and the one from it, given the one that began it and the
/// one back.
pub fn out_and_in<'e, F: Stored>(
    entry: &'e Entry<F>,
    back: Option<&'e Entry<F>>,
) -> [Option<&'e Entry<F>>; 2] {
    match began_outside(entry.flags) {
        true => [back, Some(entry)],
        false => [Some(entry), back],
    }
}

/// A flow by its two directions: the one that began it, and the one back if it is there.
pub fn value<F: Stored>(
    entry: &Entry<F>,
    back: Option<&Entry<F>>,
    uplink: &str,
    now_ms: u32,
) -> Value {
    let Ends { inside, outside, remote, led_to } = Ends::of(entry);
    // One without ports has addresses alone.
    let end = |end: SocketAddr| match is_portless(entry.key.proto()) {
        true => end.ip().to_string(),
        false => end.to_string(),
    };
    // Entries of IPv6 count no packets.
    let packets = |entry: Option<&Entry<F>>| match entry {
        Some(entry) => (F::FAMILY == Family::V4).then_some(entry.packets),
        None => Some(0),
    };
    let bytes = |entry: Option<&Entry<F>>| entry.map_or(0, |entry| entry.bytes);
    let [out, come] = out_and_in(entry, back);
    json!({
        "family": F::FAMILY.name(),
        "protocol": protocol_name(entry.key.proto()),
        "inside": end(inside),
        "outside": end(outside),
        "destination": end(remote),
        "led_to": led_to.map(end),
        "began": if began_outside(entry.flags) { "outside" } else { "inside" },
        "uplink": uplink,
        "state": match entry.state_owner.state() {
            FlowState::Stateless => "-",
            FlowState::Opening => "opening",
            FlowState::Established => "established",
            FlowState::Closing => "closing",
        },
        "idle_s": idle_ms(entry, back, now_ms) / 1000,
        "tx_packets": packets(out),
        "tx_bytes": bytes(out),
        "rx_packets": packets(come),
        "rx_bytes": bytes(come),
        "offered": entry.flags & flag::OFFLOAD != 0,
    })
}

#[cfg(test)]
mod tests {
    use weir_layout::flow::StateOwner;
    use weir_wire::family::Family as _;
    use weir_wire::key::FlowKey;
    use weir_wire::rewrite::Rewrite;

    use super::*;

    /// A flow from port 40000 to port 53, last seen at 5000 ms.
    fn entry<F: Stored>(src: F::Address, dst: F::Address, proto: u8) -> Entry<F> {
        let (sport, dport) = (40_000u16.to_be_bytes(), 53u16.to_be_bytes());
        Entry {
            last_seen: 5000,
            key: FlowKey::new(src, dst, sport, dport, proto),
            flags: flag::INITIATED | flag::INSIDE,
            state_owner: StateOwner::new(FlowState::Stateless, 0),
            uplink: 0,
            rewrite: Rewrite { src, dst, sport, dport, l3_delta: 0, l4_delta: 0 },
            adjacency: 0,
            mark: 0,
            peer: 1,
            packets: 3,
            next_seq: 0,
            bytes: 300,
        }
    }

    fn entry4() -> Entry<V4> {
        entry([10, 0, 0, 9], [192, 0, 2, 53], 17)
    }

    fn entry6() -> Entry<V6> {
        let address = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
        entry(address("2001:db8:7::9"), address("2001:db8::53"), 17)
    }

    #[test]
    fn a_filter_takes_addresses_of_either_family() {
        let v4 = entry4();
        let of = |source: &str, destination: &str| FlowFilter {
            source: source.parse().ok(),
            destination: destination.parse().ok(),
            ..FlowFilter::default()
        };
        let wanted = |filter: FlowFilter| [filter.wants(&v4, "a"), filter.wants(&entry6(), "a")];
        assert_eq!(wanted(of("", "")), [true, true]);
        assert_eq!(wanted(of("10.0.0.9", "")), [true, false]);
        assert_eq!(wanted(of("", "2001:db8::53")), [false, true]);
        assert_eq!(wanted(of("2001:db8:7::9", "2001:db8::54")), [false, false]);
    }

    #[test]
    fn a_filter_takes_a_protocol_by_name_and_by_number() {
        let ping = entry::<V6>([1; 16], [2; 16], V6::ICMP);
        let wanted = |protocol: &str| {
            let filter = FlowFilter { protocol: Some(protocol.into()), ..FlowFilter::default() };
            let wants = |entry: &Entry<V6>| filter.wants(entry, "a");
            filter.check(&[]).is_ok().then(|| [wants(&entry6()), wants(&ping)])
        };
        assert_eq!(["udp", "17"].map(wanted), [Some([true, false]); 2]);
        assert_eq!(["gre", "ah", "136"].map(wanted), [Some([false, false]); 3]);
        assert_eq!(["icmp", "icmpv6", "58"].map(wanted), [Some([false, true]); 3]);
        assert_eq!(["tcp", "1"].map(wanted), [Some([false; 2]); 2]);
        assert_eq!(["udb", "256"].map(wanted), [None; 2]);
    }

    #[test]
    fn flows_are_in_order_by_both_their_directions() {
        let back = Entry { last_seen: 9000, bytes: 700, packets: 4, ..entry4() };
        let by = |sort, reverse| {
            let filter = FlowFilter { reverse, ..FlowFilter::default() };
            [Some(&back), None].map(|back| filter.rank(sort, &entry4(), back, 12_500))
        };
        assert_eq!(by(Order::Bytes, false), [1000, 300]);
        assert_eq!(by(Order::Packets, false), [7, 3]);
        assert_eq!(by(Order::Idle, false), [3500, 7500]);
        assert_eq!(by(Order::Idle, true), [!3500, !7500]);
    }

    #[test]
    fn a_flow_that_began_outside_is_told_by_its_host() {
        let (client, outside, host) = ([198, 51, 100, 9], [192, 0, 2, 2], [10, 0, 0, 5]);
        let (sport, dport) = (40_000u16.to_be_bytes(), 443u16.to_be_bytes());
        let rewrite = Rewrite {
            src: client,
            dst: host,
            sport,
            dport: 80u16.to_be_bytes(),
            l3_delta: 0,
            l4_delta: 0,
        };
        let key = FlowKey::new(client, outside, sport, dport, 6);
        let asked = Entry { key, rewrite, flags: flag::INITIATED, ..entry4() };
        let answers = Entry { bytes: 700, ..entry4() };
        let told = value(&asked, Some(&answers), "fiber", 12_500);
        assert_eq!(
            (&told["inside"], &told["outside"]),
            (&json!("10.0.0.5:80"), &json!("192.0.2.2:443"))
        );
        assert_eq!(
            (&told["destination"], &told["began"]),
            (&json!("198.51.100.9:40000"), &json!("outside"))
        );
        assert_eq!((&told["tx_bytes"], &told["rx_bytes"]), (&json!(700), &json!(300)));
        let of = |source: &str| FlowFilter { source: source.parse().ok(), ..FlowFilter::default() };
        assert!(of("10.0.0.5").wants(&asked, "a") && !of("198.51.100.9").wants(&asked, "a"));
    }

    #[test]
    fn a_flow_that_stays_inside_is_told_with_whom_it_is_led_to() {
        let [client, outside, host] = [[10, 0, 0, 9], [192, 0, 2, 2], [10, 0, 0, 5]];
        let led = Rewrite { src: [192, 0, 2, 3], dst: host, ..entry4().rewrite };
        let asks = Entry { rewrite: led, uplink: NONE, ..entry::<V4>(client, outside, 17) };
        let told = value(&asks, None, INSIDE, 12_500);
        assert_eq!((&told["uplink"], &told["led_to"]), (&json!("-"), &json!("10.0.0.5:53")));
        assert_eq!(told["destination"], "192.0.2.2:53");
        let to = |address: &str| FlowFilter {
            destination: address.parse().ok(),
            ..FlowFilter::default()
        };
        assert!(to("10.0.0.5").wants(&asks, INSIDE) && to("192.0.2.2").wants(&asks, INSIDE));
        let of_inside = FlowFilter { uplink: Some(INSIDE.into()), ..FlowFilter::default() };
        assert!(of_inside.check(&[]).is_ok() && of_inside.wants(&asks, INSIDE));
        assert!(!of_inside.wants(&entry4(), "fiber"));
        assert_eq!(value(&entry4(), None, "fiber", 12_500)["led_to"], json!(null));
    }

    #[test]
    fn a_flow_without_ports_is_told_by_its_protocols_name_and_addresses() {
        let key = FlowKey::new([10, 0, 0, 9], [192, 0, 2, 53], [0; 2], [0; 2], 50);
        let told = value(&Entry { key, ..entry4() }, None, "fiber", 12_500);
        assert_eq!((&told["protocol"], &told["inside"]), (&json!("esp"), &json!("10.0.0.9")));
        assert_eq!(told["destination"], "192.0.2.53");
    }

    #[test]
    fn both_ends_of_a_ping_are_told_with_its_identifier() {
        let ping = entry::<V6>([1; 16], [2; 16], V6::ICMP);
        let told = value(&ping, None, "fiber", 12_500);
        for end in ["inside", "outside", "destination"] {
            assert!(told[end].as_str().unwrap().ends_with("]:40000"), "{told}");
        }
    }

    #[test]
    fn a_flow_is_told_with_its_family_and_both_its_ends() {
        let back = Entry { last_seen: 9000, bytes: 700, ..entry6() };
        let told = value(&entry6(), Some(&back), "fiber", 12_500);
        assert_eq!((&told["family"], &told["uplink"]), (&json!("ipv6"), &json!("fiber")));
        assert_eq!(told["inside"], "[2001:db8:7::9]:40000");
        assert_eq!(told["destination"], "[2001:db8::53]:53");
        assert_eq!((&told["idle_s"], &told["rx_bytes"]), (&json!(3), &json!(700)));
        assert_eq!(told["tx_packets"], Value::Null, "not counted");
        let told = value(&entry4(), None, "fiber", 12_500);
        assert_eq!((&told["family"], &told["inside"]), (&json!("ipv4"), &json!("10.0.0.9:40000")));
        assert_eq!((&told["idle_s"], &told["tx_packets"]), (&json!(7), &json!(3)));
    }
}
