//! What the table says.

use ipnet::IpNet;
use weir_layout::Family;
use weir_layout::control::OnDataplaneLoss;
use weir_site::{Site, UplinkConfig};
use weir_view::local_ports;
use weir_view::own::{ANSWER_MARK, GUARD_COMMENT, MARK, MARKS, answer_mark, home_mark, mark};

use super::foreign;
use super::seen::{Seen, of_family as nets_of};
use crate::near::Near;

/// The table's name: of the gateways on a machine each has its own, as each has its own directory
/// of pins.
pub fn table(pins: &std::path::Path) -> String {
    let name = pins.file_name().unwrap_or_default().to_string_lossy();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = name.chars().map(plain).collect();
    if name.starts_with("weir") { name } else { format!("weir-{name}") }
}

/// Groups: the kernel forwards one only by a route that a multicast proxy or router entered for it,
/// after somebody asked (net/ipv4/ipmr.c).
const fn groups(family: Family) -> &'static str {
    match family {
        Family::V4 => "\t\tip daddr 224.0.0.0/4 accept\n",
        Family::V6 => "\t\tip6 daddr ff00::/8 accept\n",
    }
}

/// What nft calls a family, its packets and its tables.
const fn word(family: Family) -> &'static str {
    match family {
        Family::V4 => "ip",
        Family::V6 => "ip6",
    }
}

/// What comes out of a tunnel of IPsec.
const DECRYPTED: &str = "meta ipsec exists accept\n";
/// What answers connections that the kernel knows: those of containers and VPN clients, to near
/// networks, and all others if it may stand in. None goes on by an uplink, unless IPsec is to
/// encrypt it: such an answer is to an address that the gateway has no more.
const ANSWERS: &str = "ct state established,related accept\n";
/// What a rule of the operator's, or of a container engine's, has given another destination.
const PUBLISHED: &str = "ct status dnat accept\n";

/// The commands that put the table in place of an earlier one, in the language of nft(8); pure.
/// Interfaces are told by name, so that one that comes later, or comes back, is held too.
///
/// Before the filters of others, so that what is dropped here is no news to them; what is accepted
/// here goes on to them.
///
/// There is a table for each family that an uplink has a path in, none for others: what the kernel
/// forwards by other uplinks in that family is none of weir's. That of IPv6 has a comment.
pub fn rulesets(table: &str, site: &Site, seen: &Seen) -> [Option<String>; Family::COUNT] {
    let has = |family| site.uplinks.iter().any(|uplink| uplink.has_path(family));
    Family::ALL.map(|family| has(family).then(|| of_family(family, table, site, seen)))
}

