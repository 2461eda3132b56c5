//! What weir counted, against what must be.

use anyhow::{Context, Result, ensure};
use weir_layout::counters::Counter;
use weir_shm::map::Access;
use weir_shm::status::Status;

use super::{Weir, tier};
use crate::wait;

impl Weir {
    /// Checks that every frame is accounted for, in both tiers and between them, and that no
    /// worker lost a frame of its memory. Waits for traffic to end.
    ///
    /// # Errors
    /// Which sum does not add up.
    pub fn check_conservation(&self) -> Result<()> {
        let mut last = String::new();
        wait::until("the counters to add up", wait::BOUND, || {
            let difference = self.difference()?;
            last = difference.clone().unwrap_or_default();
            Ok(difference.is_none().then_some(()))
        })
        .with_context(|| last)
    }

    /// Checks that packets left by the tier that they were to take: the kernel tier, and so many
    /// `times` as many as by the other one, or the user tier alone.
    ///
    /// # Errors
    /// How many took which.
    pub fn check_tier(&self, times: u64) -> Result<()> {
        let counters = self.counters()?;
        let (kernel, user) = (counters.sum(Counter::XdpForwarded), counters.sum(Counter::UserTx));
        let right = match tier().as_str() {
            "user" => kernel == 0 && user > 0,
            _ => kernel > times * user,
        };
        ensure!(right, "{kernel} packets in the kernel tier, {user} in the user tier");
        Ok(())
    }

    fn difference(&self) -> Result<Option<String>> {
        let counters = self.counters()?;
        let sum = |wanted: &dyn Fn(Counter) -> bool| -> u64 {
            Counter::ALL.iter().filter(|c| wanted(**c)).map(|c| counters.sum(*c)).sum()
        };
        let of = |counter: Counter| counters.sum(counter);
        let user_drop = |c: Counter| c.is_drop() && !c.is_xdp_drop();
        let page = Status::open(&self.pins, Access::Read)?.read();
        let lost: u64 = page.devices.iter().map(|d| d.rx_dropped + d.rx_ring_full).sum();
        let kernel_in = of(Counter::XdpRx);
        let kernel_out = sum(&Counter::is_pass)
            + of(Counter::XdpToUser)
            + of(Counter::XdpForwarded)
            + sum(&Counter::is_xdp_drop);
        let user_in =
            of(Counter::UserRx) + of(Counter::UserHandoffIn) + of(Counter::UserOriginated);
        let user_out = of(Counter::UserTx) + of(Counter::UserHandoffOut) + sum(&user_drop);
        let workers = usize::try_from(page.workers)?;
        let frames = page.worker[..workers].iter().all(|w| w.frames == w.frames_accounted);
        let sums = [
            ("kernel tier", kernel_in, kernel_out),
            ("user tier", user_in, user_out),
            ("between the tiers", of(Counter::XdpToUser), of(Counter::UserRx) + lost),
            ("handed off", of(Counter::UserHandoffOut), of(Counter::UserHandoffIn)),
        ];
        let wrong = sums.iter().find(|(_, entered, left)| entered != left);
        Ok(match wrong {
            Some((what, entered, left)) => Some(format!("{what}: {entered} in, {left} out")),
            None if !frames => Some("a worker is missing frames".into()),
            None => None,
        })
    }
}
