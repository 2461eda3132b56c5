//! The kernel's settings as they were before weir, in a region of their own.
//!
//! Every version of weir reads them, so that `weir detach` puts back what another one changed. They
//! have no [`RegionHeader`](crate::RegionHeader), and no part in [`VERSION`](crate::VERSION): bits
//! keep their meaning, and those that have none yet are zero.

/// What is to be put back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SysctlsBefore {
    /// `net.ipv4.ip_local_port_range`, first and last; zero: it was not changed.
    pub local_ports: (u16, u16),
    /// `net.ipv4.ip_forward` was 0.
    pub forwarded_nothing: bool,
}

impl SysctlsBefore {
    /// As one word, the whole region: the ports in bits 0–15 and 16–31, then the flag.
    pub const fn pack(self) -> u64 {
        let (first, last) = self.local_ports;
        first as u64 | (last as u64) << 16 | (self.forwarded_nothing as u64) << 32
    }

    /// From that word; `None`: a later version changed a setting that this one does not know.
    pub const fn unpack(word: u64) -> Option<Self> {
        if word >> 33 != 0 {
            return None;
        }
        Some(Self {
            local_ports: (word as u16, (word >> 16) as u16),
            forwarded_nothing: word >> 32 == 1,
        })
    }
}
