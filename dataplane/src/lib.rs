//! The user tier: flow table, NAT44, steering and workers on AF_XDP
