//! AF_XDP sockets: UMEM, rings and frames as move-only tokens
