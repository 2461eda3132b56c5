//! `weir prefix`: the prefixes that providers delegate.

use anyhow::{Result, bail};
use clap::Subcommand;
use ipnet::Ipv6Net;
use serde_json::{Value, json};
use weir_api::{DelegatedPrefix, DelegatedView, Query, Request, Response, time};

use super::table::table;
use super::{Arguments, output};

/// What becomes of the prefixes of an uplink.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Change {
    /// The provider delegates a prefix, or has renewed it.
    #[command(override_usage = "weir prefix <UPLINK> set [OPTIONS] <PREFIX>")]
    Set {
        /// The prefix.
        prefix: Ipv6Net,
        /// How long it is routed here: seconds, or as `90m`; `infinity`: without end; 0: no more.
        #[arg(long, default_value = "infinity", value_parser = lifetime)]
        valid: Lifetime,
        /// How long new connections should be made from it [default: as long as it is valid].
        #[arg(long, value_parser = lifetime)]
        preferred: Option<Lifetime>,
    },
    /// The provider does not delegate a prefix any more.
    #[command(override_usage = "weir prefix <UPLINK> del [OPTIONS] <PREFIX>")]
    Del {
        /// The prefix.
        prefix: Ipv6Net,
    },
    /// The provider delegates none but these.
    #[command(override_usage = "weir prefix <UPLINK> keep [OPTIONS] [PREFIXES]...")]
    Keep {
        /// The prefixes.
        prefixes: Vec<Ipv6Net>,
    },
}

/// In seconds; none: without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime(Option<u32>);

/// As DHCPv6 has it, where all ones are without end (RFC 8415 §7.7), or as people write it.
fn lifetime(text: &str) -> Result<Lifetime, String> {
    let seconds = match text {
        "infinity" => return Ok(Lifetime(None)),
        text => text.parse().or_else(|_| weir_site::duration::seconds(text))?,
    };
    let lifetime = u32::try_from(seconds).map_err(|_| format!("{seconds} s is too long"))?;
    Ok(Lifetime((lifetime != u32::MAX).then_some(lifetime)))
}

impl Change {
    /// What the control process is asked.
    pub fn request(&self, uplink: String) -> Request {
        match self {
            Self::Set { prefix, valid, preferred } => Request::SetPrefix {
                uplink,
                prefix: *prefix,
                valid_s: valid.0,
                preferred_s: preferred.unwrap_or(*valid).0,
            },
            Self::Del { prefix } => Request::EndPrefix { uplink, prefix: *prefix },
            Self::Keep { prefixes } => Request::KeepPrefixes { uplink, prefixes: prefixes.clone() },
        }
    }
}

/// What is delegated to an uplink, by its name or its interface's, or to all.
///
/// # Errors
/// When the control process does not answer, or there is no such uplink.
pub fn show(arguments: &Arguments, uplink: Option<&str>) -> Result<String> {
    let mut uplinks = match weir_api::ask(&arguments.socket, &Query::Delegated)? {
        Response::Delegated { uplinks } => uplinks,
        _ => bail!("{}", weir_api::ANOTHER_VERSION),
    };
    if let Some(name) = uplink {
        uplinks = of(uplinks, name);
        if uplinks.is_empty() {
            bail!("the file leaves no prefixes of an uplink {name} to its provider");
        }
    }
    Ok(match arguments.json {
        true => output::json("prefix", serde_json::to_value(uplinks)?),
        false => lines(&uplinks),
    })
}

/// The uplink of this name, else the one by this interface: hooks know no other.
fn of(mut uplinks: Vec<DelegatedView>, name: &str) -> Vec<DelegatedView> {
    let is_named = uplinks.iter().any(|view| view.uplink == name);
    uplinks.retain(|view| name == if is_named { &view.uplink } else { &view.interface });
    uplinks
}

fn lines(uplinks: &[DelegatedView]) -> String {
    let lines: Vec<Value> = uplinks.iter().flat_map(of_uplink).collect();
    table(&lines, &["uplink", "prefix", "valid", "preferred", "used"])
}

fn of_uplink(view: &DelegatedView) -> Vec<Value> {
    let lifetime = |seconds: Option<u64>| seconds.map_or("infinity".into(), time::duration);
    let line = |it: Option<&DelegatedPrefix>| {
        json!({
            "uplink": view.uplink,
            "prefix": it.map_or("none yet".into(), |it| it.prefix.to_string()),
            "valid": it.map(|it| lifetime(it.valid_s)),
            "preferred": it.map(|it| lifetime(it.preferred_s)),
            "used": it.map(|it| it.used),
        })
    };
    match view.prefixes.is_empty() {
        true => vec![line(None)],
        false => view.prefixes.iter().map(|it| line(Some(it))).collect(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::Command;

    fn request(line: &str) -> Option<Request> {
        let arguments = Arguments::try_parse_from(line.split_whitespace()).unwrap();
        let Command::Prefix { uplink, change } = arguments.command else { panic!("{line}") };
        change.map(|change| change.request(uplink.unwrap()))
    }

    #[test]
    fn a_prefix_is_told_with_lifetimes_as_a_client_of_dhcp_has_them_or_a_person() {
        let set = |rest: &str| request(&format!("weir prefix wan0 set 2001:2:0:a00::/56 {rest}"));
        for (rest, lifetimes) in [
            ("", (None, None)),
            ("--valid 7200", (Some(7200), Some(7200))),
            ("--valid 90m --preferred 0", (Some(5400), Some(0))),
            ("--valid 4294967295 --preferred 60", (None, Some(60))),
        ] {
            let Some(Request::SetPrefix { valid_s, preferred_s, .. }) = set(rest) else {
                panic!("{rest}")
            };
            assert_eq!((valid_s, preferred_s), lifetimes, "{rest}");
        }
        for wrong in ["--valid soon", "--valid -1", "--valid 4294967296"] {
            let line = format!("weir prefix wan0 set 2001:2:0:a00::/56 {wrong}");
            assert!(Arguments::try_parse_from(line.split_whitespace()).is_err(), "{wrong}");
        }
        assert!(Arguments::try_parse_from("weir prefix a del 2001:2::1.2/56".split(' ')).is_err());
    }

    #[test]
    fn help_says_that_the_uplink_comes_first() {
        for change in ["set", "del", "keep"] {
            let line = ["weir", "prefix", "fiber", change, "--help"];
            let help = Arguments::try_parse_from(line).unwrap_err().to_string();
            assert!(help.contains(&format!("Usage: weir prefix <UPLINK> {change} [")), "{help}");
        }
    }

    #[test]
    fn prefixes_are_shown_of_all_or_one_and_may_all_end() {
        assert_eq!((request("weir prefix"), request("weir prefix fiber")), (None, None));
        let keep = Request::KeepPrefixes { uplink: "fiber".into(), prefixes: Vec::new() };
        assert_eq!(request("weir prefix fiber keep"), Some(keep));
        let text = lines(&[view("fiber", "wan0")]);
        assert!(text.contains("none yet"), "{text}");
    }

    fn view(uplink: &str, interface: &str) -> DelegatedView {
        let (uplink, interface) = (uplink.into(), interface.into());
        DelegatedView { uplink, interface, prefixes: Vec::new() }
    }

    #[test]
    fn an_uplink_is_found_by_its_interface_where_none_has_that_name() {
        let all = vec![view("fiber", "wan0"), view("wan0", "wan1")];
        for (name, found) in [("fiber", &all[..1]), ("wan1", &all[1..]), ("wan0", &all[1..])] {
            assert_eq!(of(all.clone(), name), found, "{name}");
        }
        assert!(of(all, "wan2").is_empty());
    }
}
