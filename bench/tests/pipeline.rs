//! The pipeline benchmark, alone in its process: allocations are counted for all threads.

use weir_bench::memory::gateway::Translation;
use weir_bench::memory::options::Pages;
use weir_bench::pipeline::{Case, measure};
use weir_layout::Family;

#[test]
fn every_packet_of_the_measurement_is_forwarded_and_none_allocates() {
    let case = |translation: &Translation| Case {
        translation: *translation,
        pages: Pages::Small,
        flows: 300,
    };
    let cases: Vec<_> = Family::ALL.into_iter().flat_map(Translation::of).map(case).collect();
    let lines = measure(&cases, 2, 1000).unwrap();
    assert_eq!(lines.len(), 4 * cases.len());
    for line in &lines {
        assert_eq!((line.forwarded, line.allocations), (1000, 0.0));
        assert!(line.recognise_ns > 0.0 && line.find_ns > 0.0);
    }
}
