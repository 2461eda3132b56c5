//! `[ipfix]`: where flows are told of.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use toml::Spanned;

use super::checker::Checker;
use super::schema::Ipfix;

const DEFAULT_ACTIVE_S: u64 = 60;
const DEFAULT_IDLE_S: u64 = 15;
/// Longest that either may be, seconds.
const MOST_S: u64 = 3600;

/// Where flows are told of, and how soon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IpfixConfig {
    /// Who collects them, by UDP.
    pub collector: SocketAddr,
    /// Address that messages come from; none: the kernel chooses.
    pub source: Option<IpAddr>,
    /// Interface that they leave by; none: as the kernel's routes say.
    pub interface: Option<String>,
    /// After how long a flow that goes on is told of.
    pub active: Duration,
    /// After how long without a packet one is told of.
    pub idle: Duration,
}

/// What the file says of it.
pub fn ipfix(c: &mut Checker<'_>, given: Option<&Ipfix>) -> Option<IpfixConfig> {
    let given = given?;
    given.interface.iter().for_each(|name| c.interface(name));
    let active = c.seconds("active", &given.active, MOST_S, DEFAULT_ACTIVE_S);
    let idle = c.seconds("idle", &given.idle, MOST_S, DEFAULT_IDLE_S);
    let collector = collector(c, given)?;
    if !is_near(collector.ip()) {
        c.warnings.push(format!(
            "[ipfix] sends to {collector}, an address of the Internet: nothing is encrypted, and who \
             is on the way reads who speaks with whom. Let it go by a tunnel, or have a collector on \
             this side"
        ));
    }
    Some(IpfixConfig {
        collector,
        source: source(c, given.source.as_ref(), collector),
        interface: given.interface.as_ref().map(|name| name.get_ref().clone()),
        active: Duration::from_secs(active),
        idle: Duration::from_secs(idle),
    })
}

/// Whom messages are sent to; none after an error.
fn collector(c: &mut Checker<'_>, given: &Ipfix) -> Option<SocketAddr> {
    let text = given.collector.get_ref();
    let why = match text.parse::<SocketAddr>() {
        Err(_) => "it is no address with a port",
        Ok(address) if address.port() == 0 => "port 0 is nobody's",
        Ok(address) if is_nobodys(address.ip()) => "no single host has this address",
        Ok(address) if is_of_a_link(address.ip()) && given.interface.is_none() => {
            c.refuse(
                given.collector.span(),
                format!("collector \"{text}\": an address of one link, and none is named"),
                "name the link's interface, as interface = \"eth0\"",
            );
            return None;
        }
        Ok(address) => return Some(address),
    };
    let remedy = "write it as \"10.0.0.9:4739\" or \"[fd00::9]:4739\"";
    c.refuse(given.collector.span(), format!("collector \"{text}\": {why}"), remedy);
    None
}

/// The address that messages come from; none: none is given, or after an error.
fn source(
    c: &mut Checker<'_>,
    given: Option<&Spanned<String>>,
    collector: SocketAddr,
) -> Option<IpAddr> {
    let given = given?;
    let text = given.get_ref();
    let why = match text.parse::<IpAddr>() {
        Err(_) => "it is no address",
        Ok(address) if address.is_ipv4() != collector.is_ipv4() => {
            "the collector's address is of the other family"
        }
        Ok(address) if is_nobodys(address) => "no single host has this address",
        Ok(address) => return Some(address),
    };
    let remedy = "write an address of this gateway, of the collector's family, or leave it out";
    c.refuse(given.span(), format!("source \"{text}\": {why}"), remedy);
    None
}

/// No address of one host, in its own family.
fn is_nobodys(address: IpAddr) -> bool {
    let is_odd = match address {
        IpAddr::V4(address) => address.is_broadcast(),
        IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
    };
    is_odd || address.is_unspecified() || address.is_multicast()
}

