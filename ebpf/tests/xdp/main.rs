//! The XDP program in the running kernel, fixture by fixture (`BPF_PROG_TEST_RUN`). Needs root.

mod crowd;
mod differential;
mod fixture;
mod fixture6;
mod fragments;
mod hairpin;
mod ipv6;
mod kernel_tier;
mod npt;
mod protocols;
mod rules;
mod services;
mod stateless;
mod steering;
mod verifier;
