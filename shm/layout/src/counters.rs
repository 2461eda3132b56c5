//! Counters: one lane per CPU for the XDP program, one per worker for the user tier.
//!
//! A lane has one writer, so counting is a load and a store. Readers add the lanes up. Every packet
//! that a tier receives ends in exactly one of its outcomes, hence for the kernel tier
//! `rx = to_kernel + to_user + forwarded + drops`, and for the user tier
//! `rx + handoff.in + originated = tx + handoff.out + drops`.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::control::{MAX_PORT_FORWARDS, PATHS};
use super::{Family, MAX_RULES, MAX_WORKERS, RegionHeader};

/// Lanes of the XDP program; CPU *n* uses lane `n % CPU_LANES`.
pub const CPU_LANES: usize = 96;
/// Lanes in all; worker *w* uses lane `CPU_LANES + w`.
pub const LANES: usize = CPU_LANES + MAX_WORKERS;

macro_rules! counters {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $index:literal, $label:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant = $index,)* }

        impl $name {
            /// Every counter, in index order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name people and scripts see.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }
        }
    };
}

counters! {
    /// What became of a packet.
    Counter {
        /// Frames the XDP program saw.
        XdpRx = 0, "xdp.rx";
        /// XDP: handed to a user-tier socket.
        XdpToUser = 1, "xdp.to_user";
        /// XDP to kernel: not IP (ARP, LLDP, PPPoE …).
        XdpPassNotIp = 2, "xdp.pass.not_ip";
        /// XDP to kernel: IPv6 that is none of weir's business.
        XdpPassIpv6 = 3, "xdp.pass.ipv6";
        /// XDP to kernel: interface or VLAN is none of ours.
        XdpPassPort = 4, "xdp.pass.port";
        /// XDP to kernel: for an address of the gateway.
        XdpPassLocal = 5, "xdp.pass.local";
        /// XDP to kernel: for a prefix the kernel routes.
        XdpPassKernelRoute = 6, "xdp.pass.kernel_route";
        /// XDP to kernel: broadcast or multicast.
        XdpPassGroup = 7, "xdp.pass.group";
        /// XDP to kernel: malformed IP for another hardware address.
        XdpPassMalformed = 8, "xdp.pass.malformed";
        /// XDP to kernel: a DHCP answer for an address that the gateway does not have yet.
        XdpPassForeign = 9, "xdp.pass.foreign";
        /// XDP to kernel: the frame is for another host's hardware address.
        XdpPassOtherHost = 10, "xdp.pass.other_host";
        /// XDP to kernel: transit while no dataplane is attached, as configured.
        XdpPassNoDataplane = 11, "xdp.pass.no_dataplane";
        /// XDP to kernel: control has not published anything yet.
        XdpPassUnconfigured = 12, "xdp.pass.unconfigured";
        /// XDP drop: transit while no dataplane is attached.
        XdpDropNoDataplane = 13, "xdp.drop.no_dataplane";
        /// XDP: forwarded in the kernel tier.
        XdpForwarded = 14, "xdp.forwarded";
        /// XDP drop: for a LAN or an address of a pool, and no flow wants it.
        XdpDropNoFlow = 15, "xdp.drop.no_flow";

        /// Frames a worker received from its sockets.
        UserRx = 16, "user.rx";
        /// Packets a worker made itself (ICMP errors, resets).
        UserOriginated = 17, "user.originated";
        /// Frames handed to a port for transmission.
        UserTx = 18, "user.tx";
        /// Frames handed to another worker.
        UserHandoffOut = 19, "user.handoff.out";
        /// Frames taken over from another worker.
        UserHandoffIn = 20, "user.handoff.in";
        /// Drop: not IP, or a stacked VLAN tag.
        DropNotIp = 21, "drop.not_ip";
        /// Drop: truncated or malformed headers.
        DropMalformed = 22, "drop.malformed";
        /// Drop: interface or VLAN is none of ours.
        DropPort = 23, "drop.port";
        /// Drop: IPv4 options, or IPv6 extension headers that are not walked.
        DropOptions = 24, "drop.options";
        /// Drop: a later fragment whose first was dropped.
        DropFragment = 25, "drop.fragment";
        /// Drop: a protocol that no flow has, or that the uplink's translation would break.
        DropProtocol = 26, "drop.protocol";
        /// Drop: time to live exceeded.
        DropTtl = 27, "drop.ttl";
        /// Drop: larger than the outgoing port's MTU.
        DropTooBig = 28, "drop.too_big";
        /// Drop: from an uplink, and no flow wants it.
        DropNoFlow = 29, "drop.no_flow";
        /// Drop: a FIN or RST without a flow.
        DropNotSyn = 30, "drop.not_syn";
        /// Drop: the policy has no usable uplink.
        DropNoUplink = 31, "drop.no_uplink";
        /// Drop: the flow's uplink is down and the flow cannot move.
        DropUplinkDown = 32, "drop.uplink_down";
        /// Drop: no room in the flow table.
        DropTableFull = 33, "drop.table_full";
        /// Drop: no free NAT port.
        DropNoPort = 34, "drop.no_port";
        /// Drop: no room for another LAN hardware address.
        DropNeighbourFull = 35, "drop.neighbour_full";
        /// Drop: ICMP redirect or source quench from a LAN.
        DropIcmpRedirect = 36, "drop.icmp_redirect";
        /// Drop: the transmit ring was full.
        DropTxFull = 37, "drop.tx_full";
        /// Drop: the ring to another worker was full.
        DropHandoffFull = 38, "drop.handoff_full";
        /// Drop: ICMP error about a flow that is not ours.
        DropIcmpUnrelated = 39, "drop.icmp_unrelated";
        /// Drop: source address is not one the LAN may use, or is a martian.
        DropSource = 40, "drop.source";
        /// Drop: answered with an ICMP error or a TCP reset of our own.
        DropAnswered = 41, "drop.answered";
        /// Drop: no memory for the copy that a fragment or an answer needs.
        DropNoFrame = 42, "drop.no_frame";

        /// XDP drop: from an uplink for an address that is not of this side.
        XdpDropForeign = 43, "xdp.drop.foreign";
        /// XDP drop: an address that nobody has there, of either layer.
        XdpDropMartian = 44, "xdp.drop.martian";
        /// XDP drop: an ICMP redirect or source quench from an uplink.
        XdpDropRedirect = 45, "xdp.drop.redirect";

        /// Flows created.
        FlowsCreated = 48, "flows.created";
        /// Flows that ended by timeout or close.
        FlowsExpired = 49, "flows.expired";
        /// Flows moved to another uplink.
        FlowsMoved = 50, "flows.moved";
        /// Flows taken over from an earlier dataplane process.
        FlowsAdopted = 51, "flows.adopted";
        /// Connections reset because their uplink went down, or to bring them home.
        FlowsReset = 52, "flows.reset";

        /// XDP drop: malformed IPv4 for the gateway's hardware address.
        XdpDropMalformed = 53, "xdp.drop.malformed";

        /// Drop: the uplink's provider has no address for the source (RFC 6296).
        DropUntranslatable = 54, "drop.untranslatable";
        /// Drop: no usable uplink of the policy may carry the source.
        DropForeignSource = 55, "drop.foreign_source";

        /// XDP drop: for a host of a LAN that the kernel does not know, and was asked enough for.
        XdpDropUnknownHost = 56, "xdp.drop.unknown_host";
        /// XDP drop: begins something, and its source is over its allowance.
        XdpDropCrowded = 63, "xdp.drop.crowded";

        /// Drop: a rule lets it begin no flow.
        DropRule = 59, "drop.rule";
        /// Drop: its host has as many flows as `flows_per_host` allows.
        DropHostLimit = 60, "drop.host_limit";
        /// Drop: its host has begun as many flows in this second as `new_flows_per_host` allows.
        DropHostRate = 61, "drop.host_rate";

        /// Drop: a fragment whose first did not come in time, or for which there was no room to wait.
        DropFragmentWait = 62, "drop.fragment_wait";

        /// Drop: for a published service that is not open to the source.
        DropPublishSource = 57, "drop.publish_source";
        /// Drop: for a published service whose host the kernel does not know yet, or nobody is.
        DropPublishHost = 58, "drop.publish_host";
    }
}

