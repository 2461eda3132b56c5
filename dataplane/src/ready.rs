//! Have all workers started?

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

/// Time between two looks at whether to stop.
const LOOK: Duration = Duration::from_millis(20);

/// A worker's word that it is ready. It goes when that is told, or when the worker ends before.
#[derive(Debug)]
pub struct Ready(Sender<()>);

/// Waits for the word of every worker.
#[derive(Debug)]
pub struct AllReady {
    told: Receiver<()>,
    workers: u8,
}

/// A worker ended before it was ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker did not start")]
pub struct NotStarted;

/// For `workers` workers one [`Ready`] each, and who waits for them.
pub fn expect(workers: u8) -> (Vec<Ready>, AllReady) {
    let (sender, told) = mpsc::channel();
    let ready = (0..workers).map(|_| Ready(sender.clone())).collect();
    (ready, AllReady { told, workers })
}

impl Ready {
    /// The worker is ready.
    pub fn signal(self) {
        let _ = self.0.send(());
    }
}

impl AllReady {
    /// Waits until all workers are ready. `false`: `stop` was set before.
    pub fn wait(&self, stop: &AtomicBool) -> Result<bool, NotStarted> {
        let mut left = self.workers;
        while left > 0 {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            match self.told.recv_timeout(LOOK) {
                Ok(()) => left -= 1,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Err(NotStarted),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_does_not_start_ends_the_wait_although_another_runs_on() {
        let (mut ready, all) = expect(2);
        let (one, other) = (ready.remove(0), ready.remove(0));
        std::thread::scope(|scope| {
            let (end, ended) = mpsc::channel::<()>();
            scope.spawn(move || {
                one.signal();
                let _ = ended.recv();
            });
            drop(other);
            assert_eq!(all.wait(&AtomicBool::new(false)), Err(NotStarted));
            drop(end);
        });
    }

    #[test]
    fn workers_that_are_not_ready_yet_do_not_outwait_a_stop() {
        let (ready, all) = expect(1);
        assert_eq!(all.wait(&AtomicBool::new(true)), Ok(false));
        drop(ready);
    }

    #[test]
    fn the_wait_ends_when_all_have_told() {
        let (ready, all) = expect(3);
        ready.into_iter().for_each(Ready::signal);
        assert_eq!(all.wait(&AtomicBool::new(false)), Ok(true));
    }
}
