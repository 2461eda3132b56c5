//! The LANs: whether what their hosts send reaches weir.

use std::collections::BTreeMap;

use weir_health::{Reason, State, Transition};
use weir_site::Site;
use weir_view::Kernel;

/// Those that are out of use, by their interface, and why. A LAN is in use until something else is
/// known of it.
#[derive(Debug, Default)]
pub struct Lans {
    troubles: BTreeMap<String, Reason>,
}

impl Lans {
    /// Is a LAN in use, by its interface?
    pub fn is_up(&self, interface: &str) -> bool {
        !self.troubles.contains_key(interface)
    }

    /// Takes the [`trouble`] that each has now; the changes since the last time, each with the
    /// LAN's interface.
    pub fn observe(
        &mut self,
        site: &Site,
        trouble: impl Fn(&str) -> Option<Reason>,
        now: u64,
    ) -> Vec<(String, Transition)> {
        let state =
            |trouble: Option<Reason>| if trouble.is_some() { State::Down } else { State::Up };
        let mut troubles = BTreeMap::new();
        let mut changes = Vec::new();
        for lan in &site.lans {
            let name = &lan.interface;
            let (was, is) = (self.troubles.get(name).copied(), trouble(name));
            let (from, to) = (state(was), state(is));
            if from != to {
                let reason = is.unwrap_or(Reason::Started);
                changes.push((name.clone(), Transition { from, to, reason, at: now }));
            }
            troubles.extend(is.map(|is| (name.clone(), is)));
        }
        self.troubles = troubles;
        changes
    }
}

/// What keeps the packets of a LAN from weir; `refused` says whether the kernel refuses the device
/// of an index to the dataplane.
pub fn trouble(interface: &str, kernel: &Kernel, refused: impl Fn(u32) -> bool) -> Option<Reason> {
    match kernel.usable(interface) {
        Ok((_, device)) if refused(device.index) => Some(Reason::Device),
        Ok((link, _)) if !link.running => Some(Reason::Carrier),
        Ok(_) => None,
        Err(_) => Some(Reason::Device),
    }
}

#[cfg(test)]
mod tests {
    use weir_view::Link;

    use super::*;

    const SITE: &str = "[[lan]]\ninterface = \"lan0\"\n[[lan]]\ninterface = \"lan1\"\n\
        [[uplink]]\nname = \"a\"\ninterface = \"wan0\"\n";

    fn told(lans: &mut Lans, troubles: [Option<Reason>; 2]) -> Vec<(String, State, Reason)> {
        let site = weir_site::parse("weir.toml", SITE).unwrap();
        let trouble = |name: &str| troubles[usize::from(name == "lan1")];
        let changes = lans.observe(&site, trouble, 7);
        changes.into_iter().map(|(name, change)| (name, change.to, change.reason)).collect()
    }

    #[test]
    fn a_lan_that_goes_and_comes_back_is_told_of_once_each_time() {
        let mut lans = Lans::default();
        assert_eq!(told(&mut lans, [None; 2]), []);
        let gone = [None, Some(Reason::Device)];
        let lan1 = || "lan1".to_owned();
        assert_eq!(told(&mut lans, gone), [(lan1(), State::Down, Reason::Device)]);
        assert_eq!(told(&mut lans, gone), []);
        assert_eq!(told(&mut lans, [None, Some(Reason::Carrier)]), [], "it is down as before");
        assert_eq!(told(&mut lans, [None; 2]), [(lan1(), State::Up, Reason::Started)]);
    }

    #[test]
    fn a_lan_is_out_of_use_without_interface_or_carrier_or_when_its_device_is_refused() {
        let link = Link { index: 1, name: "lan0".into(), running: true, ..Link::default() };
        let of = |link: Link| Kernel { links: vec![link], ..Kernel::default() };
        let kernel = of(link.clone());
        assert_eq!(trouble("lan0", &kernel, |_| false), None);
        assert_eq!(trouble("lan0", &kernel, |device| device == 1), Some(Reason::Device));
        assert_eq!(trouble("lan1", &kernel, |_| false), Some(Reason::Device));
        let cut = of(Link { running: false, ..link });
        assert_eq!(trouble("lan0", &cut, |_| false), Some(Reason::Carrier));
    }
}