impl Counter {
    /// Slots for counters in a lane.
    pub const SLOTS: usize = 64;

    /// Is this a drop of either tier?
    pub const fn is_drop(self) -> bool {
        let index = self as u8;
        self.is_xdp_drop()
            || (index >= Self::DropNotIp as u8 && index <= Self::DropNoFrame as u8)
            || matches!(
                self,
                Self::DropUntranslatable
                    | Self::DropForeignSource
                    | Self::DropRule
                    | Self::DropHostLimit
                    | Self::DropHostRate
                    | Self::DropPublishSource
                    | Self::DropPublishHost
                    | Self::DropFragmentWait
            )
    }

    /// Is this a drop of the XDP program?
    pub const fn is_xdp_drop(self) -> bool {
        matches!(
            self,
            Self::XdpDropNoDataplane
                | Self::XdpDropNoFlow
                | Self::XdpDropForeign
                | Self::XdpDropMartian
                | Self::XdpDropRedirect
                | Self::XdpDropMalformed
                | Self::XdpDropUnknownHost
                | Self::XdpDropCrowded
        )
    }

    /// Is this a packet the XDP program gave to the kernel?
    pub const fn is_pass(self) -> bool {
        let index = self as u8;
        index >= Self::XdpPassNotIp as u8 && index <= Self::XdpPassUnconfigured as u8
    }
}

