//! What a record says beside the flow: names and interfaces, and times of day.

use std::net::SocketAddr;

use weir_layout::NONE;
use weir_layout::flow::flag;
use weir_shm::adjacencies::Adjacencies;
use weir_shm::control::{ControlRegion, Current};
use weir_shm::flows::Stored;
use weir_shm::map::Access;
use weir_shm::{Error, Pins};
use weir_wire::key::FlowKey;

use super::follower::Part;
use super::record::Record;
use crate::clocks::Clocks;

/// What is published of the gateway.
pub struct Gateway {
    region: ControlRegion,
    current: Current,
    adjacencies: Adjacencies,
}

impl Gateway {
    /// Opens it, to be [refreshed](Self::refresh) before its first use.
    ///
    /// # Errors
    /// When a region is missing or cannot be mapped.
    pub fn open(pins: &Pins) -> Result<Self, Error> {
        // The key is of who enters adjacencies.
        let adjacencies = Adjacencies::open(pins, Access::Read, [0; 2])?;
        let region = ControlRegion::open(pins, Access::Read)?;
        Ok(Self { region, current: Current::default(), adjacencies })
    }

    /// Takes what is published now.
    pub fn refresh(&mut self) {
        if self.current.half.epoch != self.region.epoch() {
            // What cannot be read stays as it was.
            let _ = self.current.refresh(&self.region);
        }
    }

    /// A part as it is told.
    pub fn record<F: Stored>(&self, part: &Part<F>, clocks: Clocks) -> Record<'_> {
        let entry = &part.entry;
        let [start_ms, end_ms] =
            [part.start_ms, entry.last_seen].map(|time_ms| clocks.real_ms(time_ms));
        let ingress = match entry.flags & flag::INSIDE {
            0 => self.interface_of_uplink(entry.uplink),
            // Answers go where questions come from.
            _ => part.back.map_or(0, |back| self.interface_towards(back)),
        };
        Record {
            from: ends(&entry.key),
            to: ends(&entry.translated()),
            protocol: entry.key.proto(),
            start_ms: start_ms.min(end_ms),
            end_ms,
            octets: part.octets,
            packets: part.packets.into(),
            ingress,
            egress: self.interface_towards(entry.adjacency),
            reason: part.reason,
            uplink: self.uplink_name(entry.uplink),
        }
    }

    fn uplink_name(&self, uplink: u8) -> &str {
        let uplink = self.current.half.uplinks.get(usize::from(uplink));
        uplink.map_or("", |uplink| uplink.name.as_str())
    }

    fn interface_of_uplink(&self, uplink: u8) -> u32 {
        let uplink = self.current.half.uplinks.get(usize::from(uplink));
        uplink.map_or(0, |uplink| self.interface(uplink.port))
    }

    fn interface_towards(&self, adjacency: u16) -> u32 {
        self.adjacencies.get(adjacency).map_or(0, |adjacency| self.interface(adjacency.port))
    }

    /// Index of a port's interface.
    fn interface(&self, port: u8) -> u32 {
        self.current.half.ports.get(usize::from(port)).map_or(0, |port| port.ifindex)
    }
}

const _: () = assert!(NONE as usize >= weir_layout::MAX_UPLINKS, "it is no uplink's");

/// Source and destination. Of an echo message the ports are its identifier and, as other exporters
/// have it, its type in the upper half.
fn ends<F: Stored>(key: &FlowKey<F>) -> [SocketAddr; 2] {
    let (sport, dport) = (u16::from_be_bytes(key.sport()), u16::from_be_bytes(key.dport()));
    let dport = if key.proto() == F::ICMP { dport << 8 } else { dport };
    [SocketAddr::new(key.src().into(), sport), SocketAddr::new(key.dst().into(), dport)]
}