/// Is it an address that each link may have?
fn is_of_a_link(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

/// Is it an address of this side?
fn is_near(address: IpAddr) -> bool {
    address.is_loopback()
        || is_of_a_link(address)
        || match address {
            IpAddr::V4(address) => address.is_private() || address.is_link_local(),
            IpAddr::V6(address) => address.is_unique_local(),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(table: &str) -> Result<(Option<IpfixConfig>, Vec<String>), Vec<String>> {
        let text = format!(
            "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n{table}"
        );
        let told = |problem: &crate::Problem| problem.to_string();
        let site = crate::parse("weir.toml", &text)
            .map_err(|problems| problems.iter().map(told).collect::<Vec<_>>())?;
        let about = |warning: &String| warning.contains("[ipfix]");
        Ok((site.ipfix, site.warnings.into_iter().filter(about).collect()))
    }

    #[test]
    fn flows_are_told_of_where_the_file_says_and_else_nowhere() {
        assert_eq!(told("").unwrap().0, None);
        let (given, warnings) = told("[ipfix]\ncollector = \"10.0.0.9:4739\"").unwrap();
        let expected = IpfixConfig {
            collector: "10.0.0.9:4739".parse().unwrap(),
            source: None,
            interface: None,
            active: Duration::from_secs(60),
            idle: Duration::from_secs(15),
        };
        assert_eq!((given, warnings), (Some(expected), vec![]));
        let all = "[ipfix]\ncollector = \"[fe80::9]:4739\"\nsource = \"fe80::1\"\n\
                   interface = \"mgmt0\"\nactive = \"2m\"\nidle = \"1s\"";
        let given = told(all).unwrap().0.unwrap();
        assert_eq!(given.source, Some("fe80::1".parse().unwrap()));
        assert_eq!(given.interface.as_deref(), Some("mgmt0"));
        assert_eq!([given.active, given.idle].map(|time| time.as_secs()), [120, 1]);
    }

    #[test]
    fn a_collector_in_the_internet_is_warned_of() {
        for (collector, count) in [
            ("192.168.1.9:4739", 0),
            ("127.0.0.1:4739", 0),
            ("[fd00::9]:4739", 0),
            ("198.51.100.9:4739", 1),
            ("[2001:db8::9]:4739", 1),
        ] {
            let (_, warnings) = told(&format!("[ipfix]\ncollector = \"{collector}\"")).unwrap();
            assert_eq!(warnings.len(), count, "{collector}: {warnings:?}");
        }
    }

    #[test]
    fn what_nothing_can_be_sent_to_or_from_is_refused_with_what_to_write() {
        let good = "collector = \"10.0.0.9:4739\"";
        for (wrong, words, remedy) in [
            ("collector = \"10.0.0.9\"", "no address with a port", "10.0.0.9:4739"),
            ("collector = \"flows.example:4739\"", "no address with a port", "10.0.0.9:4739"),
            ("collector = \"10.0.0.9:0\"", "port 0", "10.0.0.9:4739"),
            ("collector = \"0.0.0.0:4739\"", "no single host", "10.0.0.9:4739"),
            ("collector = \"239.0.0.1:4739\"", "no single host", "10.0.0.9:4739"),
            ("collector = \"255.255.255.255:4739\"", "no single host", "10.0.0.9:4739"),
            ("collector = \"[::ffff:10.0.0.9]:4739\"", "no single host", "10.0.0.9:4739"),
            ("collector = \"[fe80::9]:4739\"", "of one link", "interface = \"eth0\""),
            ("collector = 4739", "invalid type", ""),
            ("", "missing field `collector`", ""),
            (&format!("{good}\nsource = \"eth0\""), "no address", "of this gateway"),
            (&format!("{good}\nsource = \"fd00::1\""), "other family", "of this gateway"),
            (&format!("{good}\nsource = \"0.0.0.0\""), "no single host", "of this gateway"),
            (&format!("{good}\ninterface = \"a/b\""), "no name of an interface", "`ip link`"),
            (&format!("{good}\nactive = \"0s\""), "no duration", "\"45s\""),
            (&format!("{good}\nactive = 60"), "invalid type", ""),
            (&format!("{good}\nidle = \"2h\""), "too long", "at most 3600 s"),
            (&format!("{good}\nport = 1"), "unknown field `port`", "collector"),
        ] {
            let told = told(&format!("[ipfix]\n{wrong}")).unwrap_err();
            assert!(told.len() == 1 && told[0].contains(words), "{wrong}: {told:?}");
            assert!(told[0].contains(remedy), "{wrong}: {told:?}");
        }
    }
}
