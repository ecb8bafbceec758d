//! What is worth a word about a worker, beside its numbers.

use weir_proto::supervisor::WorkerStatus;

/// What the worker's row says in its last column, most important first; empty where nothing is unusual.
pub(super) fn notes(worker: &WorkerStatus) -> Vec<String> {
    let lent = worker.lent_to.map(|slot| format!("accepted by {} {slot}", worker.role));
    lent.into_iter().collect()
}
