//! The supervisor of a weir host: it holds every listening socket, starts the workers, and runs no media.
//!
//! [`plan`] decides and is pure; the rest carries out: [`slots`] binds, [`spawn`] starts and reaps processes,
//! [`link`] speaks with the workers and [`admin`] with the operator; [`metrics`] answers Prometheus; [`host`] is the
//! loop around all of them.

pub mod admin;
pub mod host;
pub mod link;
pub mod metrics;
pub mod plan;
pub mod slots;
pub mod spawn;
pub mod usage;
