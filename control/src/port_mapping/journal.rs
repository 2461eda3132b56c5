//! The journal's lines about which host has which port, and until when: the log of NAT allocations has
//! none of these.

use weir_layout::protocol;
use weir_ports::Mapping;

/// Tells what others have than before, when that is handed on.
#[derive(Debug, Default)]
pub struct Journal {
    told: Vec<Mapping>,
}

impl Journal {
    /// Tells of ports that hosts got, and that they have no more.
    pub fn tell(&mut self, mappings: &[Mapping]) {
        for line in changes(&self.told, mappings) {
            tracing::info!("{line}");
        }
        self.told = mappings.to_vec();
    }
}

/// What is other, a line for each; ends first, so that who gives a port to another comes before that.
fn changes(before: &[Mapping], now: &[Mapping]) -> Vec<String> {
    let is_in = |all: &[Mapping], of: &Mapping| all.iter().any(|other| is_same(other, of));
    let ended = before.iter().filter(|mapping| !is_in(now, mapping));
    let begun = now.iter().filter(|mapping| !is_in(before, mapping));
    let ended = ended.map(|mapping| line(mapping, "has no more"));
    ended.chain(begun.map(|mapping| line(mapping, "has"))).collect()
}

/// The same port of the same host, for as long as it may be.
fn is_same(a: &Mapping, b: &Mapping) -> bool {
    let of = |mapping: &Mapping| (mapping.id, mapping.inside, mapping.protocol, mapping.port);
    of(a) == of(b)
}

fn line(mapping: &Mapping, has: &str) -> String {
    let Mapping { lan, inside, port, .. } = mapping;
    let protocol = protocol::name(mapping.protocol).unwrap_or("?");
    format!("{lan}: {inside} {has} port {port} of {protocol} outside ({})", mapping.name())
}

#[cfg(test)]
mod tests {
    use weir_ports::Owner;

    use super::*;

    fn mapping(id: u32, port: u16, until: u64) -> Mapping {
        Mapping {
            id,
            lan: "lan0".into(),
            inside: "10.0.0.5:80".parse().unwrap(),
            protocol: 6,
            port,
            owner: Owner::Pcp([7; 12]),
            filters: Vec::new(),
            until,
        }
    }

    #[test]
    fn a_port_is_told_of_as_a_host_gets_it_and_as_it_has_it_no_more_and_not_when_renewed() {
        let at = |id, port, until| vec![mapping(id, port, until)];
        let [first, renewed, other] = [at(1, 20_000, 1), at(1, 20_000, 2), at(2, 20_000, 2)];
        let has = |id| format!("lan0: 10.0.0.5:80 has port 20000 of tcp outside (pcp:{id})");
        let ended = |id| has(id).replace(" has ", " has no more ");
        assert_eq!(changes(&[], &first), [has(1)]);
        assert_eq!(changes(&first, &renewed), Vec::<String>::new());
        assert_eq!(changes(&renewed, &other), [ended(1), has(2)]);
        assert_eq!(changes(&first, &at(1, 20_001, 1)).len(), 2, "another port");
    }
}
