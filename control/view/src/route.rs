//! Routes of the kernel's, as they were read.

use std::net::Ipv4Addr;
use std::ops::Deref;

use ipnet::Ipv4Net;

/// A route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Destination.
    pub destination: Ipv4Net,
    /// What becomes of packets to it.
    pub kind: RouteKind,
    /// Next hop; none: on link.
    pub gateway: Option<Ipv4Addr>,
    /// Outgoing interface; 0: none.
    pub interface: u32,
    /// Priority; lower is better.
    pub metric: u32,
    /// What sockets without an address are given (`src`).
    pub source: Option<Ipv4Addr>,
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

impl Route {
    /// A route that leads nowhere.
    pub const fn to(destination: Ipv4Net) -> Self {
        let (kind, gateway, source) = (RouteKind::Elsewhere, None, None);
        Self { destination, kind, gateway, interface: 0, metric: 0, source }
    }

    /// A route by an interface, on link.
    pub const fn by(interface: u32, destination: Ipv4Net) -> Self {
        Self { kind: RouteKind::Unicast, interface, ..Self::to(destination) }
    }

    fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }
}

/// Perhaps a million routes. Defaults are first: they are asked for with every look at an uplink.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// The default routes.
    pub fn defaults(&self) -> &[Route] {
        &self.0[..self.0.partition_point(Route::is_default)]
    }
}

impl From<Vec<Route>> for Routes {
    fn from(mut routes: Vec<Route>) -> Self {
        routes.sort_by_key(|route| !route.is_default());
        Self(routes)
    }
}

impl Deref for Routes {
    type Target = [Route];

    fn deref(&self) -> &[Route] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_found_wherever_the_kernel_lists_them() {
        let to = |destination: &str, metric| Route {
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
