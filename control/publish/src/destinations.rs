//! Which destinations of packets from LANs are the kernel's, by its routes and rules.
//!
//! A destination is looked up as the kernel does it: in the table of one rule after the other, the
//! longest prefix in each, `throw` for the next table. What leaves by no uplink is the kernel's.

use std::cmp::Reverse;

use weir_site::rules::Lookup;
use weir_view::{Net, Route, RouteKind};

/// What becomes of a destination, the more certain first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// It is the kernel's.
    Kernel,
    /// It is behind a LAN port.
    Lan,
    /// It is reached by one uplink alone.
    Near,
    /// It is reached by uplinks.
    Uplinks,
    /// The next table decides.
    Next,
}

/// A route of one look-up.
struct Entry<N> {
    destination: N,
    /// Place of its look-up.
    rank: usize,
    /// Length of its prefix before it was cut to what its rule is for.
    length: u8,
    metric: u32,
    way: Way,
}

/// The prefixes that have a way of their own, in order, each before those within it. What they leave
/// out is reached by uplinks. `table` gives the routes of a table; `by_interface` says where a route
/// by an interface leads, `None` for one that is not followed.
pub fn of<'r, N: Net + 'r>(
    lookups: &[Lookup<N>],
    table: impl Fn(u32) -> &'r [Route<N>],
    by_interface: impl Fn(&Route<N>) -> Option<Way>,
) -> Vec<(N, Way)> {
    let way = |route: &Route<N>| match route.kind {
        RouteKind::Throw => Some(Way::Next),
        RouteKind::Unicast => by_interface(route),
        RouteKind::Elsewhere => Some(Way::Kernel),
    };
    let mut entries = Vec::new();
    for (rank, lookup) in lookups.iter().enumerate() {
        match lookup.table {
            Some(id) => {
                let routes = table(id).iter();
                entries.extend(routes.filter_map(|route| entry(route, lookup, rank, way(route)?)));
            }
            None => {
                let refused = Route::to(lookup.destination);
                entries.extend(entry(&refused, lookup, rank, Way::Kernel));
            }
        }
    }
    // Of one prefix in one table the first counts: the kernel takes the least metric.
    entries.sort_unstable_by_key(|e| (e.destination, e.rank, Reverse(e.length), e.metric, e.way));
    merge(&entries, lookups.len())
}

/// A route as a look-up sees it.
fn entry<N: Net>(route: &Route<N>, lookup: &Lookup<N>, rank: usize, way: Way) -> Option<Entry<N>> {
    let length = route.destination.prefix_len();
    if lookup.suppress.is_some_and(|suppressed| length <= suppressed) {
        return None;
    }
    let destination = match &lookup.destination {
        within if within.covers(&route.destination) => route.destination,
        within if route.destination.covers(within) => *within,
        _ => return None,
    };
    let default = destination.prefix_len() == 0;
    (!default).then_some(Entry { destination, rank, length, metric: route.metric, way })
}

