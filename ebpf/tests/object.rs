//! The committed objects, as user space gets them.

use weir_ebpf::{OBJECT, TRAFFIC_OBJECT};

#[test]
fn objects_are_aligned_for_an_elf_header() {
    for object in [OBJECT, TRAFFIC_OBJECT] {
        assert_eq!(object.as_ptr().align_offset(8), 0);
    }
}
