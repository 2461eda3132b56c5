//! Files that weir is started with.

use super::{UPLINKS, Weir, tier};
use crate::topology::Topology;

impl Weir {
    /// A configuration: LAN ports of the site, one uplink per provider with these weights, and a
    /// policy that deals flows by their 5-tuple. The tier is [`tier`]'s.
    #[must_use]
    pub fn configuration(topology: &Topology, weights: &[u16]) -> String {
        Self::configuration_with(topology, weights, "", |_| String::new())
    }

    /// As [`Self::configuration`], with these lines more of the first LAN port, and of the uplink of
    /// each provider.
    #[must_use]
    pub fn configuration_with(
        topology: &Topology,
        weights: &[u16],
        lan: &str,
        uplink: impl Fn(usize) -> String,
    ) -> String {
        let mut text = format!("[gateway]\ntier = \"{}\"\n\n", tier());
        for (index, port) in topology.lan_ports().iter().enumerate() {
            let more = if index == 0 { lan } else { "" };
            text += &format!("[[lan]]\ninterface = \"{port}\"\n{more}\n");
        }
        for (provider, weight) in topology.providers.iter().zip(weights) {
            let (name, interface) = (UPLINKS[provider.index], provider.interface());
            let more = uplink(provider.index);
            text += &format!(
                "[[uplink]]\nname = \"{name}\"\ninterface = \"{interface}\"\nweight = {weight}\n\
                 {more}\n"
            );
        }
        text + "[[policy]]\nname = \"balanced\"\nselection = \"flow\"\n"
    }
}
