//! What a gateway that runs does not take from another file at once and without loss.

use weir_wire::layout::control::ControlHalf;
use weir_wire::layout::flow::slots_for;

use super::Site;

/// Beside what is published; `forwards` says whether the dataplane runs.
pub fn warnings(site: &Site, published: &ControlHalf, forwards: bool) -> Vec<String> {
    let mut warnings = Vec::new();
    if forwards && needs_other_workers(site, published) {
        warnings.push(
            "workers, cores or nat_ports differ from what runs: weir-dataplane starts its workers \
             anew for them, and for about a second packets are lost"
                .into(),
        );
    }
    if published.flow_slots != slots_for(site.flow_table) {
        warnings.push("flow_table: the table keeps its size until `weir detach`".into());
    }
    warnings
}

/// As weir-dataplane sees it: its workers divide the ports of the uplinks among them.
fn needs_other_workers(site: &Site, published: &ControlHalf) -> bool {
    let mut known = published.uplinks.iter().filter(|uplink| !uplink.name.as_str().is_empty());
    let workers = usize::from(site.workers);
    let cores = site.cores.iter().copied().chain(std::iter::repeat(u16::MAX)).take(workers);
    site.workers != published.workers
        || !cores.eq(published.cores.iter().copied().take(workers))
        || known.any(|uplink| (uplink.nat_lo, uplink.nat_hi) != site.nat_ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::publish::{self, Overrides};
    use crate::watch::Kernel;

    const SITE: &str = "[gateway]\nworkers = 2\ncores = [1]\nnat_ports = \"16384-65535\"\n\
        [[lan]]\ninterface = \"lan0\"\n[[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n";

    /// With this instead of that in the file.
    fn told(forwards: bool, from: &str, to: &str) -> Vec<String> {
        let of = |text: &str| crate::site::parse("weir.toml", text).unwrap();
        let overrides = Overrides::default();
        let published = publish::derive(&of(SITE), &Kernel::default(), &overrides, &[], None);
        warnings(&of(&SITE.replace(from, to)), &published.half, forwards)
    }

    #[test]
    fn what_needs_other_workers_is_told_while_the_dataplane_runs() {
        for (from, to) in [("workers = 2", "workers = 3"), ("[1]", "[0, 1]"), ("16384", "20000")] {
            let told_of = told(true, from, to);
            assert!(told_of.len() == 1 && told_of[0].contains("packets are lost"), "{told_of:?}");
            assert_eq!(told(false, from, to), [""; 0], "{to}");
        }
        assert_eq!(told(true, "\"a\"", "\"a\"\nweight = 3"), [""; 0]);
    }

    #[test]
    fn another_size_of_the_flow_table_is_told_to_wait() {
        let told = told(false, "workers = 2", "workers = 2\nflow_table = 4096");
        assert!(told.len() == 1 && told[0].contains("until `weir detach`"), "{told:?}");
    }
}
