//! What rules deny: the packet that would begin a flow, and flows that are there when rules change.

use weir_layout::MAX_RULES;
use weir_layout::control::{Name, RuleAction};
use weir_layout::counters::Counter;
use weir_shm::flows::Stored;
use weir_wire::entry::Entry;
use weir_wire::family::Family;
use weir_wire::tcp;

use super::DropReason;
use super::batch::Work;
use super::context::Context;
use super::sessions::Sessions;
use super::sweep::{Outcome, is_open};
use crate::packet::{Buffer, Output, Received};
use crate::steering::{self, Ruling, Traffic};

impl Context {
    /// What the rules say of a packet from a LAN without a flow, if they do not deny it.
    pub(super) fn admits<F: Family, B: Buffer>(
        &mut self,
        work: &Work<F>,
        traffic: &Traffic<F>,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) -> Result<Ruling, DropReason> {
        let ruling = steering::ruling(&self.snapshot.half, &self.control, traffic);
        if ruling.action.denies() {
            Err(self.deny(work, &ruling, received, out))
        } else {
            Ok(ruling)
        }
    }

    /// A packet ends here that this denies: it is counted for its rule, and its sender is told if that
    /// wants it.
    pub(super) fn deny<F: Family, B: Buffer>(
        &mut self,
        work: &Work<F>,
        ruling: &Ruling,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) -> DropReason {
        ruling.rule.into_iter().for_each(|rule| self.lane.add_rule(rule));
        if ruling.action == RuleAction::Reject {
            self.reject(work, received, out);
        }
        Counter::DropRule
    }

    /// Tells who sent a packet that it goes no further: of TCP by a reset, of all else by ICMP
    /// (prohibited: RFC 1812 §5.2.7.1, RFC 4443 §3.1), within the limits of errors. Outside that comes
    /// from whom was asked, wherever it is.
    fn reject<F: Family, B: Buffer>(
        &mut self,
        work: &Work<F>,
        received: &Received<B>,
        out: &mut impl Output<B>,
    ) {
        if work.parsed.proto != tcp::PROTOCOL {
            return self.send_icmp_error(work, true, received, out, F::PROHIBITED, 0);
        }
        self.send_reset(work, received, out);
    }

    /// The rules have changed: what each counted goes with its name.
    pub(super) fn renumber_rules(&self, before: &[Name; MAX_RULES]) {
        let was = self.snapshot.half.rules().iter().map(|rule| {
            let same = before.iter().position(|name| *name == rule.name)?;
            u8::try_from(same).ok()
        });
        self.lane.renumber_rules(was);
    }
}

impl<F: Stored> Sessions<F> {
    /// Do the rules deny the flow, given its forward entry, that they let begin once? Where a code point
    /// decides, which no entry keeps, they do not.
    pub(super) fn is_denied(&self, cx: &Context, entry: &Entry<F>) -> bool {
        let traffic = self.traffic_in(cx, entry);
        let ruling = steering::ruling_by_address(&cx.snapshot.half, &cx.control, &traffic);
        ruling.is_some_and(|ruling| ruling.action.denies())
    }

    /// Ends such a flow: a connection by a reset at both ends. Nothing of it is left for them to go on by.
    pub(super) fn end_denied<B: Buffer>(
        &mut self,
        cx: &Context,
        index: u32,
        entry: &Entry<F>,
        out: &mut impl Output<B>,
    ) -> Outcome {
        let outcome = match is_open(entry.key.proto(), entry.state_owner.state()) {
            true => self.reset_or_wait(cx, index, entry, out),
            false => Outcome::Done,
        };
        if matches!(outcome, Outcome::Done) {
            self.remove(cx, index);
        }
        outcome
    }
}
