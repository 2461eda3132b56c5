//! What goes into a path's state, and what comes out.

use serde::{Deserialize, Serialize};
use weir_site::load::Direction;

use super::passive::PassiveCounts;
use super::target::ProbeError;

/// What a path can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signal {
    /// The link has carrier, or not.
    Carrier(bool),
    /// The interface has the path's address, or not.
    Address(bool),
    /// Its interface can be used, or not. Until told it is taken to.
    Device(bool),
    /// The next hop answers ARP or ND, or not. Until told it is taken to.
    NextHop(bool),
    /// What the operator wants. Until told that is to use it.
    Wish(Wish),
    /// A probe left.
    Sent {
        /// Index of the target in [`Health::targets`](weir_site::health::Health::targets).
        target: usize,
        /// The prober's number of it, unlike that of any probe under way.
        seq: u32,
    },
    /// A probe was answered.
    Reply {
        /// Index of the target.
        target: usize,
        /// The number it was sent by.
        seq: u32,
        /// Round-trip time, microseconds.
        rtt_us: u32,
    },
    /// A probe failed before its timeout.
    Failed {
        /// Index of the target.
        target: usize,
        /// The number it was sent by.
        seq: u32,
        /// How.
        why: ProbeError,
    },
    /// What users' connections did since the last counts.
    Passive(Box<PassiveCounts>),
}

/// What the operator wants of an uplink.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Use it.
    #[default]
    Use,
    /// Empty it: no new flows while another takes them.
    Drain,
    /// It has been emptied: do not use it.
    Drained,
    /// Do not use it.
    Down,
}

/// The state of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "&'static str", try_from = "String")]
pub enum State {
    /// Well.
    Up,
    /// Usable, worse than others that are up.
    Degraded,
    /// Usable, and being emptied.
    Draining,
    /// Well again, but held down until then (milliseconds) lest it flaps.
    Recovering {
        /// When the hold-down ends.
        until: u64,
    },
    /// Not usable.
    Down,
}

impl From<State> for &'static str {
    fn from(state: State) -> Self {
        state.name()
    }
}

impl TryFrom<String> for State {
    type Error = String;

    /// By its name; of one that is held down it is not known until when.
    fn try_from(name: String) -> Result<Self, String> {
        let states =
            [Self::Up, Self::Degraded, Self::Draining, Self::Recovering { until: 0 }, Self::Down];
        let found = states.into_iter().find(|state| state.name() == name);
        found.ok_or_else(|| format!("{name:?} is no state"))
    }
}

impl State {
    /// One word for programs, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
            Self::Recovering { .. } => "recovering",
            Self::Down => "down",
        }
    }

    /// Flows may be on it.
    pub fn usable(self) -> bool {
        matches!(self, Self::Up | Self::Degraded | Self::Draining)
    }
}

/// Why a path is in its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Reason {
    /// Nothing is known yet.
    Starting,
    /// It was up when the control process started.
    Adopted,
    /// The first time that all is well.
    Started,
    /// The operator took it out of use.
    Admin,
    /// The operator wants it empty.
    Draining,
    /// The time to empty it is over.
    Drained,
    /// The operator put it back into use.
    Released,
    /// The uplink's other path is not usable, and they are joint.
    OtherFamilyDown,
    /// The uplink's other path is usable again.
    OtherFamilyBack,
    /// Its interface cannot be used.
    Device,
    /// No carrier.
    Carrier,
    /// The address is gone.
    Address,
    /// The next hop does not answer.
    NextHop,
    /// Too few targets are left that might answer.
    TargetsFailed {
        /// Failed targets.
        failed: u32,
        /// All targets.
        of: u32,
        /// How many must answer.
        quorum: u32,
    },
    /// No fault is left, but too few targets have answered often enough since.
    Unproven {
        /// Targets that answer.
        answering: u32,
        /// All targets.
        of: u32,
        /// How many must answer.
        quorum: u32,
    },
    /// Too many probes are lost.
    Loss {
        /// Percent over the window.
        percent: u32,
        /// The limit, percent.
        threshold: u32,
    },
    /// Answers take too long.
    Rtt {
        /// Milliseconds over the window.
        ms: u32,
        /// The limit, milliseconds.
        threshold: u32,
    },
    /// Answers take too unevenly long.
    Jitter {
        /// Milliseconds over the window.
        ms: u32,
        /// The limit, milliseconds.
        threshold: u32,
    },
    /// Users' TCP connections are not answered.
    PassiveSyn {
        /// Connections without SYN-ACK.
        unanswered: u32,
        /// New connections.
        of: u32,
    },
    /// Users' UDP flows are not answered.
    PassiveUdp {
        /// Flows without reply.
        unanswered: u32,
        /// New flows.
        of: u32,
    },
    /// Users' data is sent again and again.
    PassiveRetransmits {
        /// Segments sent again.
        retransmitted: u32,
        /// All segments.
        of: u32,
    },
    /// Well again, and now held down.
    Holding {
        /// How long it must be well, milliseconds.
        hold_ms: u64,
        /// Flaps that count.
        flaps: u32,
    },
    /// Was well for as long as it must.
    Recovered {
        /// How long, milliseconds.
        held_ms: u64,
    },
    /// Too full for new flows. The state stays as it is.
    Saturated {
        /// The tighter direction.
        direction: Direction,
        /// Its load over the last second, percent of the capacity.
        percent: u32,
        /// The capacity, bits per second.
        capacity: u64,
    },
    /// Has room for new flows again. The state stays as it is.
    Roomy {
        /// The tighter direction.
        direction: Direction,
        /// Its load over the last second, percent of the capacity.
        percent: u32,
        /// The capacity, bits per second.
        capacity: u64,
    },
    /// Takes new flows again, because its capacity is not known any more or no threshold is set.
    /// The state stays as it is.
    Unmeasured,
}

/// A change of state; or of load, and then `from` and `to` are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// The state that was.
    pub from: State,
    /// The state that is.
    pub to: State,
    /// Why.
    pub reason: Reason,
    /// When, milliseconds of the caller's clock.
    pub at: u64,
}

impl Transition {
    /// Did only the load change?
    pub fn is_of_load(&self) -> bool {
        self.from == self.to
    }
}
