//! Published services: what may come in by uplinks without being asked for, and to whom it goes.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use super::{Address, Name};
use crate::Family;
use crate::set::IndexSet;

/// Services that the file publishes, by family and protocol.
pub const MAX_PUBLISHED: usize = 128;
/// Ports that hosts have asked for.
pub const MAX_MAPPED: usize = 128;
/// Port forwards of a site.
pub const MAX_PORT_FORWARDS: usize = MAX_PUBLISHED + MAX_MAPPED;
/// Prefixes that the file's services are open to, of all of them together.
pub const MAX_PUBLISHED_ALLOWED: usize = 256;
/// Prefixes that the ports that hosts have asked for are open to, likewise.
pub const MAX_MAPPED_ALLOWED: usize = 128;
/// Prefixes that port forwards are open to.
pub const MAX_ALLOWED: usize = MAX_PUBLISHED_ALLOWED + MAX_MAPPED_ALLOWED;

/// Ports of a block, see [`PortBlocks`].
const BLOCK: usize = 64;

/// A service of one family and protocol that uplinks are open for. 88 bytes.
///
/// What comes by one of the uplinks to one of the ports, at an address that its host has outside by
/// that uplink, is for the host inside. A protocol without ports has port 0 alone, as in the key of
/// its flows.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PortForward {
    /// Name in the file; several may have one.
    pub name: Name,
    /// Bit *u* set: by uplink *u*.
    pub uplinks: u64,
    /// Bit *n* set: sources that set *n* holds may too.
    pub allowed_sets: u64,
    /// Bit *n* set: those that set *n* holds may not.
    pub barred_sets: u64,
    /// The host; all zero where the service is the gateway's own.
    pub inside: Address,
    /// Ports outside, first and last, inclusive.
    pub ports: [u16; 2],
    /// Port of the host that the first of them leads to, and so on.
    pub inside_port: u16,
    /// Index of its first entry in [`ControlHalf::allowed`](super::ControlHalf::allowed).
    pub allowed_first: u16,
    /// Entries there, of which one must hold the source. None, and no set either: all may.
    pub allowed_count: u16,
    /// IP protocol number: TCP, UDP, or one [without ports](crate::protocol::is_portless).
    pub protocol: u8,
    /// [`Family::index`].
    pub family: u8,
    /// 1: the service is the gateway's own; the port is the kernel's.
    pub to_gateway: u8,
    /// Zero.
    pub reserved: [u8; 3],
}

impl PortForward {
    /// Is it about packets of this family and protocol to this port, by this uplink?
    #[inline(always)]
    pub const fn is_about(&self, family: Family, uplink: u8, protocol: u8, port: u16) -> bool {
        self.protocol == protocol
            && self.family == family.index() as u8
            && self.ports[0] <= port
            && port <= self.ports[1]
            && self.uplinks >> (uplink & 63) & 1 != 0
    }

    /// Is it the same service under another number, though the rest of it may have changed?
    pub fn is_same(&self, other: &Self) -> bool {
        (self.name, self.family, self.protocol) == (other.name, other.family, other.protocol)
    }

    /// The host's port that one of its ports leads to.
    #[inline]
    pub const fn port_inside(&self, port: u16) -> u16 {
        self.inside_port.wrapping_add(port.wrapping_sub(self.ports[0]))
    }

    /// The host's ports, first and last.
    pub const fn ports_inside(&self) -> [u16; 2] {
        [self.inside_port, self.port_inside(self.ports[1])]
    }

    /// The port outside that leads to this one of the host's, if one does.
    pub fn port_outside(&self, inside: u16) -> Option<u16> {
        let [first, last] = self.ports_inside();
        (first..=last).contains(&inside).then(|| self.ports[0].wrapping_add(inside - first))
    }

    /// Is the service the gateway's own?
    #[inline(always)]
    pub const fn is_to_gateway(&self) -> bool {
        self.to_gateway != 0
    }

    /// Has a host asked for it? No service of the file has a colon in its name.
    pub fn is_mapped(&self) -> bool {
        self.name.as_str().contains(':')
    }

    /// The uplinks that are open.
    pub const fn uplinks(&self) -> IndexSet {
        IndexSet::from_bits(self.uplinks)
    }
}

/// Which ports have a forward, of whatever family, protocol and uplink: a bit for each block of 64
/// ports. So a port without one is known by a look at one word.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(transparent)]
pub struct PortBlocks([u64; 65_536 / BLOCK / 64]);

impl PortBlocks {
    /// Enters the ports, first to last.
    pub fn enter(&mut self, [first, last]: [u16; 2]) {
        for block in usize::from(first) / BLOCK..=usize::from(last) / BLOCK {
            self.0[block / 64] |= 1 << (block % 64);
        }
    }

    /// May the port have one?
    #[inline(always)]
    pub const fn may_have(&self, port: u16) -> bool {
        let block = port as usize / BLOCK;
        self.0[block / 64] >> (block % 64) & 1 != 0
    }
}

