//! The process shell that every role shares.

pub mod config;
