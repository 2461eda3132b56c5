//! Namespaces, traffic, scenarios and reports for tests, demo and benchmarks
