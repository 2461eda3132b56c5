//! The `weir` command.
//!
//! | module | commands |
//! |---|---|
//! | [`status`], [`policies`], [`flows`], [`counters`] | what shared memory says: those, and `rules` |
//! | [`uplinks`] | the same, for `uplinks` |
//! | [`top`] | all of that and health, live: `top` |
//! | `state`, `figures`, `table` | what they read; their values as tables |
//! | [`health`] | what the control process knows: `uplinks history overrides` |
//! | [`ra`] | what the hosts of LANs are told: `ra`; in the words of `radvd` and `bird` |
//! | [`prefix`] | the prefixes that providers delegate: `prefix` |
//! | [`services`] | the published services: `publish` |
//! | [`sets`] | the sets of prefixes: `sets` |
//! | [`explain`], `captured` | the dataplane's own code on a copy: `explain what-if` |
//! | `reload` | another file, for `what-if` |
//! | `request` | what commands ask of the control process |
//! | `filters` | filters of others that do not see what is forwarded: for `check` |
//! | [`act`] | requests to the control process, and the rest |
//! | [`output`] | how all of them print, and end |
#![forbid(unsafe_code)]

pub mod act;
mod advertised;
mod best;
mod bird;
mod captured;
pub mod counters;
mod criteria;
mod devices;
mod elsewhere;
pub mod explain;
mod figures;
mod filters;
pub mod flows;
pub mod health;
pub mod output;
pub mod policies;
pub mod prefix;
mod processes;
pub mod ra;
mod radvd;
mod reload;
mod request;
pub mod services;
pub mod sets;
mod state;
pub mod status;
mod table;
pub mod top;
pub mod uplinks;

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};
use weir_shm::Pins;

pub use output::Exit;

/// Looks at and changes a running weir.
#[derive(Debug, Parser)]
#[command(
    name = "weir",
    version,
    after_help = "Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 weir is not running, \
                  or does not answer, 4 the configuration is not valid.\n\
                  Commands that only look work without weir-control, but history, overrides, ra \
                  and prefix."
)]
pub struct Arguments {
    /// Directory of the shared memory.
    #[arg(long, global = true, default_value = weir_shm::pins::DEFAULT_DIRECTORY)]
    pub pins: PathBuf,
    /// Socket of the control process.
    #[arg(long, global = true, default_value = weir_api::DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Processes, devices and totals. Exit status 3 when one of the processes does not run, or is
    /// stopped or hangs.
    Status,
    /// Each uplink: state, weight, share of new flows, traffic; and from weir-control, if it
    /// answers, why, since when, and how its targets answer.
    Uplinks,
    /// The gateway live: what is sick and why, uplinks, targets, flows, hosts, drops. `?` says what
    /// keys do.
    Top,
    /// What happened: changes of the states of uplinks and LANs with the reason of each, other
    /// tiers of policies, and what was done by hand, by whom. Needs weir-control.
    History {
        /// Only from this number on.
        #[arg(long, default_value_t = 0)]
        since: u64,
    },
    /// Each policy: members, tiers, weights, shares.
    Policies,
    /// The rules, in the order in which they are tried.
    Rules,
    /// The sets of prefixes: how many each holds, and which rules and published services ask for
    /// it.
    Sets {
        /// Only those that hold this address.
        address: Option<IpAddr>,
    },
    /// The published services: by which uplinks they are open, how many flows have begun, and how
    /// many there are.
    Publish,
    /// End a port that a host has asked for (`port_mapping`). It may ask again.
    Unmap {
        /// Its name, as `weir publish` has it.
        name: String,
    },
    /// Flows in the table.
    Flows(flows::FlowFilter),
    /// What becomes of a packet, and why: rule, policy, bucket, uplink and why none of the others,
    /// translation, next hop. Found out by the dataplane's own code on a copy; nothing is sent.
    #[command(after_help = "weir explain tcp 10.0.0.5:51000 1.1.1.1:443\n\
                            weir explain udp [2001:db8::5]:5000 [2606:4700::1]:53\n\
                            weir explain icmp 10.0.0.5 1.1.1.1\n\
                            weir explain tcp 1.1.1.1:40000 203.0.113.10:443 --from fiber\n\
                            weir explain --pcap lan.pcap")]
    Explain(explain::Asked),
    /// What a change would do to flows and shares; nothing is changed.
    #[command(
        after_help = "weir what-if down fiber\nweir what-if up fiber\nweir what-if drain fiber\n\
                            weir what-if weight fiber 5 policy all\n\
                            weir what-if /root/new-weir.toml"
    )]
    WhatIf {
        /// The change, as the command that makes it; or a configuration file, as if it were
        /// reloaded.
        #[arg(required = true)]
        change: Vec<String>,
    },
    /// Every counter that is not zero, and whether they add up.
    Counters,
    /// Set the weight of an uplink, until it is reset.
    Weight {
        /// Name of the uplink.
        uplink: String,
        /// New weight; 0 takes no new flows.
        #[arg(required_unless_present = "reset")]
        weight: Option<u32>,
        /// The file's weight again.
        #[arg(long, conflicts_with = "weight")]
        reset: bool,
        /// Only in this policy.
        #[arg(long)]
        policy: Option<String>,
    },
    /// Let an uplink that was set down or drains take flows again.
    Up {
        /// Name of the uplink.
        uplink: String,
    },
    /// Empty an uplink: new flows avoid it, those that can move do so when idle. `weir up` ends it.
    Drain {
        /// Name of the uplink.
        uplink: String,
        /// Take it out of use after so long, such as 10m; without, it drains until told otherwise.
        #[arg(long, value_parser = weir_site::duration::seconds)]
        deadline: Option<u64>,
    },
    /// Bring flows home now that wait on a backup (an uplink of a worse tier) for their end:
    /// translated TCP connections by a reset, the rest unharmed.
    Home {
        /// Only those of this policy.
        policy: Option<String>,
    },
    /// Run a command whose sockets leave by an uplink, whatever the routes say: `weir use fiber --
    /// curl …`. The exit status is the command's; 125 if weir refuses, 126 and 127 as from env(1).
    Use {
        /// Name of the uplink.
        uplink: String,
        /// Even if the uplink is down.
        #[arg(long)]
        force: bool,
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
    /// Take an uplink out of use: its flows move or are reset at their next packet.
    Down {
        /// Name of the uplink.
        uplink: String,
    },
    /// The prefixes of IPv6 that providers delegate: shows them, or tells of a change, as the hooks
    /// of DHCPv6 clients do. Needs weir-control to show them.
    Prefix {
        /// Name of the uplink, or of its interface.
        uplink: Option<String>,
        /// What has changed.
        #[command(subcommand)]
        change: Option<prefix::Change>,
    },
    /// What the hosts of LANs are told by router advertisements; or all of it in the words of
    /// another program that sends them, for LANs with `ra = "others"`. Needs weir-control.
    Ra {
        /// Only of this LAN.
        lan: Option<String>,
        /// As that program's configuration.
        #[arg(long)]
        format: Option<ra::Format>,
    },
    /// What is set by hand and not by the file, since when, and by whom. Needs weir-control.
    Overrides {
        /// Have all of it as in the file again, or what is set of this uplink.
        #[arg(long, value_name = "UPLINK")]
        reset: Option<Option<String>>,
    },
    /// Have weir-control read the configuration file again; says what is wrong with it.
    Reload,
    /// Check a configuration file, against this machine's interfaces and what is published too.
    Check {
        /// The file.
        #[arg(default_value = "/etc/weir/weir.toml")]
        file: PathBuf,
    },
    /// Remove the XDP program, the flow table and everything else from the kernel.
    Detach {
        /// Even while the dataplane runs.
        #[arg(long)]
        force: bool,
    },
    /// Print a completion script.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
}

