//! What a real host makes of router advertisements.

use std::net::Ipv6Addr;
use std::process::Command;

use anyhow::{Result, bail};
use ipnet::Ipv6Net;
use serde_json::Value;

use crate::netns::Netns;
use crate::topology::Host;

/// What a host thinks of its address of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has none.
    Absent,
    /// New connections are made from it.
    Preferred,
    /// It is valid, and for what goes on alone.
    Deprecated,
}

/// An address that a host has made.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// The address.
    pub address: Ipv6Addr,
    /// It is preferred.
    pub preferred: bool,
    /// For how many seconds it is valid.
    pub valid_s: u64,
}

/// A host's address of a prefix, once it knows that it is its alone.
///
/// # Errors
/// When the prefix is none, or the host cannot be asked.
pub fn own(host: &Host, prefix: &str) -> Result<Option<Own>> {
    let prefix: Ipv6Net = prefix.parse()?;
    let addresses =
        json(&host.netns, &["-6", "address", "show", "dev", "eth0", "scope", "global"])?;
    let addresses = addresses[0]["addr_info"].as_array().cloned().unwrap_or_default();
    let of_prefix = |it: &Value| {
        let address = it["local"].as_str()?.parse().ok()?;
        let is_own = prefix.contains(&address) && it["tentative"] != true;
        is_own.then_some(Own {
            address,
            preferred: it["deprecated"] != true,
            valid_s: it["valid_life_time"].as_u64().unwrap_or(0),
        })
    };
    Ok(addresses.iter().find_map(of_prefix))
}

/// What a host thinks of its address of a prefix.
///
/// # Errors
/// As [`own`].
pub fn standing(host: &Host, prefix: &str) -> Result<Standing> {
    Ok(match own(host, prefix)? {
        None => Standing::Absent,
        Some(own) if own.preferred => Standing::Preferred,
        Some(_) => Standing::Deprecated,
    })
}

/// Has an interface a link-local address that it knows to be its alone?
///
/// # Errors
/// When the namespace cannot be asked.
pub fn has_link_local(netns: &Netns, device: &str) -> Result<bool> {
    let addresses = json(netns, &["-6", "address", "show", "dev", device, "scope", "link"])?;
    let addresses = addresses[0]["addr_info"].as_array();
    let is_own = |it: &Value| it["scope"] == "link" && it["tentative"] != true;
    Ok(addresses.is_some_and(|it| it.iter().any(is_own)))
}

/// The default router that a host has heard of.
///
/// # Errors
/// When the host cannot be asked.
pub fn default_router(host: &Host) -> Result<Option<String>> {
    let routes = json(&host.netns, &["-6", "route", "show", "default", "proto", "ra"])?;
    Ok(routes[0]["gateway"].as_str().map(ToOwned::to_owned))
}

/// Has the host ask, and gives what rdisc6 makes of the answer, with single blanks.
///
/// # Errors
/// When nobody answers.
pub fn ask(host: &Host) -> Result<String> {
    let mut rdisc6 = Command::new("rdisc6");
    let output = host.netns.output(rdisc6.args(["--single", "--retry", "5", "eth0"]))?;
    let words: Vec<_> = std::str::from_utf8(&output.stdout)?.split_whitespace().collect();
    if words.is_empty() {
        bail!("rdisc6 has nothing to say");
    }
    Ok(words.join(" "))
}

fn json(netns: &Netns, arguments: &[&str]) -> Result<Value> {
    let output = netns.output(Command::new("ip").arg("-json").args(arguments))?;
    match output.stdout.is_empty() {
        true => Ok(Value::Null),
        false => Ok(serde_json::from_slice(&output.stdout)?),
    }
}
