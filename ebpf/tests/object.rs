//! The committed object, as user space gets it.

use weir_ebpf::OBJECT;

#[test]
fn the_object_is_aligned_for_an_elf_header() {
    assert_eq!(OBJECT.as_ptr().align_offset(8), 0);
}
