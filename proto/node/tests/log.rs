//! The log of a whole process, which can be set up only once.

use weir_node::config::{Log, LogFormat, LogLevel};
use weir_node::log::{LogError, init, reopen};

#[test]
fn one_process_has_one_log() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weir.log");
    reopen().unwrap();
    let missing = Log { file: dir.path().join("none/weir.log").display().to_string(), ..Log::default() };
    assert!(matches!(init(&missing, "edge", Some(1)), Err(LogError::Open { .. })), "a failure can be tried again");

    let config = Log { level: LogLevel::Info, format: LogFormat::Text, file: path.display().to_string() };
    init(&config, "edge", Some(1)).unwrap();
    assert!(matches!(init(&config, "edge", Some(1)), Err(LogError::Twice)));
    tracing::info!(target: "weir_edge", "first");
    std::fs::rename(&path, dir.path().join("weir.log.1")).unwrap();
    reopen().unwrap();
    tracing::info!(target: "weir_edge", "second");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.ends_with(" INFO  edge/1 second\n") && text.lines().count() == 1, "{text}");
}
