//! `[metrics]`: where metrics can be had.

use std::net::{IpAddr, SocketAddr};

use toml::Spanned;

use super::checker::Checker;
use super::schema::{Metrics, Texts};

/// Addresses that metrics are served at.
const MOST: usize = 8;

/// What the file says of it: no address where metrics are not served.
pub fn listen(c: &mut Checker<'_>, given: Option<&Metrics>) -> Vec<SocketAddr> {
    let Some(given) = given.map(|metrics| &metrics.listen) else { return Vec::new() };
    let mut addresses = Vec::new();
    for text in given.get_ref().iter() {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => {
                refuse(c, given, text, "port 0 is nobody's");
            }
            Ok(address) if address.ip().is_multicast() => {
                refuse(c, given, text, "an address of a group is nobody's to listen at");
            }
            Ok(address) if is_nobodys(address.ip()) => {
                refuse(c, given, text, "nothing can listen there");
            }
            Ok(address) if addresses.iter().any(|other| covers(other, &address)) => {
                refuse(c, given, text, "another one is the same, or all addresses");
            }
            Ok(address) => addresses.push(address),
            Err(_) => refuse(c, given, text, "it is no address with a port"),
        }
    }
    if given.get_ref().iter().next().is_none() {
        let remedy = "name one, or remove [metrics] to serve none";
        c.refuse(given.span(), "metrics are to be served at no address", remedy);
    }
    c.too_many("addresses that metrics are served at", addresses.len(), MOST);
    let open = addresses.iter().filter(|address| !address.ip().is_loopback());
    c.warnings.extend(open.map(|address| {
        format!(
            "[metrics] listens on {address}: whoever reaches it reads names, traffic and state of \
             all uplinks. Nobody is asked who he is, and nothing is encrypted: have a firewall let in \
             the collector alone, or listen on 127.0.0.1"
        )
    }));
    addresses
}

/// Addresses that no socket of their family can have.
fn is_nobodys(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_broadcast(),
        IpAddr::V6(address) => address.to_ipv4_mapped().is_some(),
    }
}

/// Is it one socket's, where another has the other?
fn covers(one: &SocketAddr, other: &SocketAddr) -> bool {
    let is_any = one.ip().is_unspecified() || other.ip().is_unspecified();
    let is_same = one.is_ipv4() == other.is_ipv4() && one.port() == other.port();
    is_same && (is_any || one.ip() == other.ip())
}

fn refuse(c: &mut Checker<'_>, given: &Spanned<Texts>, text: &str, why: &str) {
    let remedy = "write it as \"127.0.0.1:9745\" or \"[::1]:9745\"";
    c.refuse(given.span(), format!("listen \"{text}\": {why}"), remedy);
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    fn told(table: &str) -> Result<(Vec<SocketAddr>, Vec<String>), Vec<String>> {
        let text = format!(
            "[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n{table}"
        );
        let told = |problem: &crate::Problem| problem.to_string();
        let site = crate::parse("weir.toml", &text)
            .map_err(|problems| problems.iter().map(told).collect::<Vec<_>>())?;
        let about = |warning: &String| warning.contains("[metrics]");
        Ok((site.metrics, site.warnings.into_iter().filter(about).collect()))
    }

    #[test]
    fn metrics_are_served_where_the_file_says_and_else_nowhere() {
        assert_eq!(told("").unwrap().0, []);
        let (one, warnings) = told("[metrics]\nlisten = \"127.0.0.1:9745\"").unwrap();
        assert_eq!((one, warnings.len()), (vec!["127.0.0.1:9745".parse().unwrap()], 0));
        let (two, warnings) =
            told("[metrics]\nlisten = [\"[::1]:9745\", \"192.168.1.1:9745\"]").unwrap();
        assert_eq!(two.len(), 2);
        assert!(
            warnings.len() == 1 && warnings[0].contains("192.168.1.1:9745"),
            "one of both can be reached from elsewhere: {warnings:?}"
        );
    }

    #[test]
    fn what_nothing_can_listen_on_is_refused() {
        for (wrong, words) in [
            ("listen = \"9745\"", "no address with a port"),
            ("listen = \"localhost:9745\"", "no address with a port"),
            ("listen = \"127.0.0.1:0\"", "port 0"),
            ("listen = \"224.0.0.1:9745\"", "of a group"),
            ("listen = \"255.255.255.255:9745\"", "nothing can listen there"),
            ("listen = \"[::ffff:127.0.0.1]:9745\"", "nothing can listen there"),
            ("listen = [\"[::1]:9745\", \"[::1]:9745\"]", "the same, or all addresses"),
            ("listen = [\"127.0.0.1:9745\", \"0.0.0.0:9745\"]", "the same, or all addresses"),
            ("listen = []", "at no address"),
            ("listen = 9745", "a text, or a list of texts"),
            ("", "missing field `listen`"),
            ("listen = \"127.0.0.1:9745\"\npath = \"/\"", "unknown field `path`"),
        ] {
            let told = told(&format!("[metrics]\n{wrong}")).unwrap_err();
            assert!(told.len() == 1 && told[0].contains(words), "{wrong}: {told:?}");
        }
        let nine: Vec<_> = (1..10).map(|n| format!("\"127.0.0.{n}:9745\"")).collect();
        let told = told(&format!("[metrics]\nlisten = [{}]", nine.join(", "))).unwrap_err();
        assert!(told[0].contains("9 addresses that metrics are served at"), "{told:?}");
    }
}
