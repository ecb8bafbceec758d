//! How a status is shown: as a table for people, as JSON for programs.

use std::time::Duration;

use serde_json::json;
use weir_proto::supervisor::{StatusReply, WorkerStatus};

/// The stable shape for programs; fields may be added to it.
pub(super) fn json(reply: &StatusReply) -> anyhow::Result<String> {
    let listeners: Vec<_> = reply.listeners.iter().map(|l| json!({ "name": l.name, "address": l.address })).collect();
    let value = json!({
        "version": reply.version,
        "pid": reply.pid,
        "host": reply.host,
        "state": reply.state,
        "uptime_ms": reply.uptime_ms,
        "generation": reply.generation,
        "listeners": listeners,
        "workers": reply.workers.iter().map(worker_json).collect::<Vec<_>>(),
    });
    Ok(serde_json::to_string_pretty(&value)?)
}

fn worker_json(worker: &WorkerStatus) -> serde_json::Value {
    json!({
        "role": worker.role,
        "slot": worker.slot,
        "incarnation": worker.incarnation,
        "pid": worker.pid,
        "state": worker.state,
        "uptime_ms": worker.uptime_ms,
        "connections": worker.connections,
        "streams": worker.streams,
        "publishers": worker.publishers,
        "players": worker.players,
        "bytes_in": worker.bytes_in,
        "bytes_out": worker.bytes_out,
        "skips": worker.skips,
        "slow_closed": worker.slow_closed,
        "refused": worker.refused,
        "loop_lag_us": worker.loop_lag_us,
        "busy_percent": tenths(worker.busy_percent),
        "round_us": worker.round_us,
        "cpu_percent": tenths(worker.cpu_percent),
        "memory_bytes": worker.memory_bytes,
        "gop_bytes": worker.gop_bytes,
        "restarts": worker.restarts,
        "lent_to": worker.lent_to,
    })
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

const COLUMNS: usize = 11;
const HEAD: [&str; COLUMNS] =
    ["ROLE", "SLOT", "PID", "STATE", "UPTIME", "CONNS", "STREAMS", "CPU", "ROUND", "MEMORY", "RESTARTS"];

/// Columns that read best flush left; numbers go flush right.
const LEFT: [usize; 2] = [0, 3];

/// A line about the supervisor, then one a worker.
pub(super) fn table(reply: &StatusReply) -> String {
    let rows: Vec<[String; COLUMNS]> = reply.workers.iter().map(row).collect();
    let mut widths = HEAD.map(str::len);
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.len());
        }
    }
    let (version, pid, state) = (&reply.version, reply.pid, &reply.state);
    let uptime = uptime(reply.uptime_ms);
    let mut text = format!("weir {version}, process {pid}, {state}, up {uptime}\n\n");
    text.push_str(&line(&HEAD.map(str::to_owned), &widths));
    for (row, worker) in rows.iter().zip(&reply.workers) {
        text.push('\n');
        text.push_str(&line(row, &widths));
        if let Some(slot) = worker.lent_to {
            text.push_str(&format!("   accepted by {} {slot}", worker.role));
        }
    }
    text
}

fn line(cells: &[String; COLUMNS], widths: &[usize; COLUMNS]) -> String {
    let padded = cells.iter().zip(widths).enumerate().map(|(column, (cell, width))| match LEFT.contains(&column) {
        true => format!("{cell:<width$}"),
        false => format!("{cell:>width$}"),
    });
    padded.collect::<Vec<_>>().join("  ")
}

fn row(worker: &WorkerStatus) -> [String; COLUMNS] {
    let without_process = worker.pid == 0;
    let of_process = |text: String| if without_process { "-".to_owned() } else { text };
    [
        worker.role.clone(),
        worker.slot.to_string(),
        of_process(worker.pid.to_string()),
        worker.state.clone(),
        of_process(uptime(worker.uptime_ms)),
        of_process(worker.connections.to_string()),
        of_process(worker.streams.to_string()),
        of_process(format!("{:.1}%", worker.cpu_percent)),
        if worker.role == "edge" { of_process(format!("{}ms", worker.round_us / 1000)) } else { "-".to_owned() },
        of_process(format!("{:.1}M", worker.memory_bytes as f64 / f64::from(1 << 20))),
        worker.restarts.to_string(),
    ]
}

/// The two largest units: `2d3h`, `4m05s`, `12s`.
fn uptime(millis: u64) -> String {
    let seconds = Duration::from_millis(millis).as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{:02}s", seconds % 60),
        (0, _, _) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply() -> StatusReply {
        let ready = WorkerStatus {
            role: "edge".to_owned(),
            pid: 4711,
            state: "ready".to_owned(),
            uptime_ms: 245_000,
            connections: 12,
            streams: 3,
            cpu_percent: 7.25,
            round_us: 41_900,
            memory_bytes: 3 << 19,
            ..WorkerStatus::default()
        };
        let waiting = WorkerStatus {
            role: "edge".to_owned(),
            slot: 1,
            state: "backoff".to_owned(),
            restarts: 4,
            lent_to: Some(0),
            ..WorkerStatus::default()
        };
        StatusReply {
            version: "1.2.3".to_owned(),
            pid: 99,
            state: "ready".to_owned(),
            uptime_ms: 1_000,
            workers: vec![ready, waiting],
            ..StatusReply::default()
        }
    }

    #[test]
    fn the_table_is_aligned() {
        let wanted = "\
weir 1.2.3, process 99, ready, up 1s

ROLE  SLOT   PID  STATE    UPTIME  CONNS  STREAMS   CPU  ROUND  MEMORY  RESTARTS
edge     0  4711  ready     4m05s     12        3  7.2%   41ms    1.5M         0
edge     1     -  backoff       -      -        -     -      -       -         4   accepted by edge 0";
        assert_eq!(table(&reply()), wanted);
    }

    #[test]
    fn programs_find_the_names_they_hold_on_to() {
        let value: serde_json::Value = serde_json::from_str(&json(&reply()).unwrap()).unwrap();
        let worker = &value["workers"][0];
        assert_eq!((&worker["role"], &worker["slot"], &worker["pid"]), (&json!("edge"), &json!(0), &json!(4711)));
        assert_eq!(
            (&worker["state"], &worker["connections"], &worker["streams"]),
            (&json!("ready"), &json!(12), &json!(3))
        );
        assert_eq!(value["workers"][1]["lent_to"], json!(0));
    }

    #[test]
    fn uptimes_show_two_units() {
        assert_eq!([0, 59_999, 60_000, 3_600_000, 90_000_000].map(uptime), ["0s", "59s", "1m00s", "1h00m", "1d01h"]);
    }
}