/// Makes one table of several, given in the order of prefixes: what each prefix meets first.
fn merge<N: Net>(entries: &[Entry<N>], lookups: usize) -> Vec<(N, Way)> {
    // The prefixes that contain the one at hand, with what each look-up has for them.
    let mut path: Vec<(N, Way)> = Vec::new();
    let mut ways: Vec<Way> = Vec::new();
    let mut merged = Vec::with_capacity(entries.len());
    for same in entries.chunk_by(|a, b| a.destination == b.destination) {
        let destination = same[0].destination;
        while path.last().is_some_and(|(outer, _)| !outer.covers(&destination)) {
            path.pop();
            ways.truncate(path.len() * lookups);
        }
        let outer = path.last().map_or(Way::Uplinks, |(_, way)| *way);
        match path.len() {
            0 => ways.resize(lookups, Way::Next),
            depth => ways.extend_from_within((depth - 1) * lookups..),
        }
        let found = &mut ways[path.len() * lookups..];
        // The first of each look-up is written last.
        same.iter().rev().for_each(|entry| found[entry.rank] = entry.way);
        let way = found.iter().find(|way| **way != Way::Next).copied().unwrap_or(Way::Uplinks);
        path.push((destination, way));
        if way == Way::Kernel || way != outer {
            merged.push((destination, way));
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv4Net;

    use super::*;

    fn entries(routes: &[(&str, usize, u32, Way)]) -> Vec<Entry<Ipv4Net>> {
        let entry = |(to, rank, metric, way): &(&str, usize, u32, Way)| {
            let destination: Ipv4Net = to.parse().unwrap();
            let length = destination.prefix_len();
            Entry { destination, rank: *rank, length, metric: *metric, way: *way }
        };
        let mut entries: Vec<_> = routes.iter().map(entry).collect();
        entries.sort_by_key(|e| (e.destination, e.rank, Reverse(e.length), e.metric, e.way));
        entries
    }

    fn merged(routes: &[(&str, usize, u32, Way)]) -> Vec<(String, Way)> {
        let merged = merge(&entries(routes), 2);
        merged.into_iter().map(|(to, way)| (to.to_string(), way)).collect()
    }

    #[test]
    fn the_first_table_that_has_an_answer_decides() {
        let routes = [
            ("10.0.0.0/8", 0, 0, Way::Kernel),
            // More special, but in a later table.
            ("10.1.0.0/16", 1, 0, Way::Uplinks),
            ("172.16.0.0/12", 1, 0, Way::Kernel),
        ];
        let wanted = [
            ("10.0.0.0/8", Way::Kernel),
            ("10.1.0.0/16", Way::Kernel),
            ("172.16.0.0/12", Way::Kernel),
        ];
        assert_eq!(merged(&routes), wanted.map(|(to, way)| (to.to_owned(), way)));
    }

    #[test]
    fn a_throw_leaves_it_to_the_next_table() {
        let routes = [
            ("10.0.0.0/8", 0, 0, Way::Kernel),
            ("10.1.0.0/16", 0, 0, Way::Next),
            ("10.1.2.0/24", 1, 0, Way::Kernel),
        ];
        let wanted = [
            ("10.0.0.0/8", Way::Kernel),
            ("10.1.0.0/16", Way::Uplinks),
            ("10.1.2.0/24", Way::Kernel),
        ];
        assert_eq!(merged(&routes), wanted.map(|(to, way)| (to.to_owned(), way)));
    }

    #[test]
    fn the_least_metric_of_a_prefix_counts_and_of_equals_the_kernel() {
        let routes = [
            ("10.0.0.0/8", 1, 5, Way::Uplinks),
            // In reserve, as against leaks.
            ("10.0.0.0/8", 1, 4_278_198_272, Way::Kernel),
            ("172.16.0.0/12", 1, 0, Way::Kernel),
            ("172.16.0.0/12", 1, 0, Way::Uplinks),
        ];
        assert_eq!(merged(&routes), [("172.16.0.0/12".to_owned(), Way::Kernel)]);
    }

    #[test]
    fn a_prefix_by_an_uplink_within_one_of_the_kernels_leaves_by_uplinks() {
        let routes = [("10.0.0.0/8", 1, 0, Way::Kernel), ("10.1.0.0/16", 1, 0, Way::Uplinks)];
        let wanted = [("10.0.0.0/8", Way::Kernel), ("10.1.0.0/16", Way::Uplinks)];
        assert_eq!(merged(&routes), wanted.map(|(to, way)| (to.to_owned(), way)));
    }

    #[test]
    fn a_route_is_cut_to_what_its_rule_is_for() {
        let to = |destination: &str, suppress| Lookup {
            table: Some(7),
            suppress,
            destination: destination.parse().unwrap(),
        };
        let cut = |route: &str, lookup: Lookup| {
            let route = Route::to(route.parse().unwrap());
            entry(&route, &lookup, 0, Way::Kernel).map(|e| e.destination.to_string())
        };
        assert_eq!(cut("0.0.0.0/0", to("10.8.0.0/16", None)).as_deref(), Some("10.8.0.0/16"));
        assert_eq!(cut("10.8.1.0/24", to("10.8.0.0/16", None)).as_deref(), Some("10.8.1.0/24"));
        assert_eq!(cut("10.9.0.0/16", to("10.8.0.0/16", None)), None);
        assert_eq!(cut("0.0.0.0/0", to("0.0.0.0/0", None)), None, "no default is followed");
        assert_eq!(cut("10.0.0.0/8", to("0.0.0.0/0", Some(8))), None);
    }
}