/// What one path carries. 64 bytes, one cache line.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct PathCounters {
    /// Packets sent by the path.
    pub tx_packets: u64,
    /// Bytes sent, from the IP header on.
    pub tx_bytes: u64,
    /// Packets that came in by flows of the path.
    pub rx_packets: u64,
    /// Bytes that came in, from the IP header on.
    pub rx_bytes: u64,
    /// Flows placed on the path since start.
    pub flows_created: u64,
    /// Flows on the path now; a sum over lanes, a single lane may wrap below zero.
    pub flows_active: u64,
    /// TCP segments with data, of either direction.
    pub segments: u64,
    /// Those of them with nothing new: sent again, or overtaken. Whose: see [`Resent`].
    pub retransmitted: u64,
}

/// Places of [`Resent`].
pub const PLACES: usize = 16;

/// Whose segments were sent again on one path: each counts at the place of its LAN host, and at
/// that of its remote host. So what one of them has is known from what others have. 256 bytes.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable,
)]
#[repr(C)]
pub struct Resent {
    /// By LAN host.
    pub users: [u64; PLACES],
    /// By remote host.
    pub remotes: [u64; PLACES],
}

/// The place of an address, given as memory has it.
#[inline(always)]
pub const fn place(address: u32) -> usize {
    // 2^32 divided by the golden ratio: all bits reach the upper ones.
    (address.wrapping_mul(0x9e37_79b9) >> 28) as usize % PLACES
}

/// One lane. 45056 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
pub struct Lane {
    /// By [`Counter`].
    pub counters: [u64; Counter::SLOTS],
    /// By [`PathId::index`](super::control::PathId::index).
    pub paths: [PathCounters; PATHS],
    /// Identification.
    pub header: RegionHeader,
    /// The XDP program's clock: the kernel's tick that it was read at, and what it read then,
    /// CLOCK_MONOTONIC milliseconds.
    pub clock: [u64; 2],
    /// Flows that stay inside, by [`Family`]: those of no path. As [`PathCounters::flows_active`].
    pub inside: [u64; Family::COUNT],
    /// Zero.
    pub reserved: [u64; 57],
    /// By [`PathId::index`](super::control::PathId::index).
    pub resent: [Resent; PATHS],
    /// Packets that each rule decided about, in the order of
    /// [`ControlHalf::rules`](super::control::ControlHalf::rules) by which the lane's owner works.
    pub rules: [u64; MAX_RULES],
    /// New flows of published services, by their
    /// [number](super::control::ControlHalf::port_forwards).
    pub forwarded: [u64; MAX_PORT_FORWARDS],
}

const _: () = {
    assert!(size_of::<PathCounters>() == 64);
    assert!(core::mem::offset_of!(Lane, paths).is_multiple_of(64));
    assert!(core::mem::offset_of!(Lane, resent).is_multiple_of(64));
    assert!(size_of::<Resent>() == 256);
    assert!(size_of::<Lane>() == 1024 + (64 + 256) * PATHS + 8 * (MAX_RULES + MAX_PORT_FORWARDS));
};