fn of_family(family: Family, table: &str, site: &Site, seen: &Seen) -> String {
    let ports = Ports { family, site, seen };
    let (ip, groups) = (word(family), groups(family));
    let comment = match family {
        Family::V4 => String::new(),
        Family::V6 => format!("\tcomment \"{GUARD_COMMENT}\"\n"),
    };
    let near = seen.near_in(family);
    let near_hosts = near_hosts(near);
    let lans = ports.set(site.lans.iter().map(|lan| lan.interface.as_str()));
    let from_uplinks = ports.set(ports.uplinks(|_| true));
    let to_uplinks = set(ports.uplinks(|_| true));
    let same =
        ports.uplinks(|_| true).map(|interface| format!("\"{interface}\" . \"{interface}\""));
    let same = same.collect::<Vec<_>>().join(", ");
    let unless_lost = match site.on_dataplane_loss {
        OnDataplaneLoss::Kernel => "accept",
        OnDataplaneLoss::Drop => "counter drop",
    };
    // Frames that an uplink bridges come by `forward` where br_netfilter is loaded; nobody routes
    // them. What IPsec has decrypted, or is to encrypt, only seems to go by the uplink.
    format!(
        "table {ip} {table}\n\
         delete table {ip} {table}\n\
         table {ip} {table} {{\n\
         {comment}\
         {near_hosts}\
         \tchain forward {{\n\
         \t\ttype filter hook forward priority filter - 10; policy accept;\n\
         \t\tiifname . oifname {{ {same} }} meta iifkind \"bridge\" accept\n\
         \t\tiifname {from_uplinks} goto from_uplink\n\
         \t\tiifname {lans} oifname {to_uplinks} goto to_uplink\n\
         \t}}\n\
         \tchain from_uplink {{\n\
         {}\
         {groups}\
         \t\t{DECRYPTED}\
         \t\toifname != {to_uplinks} {ANSWERS}\
         \t\trt ipsec exists {ANSWERS}\
         {}\
         \t\toifname != {} {PUBLISHED}\
         \t\tcounter drop\n\
         \t}}\n\
         \tchain answers {{\n\
         \t\ttype filter hook prerouting priority mangle; policy accept;\n\
         \t\tiifname != {from_uplinks} ct direction reply meta mark 0 \
         ct mark & {MARKS:#x} == {ANSWER_MARK:#x} meta mark set ct mark\n\
         \t}}\n\
         \tchain to_uplink {{\n\
         {groups}\
         \t\trt ipsec exists accept\n\
         {}\
         {}\
         {}\
         {}\
         \t\t{unless_lost}\n\
         \t}}\n\
         {}\
         {}\
         {}\
         {}\
         {}\
         }}\n",
        remembered(&ports),
        asked(&ports, &to_uplinks),
        ports.set(site.interfaces()),
        to_near(near, "jump near_sources"),
        crowded(site, near),
        passing(near),
        foreign::of_lans(family, site),
        near_sources(&ports, near),
        input(&ports, &from_uplinks),
        commands(&ports, &to_uplinks),
        homeward(&ports, &to_uplinks),
        translation(site, &lans, near),
    )
}

/// Has connections to published ports keep the mark of the uplink that they came in by, which gives
/// it to their answers before their way is looked for. Marks of others stay.
fn remembered(ports: &Ports<'_>) -> String {
    let own =
        ports.with_index().map(|(n, u)| format!("\"{}\" : {:#x}", u.interface, answer_mark(n)));
    let own = own.collect::<Vec<_>>().join(", ");
    format!("\t\tct status dnat ct mark 0 ct mark set iifname map {{ {own} }}\n")
}

/// Lets in what uplinks may ask for without being asked. What is for LANs is none of the kernel's
/// where rules are asked about it.
fn asked(ports: &Ports<'_>, to_uplinks: &str) -> String {
    let family = ports.family;
    let inbound = ports.with_index().filter(|(_, uplink)| uplink.is_inbound(family));
    let (ruled, all): (Vec<_>, Vec<_>) =
        inbound.partition(|(number, _)| ports.site.is_ruled(*number, family));
    let accept = |uplinks: &[(u8, &UplinkConfig)], except: &str| {
        let interfaces = set(uplinks.iter().map(|(_, uplink)| uplink.interface.as_str()));
        let rule = format!("\t\tiifname {interfaces} oifname != {except} accept\n");
        if uplinks.is_empty() { String::new() } else { rule }
    };
    let to_ports = ports.set(ports.site.interfaces());
    accept(&all, to_uplinks) + &accept(&ruled, &to_ports)
}

/// What comes by uplinks to the gateway itself.
fn input(ports: &Ports<'_>, from_uplinks: &str) -> String {
    let parts = [in_a_lans_name(ports, from_uplinks), to_lan_addresses(ports)];
    let [(a, chain_a), (b, chain_b)] = parts.map(Option::unwrap_or_default);
    if a.is_empty() && b.is_empty() {
        return String::new();
    }
    format!(
        "\tchain input {{\n\
         \t\ttype filter hook input priority filter - 10; policy accept;\n\
         {a}{b}\
         \t}}\n\
         {chain_a}{chain_b}"
    )
}

