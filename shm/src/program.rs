//! Beside them: having the kernel take an XDP program.

use std::io::ErrorKind;

use aya::programs::{ProgramError, Xdp};

/// Times that the kernel is asked.
const ATTEMPTS: usize = 10;

/// Loads a program. The verifier takes seconds for ours on a busy machine, and gives up with EAGAIN
/// when a signal waits for the thread (kernel/bpf/verifier.c, `do_check`), one that stops the whole
/// machine for a moment too. Then it is asked again.
pub fn load(program: &mut Xdp) -> Result<(), ProgramError> {
    for _ in 1..ATTEMPTS {
        match program.load() {
            Err(ProgramError::LoadError { io_error, .. })
                if io_error.kind() == ErrorKind::WouldBlock => {}
            loaded => return loaded,
        }
    }
    program.load()
}
