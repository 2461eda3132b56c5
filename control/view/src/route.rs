//! Routes of the kernel's, as they were read.

use std::ops::Deref;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use crate::Net;

/// A route of the family of `N`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<N: Net = Ipv4Net> {
    /// Destination.
    pub destination: N,
    /// What becomes of packets to it.
    pub kind: RouteKind,
    /// Next hop; none: on link.
    pub gateway: Option<N::Address>,
    /// Outgoing interface; 0: none.
    pub interface: u32,
    /// Priority; lower is better.
    pub metric: u32,
    /// Which of several routers hosts are to prefer.
    pub preference: Preference,
    /// What sockets without an address are given (`src`).
    pub source: Option<N::Address>,
    /// The kernel made it of a router advertisement: who sends those has chosen the destination.
    pub advertised: bool,
}

/// What a router says of itself beside others, the least first (RFC 4191 §2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preference {
    /// Others rather than this one.
    Low,
    /// As any other: also where nothing is said.
    #[default]
    Medium,
    /// This one rather than others.
    High,
}

/// What becomes of packets to a destination (`rtm_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// They leave by an interface.
    Unicast,
    /// Another table decides.
    Throw,
    /// They are the gateway's own, or refused.
    Elsewhere,
}

impl<N: Net> Route<N> {
    /// A route that leads nowhere.
    pub const fn to(destination: N) -> Self {
        Self {
            destination,
            kind: RouteKind::Elsewhere,
            gateway: None,
            interface: 0,
            metric: 0,
            preference: Preference::Medium,
            source: None,
            advertised: false,
        }
    }

    /// A route by an interface, on link.
    pub const fn by(interface: u32, destination: N) -> Self {
        Self { kind: RouteKind::Unicast, interface, ..Self::to(destination) }
    }

    /// Do packets leave to their destination itself?
    pub fn is_on_link(&self) -> bool {
        self.kind == RouteKind::Unicast && self.gateway.is_none()
    }

    fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }
}

/// Perhaps a million routes. Defaults are first: they are asked for with every look at an uplink.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routes<N: Net = Ipv4Net>(Vec<Route<N>>);

impl<N: Net> Routes<N> {
    /// The default routes.
    pub fn defaults(&self) -> &[Route<N>] {
        &self.0[..self.0.partition_point(Route::is_default)]
    }
}

impl<N: Net> Default for Routes<N> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<N: Net> From<Vec<Route<N>>> for Routes<N> {
    fn from(mut routes: Vec<Route<N>>) -> Self {
        routes.sort_by_key(|route| !route.is_default());
        Self(routes)
    }
}

impl<N: Net> Deref for Routes<N> {
    type Target = [Route<N>];

    fn deref(&self) -> &[Route<N>] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_found_wherever_the_kernel_lists_them() {
        let to = |destination: &str, metric| Route::<Ipv4Net> {
            metric,
            ..Route::by(2, destination.parse().unwrap())
        };
        let listed = ["10.0.0.0/8", "0.0.0.0/0", "10.1.0.0/16", "0.0.0.0/0"];
        let routes: Vec<_> = (0..).zip(listed).map(|(metric, net)| to(net, metric)).collect();
        let routes = Routes::from(routes);
        assert_eq!(routes.defaults(), [to("0.0.0.0/0", 1), to("0.0.0.0/0", 3)]);
        assert_eq!(routes.len(), 4);
    }
}
