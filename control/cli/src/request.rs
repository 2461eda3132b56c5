//! What the commands that change something ask of the control process.

use weir_api::Request;

use super::Command;

impl Command {
    /// None: it only looks, or does by itself what it does.
    pub(super) fn request(&self) -> Option<Request> {
        Some(match self {
            Self::Weight { uplink, weight, policy, .. } => {
                let (uplink, policy) = (uplink.clone(), policy.clone());
                match *weight {
                    Some(weight) => Request::Weight { uplink, weight, policy },
                    None => Request::ResetWeight { uplink, policy },
                }
            }
            Self::Up { uplink } => Request::Up { uplink: uplink.clone() },
            Self::Down { uplink } => Request::Down { uplink: uplink.clone() },
            Self::Drain { uplink, deadline } => {
                Request::Drain { uplink: uplink.clone(), deadline_s: *deadline }
            }
            Self::Home { policy } => Request::Home { policy: policy.clone() },
            Self::Use { uplink, force, .. } => {
                Request::Use { uplink: uplink.clone(), force: *force }
            }
            Self::Prefix { uplink: Some(uplink), change: Some(change) } => {
                change.request(uplink.clone())
            }
            Self::Unmap { name } => Request::Unmap { name: name.clone() },
            Self::Overrides { reset: Some(uplink) } => Request::Reset { uplink: uplink.clone() },
            Self::Reload => Request::Reload,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::Arguments;

    #[test]
    fn a_request_is_written_down_as_the_command_that_makes_it() {
        let uplink = || "lte".to_owned();
        let prefix = "2001:db8::/56".parse().unwrap();
        let set = |valid_s, preferred_s| {
            let uplink = uplink();
            Request::SetPrefix { uplink, prefix, valid_s, preferred_s }
        };
        let weight = |policy| Request::Weight { uplink: uplink(), weight: 3, policy };
        for request in [
            weight(None),
            weight(Some("web".into())),
            Request::ResetWeight { uplink: uplink(), policy: None },
            Request::ResetWeight { uplink: uplink(), policy: Some("web".into()) },
            Request::Reset { uplink: None },
            Request::Reset { uplink: Some(uplink()) },
            Request::Reload,
            Request::Drain { uplink: uplink(), deadline_s: None },
            Request::Drain { uplink: uplink(), deadline_s: Some(5400) },
            Request::Home { policy: None },
            Request::Home { policy: Some("web".into()) },
            Request::Use { uplink: uplink(), force: false },
            Request::Use { uplink: uplink(), force: true },
            set(None, None),
            set(Some(7200), Some(0)),
            set(Some(7200), Some(3600)),
            Request::EndPrefix { uplink: uplink(), prefix },
            Request::KeepPrefixes { uplink: uplink(), prefixes: Vec::new() },
            Request::KeepPrefixes { uplink: uplink(), prefixes: vec![prefix, prefix] },
            Request::Unmap { name: "upnp:7".into() },
            Request::Up { uplink: uplink() },
            Request::Down { uplink: uplink() },
        ] {
            let text = request.to_string();
            let read = Arguments::try_parse_from(text.split(' ')).unwrap();
            assert_eq!(read.command.request(), Some(request), "{text}");
        }
    }
}
