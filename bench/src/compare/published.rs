//! The service that flows from outside ask for: [`PORT`] outside, a host's address and port inside.

use std::net::SocketAddrV4;

use weir_traffic::PORT;

/// What weir is told of it.
#[must_use]
pub fn by_weir(to: SocketAddrV4) -> String {
    format!(
        "[[publish]]\nname = \"service\"\nprotocol = [\"tcp\", \"udp\"]\nports = {PORT}\n\
         to = \"{to}\"\n"
    )
}

/// What the kernel is told, for nft.
#[must_use]
pub fn by_linux(to: SocketAddrV4) -> String {
    let rule = |protocol| format!("iifname \"wan*\" {protocol} dport {PORT} dnat to {to}\n");
    format!(
        "table ip publish {{ chain in {{ type nat hook prerouting priority dstnat\n{}{}}}\n}}\n",
        rule("tcp"),
        rule("udp")
    )
}
