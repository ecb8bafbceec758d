//! The edge worker: owns TCP clients, fans streams out to them, and carries publishers to their origins.
//!
//! One thread, one runtime. Data flows one way: `serve` reads publishers into `publication`, which the `relay` carries
//! away; the `relay` brings frames to `stream`, whose `fanout` writes them to players.

mod admission;
mod bygone;
mod clients;
mod control;
mod directory;
mod fanout;
mod guard;
mod handover;
mod hub;
mod publication;
mod publish;
mod pull;
mod quality;
mod relay;
mod rows;
mod serve;
mod stats;
mod stream;
mod worker;

pub use worker::run;
