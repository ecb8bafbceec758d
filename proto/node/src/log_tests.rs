use std::path::Path;

use tracing::subscriber::with_default;

use super::*;
use crate::secret::Redacted;

fn config(dir: &Path, format: LogFormat) -> Log {
    Log { level: LogLevel::Info, format, file: dir.join("weir.log").display().to_string() }
}

/// What is written while `events` runs, without the time.
fn logged(format: LogFormat, worker: Option<u32>, variable: Option<&str>, events: impl FnOnce()) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let lines = Lines::new(&config(dir.path(), format), "edge", worker).unwrap();
    let filter = filter(LogLevel::Info, variable).unwrap();
    with_default(Registry::default().with(lines.with_filter(filter)), events);
    let text = std::fs::read_to_string(dir.path().join("weir.log")).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn without_time(line: &str) -> &str {
    let (time, rest) = line.split_at(25);
    assert!(time.starts_with("20") && time.ends_with("Z ") && time.as_bytes()[10] == b'T', "{line}");
    rest
}

#[test]
fn text_lines() {
    let lines = logged(LogFormat::Text, Some(3), None, || {
        tracing::info!(target: "weir_edge::hub", stream = "live/s", players = 7, lag = -1, on = true, "stream {}", "published");
        tracing::warn!(target: "weir", text = "a b", empty = "", said = "x=\"y\"", debug = ?Some(1), "careful");
        tracing::error!(target: "weir_edge", "bad");
        tracing::debug!(target: "weir_edge", "not at this level");
    });
    let lines: Vec<_> = lines.iter().map(|line| without_time(line)).collect();
    assert_eq!(
        lines,
        [
            "INFO  edge/3 stream published stream=live/s players=7 lag=-1 on=true",
            "WARN  edge/3 careful text=\"a b\" empty=\"\" said=\"x=\\\"y\\\"\" debug=Some(1)",
            "ERROR edge/3 bad",
        ]
    );
    let lines = logged(LogFormat::Text, None, None, || tracing::info!(target: "weir", "up"));
    assert_eq!(without_time(&lines[0]), "INFO  edge up");
}

#[test]
fn json_lines() {
    let lines = logged(LogFormat::Json, Some(0), None, || {
        tracing::info!(target: "weir_edge::hub", stream = "live/\"s\"\n", players = 7u64, level = "mine", "stream published");
        tracing::info!(target: "weir", "up");
    });
    let json: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
    assert_eq!(json["level"], "info");
    assert_eq!(json["role"], "edge");
    assert_eq!(json["worker"], 0);
    assert_eq!(json["target"], "weir_edge::hub");
    assert_eq!(json["message"], "stream published");
    assert_eq!(json["fields"], serde_json::json!({"stream": "live/\"s\"\n", "players": 7, "level": "mine"}));
    assert!(serde_json::from_str::<serde_json::Value>(&lines[1]).unwrap().get("fields").is_none());
}

#[test]
fn records_of_the_log_crate_tell_their_origin_once() {
    let event = || tracing::warn!(target: "weir", { log.target = "rtc_dtls::flight", log.line = 189 }, "odd");
    assert_eq!(without_time(&logged(LogFormat::Text, None, None, event)[0]), "WARN  edge odd");
    let json: serde_json::Value = serde_json::from_str(&logged(LogFormat::Json, None, None, event)[0]).unwrap();
    assert_eq!(json["target"], "rtc_dtls::flight");
    assert!(json.get("fields").is_none());
}

#[test]
fn a_client_cannot_forge_a_line() {
    let name = "s\n2026-01-01T00:00:00.000Z ERROR edge/0 forged\r\x1b[2J\u{85}";
    let lines = logged(LogFormat::Text, Some(0), None, || {
        tracing::info!(target: "weir", "publish {name}");
        tracing::info!(target: "weir", stream = name, shown = %name, "publish");
    });
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(!lines.concat().contains(|c: char| c.is_control()));
    let lines = logged(LogFormat::Json, Some(0), None, || tracing::info!(target: "weir", stream = name, "publish"));
    assert_eq!(lines.len(), 1);
}

#[test]
fn values_are_bounded() {
    let long = "\u{e9}".repeat(VALUE_MAX);
    let lines = logged(LogFormat::Text, None, None, || {
        tracing::info!(target: "weir", text = long, shown = %long, debug = ?long, "{long}");
    });
    assert!(lines[0].len() < 4 * (VALUE_MAX + 20), "{}", lines[0].len());
    assert_eq!(lines[0].matches('\u{2026}').count(), 4);
}

#[test]
fn a_secret_is_never_written() {
    let url = "rtmp://user:S3CR3T@host/live/s?token=S3CR3T&S3CR3T";
    for format in [LogFormat::Text, LogFormat::Json] {
        let lines = logged(format, Some(0), Some("trace"), || {
            tracing::info!(target: "weir", stream = %Redacted::new(url), "publish {}", Redacted::new(url));
            tracing::info!(target: "weir", tls = ?crate::config::Tls::default(), "loaded");
        });
        assert_eq!(lines.len(), 2);
        assert!(lines[0].contains("token=***") && !lines.concat().contains("S3CR3T"), "{lines:?}");
    }
}

#[test]
fn filters() {
    let events = || {
        tracing::info!(target: "h2", "library");
        tracing::warn!(target: "h2", "library warns");
        tracing::debug!(target: "weir_edge::hub", "detail");
        tracing::info!(target: "weir_edge::hub", "event");
    };
    let count = |variable| logged(LogFormat::Text, None, variable, events).len();
    assert_eq!(count(None), 2);
    assert_eq!(count(Some("")), 2);
    assert_eq!(count(Some("debug")), 4);
    assert_eq!(count(Some("off,weir_edge=debug")), 2);
    let error = filter(LogLevel::Info, Some("weir=loud")).unwrap_err().to_string();
    assert!(error.starts_with("environment WEIR_LOG: ") && error.ends_with("weir_edge=debug"), "{error}");
    for level in [LogLevel::Trace, LogLevel::Debug, LogLevel::Info, LogLevel::Warn, LogLevel::Error] {
        filter(level, None).unwrap();
    }
}

#[test]
fn the_file_is_appended_to_and_reopened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weir.log");
    std::fs::write(&path, "before\n").unwrap();
    let sink = Sink::new(&config(dir.path(), LogFormat::Text)).unwrap();
    sink.write("one\n");
    let rotated = dir.path().join("weir.log.1");
    std::fs::rename(&path, &rotated).unwrap();
    sink.write("two\n");
    sink.reopen().unwrap();
    sink.write("three\n");
    assert_eq!(std::fs::read_to_string(&rotated).unwrap(), "before\none\ntwo\n");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");

    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let error = sink.reopen().unwrap_err().to_string();
    assert!(error.starts_with("log.file: ") && error.contains("Is a directory"), "{error}");
    sink.write("four\n");
}
