//! Which devices can transmit for XDP: generic netlink family `netdev` (Linux 6.3,
//! `Documentation/netlink/specs/netdev.yaml`).

use std::collections::HashSet;

use futures_util::stream::TryStreamExt;
use genetlink::GenetlinkHandle;
use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
    ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

const DEV_GET: u8 = 1;
const VERSION: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_NDO_XMIT`: a target of redirection.
const NDO_XMIT: u64 = 1 << 2;

/// A device and its features; empty in a request.
#[derive(Clone, Copy, Debug, Default)]
struct Netdev {
    ifindex: u32,
    features: u64,
}

impl GenlFamily for Netdev {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        DEV_GET
    }

    fn version(&self) -> u8 {
        VERSION
    }
}

impl Emitable for Netdev {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _: &mut [u8]) {}
}

impl ParseableParametrized<[u8], GenlHeader> for Netdev {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self::default();
        for attribute in NlasIterator::new(bytes) {
            let attribute = attribute?;
            match (attribute.kind(), attribute.value()) {
                (IFINDEX, value) => {
                    device.ifindex = value.try_into().map_or(0, u32::from_ne_bytes);
                }
                (XDP_FEATURES, value) => {
                    device.features = value.try_into().map_or(0, u64::from_ne_bytes);
                }
                _ => {}
            }
        }
        Ok(device)
    }
}

/// Indices of the interfaces that frames can be redirected to; none when the kernel does not say.
pub async fn transmitters(mut handle: GenetlinkHandle) -> HashSet<u32> {
    let mut request = NetlinkMessage::from(GenlMessage::from_payload(Netdev::default()));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut found = HashSet::new();
    match handle.request(request).await {
        Ok(mut replies) => {
            while let Ok(Some(reply)) = replies.try_next().await {
                if let NetlinkPayload::InnerMessage(message) = reply.payload
                    && message.payload.features & NDO_XMIT != 0
                {
                    found.insert(message.payload.ifindex);
                }
            }
        }
        Err(error) => tracing::debug!("the kernel does not tell XDP features: {error}"),
    }
    found
}
