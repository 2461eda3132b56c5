//! The shared-memory regions: pinned BPF arrays mapped and typed
