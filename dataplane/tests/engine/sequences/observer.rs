//! What somebody knows who sees the wires on both sides, and what must hold of what he sees.

use std::collections::HashMap;

use crate::gateway::{TCP, UDP};

/// An address and a port; of echo messages the identifier.
pub type End = ([u8; 4], u16);

/// A flow as the LAN sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inside {
    pub proto: u8,
    pub host: End,
    pub remote: End,
}

/// A flow as a provider sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outside {
    pub proto: u8,
    pub uplink: u8,
    pub own: End,
    pub remote: End,
}

/// Who was behind it last.
#[derive(Clone, Copy, Debug)]
pub struct Behind {
    pub host: End,
    /// When the host last sent, in milliseconds.
    pub sent: u64,
    /// Something came back to the host.
    pub answered: bool,
    /// Nothing has happened since that lets the gateway end it, or move it.
    pub held: bool,
    /// Whom the host speaks to: another port of its client's, where a flow of its own has that one.
    pub shown: End,
    /// A client began it, with a published service.
    pub asked: bool,
}

impl Behind {
    /// Has its host sent so lately that the gateway must know it? But for what else happened.
    fn lives(&self, of: &Outside, now: u64) -> bool {
        /// Of a client's flow, until he sends again.
        const UNPROVEN: u64 = 30_000;
        let unproven = self.asked && !self.answered;
        now < self.sent + if unproven { UNPROVEN } else { lifetime(of.proto) }
    }
}

/// How long a flow lives at least once it was answered, in milliseconds: RFC 4787 REQ-5, RFC 5508
/// REQ-2, and for connections what one has that was not established (RFC 5382 REQ-5).
fn lifetime(proto: u8) -> u64 {
    match proto {
        UDP => 120_000,
        TCP => 230_000,
        _ => 60_000,
    }
}

#[derive(Default)]
pub struct Observer {
    behind: HashMap<Outside, Behind>,
    outside: HashMap<Inside, Outside>,
    /// Of UDP: the last flow that an endpoint of a host began.
    begun: HashMap<End, Outside>,
    /// Those of lately, some no more, to answer.
    recent: Vec<Outside>,
}

impl Observer {
    /// Must the gateway still have it as it was?
    pub fn is_firm(&self, of: &Outside, now: u64) -> bool {
        let behind = self.behind.get(of);
        behind.is_some_and(|behind| behind.held && behind.answered && behind.lives(of, now))
    }

    fn is_of(&self, of: &Outside, host: End) -> bool {
        self.behind.get(of).is_some_and(|behind| behind.host == host)
    }

    pub fn behind(&self, of: &Outside) -> Option<&Behind> {
        self.behind.get(of)
    }

    /// One of those that were seen lately.
    pub fn some(&self, draw: usize) -> Option<Outside> {
        (!self.recent.is_empty()).then(|| self.recent[draw % self.recent.len()])
    }

    fn remember(&mut self, of: Outside, draw: usize) {
        const LATELY: usize = 64;
        if self.recent.len() < LATELY {
            self.recent.push(of);
        } else {
            self.recent[draw % LATELY] = of;
        }
    }

    /// A host's packet of `inside` left as one of `of`.
    pub fn left(&mut self, inside: Inside, of: Outside, now: u64, draw: usize) {
        if let Some(before) = self.outside.insert(inside, of)
            && before != of
            && self.is_of(&before, inside.host)
        {
            assert!(!self.is_firm(&before, now), "{inside:?} was {before:?} and is {of:?}");
            self.loosen(&before);
        }
        let before = self.behind.get(&of).copied();
        if let Some(before) = before.filter(|before| before.host != inside.host) {
            assert!(!self.is_firm(&of, now), "{of:?} of {before:?} was given to {inside:?}");
        }
        // What has been silent for long may have ended meanwhile, and begin anew.
        let same = before.filter(|before| before.host == inside.host);
        let same = same.filter(|before| !before.asked || before.shown == inside.remote);
        let same = same.filter(|before| before.asked || before.lives(&of, now));
        if of.proto == UDP && same.is_none() {
            let last = self.begun.insert(inside.host, of).filter(|last| {
                last.uplink == of.uplink && last.own != of.own && self.is_of(last, inside.host)
            });
            let firm = last.is_some_and(|last| self.is_firm(&last, now));
            // Or it goes on, with what its endpoint was then.
            let goes_on = before.is_some_and(|before| before.host == inside.host);
            assert!(!firm || goes_on, "{inside:?} has {last:?} and {of:?}");
            if before.is_some() {
                self.begun.remove(&inside.host);
            }
        }
        let new = Behind {
            host: inside.host,
            sent: 0,
            answered: false,
            held: true,
            shown: inside.remote,
            asked: false,
        };
        self.behind.insert(of, Behind { sent: now, ..same.unwrap_or(new) });
        self.remember(of, draw);
    }

    /// A client's packet came in as one to a host's service, and from this end.
    pub fn entered(&mut self, of: Outside, host: End, shown: End, (now, draw): (u64, usize)) {
        let inside = Inside { proto: of.proto, host, remote: shown };
        if let Some(before) = self.outside.insert(inside, of)
            && before != of
            && self.is_of(&before, host)
        {
            self.loosen(&before);
        }
        let new = Behind { host, sent: 0, answered: false, held: true, shown, asked: true };
        // What a host began at its service's port may have ended meanwhile: then the client began
        // anew.
        let may_begin = !self.is_firm(&of, now);
        let behind = self.behind.entry(of).or_insert(new);
        if (behind.host, behind.shown) != (host, shown) {
            *behind = new;
        }
        behind.asked |= may_begin;
        self.remember(of, draw);
    }

    /// A packet from outside reached its host. A client who never sends again may not have got what
    /// he asked for.
    pub fn answered(&mut self, of: &Outside, now: u64) {
        if let Some(behind) = self.behind.get_mut(of) {
            if !behind.lives(of, now) {
                (behind.sent, behind.answered) = (0, false);
            }
            behind.answered |= behind.sent != 0;
        }
    }

    /// The gateway may end it or move it from now on.
    pub fn loosen(&mut self, of: &Outside) {
        if let Some(behind) = self.behind.get_mut(of) {
            behind.held = false;
        }
    }

    /// The same, of every flow that `which` says.
    pub fn loosen_all(&mut self, which: impl Fn(&Outside, &Behind) -> bool) {
        for (of, behind) in &mut self.behind {
            behind.held &= !which(of, behind);
        }
    }

    /// How a host's flow was seen last.
    pub fn outside(&self, inside: &Inside) -> Option<&Outside> {
        self.outside.get(inside)
    }
}
