//! The process shell that every role shares.

pub mod config;
pub mod fdpass;
pub mod link;
pub mod sockets;
pub mod worker;
