//! What a LAN is told, in the words of BIRD 2.

use weir_api::AdvertisedView;

use super::advertised;

/// The LAN's protocol `radv`. Of the prefixes that it names BIRD tells while the interface has an
/// address of them: one that is no more is told with no flags, which hosts pass over. Of each it says
/// one thing, so that it does not end addresses that hosts are to make no more. Those that the gateway
/// leads to are routes of a table of their own: BIRD has no other words for them.
pub fn stanza(view: &AdvertisedView) -> String {
    let switch = |on: bool| if on { "yes" } else { "no" };
    let name = |what: &str| name(&view.lan, what);
    let mut routes = String::new();
    let mut channel = String::new();
    if !view.routes.is_empty() {
        let table = name("routes");
        let route = |it: &weir_api::AdvertisedRoute| {
            let weir_api::AdvertisedRoute { prefix, lifetime_s } = it;
            format!("\troute {prefix} unreachable {{ ra_lifetime = {lifetime_s}; }};\n")
        };
        let all: String = view.routes.iter().map(route).collect();
        routes = format!(
            "ipv6 table {table};\nprotocol static {} {{\n\tipv6 {{ table {table}; }};\n{all}}}\n",
            name("static")
        );
        channel = format!("\tipv6 {{ table {table}; export all; }};\n\tpropagate routes yes;\n");
    }
    let mut lines = vec![
        format!("\t\tcurrent hop limit {};\n", view.hop_limit),
        format!("\t\tmanaged {};\n", switch(view.managed)),
        format!("\t\tother config {};\n", switch(view.other)),
        format!("\t\tdefault lifetime {};\n", view.router_lifetime_s),
    ];
    let preference = advertised::preference(view.preference);
    lines.extend(preference.map(|word| format!("\t\tdefault preference {word};\n")));
    lines.extend(view.mtu.map(|mtu| format!("\t\tlink mtu {mtu};\n")));
    lines.extend(view.prefixes.iter().filter(|it| it.on_link).map(|it| {
        let autonomous = if it.autonomous { "" } else { "\t\t\tautonomous no;\n" };
        format!(
            "\t\tprefix {} {{\n\t\t\tvalid lifetime {};\n\t\t\tpreferred lifetime {};\n\
             {autonomous}\t\t}};\n",
            it.prefix, it.valid_s, it.preferred_s
        )
    }));
    let lasting = |word: &str, what: String, lifetime_s: u32| {
        format!("\t\t{word} {{\n\t\t\t{what};\n\t\t\tlifetime {lifetime_s};\n\t\t}};\n")
    };
    let dns = view.dns.iter();
    lines.extend(dns.map(|it| lasting("rdnss", format!("ns {}", it.server), it.lifetime_s)));
    let search = view.search.iter();
    lines.extend(
        search.map(|it| lasting("dnssl", format!("domain \"{}\"", it.domain), it.lifetime_s)),
    );
    format!(
        "{routes}protocol radv {} {{\n{channel}\tinterface \"{}\" {{\n{}\t}};\n}}\n",
        name("ra"),
        view.lan,
        lines.concat()
    )
}

/// A quoted name. What BIRD takes in none becomes `:` and its number, as no interface's name has
/// a `:`.
fn name(lan: &str, what: &str) -> String {
    let part = |c: char| match c {
        'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' => c.to_string(),
        other => format!(":{:x}", u32::from(other)),
    };
    format!("'weir_{what}_{}'", lan.chars().map(part).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_a_lan_is_told_is_in_the_words_of_bird() {
        let wanted = "\
ipv6 table 'weir_routes_lan0.10';
protocol static 'weir_static_lan0.10' {
	ipv6 { table 'weir_routes_lan0.10'; };
	route 2001:2:0:300::/56 unreachable { ra_lifetime = 5400; };
	route 2001:2:0:400::/56 unreachable { ra_lifetime = 0; };
}
protocol radv 'weir_ra_lan0.10' {
	ipv6 { table 'weir_routes_lan0.10'; export all; };
	propagate routes yes;
	interface \"lan0.10\" {
		current hop limit 64;
		managed no;
		other config yes;
		default lifetime 2700;
		default preference high;
		link mtu 1480;
		prefix 2001:2:0:a01::/64 {
			valid lifetime 5400;
			preferred lifetime 0;
		};
		prefix 2001:2:0:b01::/64 {
			valid lifetime 3000;
			preferred lifetime 1200;
		};
		prefix 2001:2:0:c01::/64 {
			valid lifetime 0;
			preferred lifetime 0;
		};
		rdnss {
			ns 2001:2::53;
			lifetime 5400;
		};
		rdnss {
			ns 2001:2::54;
			lifetime 0;
		};
		dnssl {
			domain \"example.net\";
			lifetime 5400;
		};
		dnssl {
			domain \"lan\";
			lifetime 0;
		};
	};
}
";
        assert_eq!(stanza(&crate::ra::example()), wanted);
    }

    #[test]
    fn of_a_prefix_that_hosts_make_no_addresses_of_one_thing_is_said() {
        let text = stanza(&crate::ra::leased());
        assert_eq!(text.matches("prefix 2001:2:0:a01::/64").count(), 1, "{text}");
        assert!(text.contains("preferred lifetime 2700;\n\t\t\tautonomous no;\n"), "{text}");
    }

    #[test]
    fn a_lan_that_leads_to_no_other_has_no_table_and_any_name_is_one_to_bird() {
        let view = AdvertisedView { lan: "a+b".into(), routes: Vec::new(), ..crate::ra::example() };
        let text = stanza(&view);
        assert!(
            text.starts_with("protocol radv 'weir_ra_a:2bb' {\n\tinterface \"a+b\" {"),
            "{text}"
        );
    }
}
