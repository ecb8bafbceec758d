//! The supervisor of a weir host: it holds every listening socket, starts the workers, and runs no media.

pub mod plan;
