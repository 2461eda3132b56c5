//! The two programs as an operator has them, in network namespaces. Needs root.

mod absent;
mod alone;
mod audit;
mod descriptors;
mod detach;
mod drain;
mod elsewhere;
mod gateway;
mod guard;
mod hooks;
mod lans;
mod layouts;
mod life;
mod next_hop;
mod prefixes;
mod reload;
mod routes;
mod sysctls;
mod untold;
mod using;
