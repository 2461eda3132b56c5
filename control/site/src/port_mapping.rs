//! `[port_mapping]`: how much hosts of LANs may have that ask for ports.

use weir_layout::control::MAX_MAPPED;

use super::checker::Checker;
use super::schema::File;

/// How much hosts may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// Ports outside that they may have, first and last.
    pub ports: (u16, u16),
    /// The longest lifetime, seconds.
    pub max_lifetime: u32,
    /// Ports of a host.
    pub per_host: u16,
    /// Hosts may ask by UPnP too.
    pub upnp: bool,
}

/// The longest lifetime unless told otherwise, and the longest that may be told, seconds (RFC 6887
/// §15: a day).
const LIFETIME_S: u64 = 86_400;
/// The port that consoles and their games ask for.
const CONSOLES: u16 = 3074;
/// Ports of a host unless told otherwise.
const PER_HOST: i64 = 32;

/// What the file says; `nat_ports` are what flows get, and no socket of the gateway.
pub fn limits(c: &mut Checker<'_>, file: &File, nat_ports: (u16, u16)) -> PortMapping {
    let default = PortMapping {
        ports: nat_ports,
        max_lifetime: LIFETIME_S as u32,
        per_host: PER_HOST as u16,
        upnp: false,
    };
    let Some(given) = &file.port_mapping else { return default };
    let ports = given.ports.as_ref().and_then(|text| {
        let range = c.range(text)?;
        if range.0 == 0 {
            c.refuse(text.span(), "port 0 is nobody's", "use 1 to 65535");
            return None;
        }
        Some(range)
    });
    let max_lifetime = c.seconds("max_lifetime", &given.max_lifetime, LIFETIME_S, LIFETIME_S);
    let most = MAX_MAPPED as i64 + 1;
    let per_host = c.number("per_host", &given.per_host, 1..most, PER_HOST);
    if !file.lan.iter().any(|lan| lan.get_ref().port_mapping) {
        c.warnings.push("[port_mapping] is for no LAN: none has port_mapping = true".into());
    }
    let ports = ports.unwrap_or(default.ports);
    if given.upnp && ports.0 > CONSOLES {
        c.warnings.push(format!(
            "[port_mapping] hosts may have ports from {} on: game consoles ask for {CONSOLES} by UPnP, and \
             get another or none (ports = \"1024-65535\" lets them have it)",
            ports.0
        ));
    }
    PortMapping {
        ports,
        max_lifetime: max_lifetime as u32,
        per_host: per_host as u16,
        upnp: given.upnp,
    }
}

#[cfg(test)]
mod tests {
    use super::PortMapping;

    fn told(lan: &str, table: &str) -> Result<(PortMapping, Vec<String>), Vec<String>> {
        let text = format!(
            "[gateway]\nnat_ports = \"20000-60000\"\n{table}\n[[lan]]\ninterface = \"lan0\"\n{lan}\n\
             [[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n"
        );
        let told = |problem: &crate::Problem| problem.to_string();
        let site = crate::parse("weir.toml", &text)
            .map_err(|problems| problems.iter().map(told).collect::<Vec<_>>())?;
        Ok((site.port_mapping, site.warnings))
    }

    const ON: &str = "port_mapping = true";

    #[test]
    fn hosts_may_have_ports_that_flows_get_unless_the_file_says_others() {
        let (limits, _) = told(ON, "").unwrap();
        assert_eq!(limits.ports, (20_000, 60_000));
        assert_eq!((limits.max_lifetime, limits.per_host, limits.upnp), (86_400, 32, false));
        let keys = "[port_mapping]\nports = \"1024-30000\"\nmax_lifetime = \"1h\"\nper_host = 4\nupnp = true";
        let (limits, warnings) = told(ON, keys).unwrap();
        let wanted =
            PortMapping { ports: (1024, 30_000), max_lifetime: 3600, per_host: 4, upnp: true };
        assert_eq!(limits, wanted);
        assert!(!warnings.iter().any(|warning| warning.contains("port_mapping")), "{warnings:?}");
    }

    #[test]
    fn bounds_for_nobody_are_warned_of() {
        let (_, warnings) = told("", "[port_mapping]\nper_host = 4").unwrap();
        assert!(warnings.iter().any(|warning| warning.contains("for no LAN")), "{warnings:?}");
    }

    #[test]
    fn ports_that_leave_out_what_consoles_ask_for_are_warned_of() {
        let is_warned = |keys: &str| {
            let (_, warnings) = told(ON, &format!("[port_mapping]\n{keys}")).unwrap();
            warnings.iter().any(|warning| warning.contains("3074"))
        };
        assert!(is_warned("upnp = true") && is_warned("upnp = true\nports = \"3075-4000\""));
        assert!(!is_warned("upnp = true\nports = \"1024-65535\"") && !is_warned(""));
    }

    #[test]
    fn all_that_is_wrong_is_told() {
        for (wrong, words) in [
            ("ports = \"0-100\"", "port 0 is nobody's"),
            ("ports = \"9-1\"", "no range of ports"),
            ("max_lifetime = \"2d\"", "max_lifetime"),
            ("max_lifetime = \"0s\"", "is no duration"),
            ("per_host = 0", "per_host 0 is out of range"),
            ("per_host = 129", "use 1 to 128"),
            ("upnp = 1", "expected a boolean"),
            ("per_hosts = 1", "unknown field `per_hosts`"),
        ] {
            let told = told(ON, &format!("[port_mapping]\n{wrong}")).unwrap_err();
            assert!(told.len() == 1 && told[0].contains(words), "{wrong}: {told:?}");
        }
    }
}
