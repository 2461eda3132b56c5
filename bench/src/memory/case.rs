//! What is measured in turns: NAT44 flows of a protocol, in tables on pages of a kind.

use anyhow::Result;
use serde::Serialize;

use super::options::{Options, Pages};
use super::traffic::Protocol;

/// Flows of one kind in one table.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Case {
    /// Their protocol.
    pub protocol: Protocol,
    /// Pages behind table and frames.
    pub pages: Pages,
    /// How many there are.
    pub flows: usize,
}

impl Case {
    /// All that the options ask for, with these numbers of flows if they give none.
    pub fn all(options: &Options, flows: &[usize]) -> Vec<Self> {
        let mut cases = Vec::new();
        for protocol in [Protocol::Udp, Protocol::Tcp] {
            for pages in options.pages_or_both() {
                let flows = options.flows_or(flows).into_iter();
                cases.extend(flows.map(|flows| Self { protocol, pages, flows }));
            }
        }
        cases
    }

    /// Measures each case once in every round; what was found, by case. `warm_up` rounds more come
    /// first and are forgotten.
    ///
    /// # Errors
    /// As the measurement.
    pub fn in_turns<R>(
        cases: &[Self],
        warm_up: usize,
        rounds: usize,
        measure: impl Fn(&Self) -> Result<R>,
    ) -> Result<Vec<Vec<R>>> {
        let mut found: Vec<Vec<R>> = cases.iter().map(|_| Vec::new()).collect();
        for round in 0..warm_up + rounds {
            for (case, found) in cases.iter().zip(&mut found) {
                let measured = case.pages.during(|| measure(case))?;
                if round >= warm_up {
                    found.push(measured);
                }
            }
        }
        Ok(found)
    }
}
