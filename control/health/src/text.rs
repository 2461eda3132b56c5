//! States, reasons, errors and who is who in the history, for people.

use std::fmt::{Display, Formatter, Result};

use rustix::io::Errno;
use weir_layout::Family;
use weir_site::load::rate_text;

use super::history::{Author, Part, TierChange};
use super::signal::{Reason, State};
use super::target::{ProbeError, TlsFault};

impl Display for State {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Recovering { .. } => "held down",
            other => other.name(),
        })
    }
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match *self {
            Self::Starting => write!(f, "nothing is known yet"),
            Self::Adopted => write!(f, "in use when weir-control started"),
            Self::Started => write!(f, "all is well"),
            Self::Admin => write!(f, "set down by hand"),
            Self::Draining => write!(f, "being emptied by hand"),
            Self::Drained => write!(f, "drained: the time to empty it is over"),
            Self::Released => write!(f, "put back into use by hand"),
            Self::Device => write!(f, "its interface cannot be used, see `weir status`"),
            Self::OtherFamilyDown => write!(f, "the other family is down, and they are joint"),
            Self::OtherFamilyBack => write!(f, "the other family is back"),
            Self::Carrier => write!(f, "no carrier"),
            Self::Address => write!(f, "no usable address, see `weir check` and `weir prefix`"),
            Self::NextHop => write!(f, "the next hop does not answer"),
            Self::TargetsFailed { failed, of, quorum } => {
                write!(f, "{failed} of {of} targets do not answer, {quorum} must")
            }
            Self::Unproven { answering, of, quorum } => {
                write!(f, "{answering} of {of} targets answer, {quorum} must")
            }
            Self::Loss { percent, threshold } => {
                write!(f, "{percent} % of probes are lost, limit {threshold} %")
            }
            Self::Rtt { ms, threshold } => {
                write!(f, "answers take {ms} ms, limit {threshold} ms")
            }
            Self::Jitter { ms, threshold } => {
                write!(f, "answers vary by {ms} ms, limit {threshold} ms")
            }
            Self::PassiveSyn { unanswered, of } => {
                write!(f, "{unanswered} of {of} new TCP connections are not answered")
            }
            Self::PassiveUdp { unanswered, of } => {
                write!(f, "{unanswered} of {of} new UDP flows are not answered")
            }
            Self::PassiveRetransmits { retransmitted, of } => {
                write!(f, "{retransmitted} of {of} segments are sent again")
            }
            Self::Holding { hold_ms, flaps } => {
                write!(f, "well again, must stay so for {:.1} s", hold_ms as f64 / 1e3)?;
                if flaps > 1 { write!(f, " after {flaps} flaps") } else { Ok(()) }
            }
            Self::Recovered { held_ms } => {
                write!(f, "well for {:.1} s", held_ms as f64 / 1e3)
            }
            Self::Saturated { direction, percent, capacity } => {
                let capacity = rate_text(capacity as f64);
                write!(f, "{percent} % of {capacity}bit/s {direction}: too full for new flows")
            }
            Self::Roomy { direction, percent, capacity } => {
                let capacity = rate_text(capacity as f64);
                write!(f, "{percent} % of {capacity}bit/s {direction}: room for new flows again")
            }
            Self::Unmeasured => {
                write!(f, "takes new flows again: no capacity or threshold to judge it by")
            }
        }
    }
}

impl Display for ProbeError {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match *self {
            Self::Timeout => write!(f, "no answer"),
            Self::Local(number) => local(f, number),
            Self::Crowded => {
                write!(f, "not sent: too many probes wait for an answer, raise LimitNOFILE")
            }
            Self::Refused => write!(f, "refused"),
            Self::Unreachable => write!(f, "unreachable"),
            Self::HttpStatus(status) => write!(f, "HTTP status {status}"),
            Self::HttpBody => write!(f, "the expected text is not in the body"),
            Self::DnsCode(code) => write!(f, "DNS response code {code}"),
            Self::Tls(fault) => write!(f, "TLS: {fault}"),
            Self::Malformed => write!(f, "an answer of another protocol"),
            Self::Dropped => write!(
                f,
                "answered, but this machine drops the answer: see its firewall's input rules"
            ),
        }
    }
}

/// What keeps this machine from sending, and what to do.
fn local(f: &mut Formatter<'_>, number: i32) -> Result {
    let (name, remedy) = match Errno::from_raw_os_error(number) {
        Errno::PERM => ("EPERM", "a firewall of this machine drops it: see its output rules"),
        Errno::ACCESS => ("EACCES", "a route or rule of this machine prohibits it"),
        Errno::NOBUFS => ("ENOBUFS", "the device's queue is full"),
        Errno::NOMEM => ("ENOMEM", "no memory"),
        Errno::ADDRNOTAVAIL => ("EADDRNOTAVAIL", "no such address here, or no free port"),
        Errno::MFILE => ("EMFILE", "no free descriptor: raise LimitNOFILE"),
        Errno::NFILE => ("ENFILE", "no free descriptor on this machine: raise fs.file-max"),
        Errno::NODEV => ("ENODEV", "the device is gone"),
        Errno::NETDOWN => ("ENETDOWN", "the device is down"),
        _ => return write!(f, "not sent: {}", std::io::Error::from_raw_os_error(number)),
    };
    write!(f, "not sent: {name}, {remedy}")
}

impl Display for TlsFault {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::Expired => "the certificate has expired (or the clock is fast)",
            Self::NotValidYet => "the certificate is not valid yet (or the clock is slow)",
            Self::WrongName => "the certificate is for another name",
            Self::UnknownIssuer => "the certificate's issuer is not trusted here",
            Self::Revoked => "the certificate was revoked",
            Self::Certificate => "the certificate cannot be used",
            Self::Protocol => "the server does not speak it",
        })
    }
}

impl Display for Part {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Self::Uplink(name) => f.write_str(name),
            Self::Ipv6(name) => write!(f, "{name} (IPv6)"),
            Self::Lan(name) => write!(f, "LAN {name}"),
        }
    }
}

/// Of whose tier it is.
impl Display for TierChange {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let family = if self.family == Family::V6 { " (IPv6)" } else { "" };
        write!(f, "policy {}{family}", self.policy)
    }
}

impl Display for Author {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match &self.user {
            Some(name) => f.write_str(name)?,
            None => write!(f, "user {}", self.uid)?,
        }
        self.pid.map_or(Ok(()), |pid| write!(f, ", process {pid}"))
    }
}
