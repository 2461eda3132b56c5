//! How workers share the ports that a path translates to.

/// The part of `lo..=hi` that `worker` of `workers` owns, first and last; `None` when there are fewer
/// ports than workers or the range is empty.
pub fn of_worker([lo, hi]: [u16; 2], worker: u8, workers: u8) -> Option<[u16; 2]> {
    let (lo, count) = (u32::from(lo), (u32::from(hi) + 1).checked_sub(u32::from(lo))?);
    let (worker, workers) = (u32::from(worker), u32::from(workers));
    if worker >= workers || count < workers {
        return None;
    }
    let first = lo + count * worker / workers;
    let last = lo + count * (worker + 1) / workers - 1;
    Some([first as u16, last as u16])
}