/// Drops what comes by an uplink in a LAN's name, as XDP does where it is: a rule, and the chain
/// that it leads to. What came encrypted is whose it says (a client of a VPN may have an address of
/// a LAN). A provider's server of leases may be in a network that is a LAN's too, and an uplink's
/// link within one.
fn in_a_lans_name(ports: &Ports<'_>, from_uplinks: &str) -> Option<(String, String)> {
    let ip = word(ports.family);
    let nets = |nets: Vec<IpNet>| {
        let nets: Vec<_> = nets.iter().map(ToString::to_string).collect();
        (!nets.is_empty()).then(|| format!("{ip} saddr {{ {} }}", nets.join(", ")))
    };
    let from_lans = nets(ports.seen.all_lan_networks(ports.family))?;
    let lease = match ports.family {
        Family::V4 => "\t\tudp dport 68 return\n",
        Family::V6 => "",
    };
    let links = nets(nets_of(ports.family, &ports.seen.beyond_uplinks).collect());
    let links = links.map(|links| format!("\t\t{links} return\n")).unwrap_or_default();
    let rule = format!("\t\tiifname {from_uplinks} {from_lans} jump in_a_lans_name\n");
    let chain = format!(
        "\tchain in_a_lans_name {{\n\t\tmeta ipsec exists return\n{lease}{links}\t\tcounter drop\n\t}}\n"
    );
    Some((rule, chain))
}

/// Keeps the others from services of the gateway on its addresses in LANs, which Linux answers for
/// on every device: likewise.
fn to_lan_addresses(ports: &Ports<'_>) -> Option<(String, String)> {
    let closed: Vec<_> = ports.uplinks(|uplink| !uplink.is_inbound(ports.family)).collect();
    let addresses = ports.seen.lan_addresses.iter().filter(|one| Family::of(**one) == ports.family);
    let addresses: Vec<_> = addresses.map(ToString::to_string).collect();
    if closed.is_empty() || addresses.is_empty() {
        return None;
    }
    let rule = format!(
        "\t\tiifname {} {} daddr {{ {} }} goto to_lan_address\n",
        ports.set(closed.into_iter()),
        word(ports.family),
        addresses.join(", "),
    );
    let chain = format!(
        "\tchain to_lan_address {{\n\t\t{DECRYPTED}\t\t{ANSWERS}\t\t{PUBLISHED}\t\tcounter drop\n\t}}\n"
    );
    Some((rule, chain))
}

/// The set of hosts with connections to networks that one uplink leads to.
const NEAR_HOSTS: &str = "near_hosts";

/// Most connections of one host of a LAN to networks that one uplink leads to: as many as it may
/// have flows, and no more than a quarter of the ports that the kernel translates with.
fn most_near(site: &Site) -> u32 {
    let (first, last) = local_ports::beside(site.nat_ports).unwrap_or((0, u16::MAX));
    let quarter = (u32::from(last - first) + 1) / 4;
    if site.flows_per_host == 0 { quarter } else { quarter.min(site.flows_per_host) }
}

/// That set.
fn near_hosts(near: &[Near]) -> String {
    if near.is_empty() {
        return String::new();
    }
    format!("\tset {NEAR_HOSTS} {{\n\t\ttype ipv4_addr\n\t\tsize 65535\n\t\tflags dynamic\n\t}}\n")
}

/// Drops what goes there from a LAN with a source that is not of that LAN's networks, which would
/// count for somebody else, or for nobody: as the dataplane does with what it forwards (RFC 2827).
fn near_sources(ports: &Ports<'_>, near: &[Near]) -> String {
    if near.is_empty() {
        return String::new();
    }
    let of_lan = |(lan, nets): &(String, Vec<IpNet>)| {
        let nets = IpNet::aggregate(&nets_of(ports.family, nets).collect());
        let nets: Vec<_> = nets.iter().map(ToString::to_string).collect();
        let (by, ip) = (ports.set(std::iter::once(lan.as_str())), word(ports.family));
        let rule = format!("\t\tiifname {by} {ip} saddr {{ {} }} return\n", nets.join(", "));
        if nets.is_empty() { String::new() } else { rule }
    };
    let of_lans: String = ports.seen.lan_networks.iter().map(of_lan).collect();
    format!("\tchain near_sources {{\n{of_lans}\t\tcounter drop\n\t}}\n")
}

