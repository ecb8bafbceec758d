//! What weir's processes say to each other: the code generated from `proto/*.proto`, and the metrics that they count.

pub mod metrics;

/// The control link between the supervisor and its workers, and the operator's service.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod supervisor {
    tonic::include_proto!("weir.supervisor");
}

/// The control plane between edges and origins.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod origin {
    tonic::include_proto!("weir.origin");
}

/// Clients on their way from one edge worker process to another.
#[allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod session {
    include!(concat!(env!("OUT_DIR"), "/weir.session.rs"));
}
