//! What is asked of the control process, in the command line's words.

use std::fmt::{Display, Formatter, Result};

use super::Request;

impl Display for Request {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Weight { uplink, weight, policy } => {
                write!(f, "weir weight {uplink} {weight}")?;
                option(f, " --policy ", policy.as_ref())
            }
            Self::ResetWeight { uplink, policy } => {
                write!(f, "weir weight {uplink} --reset")?;
                option(f, " --policy ", policy.as_ref())
            }
            Self::Reset { uplink } => {
                write!(f, "weir overrides --reset")?;
                option(f, " ", uplink.as_ref())
            }
            Self::Reload => write!(f, "weir reload"),
            Self::Drain { uplink, deadline_s } => {
                write!(f, "weir drain {uplink}")?;
                option(f, " --deadline ", deadline_s.map(|seconds| format!("{seconds}s")))
            }
            Self::Home { policy } => {
                write!(f, "weir home")?;
                option(f, " ", policy.as_ref())
            }
            // Which command that is, the caller's command line says.
            Self::Use { uplink, force: false } => write!(f, "weir use {uplink} -- …"),
            Self::Use { uplink, force: true } => write!(f, "weir use --force {uplink} -- …"),
            Self::SetPrefix { uplink, prefix, valid_s, preferred_s } => {
                write!(f, "weir prefix {uplink} set {prefix}")?;
                option(f, " --valid ", *valid_s)?;
                option(f, " --preferred ", *preferred_s)
            }
            Self::EndPrefix { uplink, prefix } => write!(f, "weir prefix {uplink} del {prefix}"),
            Self::KeepPrefixes { uplink, prefixes } => {
                write!(f, "weir prefix {uplink} keep")?;
                prefixes.iter().try_for_each(|prefix| write!(f, " {prefix}"))
            }
            Self::Unmap { name } => write!(f, "weir unmap {name}"),
            Self::Up { uplink } => write!(f, "weir up {uplink}"),
            Self::Down { uplink } => write!(f, "weir down {uplink}"),
        }
    }
}

fn option(f: &mut Formatter<'_>, before: &str, value: Option<impl Display>) -> Result {
    value.map_or(Ok(()), |value| write!(f, "{before}{value}"))
}
