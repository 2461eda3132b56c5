//! What the command line asks of the control process: JSON, one message and one response per line;
//! and the words that both use for people.
//!
//! | module | what it is |
//! |---|---|
//! | this one | messages, responses, and a client |
//! | `told` | what responses are made of |
//! | `asked` | requests in the command line's words |
//! | [`time`] | times and durations |
//! | [`untold`] | what nobody was there to hear |
//! | [`words`] | states of paths and devices |
#![forbid(unsafe_code)]

mod asked;
pub mod time;
mod told;
pub mod untold;
pub mod words;

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ipnet::Ipv6Net;
use serde::{Deserialize, Serialize};
use weir_health::Entry;

pub use told::{
    AdvertisedDomain, AdvertisedPrefix, AdvertisedRoute, AdvertisedServer, AdvertisedView,
    Configuration, DelegatedPrefix, DelegatedView, MappedView, Override, PathView, Refused,
    TargetView, UplinkView,
};

/// Where the control process listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/weir/control.sock";

/// How long an answer is waited for. A process that is stopped gives none, and does not carry out
/// later what it was asked, see `serve`.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is said of a response that does not belong to the request.
pub const ANOTHER_VERSION: &str = "weir-control answered something else: is it of this version?";

/// Nobody answers.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unanswered(String);

/// What goes to the control process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Message {
    /// Tell something.
    Ask(Query),
    /// Change something.
    Do(Request),
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Query {
    /// How the uplinks are.
    Health,
    /// What happened, from this entry of the history on.
    History {
        /// Number of the first; 0: all that are kept.
        since: u64,
    },
    /// What was set by hand.
    Overrides,
    /// Which file is in force.
    Configuration,
    /// What the hosts of LANs are told by router advertisements.
    Advertised,
    /// The prefixes that providers delegate.
    Delegated,
    /// The ports that hosts have asked for.
    Mapped,
}

/// What can be changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Set the weight of an uplink, in all policies that give it none of its own or in one.
    Weight {
        /// Name of the uplink.
        uplink: String,
        /// New weight.
        weight: u32,
        /// Name of the policy; none: the uplink's own weight.
        policy: Option<String>,
    },
    /// Give an uplink the weight of the file again, in all policies that it has none of its own by
    /// hand in, or in one.
    ResetWeight {
        /// Name of the uplink.
        uplink: String,
        /// Name of the policy; none: the uplink's own weight.
        policy: Option<String>,
    },
    /// Undo what was set by hand.
    Reset {
        /// Name of the uplink; none: of all.
        uplink: Option<String>,
    },
    /// Read the configuration file again.
    Reload,
    /// Empty an uplink: new flows avoid it, and at the deadline it is taken out of use.
    Drain {
        /// Name of the uplink.
        uplink: String,
        /// Seconds until then; none: until told otherwise.
        deadline_s: Option<u64>,
    },
    /// Bring flows home from uplinks of a worse tier than the active one, once.
    Home {
        /// Name of the policy; none: of all.
        policy: Option<String>,
    },
    /// Have the sockets that the process which asks makes from now on leave by an uplink.
    Use {
        /// Name of the uplink.
        uplink: String,
        /// Even if it is down.
        force: bool,
    },
    /// Give an uplink a prefix that its provider delegates, or one that it has another end.
    SetPrefix {
        /// Name of the uplink, or of its interface.
        uplink: String,
        /// The prefix.
        prefix: Ipv6Net,
        /// For how many seconds from now the provider routes it here; none: without end, 0: no
        /// more.
        valid_s: Option<u32>,
        /// For how many seconds new connections should be made from it: not more.
        preferred_s: Option<u32>,
    },
    /// End a prefix of an uplink that its provider has delegated.
    EndPrefix {
        /// Name of the uplink, or of its interface.
        uplink: String,
        /// The prefix.
        prefix: Ipv6Net,
    },
    /// End all prefixes of an uplink that its provider has delegated but these.
    KeepPrefixes {
        /// Name of the uplink, or of its interface.
        uplink: String,
        /// The prefixes that stay.
        prefixes: Vec<Ipv6Net>,
    },
    /// End a port that a host has asked for.
    Unmap {
        /// Its name.
        name: String,
    },
    /// Let an uplink take flows again.
    Up {
        /// Name of the uplink.
        uplink: String,
    },
    /// Take an uplink out of use.
    Down {
        /// Name of the uplink.
        uplink: String,
    },
}

