//! The committed object file.

/// Alignment of an ELF64 header, which `include_bytes!` does not give.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

static COMMITTED: &Aligned<[u8]> = &Aligned(*include_bytes!("../prog/weir.o"));

/// The XDP program as an ELF64 little-endian BPF object with BTF, 8-byte aligned.
pub static OBJECT: &[u8] = &COMMITTED.0;
