//! `weir ctl clients`: who publishes and plays.

use std::fmt::Write as _;

use serde_json::{Value, json};
use weir_proto::supervisor::{ClientRow, LookReply};

use super::units::{memory, table, uptime};

/// A table for people.
pub(super) fn text(reply: &LookReply) -> String {
    let head = ["id", "client", "does", "stream", "for", "in", "out", "network"].map(str::to_owned);
    let rows = reply.clients.iter().map(|row| {
        let stream = format!("{}/{}", row.app, row.stream);
        let stream = if row.vhost == "__defaultVhost__" { stream } else { format!("{}/{stream}", row.vhost) };
        let peer = if row.peer.is_empty() { "not reached yet".to_owned() } else { row.peer.clone() };
        let (alive, read, sent) = (uptime(row.alive_ms), memory(row.received), memory(row.sent));
        [row.id.clone(), peer, row.kind.clone(), stream, alive, read, sent, network(row)]
    });
    let mut text = table(std::iter::once(head).chain(rows).collect());
    let shown = reply.clients.len() as u64;
    if shown < reply.total {
        writeln!(text, "{shown} of {} clients; --start and --count show others", reply.total).ok();
    }
    if reply.partial {
        text.push_str("some workers did not answer in time: their clients are missing\n");
    }
    text
}

/// What WebRTC knows of the way to a client.
fn network(row: &ClientRow) -> String {
    let Some(rtc) = &row.rtc else { return String::new() };
    let codecs: Vec<&str> = [&*rtc.video, &*rtc.audio].into_iter().filter(|codec| !codec.is_empty()).collect();
    let mut text = codecs.join("+");
    if rtc.tcp {
        text.push_str(" tcp");
    }
    if rtc.round_trip_ms > 0.0 {
        write!(text, " rtt {:.0} ms", rtc.round_trip_ms).ok();
    }
    write!(text, " loss {:.1} % nack {} pli {}", rtc.loss * 100.0, rtc.nacks, rtc.keyframe_requests).ok();
    text
}

/// The same as JSON.
pub(super) fn as_json(reply: &LookReply) -> anyhow::Result<String> {
    let clients: Vec<Value> = reply.clients.iter().map(row).collect();
    let all = json!({ "clients": clients, "total": reply.total, "partial": reply.partial });
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

fn row(row: &ClientRow) -> Value {
    let rtc = row.rtc.as_ref().map(|rtc| {
        json!({
            "audio": rtc.audio, "video": rtc.video, "tcp": rtc.tcp, "loss": rtc.loss, "rtt_ms": rtc.round_trip_ms,
            "nacks": rtc.nacks, "repairs": rtc.repairs, "keyframe_requests": rtc.keyframe_requests,
        })
    });
    let mut value = json!({
        "id": row.id, "vhost": row.vhost, "app": row.app, "stream": row.stream, "peer": row.peer, "type": row.kind,
        "alive_ms": row.alive_ms, "received": row.received, "sent": row.sent,
    });
    if let (Some(rtc), Some(fields)) = (rtc, value.as_object_mut()) {
        fields.insert("rtc".to_owned(), rtc);
    }
    value
}
