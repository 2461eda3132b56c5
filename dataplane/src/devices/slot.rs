//! One device: what is wanted of it, and how far it has come.

use std::time::Instant;

use weir_xsk::Binder;

use super::plan::DevicePlan;
use crate::attach::Attached;
use crate::command::Refused;

/// A socket of a worker.
#[derive(Debug)]
pub(super) struct Bound {
    pub binder: Binder,
    /// It works on the UMEM itself; none: it is not bound yet.
    pub zero_copy: Option<bool>,
}

#[derive(Debug)]
pub(super) enum State {
    Out,
    /// For so many answers.
    Opening {
        waiting: u32,
    },
    Binding {
        since: Instant,
    },
    In(Attached),
    /// For the answers of so many workers.
    Closing {
        waiting: u8,
    },
}

/// One device.
#[derive(Debug)]
pub(super) struct Slot {
    /// As published; none: nobody names it.
    pub wanted: Option<DevicePlan>,
    /// As its sockets were made for.
    pub had: Option<DevicePlan>,
    pub state: State,
    pub sockets: Vec<Bound>,
    /// Why it is out, or was when it was tried last.
    pub refused: Option<Refused>,
    pub tries: u32,
    /// Not before this.
    pub again: Instant,
    /// What stands in the program's map of devices, as far as that is known.
    pub sender: Option<u32>,
}

impl Slot {
    pub const fn new(now: Instant) -> Self {
        Self {
            wanted: None,
            had: None,
            state: State::Out,
            sockets: Vec::new(),
            refused: None,
            tries: 0,
            again: now,
            sender: None,
        }
    }

    pub fn name(&self) -> String {
        let plan = self.wanted.as_ref().or(self.had.as_ref());
        plan.map_or_else(String::new, |plan| plan.name.clone())
    }

    pub fn may_come(&self) -> bool {
        self.wanted.as_ref().is_some_and(|plan| plan.ifindex != 0)
    }

    pub fn mode(&self) -> Option<Attached> {
        if let State::In(mode) = self.state { Some(mode) } else { None }
    }

    /// Are its sockets not those that are wanted?
    pub fn is_outdated(&self) -> bool {
        match (&self.had, &self.wanted) {
            (Some(had), Some(wanted)) => had.needs_other_sockets(wanted),
            _ => true,
        }
    }
}
