//! The process shell that every role shares.

pub mod access;
pub mod cert;
pub mod config;
pub mod fdpass;
pub mod handover;
pub mod hooks;
pub mod lately;
pub mod link;
pub mod log;
pub mod overload;
pub mod quic;
pub mod rows;
pub mod secret;
pub mod sockets;
pub mod tls;
pub mod tls_sites;
pub mod worker;
