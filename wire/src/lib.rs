//! Packet views, checksum arithmetic, rewrite and the layouts of shared memory
