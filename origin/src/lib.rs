//! The origin worker: owns streams. Edges bring publishers and take subscriptions through the relay.
//!
//! One thread, one runtime. `relay` turns connections into records, `hub` decides, `relay` carries out.

mod bridge;
mod control;
mod hub;
mod incoming;
mod relay;
mod rtc;
mod throttle;
mod worker;

pub use worker::run;
