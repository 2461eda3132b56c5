//! One target: probes sent, answers, timeouts.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use weir_site::health::{Health, TIMEOUT_INTERVALS, Target};

use super::window::{Figure, Figures, Window};

/// Most probes under way: those of the longest timeout and a few for jitter.
const PENDING: usize = TIMEOUT_INTERVALS as usize + 4;

/// Fewest losses in a row that are an outage, and not loss, whatever makes the target failed.
const OUTAGE: u32 = 3;

/// What is known of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Has not answered yet; its first answer is enough.
    Untested,
    /// Answers.
    Answering,
    /// Answered before the link went away, and must answer `up` times in a row again.
    Lapsed,
    /// Did not answer `down` times in a row.
    Failed,
}

/// Why a probe failed before its timeout, or was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeError {
    /// No answer in time.
    Timeout,
    /// This machine did not send it: the OS error number. No evidence.
    Local(i32),
    /// Too many probes of the uplink are under way: it waits for a socket. No evidence.
    Crowded,
    /// The host refused or reset the connection.
    Refused,
    /// A router or the host said that it cannot be reached.
    Unreachable,
    /// An HTTP status that is not the expected one.
    HttpStatus(u16),
    /// An HTTP body without the expected text.
    HttpBody,
    /// A DNS response code that is no answer (RFC 1035 §4.1.1).
    DnsCode(u8),
    /// A TLS handshake that failed.
    Tls(TlsFault),
    /// An answer that is not of the protocol.
    Malformed,
    /// An answer came in, and this machine dropped it.
    Dropped,
}

/// What a TLS handshake failed of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsFault {
    /// The certificate has expired, or this machine's clock is fast.
    Expired,
    /// The certificate is not valid yet, or this machine's clock is slow.
    NotValidYet,
    /// The certificate is another host's.
    WrongName,
    /// Nobody whom this machine trusts has issued the certificate.
    UnknownIssuer,
    /// The certificate was revoked.
    Revoked,
    /// The certificate cannot be used for another reason.
    Certificate,
    /// The other side does not speak TLS, or none that this one knows.
    Protocol,
}

impl ProbeError {
    /// Is it this machine's doing, and so no evidence about the link?
    pub fn is_local(self) -> bool {
        matches!(self, Self::Local(_) | Self::Crowded)
    }
}

/// One target of an uplink.
#[derive(Clone, Debug)]
pub struct Watched {
    definition: Target,
    status: Status,
    fails: u32,
    answers: u32,
    pending: VecDeque<Pending>,
    /// Probes sent, ever; a probe's ordinal.
    sent: u64,
    /// Ordinal of the newest probe that was answered.
    answered: u64,
    last_sent: u64,
    /// When it was last heard of, or began to be probed.
    heard: u64,
    window: Window,
    error: Option<(ProbeError, u64)>,
    /// The newest probe did not leave this machine.
    blocked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    seq: u32,
    ordinal: u64,
    at: u64,
}

impl Watched {
    pub(super) fn new(definition: Target, window: u32, status: Status) -> Self {
        Self {
            definition,
            status,
            fails: 0,
            answers: 0,
            pending: VecDeque::with_capacity(PENDING + 1),
            sent: 0,
            answered: 0,
            last_sent: 0,
            heard: 0,
            window: Window::new(window),
            error: None,
            blocked: false,
        }
    }

    /// Its definition.
    pub fn definition(&self) -> &Target {
        &self.definition
    }

    /// What is known of it.
    pub fn status(&self) -> Status {
        self.status
    }

    /// Its loss, round-trip time and jitter.
    pub fn figures(&self) -> Figures {
        self.window.figures()
    }

    /// Why the newest probe that failed did, and when.
    pub fn error(&self) -> Option<(ProbeError, u64)> {
        self.error
    }

    /// Whether this machine does not send its probes: nothing new is known of it.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether its answer is not to be waited for: probes of it that might show it cannot leave.
    pub(super) fn is_excused(&self) -> bool {
        self.blocked && matches!(self.status, Status::Untested | Status::Lapsed)
    }

    /// Whether it said nothing for more than two intervals: two probes are overdue at least.
    pub(super) fn is_quiet(&self, health: &Health, now: u64) -> bool {
        now.saturating_sub(self.heard) > 2 * u64::from(health.interval_ms)
    }

    #[cfg(test)]
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    pub(super) fn resize(&mut self, window: u32) {
        self.window = Window::new(window);
    }

