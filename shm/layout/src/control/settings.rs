//! Settings of the whole gateway.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Which tier forwards established flows. The user tier forwards all others in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Tier {
    /// The user tier.
    User = 0,
    /// The XDP program, by the flow table.
    Kernel = 1,
}

impl Tier {
    /// What this machine can do of it. The kernel tier reads flow entries without barriers, see
    /// [`flow`](crate::flow), which takes a machine that keeps loads and stores in order.
    pub const fn here(self) -> Self {
        if cfg!(target_arch = "x86_64") { self } else { Self::User }
    }
}

/// What the XDP program does with transit while no dataplane socket is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OnDataplaneLoss {
    /// Transit is dropped: nothing leaves untranslated.
    Drop = 0,
    /// Transit goes to the kernel, which forwards it if it is set up to.
    Kernel = 1,
}

/// Idle timeouts, seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Timeouts {
    /// TCP before the handshake is complete (RFC 5382 REQ-5: transitory, 4 minutes).
    pub tcp_opening: u32,
    /// TCP established (RFC 5382 REQ-5: 2 h 4 min).
    pub tcp_established: u32,
    /// TCP after FIN or RST (RFC 5382 REQ-5, RFC 7857 §2.1).
    pub tcp_closing: u32,
    /// UDP (RFC 4787 REQ-5: recommended 5 minutes).
    pub udp: u32,
    /// ICMP queries (RFC 5508 REQ-2: 60 s).
    pub icmp: u32,
    /// All others (the kernel's `nf_conntrack_generic_timeout`: 600 s).
    pub other: u32,
}

impl Timeouts {
    /// What the RFCs ask for.
    pub const DEFAULT: Self = Self {
        tcp_opening: 240,
        tcp_established: 7440,
        tcp_closing: 240,
        udp: 300,
        icmp: 60,
        other: 600,
    };
}
