//! A record as a line: a JSON object, with its fields in this order and without blanks, so that it
//! can be searched for as text.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weir_api::time;
use weir_layout::Family;
use weir_layout::nat_log::{Event, Record};
use weir_layout::protocol;

use crate::clocks::Clocks;

/// Adds that writing to the file begins (`on`), or ends (`off`).
pub fn add_switch(name: &str, now_ms: u64, text: &mut String) {
    let at = time::of_milliseconds(now_ms);
    let _ = writeln!(text, "{{\"time\":\"{at}\",\"event\":\"{name}\"}}");
}

/// Adds a worker's record; one that makes no sense adds nothing.
pub fn add(record: &Record, worker: u8, uplinks: &[String], clocks: Clocks, text: &mut String) {
    let Some(event) = Event::from_byte(record.event) else { return };
    let at = time::of_milliseconds(clocks.real_ms(record.time_ms));
    let name = match event {
        Event::Begin => "begin",
        Event::End => "end",
        Event::Held => "held",
        Event::Listing => "listing",
        Event::Listed => "listed",
        Event::Lost => "lost",
    };
    // Nothing that is written here needs to be escaped: names of uplinks are of letters and digits.
    let _ = write!(text, "{{\"time\":\"{at}\",\"event\":\"{name}\",\"worker\":{worker}");
    match event {
        Event::Listing | Event::Listed => {
            let _ = write!(text, ",\"workers\":{}", record.workers);
        }
        Event::Lost => {
            let (count, since) = record.loss();
            let since = time::of_milliseconds(clocks.real_ms(since));
            let _ = write!(text, ",\"since\":\"{since}\",\"records\":{count}");
        }
        Event::Begin | Event::End | Event::Held => allocation(record, uplinks, text),
    }
    text.push_str("}\n");
}

fn allocation(record: &Record, uplinks: &[String], text: &mut String) {
    let end = |address: &[u8; 16], port| End {
        address: address_of(record, address),
        port: (!protocol::is_portless(record.protocol)).then_some(port),
    };
    let _ = match protocol::name(record.protocol) {
        Some(name) => write!(text, ",\"protocol\":\"{name}\""),
        None => write!(text, ",\"protocol\":\"{}\"", record.protocol),
    };
    let inside = end(&record.inside, record.inside_port);
    let outside = end(&record.outside, record.outside_port);
    let _ = write!(text, ",\"inside\":\"{inside}\",\"outside\":\"{outside}\"");
    let uplink = uplinks.get(usize::from(record.uplink));
    let _ = write!(text, ",\"uplink\":\"{}\"", uplink.map_or("", String::as_str));
    if record.remote != [0; 16] {
        let _ = write!(text, ",\"remote\":\"{}\"", end(&record.remote, record.remote_port));
    }
}

/// An address, and a port where there are any.
struct End {
    address: IpAddr,
    port: Option<u16>,
}

impl fmt::Display for End {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(to),
            None => self.address.fmt(to),
        }
    }
}

fn address_of(record: &Record, bytes: &[u8; 16]) -> IpAddr {
    match record.family() {
        Some(Family::V6) => IpAddr::V6(Ipv6Addr::from(*bytes)),
        _ => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOCKS: Clocks = Clocks { monotonic_ms: 10_000, now_ms: 1_700_000_000_123 };

    fn text(record: &Record) -> String {
        let mut text = String::new();
        add(record, 2, &["fiber".to_owned()], CLOCKS, &mut text);
        text
    }

    #[test]
    fn a_line_says_who_had_which_port_when_and_towards_whom_where_others_have_it_too() {
        let mut record = Record::new(Event::Begin, 9000);
        (record.family, record.protocol, record.uplink) = (4, 6, 0);
        record.inside[..4].copy_from_slice(&[10, 77, 0, 2]);
        record.outside[..4].copy_from_slice(&[203, 0, 113, 10]);
        (record.inside_port, record.outside_port) = (40_000, 50_000);
        let common = "{\"time\":\"2023-11-14T22:13:19.123Z\",\"event\":\"begin\",\"worker\":2,\
                      \"protocol\":\"tcp\",\"inside\":\"10.77.0.2:40000\",\
                      \"outside\":\"203.0.113.10:50000\",\"uplink\":\"fiber\"";
        assert_eq!(text(&record), format!("{common}}}\n"));
        record.remote[..4].copy_from_slice(&[198, 51, 100, 1]);
        record.remote_port = 443;
        let remote = ",\"remote\":\"198.51.100.1:443\"";
        assert_eq!(text(&record), format!("{common}{remote}}}\n"));
        record.family = 6;
        assert!(text(&record).contains("\"outside\":\"[cb00:710a::]:50000\""), "{}", text(&record));
    }

    #[test]
    fn of_a_protocol_without_ports_a_line_has_addresses_alone() {
        for (protocol, name) in [(47, "gre"), (50, "esp"), (132, "sctp"), (253, "253")] {
            let mut record =
                Record { family: 4, uplink: 0, protocol, ..Record::new(Event::Begin, 9) };
            record.inside[..4].copy_from_slice(&[10, 77, 0, 2]);
            record.outside[..4].copy_from_slice(&[203, 0, 113, 10]);
            record.remote[..4].copy_from_slice(&[198, 51, 100, 1]);
            let ends = "\"inside\":\"10.77.0.2\",\"outside\":\"203.0.113.10\",\"uplink\":\"fiber\",\
                        \"remote\":\"198.51.100.1\"}";
            let text = text(&record);
            assert!(text.contains(&format!("\"protocol\":\"{name}\",{ends}")), "{text}");
        }
    }

    #[test]
    fn a_line_says_when_the_log_was_turned_on_or_off() {
        let mut text = String::new();
        add_switch("off", CLOCKS.now_ms, &mut text);
        assert_eq!(text, "{\"time\":\"2023-11-14T22:13:20.123Z\",\"event\":\"off\"}\n");
    }

    #[test]
    fn every_line_is_json_and_what_makes_no_sense_is_none() {
        for event in 0..=255 {
            let record = Record { event, uplink: 7, protocol: 99, ..Record::new(Event::End, 1) };
            let text = text(&record);
            match Event::from_byte(event) {
                Some(_) => {
                    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
                    assert!(text.ends_with("}\n") && value["worker"] == 2, "{text}");
                }
                None => assert_eq!(text, ""),
            }
        }
    }

    #[test]
    fn a_loss_says_how_many_and_since_when() {
        let text = text(&Record::lost(5, 8000, 9000));
        assert!(text.contains("\"since\":\"2023-11-14T22:13:18.123Z\",\"records\":5"), "{text}");
    }
}