/// Runs a command.
pub fn run(arguments: &Arguments) -> Exit {
    let pins = Pins::existing(&arguments.pins);
    let json = arguments.json;
    let viewed = |text: anyhow::Result<String>| match text {
        Ok(text) => output::print(&text),
        Err(error) => output::failed(json, &elsewhere::explain(arguments, error)),
    };
    match &arguments.command {
        Command::Status => match status::status(arguments, &pins) {
            Ok((text, well)) => match output::print(&text) {
                Exit::Ok if !well => Exit::NotRunning,
                printed => printed,
            },
            Err(error) => viewed(Err(error)),
        },
        Command::Uplinks => viewed(health::uplinks(arguments, &pins)),
        Command::Top if json => output::fail(
            json,
            Exit::Failed,
            "top has no JSON: use `weir uplinks --json`, `flows`, `policies` or `counters`",
        ),
        Command::Top => viewed(top::top(&pins, &arguments.socket).map(|()| String::new())),
        Command::History { since } => viewed(health::history(arguments, *since)),
        Command::Policies => viewed(policies::policies(&pins, json)),
        Command::Rules => viewed(policies::rules(&pins, json)),
        Command::Sets { address } => viewed(sets::sets(&pins, *address, json)),
        Command::Publish => viewed(services::publish(&pins, arguments)),
        Command::Flows(filter) => viewed(flows::flows(&pins, filter, json)),
        Command::Explain(asked) => viewed(explain::explain(arguments, &pins, asked)),
        Command::WhatIf { change } => viewed(explain::what_if(arguments, &pins, change)),
        Command::Counters => viewed(counters::counters(&pins, json)),
        Command::Overrides { reset: None } => viewed(health::overrides(arguments)),
        Command::Ra { lan, format } => viewed(ra::show(arguments, lan.as_deref(), *format)),
        Command::Prefix { uplink, change: None } => {
            viewed(prefix::show(arguments, uplink.as_deref()))
        }
        Command::Check { file } => act::check(arguments, &pins, file),
        Command::Detach { force } => act::detach(arguments, &pins, *force),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "weir", &mut script);
            output::print(&String::from_utf8_lossy(&script))
        }
        changing => match changing.request() {
            Some(request) => change(arguments, &request),
            None => output::fail(json, Exit::Failed, "of which uplink? `weir prefix UPLINK set …`"),
        },
    }
}

/// Has the control process do something.
fn change(arguments: &Arguments, request: &weir_api::Request) -> Exit {
    match &arguments.command {
        Command::Use { command, .. } => act::run_by(arguments, request, command),
        Command::Prefix { .. } => act::prefix(arguments, request),
        _ => act::request(arguments, request),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }
}
