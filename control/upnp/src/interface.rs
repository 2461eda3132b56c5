//! WANCommonInterfaceConfig:1. Of several uplinks no rate is the one, and counters are the operator's
//! (`weir counters`).

use crate::call::{Call, Results};
use crate::fault::Fault;

pub fn carry_out(call: &Call<'_>) -> Results {
    match call.action.name.as_str() {
        "GetCommonLinkProperties" => Ok(vec![
            ("NewWANAccessType", "Ethernet".into()),
            ("NewLayer1UpstreamMaxBitRate", "0".into()),
            ("NewLayer1DownstreamMaxBitRate", "0".into()),
            ("NewPhysicalLinkStatus", if call.is_connected() { "Up" } else { "Down" }.into()),
        ]),
        "SetEnabledForInternet"
        | "GetEnabledForInternet"
        | "GetWANAccessProvider"
        | "GetMaximumActiveConnections"
        | "GetTotalBytesSent"
        | "GetTotalBytesReceived"
        | "GetTotalPacketsSent"
        | "GetTotalPacketsReceived"
        | "GetActiveConnection" => Err(Fault::NotImplemented),
        _ => Err(Fault::InvalidAction),
    }
}