/// A response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// Done, and in force from this epoch on.
    Ok {
        /// Epoch of the control page.
        epoch: u64,
        /// For people.
        message: String,
    },
    /// How the uplinks are.
    Health {
        /// In the order of the file.
        uplinks: Vec<UplinkView>,
    },
    /// What happened, oldest first.
    History {
        /// Each with its number.
        entries: Vec<Entry>,
    },
    /// What was set by hand.
    Overrides {
        /// In the order of the file.
        overrides: Vec<Override>,
    },
    /// Which file is in force.
    Configuration {
        /// Its path, and why it is another than the one that was given.
        configuration: Configuration,
    },
    /// What the hosts of LANs were told last.
    Advertised {
        /// Of each LAN that gets router advertisements.
        lans: Vec<AdvertisedView>,
    },
    /// The prefixes that providers delegate.
    Delegated {
        /// Of each uplink whose prefixes are told while weir runs.
        uplinks: Vec<DelegatedView>,
    },
    /// The ports that hosts have asked for.
    Mapped {
        /// In the order in which they were made.
        mappings: Vec<MappedView>,
    },
    /// Refused; nothing changed.
    Error {
        /// Why, and what to do.
        message: String,
    },
}

/// Makes a request and waits for its response, three seconds at most.
///
/// # Errors
/// [`Unanswered`] when there is no process to answer, or it does not.
pub fn call(socket: &Path, request: &Request) -> Result<Response> {
    exchange(socket, &Message::Do(request.clone()))
}

/// As [`call`], for a question.
///
/// # Errors
/// Likewise.
pub fn ask(socket: &Path, query: &Query) -> Result<Response> {
    exchange(socket, &Message::Ask(query.clone()))
}

fn exchange(socket: &Path, message: &Message) -> Result<Response> {
    let mut text = serde_json::to_string(message)?;
    text.push('\n');
    let mut stream = UnixStream::connect(socket).map_err(|error| match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => Unanswered(format!(
            "weir-control does not run, or does not listen on {}: start it, or give the right \
             --socket",
            socket.display()
        ))
        .into(),
        _ => anyhow!("cannot reach weir-control on {}: {error}", socket.display()),
    })?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    let read = stream
        .write_all(text.as_bytes())
        .and_then(|()| BufReader::new(stream).read_line(&mut line));
    match read {
        Ok(1..) => {}
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            let seconds = PATIENCE.as_secs();
            let text = match message {
                Message::Ask(_) => format!("weir-control has not answered for {seconds} s"),
                Message::Do(_) => format!(
                    "weir-control has not answered for {seconds} s: is it stopped? It will not do \
                     later what it was asked"
                ),
            };
            return Err(Unanswered(text).into());
        }
        _ => return Err(Unanswered("weir-control hung up".into()).into()),
    }
    serde_json::from_str(&line).with_context(|| format!("weir-control answered {line:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_process_that_is_stopped_is_not_waited_for() {
        let path = std::env::temp_dir().join(format!("weir-api-{}", std::process::id()));
        // Connected to, and never read.
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        let socket = path.clone();
        std::thread::spawn(move || tell.send(ask(&socket, &Query::Health)));
        let answer = told.recv_timeout(Duration::from_secs(60)).expect("an end of the waiting");
        std::fs::remove_file(path).unwrap();
        assert_eq!(answer.unwrap_err().to_string(), "weir-control has not answered for 3 s");
    }
}
