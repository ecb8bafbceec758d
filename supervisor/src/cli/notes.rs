//! What is worth a word about a worker, beside its numbers.

use weir_node::overload::{State, Verdict};
use weir_proto::supervisor::{HostLoad, OverloadState, WorkerStatus};

/// What the worker's row says in its last column, most important first; empty where nothing is unusual.
pub(super) fn notes(worker: &WorkerStatus) -> Vec<String> {
    let lent = worker.lent_to.map(|slot| format!("accepted by {} {slot}", worker.role));
    let overload = worker.overload.as_ref().and_then(|overload| {
        // What the host makes of it is said once, of the host.
        let own = Verdict::read(OverloadState::OverloadOk, &overload.reasons);
        let worst = overload.reasons.iter().map(|reason| reason.state().into()).max().unwrap_or_default();
        strain(&Verdict { state: worst, ..own })
    });
    overload.into_iter().chain(lent).collect()
}

/// What is unusual about the host.
pub(super) fn of_host(load: &HostLoad) -> Option<String> {
    strain(&Verdict::read(load.state(), &load.reasons))
}

/// `overloaded: worker_cpu 97 %`.
fn strain(verdict: &Verdict) -> Option<String> {
    let what = match verdict.state {
        State::Ok => return None,
        State::Warn => "near its limits",
        State::Refuse => "overloaded",
    };
    Some(format!("{what}: {verdict}"))
}

#[cfg(test)]
mod tests {
    use weir_proto::supervisor::{OverloadReason, OverloadReport};

    use super::*;

    #[test]
    fn an_overloaded_worker_says_why() {
        let reason = |criterion: &str, state: OverloadState, value| OverloadReason {
            criterion: criterion.to_owned(),
            state: state.into(),
            value,
            threshold: 80.0,
        };
        let overload = |state: OverloadState, reasons| {
            Some(OverloadReport { state: state.into(), reasons, ..OverloadReport::default() })
        };
        let (warn, refuse) = (OverloadState::OverloadWarn, OverloadState::OverloadRefuse);
        let reasons = vec![reason("loop_lag", warn, 120.0), reason("worker_cpu", refuse, 97.1)];
        let worker = WorkerStatus {
            overload: overload(refuse, reasons),
            lent_to: Some(2),
            role: "edge".to_owned(),
            ..WorkerStatus::default()
        };
        assert_eq!(notes(&worker), ["overloaded: worker_cpu 97 %, loop_lag 120 ms", "accepted by edge 2"]);
        // Only the host is overloaded.
        let worker = WorkerStatus { overload: overload(refuse, vec![]), ..WorkerStatus::default() };
        assert_eq!(notes(&worker), [] as [&str; 0]);
        let host = HostLoad { state: warn.into(), reasons: vec![reason("nic", warn, 83.0)], ..HostLoad::default() };
        assert_eq!(of_host(&host).as_deref(), Some("near its limits: nic 83 %"));
        assert_eq!(of_host(&HostLoad::default()), None);
    }
}
