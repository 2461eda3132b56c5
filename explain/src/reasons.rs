//! What counters mean, for people.

use weir_layout::counters::Counter;

/// Why a packet that is counted so went where it went.
pub(crate) const fn reason(counter: Counter) -> &'static str {
    match counter {
        Counter::XdpForwarded => "the flow is established: XDP forwards it",
        Counter::UserTx => "a worker forwards it",
        Counter::XdpPassLocal => "it is for an address of the gateway",
        Counter::XdpPassKernelRoute => "the kernel routes its destination elsewhere",
        Counter::XdpPassIpv6 => "no uplink has IPv6: all of it is the kernel's",
        Counter::XdpPassGroup => "it is for a group",
        Counter::XdpPassPort => "the file does not name the interface or VLAN",
        Counter::XdpPassOtherHost => "its hardware address is another host's",
        Counter::XdpPassForeign => "it is an answer of DHCP",
        Counter::XdpPassNoDataplane => "no worker has a socket on the device: left to the kernel",
        Counter::XdpPassUnconfigured => "nothing is published",
        Counter::XdpPassNotIp | Counter::DropNotIp => "it is not IP",
        Counter::XdpPassMalformed | Counter::XdpDropMalformed | Counter::DropMalformed => {
            "its headers are broken"
        }
        Counter::XdpDropNoDataplane => "no worker has a socket on the device",
        Counter::XdpDropNoFlow | Counter::DropNoFlow => {
            "nobody asked for it, and neither a service nor a rule lets it in"
        }
        Counter::XdpDropForeign => "from an uplink, and for nobody here",
        Counter::XdpDropMartian => "nobody has that address on a wire",
        Counter::XdpDropRedirect | Counter::DropIcmpRedirect => "redirects are not passed on",
        Counter::XdpDropUnknownHost => "the kernel does not know the host that it is for",
        Counter::XdpDropCrowded => "its source begins more than it may while a worker falls behind",
        Counter::DropPort => "the interface or VLAN is none of weir's",
        Counter::DropOptions => "it has options or extension headers that are not passed on",
        Counter::DropFragment => "the datagram's first fragment was dropped",
        Counter::DropFragmentWait => "the datagram's first fragment did not come",
        Counter::DropProtocol => "no flow has that protocol, or the uplink's translation breaks it",
        Counter::DropTtl => "its time to live ends here",
        Counter::DropTooBig => "it is larger than its way out takes",
        Counter::DropNotSyn => "it is of a connection that nobody knows",
        Counter::DropNoUplink => "the policy has no usable uplink",
        Counter::DropUplinkDown => "its uplink is down, or its next hop not known",
        Counter::DropTableFull => "the flow table, or its host's share of it, is full",
        Counter::DropNoPort => "no port is left outside",
        Counter::DropNeighbourFull => "the table of hardware addresses is full",
        Counter::DropTxFull => "the transmit ring is full",
        Counter::DropHandoffFull => "the ring to another worker is full",
        Counter::DropIcmpUnrelated => "it is about no flow of here",
        Counter::DropSource => "its source is not behind the interface it comes in by",
        Counter::DropAnswered => "its connection ends: the sender gets a reset",
        Counter::DropNoFrame => "there is no packet memory",
        Counter::DropUntranslatable => "the uplink has no address for the source",
        Counter::DropForeignSource => "no usable uplink routes the source back",
        Counter::DropRule => "a rule denies it",
        Counter::DropHostLimit => "its host has as many flows as it may (flows_per_host)",
        Counter::DropHostRate => "its host begins flows too fast (new_flows_per_host)",
        Counter::DropPublishSource => "the service is not open to its source",
        Counter::DropPublishHost => "the kernel does not know where the service's host is",
        _ => "see its counter",
    }
}
