//! Which devices can transmit for XDP: generic netlink family `netdev` (Linux 6.3,
//! `Documentation/netlink/specs/netdev.yaml`).

use futures_util::stream::TryStreamExt;
use genetlink::GenetlinkHandle;
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
    ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

const DEV_GET: u8 = 1;
const VERSION: u8 = 1;
const IFINDEX: u16 = 1;
const XDP_FEATURES: u16 = 3;
/// `NETDEV_XDP_ACT_NDO_XMIT`: a target of redirection.
const NDO_XMIT: u64 = 1 << 2;

/// A request: the features of a device. A reply: those.
#[derive(Clone, Copy, Debug)]
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
        self.attribute().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attribute().emit(buffer);
    }
}

impl Netdev {
    fn attribute(self) -> DefaultNla {
        DefaultNla::new(IFINDEX, self.ifindex.to_ne_bytes().to_vec())
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Netdev {
    fn parse_with_param(bytes: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self { ifindex: 0, features: 0 };
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

/// Can frames be redirected to the device? No, when the kernel does not say.
pub async fn transmits(handle: &mut GenetlinkHandle, ifindex: u32) -> bool {
    let message = GenlMessage::from_payload(Netdev { ifindex, features: 0 });
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST;
    // The reply is one message; there is no use in waiting for the end of it.
    let reply = match handle.request(request).await {
        Ok(mut replies) => replies.try_next().await.ok().flatten(),
        Err(_) => None,
    };
    match reply.map(|reply| reply.payload) {
        Some(NetlinkPayload::InnerMessage(message)) => message.payload.features & NDO_XMIT != 0,
        _ => false,
    }
}