/// Drops what begins one more there than a host of a LAN may have: the kernel would translate it,
/// with a port that others need.
fn crowded(site: &Site, near: &[Near]) -> String {
    let most = most_near(site);
    let begins = |near| {
        let more = format!("add @{NEAR_HOSTS} {{ ip saddr ct count over {most} }}");
        format!("\t\t{} ct state new {more} counter drop\n", to(near))
    };
    near.iter().map(begins).collect()
}

/// Lets pass what goes to networks that one uplink leads to. What connection tracking takes for no
/// part of a connection is translated by no rule of its, so it stays.
fn passing(near: &[Near]) -> String {
    if near.is_empty() {
        return String::new();
    }
    "\t\tct state invalid counter drop\n".to_owned() + &to_near(near, "accept")
}

/// Keeps a command of one uplink from the others. A socket that is bound to a device takes its
/// destination to be on that link where no route says otherwise (net/ipv4/route.c), so the rules by
/// mark do not.
fn commands(ports: &Ports<'_>, uplinks: &str) -> String {
    let own = ports.with_index().map(|(n, u)| format!("{:#x} . \"{}\"", mark(n), u.interface));
    let own = own.collect::<Vec<_>>().join(", ");
    format!(
        "\tchain output {{\n\
         \t\ttype filter hook output priority filter - 10; policy accept;\n\
         {}\
         \t\tmeta mark & {MARKS:#x} == {MARK:#x} oifname {uplinks} goto of_command\n\
         \t}}\n\
         \tchain of_command {{\n\
         \t\tmeta mark . oifname {{ {own} }} accept\n\
         \t\tcounter drop\n\
         \t}}\n",
        foreign::of_gateway(ports.family, ports.site)
    )
}

/// Has what the gateway sends from an address of one uplink leave by that, where the main table's
/// routes would have it leave by another: for that one's link, say. Its way is looked for again,
/// with the mark.
fn homeward(ports: &Ports<'_>, uplinks: &str) -> String {
    let homes = ports.seen.homes.iter().filter(|(_, own)| Family::of(*own) == ports.family);
    let homes: Vec<_> = homes
        .filter_map(|(number, own)| {
            let (_, uplink) = ports.with_index().find(|(index, _)| index == number)?;
            Some((own, home_mark(*number), &uplink.interface))
        })
        .collect();
    if homes.is_empty() || !ports.site.own_traffic {
        return String::new();
    }
    let ways = homes.iter().map(|(own, _, interface)| format!("{own} . \"{interface}\""));
    let marks = homes.iter().map(|(own, mark, _)| format!("{own} : {mark:#x}"));
    let [ways, marks] = [ways.collect::<Vec<_>>(), marks.collect()].map(|of| of.join(", "));
    let ip = word(ports.family);
    format!(
        "\tchain homeward {{\n\
         \t\ttype route hook output priority mangle; policy accept;\n\
         \t\tmeta mark 0 oifname {uplinks} {ip} saddr . oifname != {{ {ways} }} \
         meta mark set {ip} saddr map {{ {marks} }}\n\
         \t}}\n"
    )
}

/// What goes to networks that one uplink leads to, by that uplink.
fn to(near: &Near) -> String {
    let networks: Vec<_> = near.networks.iter().map(ToString::to_string).collect();
    format!("oifname \"{}\" ip daddr {{ {} }}", near.interface, networks.join(", "))
}

/// Does this with all that goes to such networks.
fn to_near(near: &[Near], verdict: &str) -> String {
    near.iter().map(|near| format!("\t\t{} {verdict}\n", to(near))).collect()
}

