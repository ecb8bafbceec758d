//! `weir ctl streams`: what is published and played.

use std::fmt::Write as _;

use serde_json::json;
use weir_proto::supervisor::{StreamRow, StreamsReply};

use super::units::{memory, table, uptime};

/// A table for people.
pub(super) fn text(reply: &StreamsReply) -> String {
    let head = ["stream", "publisher", "for", "in", "out", "clients", "made of"].map(str::to_owned);
    let rows = reply.streams.iter().map(|row| {
        let name = format!("{}/{}", row.app, row.stream);
        let name = if row.vhost == "__defaultVhost__" { name } else { format!("{}/{name}", row.vhost) };
        let publisher = if row.publisher_id.is_empty() { "-".to_owned() } else { row.publisher_id.clone() };
        let rate = |bps: u64, bytes: u64| format!("{} kbit/s, {}", bps / 1000, memory(bytes));
        let (read, sent) = (rate(row.received_bps, row.received), rate(row.sent_bps, row.sent));
        [name, publisher, uptime(row.alive_ms), read, sent, row.clients.to_string(), made_of(row)]
    });
    let mut text = table(std::iter::once(head).chain(rows).collect());
    let shown = reply.streams.len() as u64;
    if shown < reply.total {
        writeln!(text, "{shown} of {} streams; --start and --count show others", reply.total).ok();
    }
    if reply.partial {
        text.push_str("some workers did not answer in time: their streams are missing\n");
    }
    text
}

/// `H264 High 1920x1080 + AAC 48000 Hz`.
fn made_of(row: &StreamRow) -> String {
    let video = row.video.as_ref().map(|video| {
        let size = if video.width > 0 { format!("{}x{}", video.width, video.height) } else { String::new() };
        let words = [&video.codec, &video.profile, &size].map(String::as_str);
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    });
    let audio = row.audio.as_ref().map(|audio| format!("{} {} Hz", audio.codec, audio.sample_rate));
    video.into_iter().chain(audio).collect::<Vec<_>>().join(" + ")
}

/// The same as JSON.
pub(super) fn as_json(reply: &StreamsReply) -> anyhow::Result<String> {
    let streams = reply.streams.iter().map(|row| {
        let video = row.video.as_ref().map(|video| {
            json!({
                "codec": video.codec, "profile": video.profile, "level": video.level, "width": video.width,
                "height": video.height,
            })
        });
        let audio = row.audio.as_ref().map(|audio| {
            json!({
                "codec": audio.codec, "sample_rate": audio.sample_rate, "channels": audio.channels,
                "profile": audio.profile,
            })
        });
        json!({
            "id": row.id, "vhost": row.vhost, "app": row.app, "stream": row.stream, "publisher": row.publisher_id,
            "alive_ms": row.alive_ms, "clients": row.clients, "frames": row.frames, "received": row.received,
            "sent": row.sent, "received_bps": row.received_bps, "sent_bps": row.sent_bps, "video": video, "audio": audio,
        })
    });
    let streams: Vec<_> = streams.collect();
    let all = json!({ "streams": streams, "total": reply.total, "partial": reply.partial });
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}