    pub(super) fn sent(&mut self, health: &Health, seq: u32, now: u64) {
        // A prober that paused proves nothing about the time of its pause, nor do the probes that were
        // under way: but those that a later one was answered before are lost.
        let pause = now.saturating_sub(self.last_sent) > 2 * u64::from(health.interval_ms);
        if self.sent == 0 || pause {
            let answered = self.answered;
            self.pending.retain(|probe| probe.ordinal < answered);
            self.heard = now;
            self.answered = self.sent;
        }
        self.sent += 1;
        self.blocked = false;
        self.last_sent = now;
        self.pending.push_back(Pending { seq, ordinal: self.sent, at: now });
        if self.pending.len() > PENDING
            && let Some(oldest) = self.pending.pop_front()
        {
            self.lost(health, oldest, ProbeError::Timeout, now);
        }
    }

    pub(super) fn reply(&mut self, health: &Health, seq: u32, rtt_us: u32, now: u64) {
        let late = u64::from(rtt_us) > health.timeout_ms() * 1000;
        let Some(probe) = (if late { None } else { self.take(seq) }) else { return };
        // Those before it come first, whether their time was told before or not.
        self.time_out(health, now);
        let unanswered = probe.ordinal.saturating_sub(self.answered + 1);
        if unanswered >= u64::from(health.down.max(OUTAGE)) {
            // What an outage did to the figures is told by the outage. The newest of these probes
            // may have time yet.
            self.window.forget_silence();
            self.pending.retain(|other| other.ordinal > probe.ordinal);
        }
        self.window.push(Some(rtt_us));
        self.fails = 0;
        self.answers = self.answers.saturating_add(1);
        self.answered = self.answered.max(probe.ordinal);
        self.heard = now;
        let need = if self.status == Status::Untested { 1 } else { health.up };
        if self.answers >= need {
            self.status = Status::Answering;
        }
    }

    pub(super) fn failed(&mut self, health: &Health, seq: u32, why: ProbeError, now: u64) {
        if why.is_local() {
            self.blocked = true;
            self.error = Some((why, now));
        } else if let Some(probe) = self.take(seq) {
            self.lost(health, probe, why, now);
        }
    }

    /// Lets time pass: probes time out.
    pub(super) fn expire(&mut self, health: &Health, now: u64) {
        self.time_out(health, now);
        if self.overdue(health).is_some_and(|at| now > at) {
            self.fail(ProbeError::Timeout, now);
        }
    }

    /// The link went away: what the target answered before says nothing of the link to come.
    pub(super) fn lapse(&mut self) {
        self.answers = 0;
        if self.status == Status::Answering {
            self.status = Status::Lapsed;
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(super) fn deadline(&self, health: &Health) -> Option<u64> {
        let timeout = self.pending.front().map(|p| p.at + health.timeout_ms());
        [timeout, self.overdue(health)].into_iter().flatten().min().map(|at| at + 1)
    }

    /// The last moment of a silence that is no failure yet; see [`Health::silence_ms`], and for a link
    /// with much jitter [`Self::due`]. With `down` = 1 the one probe has its whole timeout.
    fn overdue(&self, health: &Health) -> Option<u64> {
        let unanswered = self.sent - self.answered;
        let counts = health.down > 1
            && unanswered >= u64::from(health.down)
            && self.status != Status::Failed;
        let due = || (self.heard + health.silence_ms()).max(self.due(health).unwrap_or(0));
        counts.then(due)
    }

    /// By when the newest probe that matters, the `down`th without an answer, is answered if it is
    /// at all: four times the jitter after the usual time, as RFC 6298 §2 has it of retransmissions.
    /// None where the jitter is up to a twentieth of the interval: the margin of a fifth is four
    /// times that.
    fn due(&self, health: &Health) -> Option<u64> {
        let both = |figure: Figure| figure.weighted.min(figure.window);
        let figures = self.window.figures();
        let jitter = both(figures.jitter_ms);
        if jitter * 20.0 <= f64::from(health.interval_ms) {
            return None;
        }
        let last = self.answered + u64::from(health.down);
        let probe = self.pending.iter().find(|probe| probe.ordinal == last)?;
        Some(probe.at + (figures.rtt_ms.weighted + 4.0 * jitter) as u64)
    }

    fn time_out(&mut self, health: &Health, now: u64) {
        while let Some(probe) = self.pending.front().copied()
            && now > probe.at + health.timeout_ms()
        {
            self.pending.pop_front();
            self.lost(health, probe, ProbeError::Timeout, now);
        }
    }

    fn take(&mut self, seq: u32) -> Option<Pending> {
        let index = self.pending.iter().rposition(|p| p.seq == seq)?;
        self.pending.remove(index)
    }

    fn lost(&mut self, health: &Health, probe: Pending, why: ProbeError, now: u64) {
        self.window.push(None);
        self.answers = 0;
        self.error = Some((why, now));
        if probe.ordinal > self.answered {
            self.fails = self.fails.saturating_add(1);
        }
        if self.fails >= health.down {
            self.fail(why, now);
        }
    }

    fn fail(&mut self, why: ProbeError, now: u64) {
        self.status = Status::Failed;
        self.answers = 0;
        self.error = Some((why, now));
    }
}
