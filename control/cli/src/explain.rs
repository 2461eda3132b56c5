//! `weir explain` and `weir what-if`: what becomes of a packet, and would become of flows.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use weir_api::time;
use weir_explain::{Change, Question, Replica};
use weir_shm::Pins;

use super::{Arguments, captured, health, output, reload};

/// Which packet.
#[derive(Clone, Debug, clap::Args)]
pub struct Asked {
    /// tcp, udp, icmp, gre, esp … or a number.
    #[arg(required_unless_present = "pcap")]
    pub protocol: Option<String>,
    /// Its source: ADDRESS:PORT, of IPv6 `[ADDRESS]:PORT`; without a port where the protocol has
    /// none.
    #[arg(required_unless_present = "pcap")]
    pub source: Option<String>,
    /// Its destination, likewise.
    #[arg(required_unless_present = "pcap")]
    pub destination: Option<String>,
    /// Every flow of this capture instead (pcap or pcapng, as of tcpdump -w).
    #[arg(long, value_name = "FILE", conflicts_with_all = ["protocol", "from", "mac", "dscp"])]
    pub pcap: Option<PathBuf>,
    /// Of a capture the first flows, so many at most.
    #[arg(long, default_value_t = 1000, requires = "pcap")]
    pub limit: usize,
    /// The uplink, or the interface of the LAN, by which it comes in; without, as its addresses
    /// say.
    #[arg(long)]
    pub from: Option<String>,
    /// Its sender's hardware address; without, as the flow or the kernel says.
    #[arg(long, value_parser = mac)]
    pub mac: Option<[u8; 6]>,
    /// Its differentiated services code point, 0 to 63.
    #[arg(long, default_value_t = 0)]
    pub dscp: u8,
}

/// Reads `02:00:00:00:00:01`.
fn mac(text: &str) -> Result<[u8; 6], String> {
    let byte = |text: &str| u8::from_str_radix(text, 16).ok().filter(|_| text.len() <= 2);
    let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
    bytes
        .and_then(|bytes| <[u8; 6]>::try_from(bytes).ok())
        .ok_or_else(|| "a hardware address is written as 02:00:00:00:00:01".to_owned())
}

/// `weir explain`.
pub fn explain(arguments: &Arguments, pins: &Pins, asked: &Asked) -> Result<String> {
    let Asked { protocol, source, destination, pcap, limit, from, mac, dscp } = asked;
    if let Some(file) = pcap {
        return captured::explain(pins, file, *limit, arguments.json);
    }
    let [protocol, source, destination] =
        [protocol, source, destination].map(|word| word.as_deref().unwrap_or_default());
    let question = Question::read(protocol, source, destination)?.with_dscp(*dscp)?;
    let question = Question { from: from.clone(), mac: *mac, ..question };
    let mut explanation = Replica::pinned(pins, time::monotonic_ms() as u32)?.explain(&question)?;
    if let Some(flow) = explanation.flow.as_ref().filter(|flow| !flow.new)
        && let Some(uplink) = &flow.uplink
    {
        // No entry says when its flow began or moved; this is what may have moved it.
        let known = health::last_change(arguments, uplink);
        explanation.notes.push(match known {
            Some(change) => format!("when the flow last moved is not kept; {change}"),
            None => "when the flow last moved is not kept".to_owned(),
        });
    }
    if arguments.json {
        return Ok(output::json("explain", serde_json::to_value(&explanation)?));
    }
    Ok(explanation.to_string())
}

/// `weir what-if`: a change by its words, or one word, a file that would be in force.
pub fn what_if(arguments: &Arguments, pins: &Pins, words: &[String]) -> Result<String> {
    let forecast = match words {
        [file] if Path::new(file).exists() => reload::forecast(arguments, pins, Path::new(file))?,
        words => {
            let change = Change::read(&words.join(" "))?;
            // XDP forwards what workers decided: where flows go, these say alone.
            let mut replica = Replica::of_pinned(pins, time::monotonic_ms() as u32)?;
            replica.what_if(&change).with_context(|| anyhow!("what if {change}?"))?
        }
    };
    if arguments.json {
        return Ok(output::json("what_if", serde_json::to_value(&forecast)?));
    }
    Ok(forecast.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn a_hardware_address_is_read_or_refused() {
        assert_eq!(mac("2:0:a:FF:0:1"), Ok([2, 0, 10, 255, 0, 1]));
        for wrong in ["", "2:0:a:ff:0", "2:0:a:ff:0:1:2", "2:0:a:fff:0:1", "g:0:0:0:0:0"] {
            assert!(mac(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn without_a_gateway_it_is_said_what_to_start() {
        let pins = Pins::existing("/sys/fs/bpf/weir-not-there");
        let arguments = Arguments::parse_from(["weir", "what-if", "down", "fiber"]);
        let error = what_if(&arguments, &pins, &["down".into(), "fiber".into()]).unwrap_err();
        assert!(error.to_string().contains("start weir-control"), "{error}");
    }

    #[test]
    fn a_word_that_is_no_file_is_told_what_could_be_asked() {
        let pins = Pins::existing("/sys/fs/bpf/weir-not-there");
        let arguments = Arguments::parse_from(["weir", "what-if", "/nowhere/weir.toml"]);
        let error = what_if(&arguments, &pins, &["/nowhere/weir.toml".into()]).unwrap_err();
        assert!(error.to_string().contains("or name a file that is there"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_valid_is_refused_with_all_that_is_wrong() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[gateway]\nworkers = 0\n").unwrap();
        let pins = Pins::existing("/sys/fs/bpf/weir-not-there");
        let name = file.path().to_str().unwrap().to_owned();
        let arguments = Arguments::parse_from(["weir", "what-if", &name]);
        let error = what_if(&arguments, &pins, std::slice::from_ref(&name)).unwrap_err();
        assert!(error.is::<output::Invalid>(), "{error}");
        assert!(error.to_string().contains("would be refused"), "{error}");
        assert!(error.to_string().contains("workers"), "{error}");
    }
}
