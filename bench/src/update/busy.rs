//! A busy loop on every CPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

use crate::machine;

/// A busy loop on every CPU; they end when this is dropped.
pub struct Busy {
    stop: Arc<AtomicBool>,
}

impl Busy {
    pub fn start() -> Result<Self> {
        let stop = Arc::<AtomicBool>::default();
        for cpu in 0..machine::cores() {
            let stop = Arc::clone(&stop);
            let spin = move || {
                let pinned = machine::pin(Some(cpu));
                while pinned.is_ok() && !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            };
            std::thread::Builder::new().name("busy".into()).spawn(spin)?;
        }
        Ok(Self { stop })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