/// Gives what LANs send there an address of the uplink's, and a port that is not weir's, so that no
/// flow has it at the same time. Where weir's leave too few, any port.
fn translation(site: &Site, lans: &str, near: &[Near]) -> String {
    if near.is_empty() {
        return String::new();
    }
    let ports = local_ports::beside(site.nat_ports);
    let mut rules = String::new();
    for near in near {
        let from_lan = format!("\t\tiifname {lans} {} rt ipsec missing", to(near));
        if let Some((first, last)) = ports {
            let with_ports = "meta l4proto { tcp, udp, icmp } masquerade";
            rules += &format!("{from_lan} {with_ports} to :{first}-{last}\n");
        }
        rules += &format!("{from_lan} masquerade\n");
    }
    format!(
        "\tchain near {{\n\
         \t\ttype nat hook postrouting priority srcnat - 10; policy accept;\n\
         {rules}\
         \t}}\n"
    )
}

/// A set of interface names. None has a character that means something to nft: see
/// [`is_interface_name`](weir_site::is_interface_name).
fn set<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.map(|name| format!("\"{name}\"")).collect();
    format!("{{ {} }}", names.join(", "))
}

/// The site's ports that are used in a family, with the macvlan devices on them.
struct Ports<'s> {
    family: Family,
    site: &'s Site,
    seen: &'s Seen,
}

impl<'s> Ports<'s> {
    /// The uplinks that have a path in the family, after their index.
    fn with_index(&self) -> impl Iterator<Item = (u8, &'s UplinkConfig)> + use<'s> {
        let family = self.family;
        (0u8..).zip(&self.site.uplinks).filter(move |(_, uplink)| uplink.has_path(family))
    }

    /// Interfaces of those of them that fit.
    fn uplinks(&self, fits: impl Fn(&UplinkConfig) -> bool) -> impl Iterator<Item = &'s str> {
        let fit = self.with_index().filter(move |(_, uplink)| fits(uplink));
        fit.map(|(_, uplink)| uplink.interface.as_str())
    }

