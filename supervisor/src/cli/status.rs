//! How a status is shown: as a table for people, as JSON for programs.

use serde_json::json;
use weir_node::overload::{State, unit};
use weir_proto::supervisor::{HostLoad, OverloadReason, OverloadReport, StatusReply, UdpSocket, WorkerStatus};

use super::notes::{notes, of_host};
use super::units::{memory, millis, percent, uptime};

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
        "load": reply.load.as_ref().map(load_json),
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
        "overload": worker.overload.as_ref().map(overload_json),
    })
}

/// The state counts the host's reasons, too; the reasons are the worker's own.
fn overload_json(overload: &OverloadReport) -> serde_json::Value {
    let udp = |socket: &UdpSocket| json!({ "socket": socket.name, "receive_drops": socket.receive_drops });
    json!({
        "state": State::from(overload.state()).as_str(),
        "reasons": overload.reasons.iter().map(reason_json).collect::<Vec<_>>(),
        "cpu_percent": tenths(overload.cpu_percent),
        "refused": overload.refused,
        "redirected": overload.redirected,
        "passed": overload.passed,
        "udp": overload.udp.iter().map(udp).collect::<Vec<_>>(),
    })
}

fn load_json(load: &HostLoad) -> serde_json::Value {
    json!({
        "state": State::from(load.state()).as_str(),
        "reasons": load.reasons.iter().map(reason_json).collect::<Vec<_>>(),
        "cpu_percent": load.cpu_percent.map(tenths),
        "memory_percent": load.memory_percent.map(tenths),
        "memory_available_bytes": load.memory_available_bytes,
        "nic_percent": load.nic_percent.map(tenths),
        "nic_received_bytes": load.nic_received_bytes,
        "nic_sent_bytes": load.nic_sent_bytes,
        "disk_percent": load.disk_percent.map(tenths),
        "udp_send_drops": load.udp_send_drops,
    })
}

fn reason_json(reason: &OverloadReason) -> serde_json::Value {
    json!({
        "criterion": reason.criterion,
        "state": State::from(reason.state()).as_str(),
        "value": tenths(reason.value),
        "threshold": tenths(reason.threshold),
        "unit": unit(&reason.criterion).trim_start(),
    })
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

const COLUMNS: usize = 16;
const HEAD: [&str; COLUMNS] = [
    "ROLE", "SLOT", "PID", "STATE", "UPTIME", "CONNS", "PUBS", "PLAYERS", "STREAMS", "CPU", "BUSY", "LAG", "ROUND",
    "MEMORY", "RESTARTS", "NOTES",
];

/// Columns that read best flush left; numbers go flush right.
const LEFT: [usize; 3] = [0, 3, 15];

/// A line about the supervisor, one a worker, and one of what is listened on.
pub(super) fn table(reply: &StatusReply) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(reply.workers.iter().map(row));
    let mut widths = [0; COLUMNS];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let (version, pid, state) = (&reply.version, reply.pid, &reply.state);
    let uptime = uptime(reply.uptime_ms);
    let mut text = format!("weir {version}, process {pid}, {state}, up {uptime}\n");
    if let Some(note) = reply.load.as_ref().and_then(of_host) {
        text.push_str(&format!("this host is {note}\n"));
    }
    for row in &rows {
        text.push('\n');
        text.push_str(line(row, &widths).trim_end());
    }
    if !reply.listeners.is_empty() {
        let listeners: Vec<_> = reply.listeners.iter().map(|l| format!("{} {}", l.name, l.address)).collect();
        text.push_str(&format!("\n\nlistening: {}", listeners.join("  ")));
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
    let of_process = |text: String| if worker.pid == 0 { "-".to_owned() } else { text };
    // An origin has no rounds.
    let of_edge = |text: String| if worker.role == "edge" { of_process(text) } else { "-".to_owned() };
    [
        worker.role.clone(),
        worker.slot.to_string(),
        of_process(worker.pid.to_string()),
        worker.state.clone(),
        of_process(uptime(worker.uptime_ms)),
        of_process(worker.connections.to_string()),
        of_process(worker.publishers.to_string()),
        of_process(worker.players.to_string()),
        of_process(worker.streams.to_string()),
        of_process(percent(worker.cpu_percent)),
        of_edge(percent(worker.busy_percent)),
        of_process(millis(worker.loop_lag_us)),
        of_edge(millis(worker.round_us)),
        of_process(memory(worker.memory_bytes)),
        worker.restarts.to_string(),
        notes(worker).join(", "),
    ]
}

#[cfg(test)]
mod tests {
    use weir_proto::supervisor::Listener;

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
            publishers: 1,
            players: 11,
            busy_percent: 6.5,
            loop_lag_us: 1_250,
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
        let origin =
            WorkerStatus { role: "origin".to_owned(), pid: 4712, state: "ready".to_owned(), ..WorkerStatus::default() };
        let listener = |name: &str, address: &str| Listener { name: name.to_owned(), address: address.to_owned() };
        StatusReply {
            version: "1.2.3".to_owned(),
            pid: 99,
            state: "ready".to_owned(),
            uptime_ms: 1_000,
            listeners: vec![listener("rtmp", "0.0.0.0:1935"), listener("http", "[::]:8080")],
            workers: vec![ready, waiting, origin],
            ..StatusReply::default()
        }
    }

    #[test]
    fn the_table_is_aligned() {
        let wanted = "\
weir 1.2.3, process 99, ready, up 1s

ROLE    SLOT   PID  STATE    UPTIME  CONNS  PUBS  PLAYERS  STREAMS   CPU  BUSY    LAG  ROUND  MEMORY  RESTARTS  NOTES
edge       0  4711  ready     4m05s     12     1       11        3  7.2%  6.5%  1.2ms   41ms    1.5M         0
edge       1     -  backoff       -      -     -        -        -     -     -      -      -       -         4  accepted by edge 0
origin     0  4712  ready        0s      0     0        0        0  0.0%     -  0.0ms      -    0.0M         0

listening: rtmp 0.0.0.0:1935  http [::]:8080";
        assert_eq!(table(&reply()), wanted);
    }

    #[test]
    fn an_overloaded_host_is_said_once() {
        let reason = OverloadReason { criterion: "host_cpu".to_owned(), state: 2, value: 99.6, threshold: 95.0 };
        let load = HostLoad { state: 2, reasons: vec![reason], nic_percent: Some(12.34), ..HostLoad::default() };
        let overload = Some(OverloadReport { state: 2, refused: 4, ..OverloadReport::default() });
        let mut reply = StatusReply { load: Some(load), ..reply() };
        reply.workers[0].overload = overload;
        let text = table(&reply);
        assert_eq!(text.lines().nth(1), Some("this host is overloaded: host_cpu 100 %"), "{text}");
        assert_eq!(text.matches("overloaded").count(), 1, "{text}");
        let value: serde_json::Value = serde_json::from_str(&json(&reply).unwrap()).unwrap();
        let reason =
            json!({ "criterion": "host_cpu", "state": "refuse", "value": 99.6, "threshold": 95.0, "unit": "%" });
        assert_eq!((&value["load"]["reasons"][0], &value["load"]["nic_percent"]), (&reason, &json!(12.3)));
        let overload = &value["workers"][0]["overload"];
        assert_eq!((&overload["state"], &overload["refused"]), (&json!("refuse"), &json!(4)));
        assert_eq!(value["workers"][1]["overload"], json!(null));
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
}
