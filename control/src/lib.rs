//! weir-control, the control process, and weir, its command line
