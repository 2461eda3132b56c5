//! What devices do and can do: their channels, whether XDP transmits by them, and whether it sees
//! the tags of what they receive.
//!
//! Three requests each, so a device is asked when it is new, when an event is about it, and one with
//! every reading of the view in turn: not every driver's change of channels is an event. A change of
//! features always is (`netdev_features_change`, net/core/dev.c).

use std::collections::{HashMap, HashSet};

use ethtool::{EthtoolAttr, EthtoolChannelAttr, EthtoolFeatureAttr, EthtoolHandle};
use futures_util::stream::TryStreamExt;
use weir_view::{Link, Shortage};

use crate::channels;
use crate::netdev;

/// What is known of each device.
pub struct Devices {
    ethtool: EthtoolHandle,
    /// By kernel index.
    known: HashMap<u32, Known>,
    /// The kernel index of the device whose turn it was last.
    turn: u32,
}

#[derive(Clone)]
struct Known {
    /// It may have another one, and its driver is found by the name.
    name: String,
    queues: u32,
    xdp_transmit: bool,
    shortage: Option<Shortage>,
    strips_tags: bool,
}

impl Devices {
    /// Nothing is known.
    pub fn new(ethtool: EthtoolHandle) -> Self {
        Self { ethtool, known: HashMap::new(), turn: 0 }
    }

    /// Tells the links what they can do. Those in `changed` are asked anew.
    pub async fn tell(&mut self, links: &mut [Link], changed: &HashSet<u32>) {
        self.turn = next(links.iter().map(|link| link.index), self.turn);
        self.known.retain(|index, _| links.iter().any(|link| link.index == *index));
        for link in links.iter_mut() {
            let known = self.known.get(&link.index).filter(|known| known.name == link.name);
            let told = changed.contains(&link.index);
            let known = match known.cloned() {
                Some(known) if !told && link.index != self.turn => known,
                known => {
                    let strips_tags = match known.filter(|_| !told) {
                        Some(known) => known.strips_tags,
                        None => self.strips_tags(&link.name).await.unwrap_or(false),
                    };
                    self.ask(link, strips_tags).await
                }
            };
            (link.queues, link.xdp_transmit) = (known.queues, known.xdp_transmit);
            link.shortage.clone_from(&known.shortage);
            link.strips_tags = known.strips_tags;
            self.known.insert(link.index, known);
        }
        hand_up_shortages(links);
    }

    async fn ask(&mut self, link: &Link, strips_tags: bool) -> Known {
        let (receive, combined) = self.channels(&link.name).await.unwrap_or_default();
        let transmits = netdev::transmits(&mut self.ethtool.handle, link.index).await;
        let shortage = transmits.then(|| channels::shortage(&link.name, combined)).flatten();
        Known {
            name: link.name.clone(),
            queues: (receive + combined).max(1),
            xdp_transmit: transmits && shortage.is_none(),
            shortage,
            strips_tags,
        }
    }

    /// `NETIF_F_HW_VLAN_CTAG_RX`, by its name in net/ethtool/common.c; `ethtool -k` calls it
    /// rx-vlan-offload.
    async fn strips_tags(&mut self, interface: &str) -> Option<bool> {
        let mut replies = self.ethtool.feature().get(Some(interface)).execute().await.ok()?;
        let reply = replies.try_next().await.ok()??;
        let active = reply.payload.nlas.iter().find_map(|attribute| match attribute {
            EthtoolAttr::Feature(EthtoolFeatureAttr::Active(bits)) => Some(bits),
            _ => None,
        });
        Some(active?.iter().any(|bit| bit.name == "rx-vlan-hw-parse" && bit.value))
    }

    /// Those in use: that only receive, and combined ones.
    async fn channels(&mut self, interface: &str) -> Option<(u32, u32)> {
        let mut replies = self.ethtool.channel().get(Some(interface)).execute().await.ok()?;
        let reply = replies.try_next().await.ok()??;
        let (mut receive, mut combined) = (0, 0);
        for attribute in &reply.payload.nlas {
            match attribute {
                EthtoolAttr::Channel(EthtoolChannelAttr::RxCount(n)) => receive = *n,
                EthtoolAttr::Channel(EthtoolChannelAttr::CombinedCount(n)) => combined = *n,
                _ => {}
            }
        }
        Some((receive, combined))
    }
}

/// The one after `last` in the order of their numbers, after the last the first; 0 of none.
fn next(devices: impl Iterator<Item = u32> + Clone, last: u32) -> u32 {
    let after = devices.clone().filter(|index| *index > last).min();
    after.or(devices.min()).unwrap_or_default()
}

/// A device that sends by others, as a bond does and a virtual device of Hyper-V, transmits for XDP
/// only if they do.
fn hand_up_shortages(links: &mut [Link]) {
    let short: Vec<_> =
        links.iter().filter_map(|link| Some((link.master?, link.shortage.clone()?))).collect();
    for (master, shortage) in short {
        if let Some(link) = links.iter_mut().find(|l| l.index == master && l.xdp_transmit) {
            link.xdp_transmit = false;
            link.shortage = Some(shortage);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_device_has_its_turn() {
        let devices = [7, 2, 5];
        let mut last = 0;
        let turns: Vec<u32> = std::iter::repeat_with(|| {
            last = next(devices.into_iter(), last);
            last
        })
        .take(5)
        .collect();
        assert_eq!(turns, [2, 5, 7, 2, 5]);
        assert_eq!(next(std::iter::empty(), 5), 0);
    }

    #[test]
    fn a_device_that_sends_by_one_short_of_channels_is_short_of_them() {
        let shortage =
            || Some(Shortage { interface: "wan0".into(), driver: "i40e", has: 4, needs: 8 });
        let short = Link {
            index: 3,
            name: "eth0".into(),
            master: Some(1),
            shortage: shortage(),
            ..Link::default()
        };
        let able = |index| Link { index, xdp_transmit: true, ..Link::default() };
        let bridge = Link { index: 1, ..Link::default() };
        let mut links = [able(1), able(2), short.clone()];
        hand_up_shortages(&mut links);
        assert_eq!((links[0].xdp_transmit, &links[0].shortage), (false, &shortage()));
        assert_eq!(links[1], able(2), "it has nothing to do with it");
        let mut links = [bridge.clone(), short];
        hand_up_shortages(&mut links);
        assert_eq!(links[0], bridge, "it transmits nothing in any case");
    }
}