    /// The set of these ports and all devices on them.
    fn set<'a>(&self, ports: impl Iterator<Item = &'a str>) -> String {
        let devices = |port: &'a str| {
            let on = self.seen.virtual_ports.iter().filter(move |(of, _)| of == port);
            std::iter::once(port).chain(on.map(|(_, device)| device.as_str()))
        };
        set(ports.flat_map(devices))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(more: &str) -> Site {
        let text = format!(
            "{more}\n[[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"fiber\"\n\
             interface = \"wan0\"\n[[uplink]]\nname = \"own\"\ninterface = \"wan1\"\n\
             translate = \"none\"\n"
        );
        weir_site::parse("weir.toml", &text).unwrap()
    }

    /// The tables of both families.
    fn ruleset(table: &str, site: &Site, seen: &Seen) -> String {
        rulesets(table, site, seen).into_iter().flatten().collect()
    }

    /// What the first uplink leads to, an address on the LAN, and a virtual router's device.
    fn seen() -> Seen {
        let networks = vec!["192.168.100.0/24".parse().unwrap()];
        Seen {
            virtual_ports: vec![("lan0".into(), "vrrp7".into()), ("wan0".into(), "vrrp8".into())],
            lan_addresses: vec!["10.0.0.1".parse().unwrap()],
            near: vec![Near { interface: "wan0".into(), networks }],
            ..Seen::default()
        }
    }

    #[test]
    fn a_gateway_has_a_table_of_its_own() {
        let table = |pins: &str| table(std::path::Path::new(pins));
        assert_eq!(table("/sys/fs/bpf/weir"), "weir");
        assert_eq!(table("/sys/fs/bpf/weir-2/"), "weir-2");
        assert_eq!(table("/sys/fs/bpf/other; x"), "weir-other__x");
    }

    #[test]
    fn nothing_comes_in_and_nothing_goes_out_but_by_the_dataplane() {
        let text = ruleset("weir", &site(""), &Seen::default());
        assert_eq!(text.matches("counter drop").count(), 3);
        let from_uplinks = "iifname { \"wan0\", \"wan1\" } goto from_uplink\n";
        assert!(text.contains(from_uplinks), "whatever they lead to: {text}");
        let published = "oifname != { \"lan0\", \"wan0\", \"wan1\" } ct status dnat accept\n";
        assert!(text.contains(published), "{text}");
    }

    #[test]
    fn who_asks_a_published_port_is_answered_by_the_uplink_that_it_came_by() {
        let text = ruleset("weir", &site(""), &Seen::default());
        let kept = "ct mark set iifname map { \"wan0\" : 0x77656a00, \"wan1\" : 0x77656a01 }\n";
        assert!(text.contains(kept), "{text}");
        let given = "ct mark & 0xffffff00 == 0x77656a00 meta mark set ct mark\n";
        assert!(text.contains(given), "{text}");
    }

    #[test]
    fn the_kernel_forwards_and_is_answered_if_it_may_stand_in() {
        let text =
            ruleset("weir", &site("[gateway]\non_dataplane_loss = \"kernel\""), &Seen::default());
        assert_eq!(text.matches("counter drop").count(), 2);
        let answers = "oifname != { \"wan0\", \"wan1\" } ct state established,related";
        assert!(text.contains(answers), "{text}");
        // To a peer of a VPN whose way out is this gateway.
        assert!(text.contains("\t\trt ipsec exists ct state established,related accept\n"));
    }

    #[test]
    fn what_comes_by_a_device_on_a_port_comes_by_the_port() {
        let text = ruleset("weir", &site(""), &seen());
        for held in [
            "iifname { \"wan0\", \"vrrp8\", \"wan1\" } goto from_uplink\n",
            "iifname { \"lan0\", \"vrrp7\" } oifname { \"wan0\", \"wan1\" } goto to_uplink\n",
        ] {
            assert!(text.contains(held), "{text}");
        }
    }

    #[test]
    fn addresses_in_lans_are_closed_to_uplinks_unless_they_may_come_in() {
        let mut site = site("");
        let closed = |site: &Site, from: &str| {
            let text = ruleset("weir", site, &seen());
            let rule = format!("iifname {{ {from} }} ip daddr {{ 10.0.0.1 }} goto to_lan_address");
            assert!(text.contains(&rule), "{text}");
        };
        closed(&site, "\"wan0\", \"vrrp8\", \"wan1\"");
        site.uplinks[1].inbound = true;
        closed(&site, "\"wan0\", \"vrrp8\"");
        site.uplinks[0].inbound = true;
        assert!(!ruleset("weir", &site, &seen()).contains("hook input"));
    }

    #[test]
    fn where_rules_are_asked_the_kernel_lets_nothing_in_to_lans() {
        let accepted = |more: &str| {
            let mut site = site(more);
            site.uplinks[1].inbound = true;
            ruleset("weir", &site, &seen())
        };
        let all = "iifname { \"wan1\" } oifname != { \"wan0\", \"wan1\" } accept\n";
        let ruled = "iifname { \"wan1\" } oifname != \
                     { \"lan0\", \"vrrp7\", \"wan0\", \"vrrp8\", \"wan1\" } accept\n";
        assert!(accepted("").contains(all) && !accepted("").contains(ruled));
        for by in ["", "uplinks = [\"own\"]\n"] {
            let rule = format!("[[rule]]\nfrom = \"uplink\"\naction = \"drop\"\n{by}");
            let text = accepted(&rule);
            assert!(text.contains(ruled) && !text.contains(all), "{text}");
        }
        let other = "[[rule]]\nfrom = \"uplink\"\nuplinks = [\"fiber\"]\naction = \"drop\"\n";
        assert!(accepted(other).contains(all));
    }

    #[test]
    fn nothing_comes_to_the_gateway_in_a_lans_name_but_leases_and_what_is_on_an_uplinks_link() {
        let net = |text: &str| vec![text.parse::<IpNet>().unwrap()];
        let lan_networks = vec![("lan0".into(), net("10.0.0.0/8"))];
        let beyond_uplinks = net("10.9.0.0/24");
        let text = ruleset("weir", &site(""), &Seen { lan_networks, beyond_uplinks, ..seen() });
        let from = "iifname { \"wan0\", \"vrrp8\", \"wan1\" } ip saddr { 10.0.0.0/8 } \
                    jump in_a_lans_name\n";
        assert!(text.contains(from), "{text}");
        let (_, rules) = text.split_once("chain in_a_lans_name {\n").unwrap();
        let rules: Vec<_> = rules.lines().map(str::trim).take(4).collect();
        let links = "ip saddr { 10.9.0.0/24 } return";
        let kept = ["meta ipsec exists return", "udp dport 68 return", links, "counter drop"];
        assert_eq!(rules, kept);
    }

    #[test]
    fn routed_multicast_passes_in_both_directions_before_anything_is_dropped() {
        let text = ruleset("weir", &site(""), &Seen::default());
        for chain in ["from_uplink", "to_uplink"] {
            let begin = format!("chain {chain} {{\n");
            let (_, rules) = text.split_once(&begin).unwrap();
            let first = rules.lines().find(|rule| rule.contains("accept") || rule.contains("drop"));
            assert_eq!(first.unwrap().trim(), "ip daddr 224.0.0.0/4 accept", "{text}");
        }
    }

    #[test]
    fn a_command_of_an_uplink_leaves_by_no_other() {
        let text = ruleset("weir", &site(""), &Seen::default());
        let own = "meta mark . oifname { 0x77656900 . \"wan0\", 0x77656901 . \"wan1\" } accept";
        assert!(text.contains(own), "{text}");
    }

    #[test]
    fn an_own_prefix_may_be_reached_by_the_uplinks_that_say_so() {
        let mut site = site("");
        site.uplinks[1].inbound = true;
        let text = ruleset("weir", &site, &Seen::default());
        assert!(
            text.contains("iifname { \"wan1\" } oifname != { \"wan0\", \"wan1\" } accept"),
            "{text}"
        );
    }

    #[test]
    fn what_one_uplink_leads_to_is_reached_by_it_with_an_address_and_a_port_of_the_kernels() {
        let text = ruleset("weir", &site(""), &seen());
        let to = "oifname \"wan0\" ip daddr { 192.168.100.0/24 }";
        assert!(text.contains(&format!("{to} accept")), "{text}");
        assert!(text.contains("masquerade to :1024-16383") && text.contains("ct state"), "{text}");
    }

    #[test]
    fn a_host_has_no_more_connections_there_than_it_may_have_flows_nor_a_quarter_of_the_ports() {
        for (limit, most) in
            [("", 3840), ("flows_per_host = 500", 500), ("flows_per_host = 9000", 3840)]
        {
            let text = ruleset("weir", &site(&format!("[limits]\n{limit}")), &seen());
            let rule = format!("ct state new add @near_hosts {{ ip saddr ct count over {most} }}");
            assert!(text.contains(&rule), "{text}");
        }
        assert!(!ruleset("weir", &site(""), &Seen::default()).contains("near_hosts"));
    }

    #[test]
    fn who_sends_there_is_counted_if_its_address_is_of_the_lan_that_it_is_in() {
        let nets = |nets: &[&str]| nets.iter().map(|net| net.parse().unwrap()).collect();
        let lan_networks = vec![
            ("lan0".into(), nets(&["10.0.0.0/16", "10.7.0.0/24", "fd00::/64"])),
            ("lan1".into(), nets(&["10.1.0.0/16"])),
            ("lan2".into(), nets(&["fd00:2::/64"])),
        ];
        let text = ruleset("weir", &site(""), &Seen { lan_networks, ..seen() });
        let (_, rules) = text.split_once("chain near_sources {\n").unwrap();
        let rules: Vec<_> = rules.lines().map(str::trim).take(3).collect();
        let of = [
            "iifname { \"lan0\", \"vrrp7\" } ip saddr { 10.0.0.0/16, 10.7.0.0/24 } return",
            "iifname { \"lan1\" } ip saddr { 10.1.0.0/16 } return",
            "counter drop",
        ];
        assert_eq!(rules, of);
        let at = |rule: &str| text.find(rule).unwrap();
        let to = "oifname \"wan0\" ip daddr { 192.168.100.0/24 }";
        assert!(at(&format!("{to} jump near_sources\n")) < at(&format!("{to} ct state new add")));
        assert!(!ruleset("weir", &site(""), &Seen::default()).contains("near_sources"));
    }

    #[test]
    fn what_is_from_an_uplinks_address_is_marked_where_it_would_leave_by_another() {
        let homes = vec![(0, "192.0.2.2".parse().unwrap()), (1, "192.0.2.130".parse().unwrap())];
        let seen = Seen { homes, ..seen() };
        let rule = "meta mark 0 oifname { \"wan0\", \"wan1\" } ip saddr . oifname != \
                    { 192.0.2.2 . \"wan0\", 192.0.2.130 . \"wan1\" } meta mark set ip saddr map \
                    { 192.0.2.2 : 0x77656b00, 192.0.2.130 : 0x77656b01 }\n";
        let text = ruleset("weir", &site(""), &seen);
        assert!(text.contains(rule), "{text}");
        let text = ruleset("weir", &site("[gateway]\nown_traffic = false"), &seen);
        assert!(!text.contains("homeward"), "{text}");
    }

    #[test]
    fn where_weirs_ports_leave_too_few_the_kernel_takes_any() {
        for ports in ["1024-65535", "1100-65000"] {
            let site = site(&format!("[gateway]\nnat_ports = \"{ports}\""));
            let text = ruleset("weir", &site, &seen());
            assert!(text.contains("masquerade\n") && !text.contains("masquerade to"), "{text}");
        }
    }

    /// The table of IPv6 where the first uplink has a path of it.
    fn ruleset6(site: &Site, seen: &Seen) -> Option<String> {
        let [_, v6] = rulesets("weir", site, seen);
        v6
    }

    #[test]
    fn ipv6_has_a_table_for_the_uplinks_that_have_a_path_of_it() {
        let mut site = site("");
        assert_eq!(ruleset6(&site, &seen()), None);
        site.uplinks[0].ipv6 = Some(weir_site::Ipv6Config::default());
        let mut seen = seen();
        seen.lan_addresses.push("2001:db8:7::1".parse().unwrap());
        let text = ruleset6(&site, &seen).unwrap();
        for rule in [
            "iifname { \"wan0\", \"vrrp8\" } goto from_uplink\n",
            "iifname { \"lan0\", \"vrrp7\" } oifname { \"wan0\" } goto to_uplink\n",
            "table ip6 weir {\n\tcomment \"kept by weir-control\"\n",
            "ip6 daddr ff00::/8 accept\n",
            "ip6 daddr { 2001:db8:7::1 } goto to_lan_address\n",
            "meta mark . oifname { 0x77656900 . \"wan0\" } accept\n",
        ] {
            assert!(text.contains(rule), "{rule}{text}");
        }
        assert!(!text.contains("ip daddr") && !text.contains("10.0.0.1"), "{text}");
        assert!(!text.contains("masquerade"), "nothing is translated: {text}");
    }

    #[test]
    fn an_own_prefix_is_reached_in_the_family_that_says_so() {
        let mut site = site("");
        site.uplinks[0].ipv6 = Some(weir_site::Ipv6Config { inbound: true, ..Default::default() });
        let rule = "iifname { \"wan0\" } oifname != { \"wan0\" } accept";
        assert!(ruleset6(&site, &Seen::default()).unwrap().contains(rule));
        let text = ruleset("weir", &site, &Seen::default());
        assert_eq!(text.matches("} accept").count(), 3, "IPv4 has none beside commands': {text}");
    }
}