/// Where uplinks are open for services of hosts: ranges of ports, in order, each with its uplinks. So
/// the XDP program finds those of a port in a few steps, as many for one service as for all.
///
/// A range begins with the key of its first port and ends before the next one's. What is not used of
/// the arrays is at the beginning, and zero.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct OpenPorts {
    /// By range, its first port: see [`OpenPorts::key`].
    pub keys: [u32; OPEN_PORTS],
    /// By range, the uplinks: bit *u* for uplink *u*.
    pub uplinks: [u64; OPEN_PORTS],
}

/// Room for the ranges of [`OpenPorts`], a power of two: each service begins one and ends one, and the
/// first place is nobody's.
pub const OPEN_PORTS: usize = 4 * MAX_PORT_FORWARDS;

impl OpenPorts {
    /// A port of a family and protocol, as ranges are ordered.
    #[inline(always)]
    pub const fn key(family: Family, protocol: u8, port: u16) -> u32 {
        (family.index() as u32) << 24 | (protocol as u32) << 16 | port as u32
    }

    /// Enters the services of hosts, in place of those that were there.
    pub fn fill(&mut self, forwards: &[PortForward]) {
        self.zero();
        let hosts = || forwards.iter().take(MAX_PORT_FORWARDS).filter(|it| !it.is_to_gateway());
        let span = |of: &PortForward| {
            let family = if of.family == 0 { Family::V4 } else { Family::V6 };
            of.ports.map(|port| Self::key(family, of.protocol, port))
        };
        let mut begun = OPEN_PORTS;
        for [first, last] in hosts().map(span) {
            for key in [first, last + 1] {
                begun -= 1;
                self.keys[begun] = key;
            }
        }
        self.keys[begun..].sort_unstable();
        for (key, uplinks) in self.keys[begun..].iter().zip(&mut self.uplinks[begun..]) {
            for forward in hosts() {
                let [first, last] = span(forward);
                *uplinks |= if first <= *key && *key <= last { forward.uplinks } else { 0 };
            }
        }
    }

    /// The uplinks that are open for a port, by its key.
    pub fn uplinks(&self, key: u32) -> u64 {
        let behind = self.keys.partition_point(|first| *first <= key);
        behind.checked_sub(1).map_or(0, |at| self.uplinks[at])
    }
}

const _: () = {
    assert!(size_of::<PortForward>() == 88 && size_of::<PortBlocks>() == 128);
    assert!(OPEN_PORTS.is_power_of_two());
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_ports_leads_to_as_many_behind_the_first() {
        let mut forward = PortForward::new_zeroed();
        (forward.ports, forward.inside_port) = ([8000, 8010], 80);
        (forward.protocol, forward.uplinks) = (6, 0b10);
        let about = |port| forward.is_about(Family::V4, 1, 6, port);
        assert_eq!([7999, 8000, 8010, 8011].map(about), [false, true, true, false]);
        assert_eq!([8000, 8010].map(|port| forward.port_inside(port)), [80, 90]);
        assert!(!forward.is_about(Family::V4, 0, 6, 8000), "another uplink");
        assert!(!forward.is_about(Family::V4, 1, 17, 8000), "another protocol");
        assert!(!forward.is_about(Family::V6, 1, 6, 8000), "another family");
    }

    #[test]
    fn the_uplinks_of_a_port_are_those_of_all_services_that_have_it() {
        let forward = |family, protocol, ports, uplinks| PortForward {
            family,
            protocol,
            ports,
            uplinks,
            ..PortForward::new_zeroed()
        };
        let mut forwards = [
            forward(0, 6, [443, 443], 0b1),
            forward(0, 6, [400, 500], 0b10),
            forward(0, 17, [0, u16::MAX], 0b100),
            forward(1, 6, [u16::MAX, u16::MAX], 0b1000),
            forward(0, 6, [22, 22], u64::MAX),
        ];
        forwards[4].to_gateway = 1;
        let mut open = OpenPorts::new_zeroed();
        open.fill(&forwards);
        for family in Family::ALL {
            for (protocol, port) in
                [6, 17].into_iter().flat_map(|of| (0..=u16::MAX).map(move |port| (of, port)))
            {
                let about = |of: &&PortForward| {
                    let uplink = of.uplinks.trailing_zeros() as u8;
                    !of.is_to_gateway() && of.is_about(family, uplink, protocol, port)
                };
                let wanted = forwards.iter().filter(about).fold(0, |all, of| all | of.uplinks);
                assert_eq!(open.uplinks(OpenPorts::key(family, protocol, port)), wanted, "{port}");
            }
        }
        open.fill(&[forwards[0]; MAX_PORT_FORWARDS]);
        assert_eq!(open.uplinks(OpenPorts::key(Family::V4, 6, 443)), 1);
        assert_eq!(open.uplinks(0), 0);
    }

    #[test]
    fn blocks_hold_each_port_that_was_entered_and_few_others() {
        let mut blocks = PortBlocks::new_zeroed();
        blocks.enter([443, 443]);
        blocks.enter([65_530, 65_535]);
        let has = (0..=u16::MAX).filter(|port| blocks.may_have(*port));
        assert!(has.eq((384..448).chain(65_472..=u16::MAX)));
    }
}
