//! What a LAN is told, in the words of radvd.conf(5).

use std::fmt::Display;

use weir_api::{AdvertisedPrefix, AdvertisedView};
use weir_ra::PREFERRED_LIMIT_S;

use super::advertised;

/// The LAN's `interface`. How often it is told, and what it is told when radvd ends, are left to
/// radvd.
pub fn stanza(view: &AdvertisedView) -> String {
    let switch = |on: bool| if on { "on" } else { "off" };
    let mut lines = vec![
        "\tAdvSendAdvert on;\n".into(),
        format!("\tAdvCurHopLimit {};\n", view.hop_limit),
        format!("\tAdvManagedFlag {};\n", switch(view.managed)),
        format!("\tAdvOtherConfigFlag {};\n", switch(view.other)),
        format!("\tAdvDefaultLifetime {};\n", view.router_lifetime_s),
    ];
    let preference = advertised::preference(view.preference);
    lines.extend(preference.map(|word| format!("\tAdvDefaultPreference {word};\n")));
    lines.extend(view.mtu.map(|mtu| format!("\tAdvLinkMTU {mtu};\n")));
    lines.extend(view.prefixes.iter().map(prefix));
    let lasting = |word: &str, what: &dyn Display, key: &str, lifetime_s: u32| {
        format!("\t{word} {what} {{\n\t\t{key} {lifetime_s};\n\t}};\n")
    };
    let routes = view.routes.iter();
    lines.extend(routes.map(|it| lasting("route", &it.prefix, "AdvRouteLifetime", it.lifetime_s)));
    let dns = view.dns.iter();
    lines.extend(dns.map(|it| lasting("RDNSS", &it.server, "AdvRDNSSLifetime", it.lifetime_s)));
    let search = view.search.iter();
    lines.extend(search.map(|it| lasting("DNSSL", &it.domain, "AdvDNSSLLifetime", it.lifetime_s)));
    format!("interface {} {{\n{}}};\n", view.lan, lines.concat())
}

/// On the link and to make addresses of, unless it says otherwise. radvd counts lifetimes down if it is told to,
/// and ends a prefix that is not preferred then: so only where that one counts.
fn prefix(it: &AdvertisedPrefix) -> String {
    let AdvertisedPrefix { prefix, on_link, autonomous, valid_s, preferred_s } = it;
    let counts = (1..PREFERRED_LIMIT_S).contains(preferred_s);
    let said = [
        (counts, "DecrementLifetimes on"),
        (!on_link, "AdvOnLink off"),
        (!autonomous, "AdvAutonomous off"),
    ];
    let said = said.iter().filter(|(is, _)| *is).map(|(_, words)| format!("\t\t{words};\n"));
    format!(
        "\tprefix {prefix} {{\n\t\tAdvValidLifetime {valid_s};\n\t\tAdvPreferredLifetime \
         {preferred_s};\n{}\t}};\n",
        said.collect::<String>()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_a_lan_is_told_is_in_the_words_of_radvd() {
        let wanted = "\
interface lan0.10 {
	AdvSendAdvert on;
	AdvCurHopLimit 64;
	AdvManagedFlag off;
	AdvOtherConfigFlag on;
	AdvDefaultLifetime 2700;
	AdvDefaultPreference high;
	AdvLinkMTU 1480;
	prefix 2001:2:0:a01::/64 {
		AdvValidLifetime 5400;
		AdvPreferredLifetime 0;
	};
	prefix 2001:2:0:b01::/64 {
		AdvValidLifetime 3000;
		AdvPreferredLifetime 1200;
		DecrementLifetimes on;
	};
	prefix 2001:2:0:c01::/64 {
		AdvValidLifetime 0;
		AdvPreferredLifetime 0;
	};
	route 2001:2:0:300::/56 {
		AdvRouteLifetime 5400;
	};
	route 2001:2:0:400::/56 {
		AdvRouteLifetime 0;
	};
	RDNSS 2001:2::53 {
		AdvRDNSSLifetime 5400;
	};
	RDNSS 2001:2::54 {
		AdvRDNSSLifetime 0;
	};
	DNSSL example.net {
		AdvDNSSLLifetime 5400;
	};
	DNSSL lan {
		AdvDNSSLLifetime 0;
	};
};
";
        assert_eq!(stanza(&crate::ra::example()), wanted);
    }

    #[test]
    fn addresses_that_hosts_are_to_make_no_more_are_ended_beside_the_prefix() {
        let wanted = "\
	prefix 2001:2:0:a01::/64 {
		AdvValidLifetime 5400;
		AdvPreferredLifetime 2700;
		AdvAutonomous off;
	};
	prefix 2001:2:0:a01::/64 {
		AdvValidLifetime 0;
		AdvPreferredLifetime 0;
		AdvOnLink off;
	};
";
        let text = stanza(&crate::ra::leased());
        assert!(text.contains(wanted), "{text}");
    }
}
