//! weir's own API, `/api/v2`: what SRS's has no words for. Its document is made of these types (`openapi`).

use hyper::StatusCode;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Value, json};
use weir_node::config::shown;
use weir_proto::supervisor::{
    ClientRow, HostLoad, KickRequest, LookRequest, OverloadReason, OverloadReport, StatusReply, StatusRequest,
    StreamRow, StreamsRequest, WorkerStatus,
};

use super::host::Error;
use super::openapi;
use crate::serve::Context;
use crate::serve::query::Query;

/// Rows of a list where the client does not say how many, and at most.
pub(super) const COUNT: (u32, u32) = (100, 1000);

/// Why there is no answer.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Failed {
    #[serde(skip)]
    pub(super) status: StatusCode,
    /// For people.
    error: String,
}

impl Failed {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        match error.is_not_found() {
            true => Self::new(StatusCode::NOT_FOUND, "there is no such client"),
            false => Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("the supervisor gives no answer: {error}")),
        }
    }
}

/// This host.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Status {
    version: String,
    /// Names the supervisor's run: another after each start.
    host: String,
    /// The supervisor's process.
    pid: u32,
    /// `starting`, `ready` or `stopping`.
    state: String,
    uptime_ms: u64,
    /// Counts configurations since the start.
    generation: u64,
    /// Of the last upgrade: empty, `running`, `done`, or `failed` and why.
    upgrade: String,
    listeners: Vec<Listener>,
    load: Load,
    workers: Vec<Worker>,
}

/// An address that is listened on.
#[derive(Debug, Serialize, JsonSchema)]
struct Listener {
    /// What for, and the how manieth: `rtmp.0`.
    name: String,
    address: String,
}

/// A worker's slot, with or without a process.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Worker {
    /// `edge` or `origin`.
    role: String,
    slot: u32,
    /// Counts the slot's processes.
    incarnation: u64,
    /// 0 while there is no process.
    pid: u32,
    /// `empty`, `starting`, `ready`, `silent`, `draining`, `killed`, `backoff` or `faulted`.
    state: String,
    uptime_ms: u64,
    connections: u64,
    streams: u64,
    publishers: u64,
    players: u64,
    /// Since its start.
    bytes_in: u64,
    /// Since its start.
    bytes_out: u64,
    /// Of one core, over the last second.
    cpu_percent: f64,
    memory_bytes: u64,
    /// The longest that its loop was late in the last second, in microseconds.
    loop_lag_us: u64,
    /// Times that the slot's worker was started again after a death.
    restarts: u64,
    /// How near to its limits it is.
    overload: Overload,
}

/// How near to its limits a host or a worker is.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct Overload {
    /// `ok`, `warn` or `refuse`: then new clients are refused.
    state: &'static str,
    /// What holds.
    reasons: Vec<Reason>,
    /// Clients refused for it since the start.
    refused: u64,
}

/// A criterion that holds.
#[derive(Debug, Serialize, JsonSchema)]
struct Reason {
    /// `worker_cpu`, `host_cpu`, `nic`, `udp_drops`, `memory`, `disk`, `loop_lag` or `connections`.
    criterion: String,
    state: &'static str,
    /// Per cent; of `loop_lag` milliseconds, of `udp_drops` datagrams a second.
    value: f64,
    threshold: f64,
}

/// The host's use. What cannot be measured is absent.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub(super) struct Load {
    #[serde(flatten)]
    overload: Overload,
    /// Of all cores.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory_percent: Option<f64>,
    /// Of the fullest interface, in its fuller direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    nic_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    disk_percent: Option<f64>,
}

/// A part of the streams.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Streams {
    streams: Vec<Stream>,
    /// All of them.
    total: u64,
    /// A worker did not answer in time: what it knows is missing.
    partial: bool,
}

/// A stream, over all workers of this host.
#[derive(Debug, Serialize, JsonSchema)]
struct Stream {
    id: String,
    vhost: String,
    app: String,
    stream: String,
    /// The publisher's id among the clients; empty where it is not on this host.
    publisher: String,
    alive_ms: u64,
    /// Publishers and players.
    clients: u64,
    frames: u64,
    received_bytes: u64,
    sent_bytes: u64,
    /// Bits a second over 30 seconds.
    received_bps: u64,
    /// Bits a second over 30 seconds.
    sent_bps: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    video: Option<Video>,
    #[serde(skip_serializing_if = "Option::is_none")]
    audio: Option<Audio>,
}

/// A picture's codec; what is not known is empty or 0.
#[derive(Debug, Serialize, JsonSchema)]
struct Video {
    codec: String,
    profile: String,
    level: String,
    width: u32,
    height: u32,
}

/// A sound's codec; what is not known is empty or 0.
#[derive(Debug, Serialize, JsonSchema)]
struct Audio {
    codec: String,
    profile: String,
    sample_rate: u32,
    channels: u32,
}

/// A part of the clients.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Clients {
    clients: Vec<Client>,
    /// All of them.
    total: u64,
    /// A worker did not answer in time: what it knows is missing.
    partial: bool,
}

/// Who publishes or plays.
#[derive(Debug, Serialize, JsonSchema)]
struct Client {
    /// `ROLE.SLOT.INCARNATION.NUMBER`.
    id: String,
    vhost: String,
    app: String,
    stream: String,
    /// `ADDRESS:PORT`.
    peer: String,
    /// As SRS says: `fmle-publish`, `rtmp-play`, `flv-play`, `rtc-publish` or `rtc-play`.
    r#type: String,
    alive_ms: u64,
    received_bytes: u64,
    sent_bytes: u64,
    /// Bits a second over 30 seconds.
    received_bps: u64,
    /// Bits a second over 30 seconds.
    sent_bps: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    rtc: Option<Rtc>,
}

/// How a WebRTC session does.
#[derive(Debug, Serialize, JsonSchema)]
struct Rtc {
    audio: String,
    video: String,
    tcp: bool,
    /// The share of packets lost on their way lately, 0 to 1.
    loss: f64,
    /// 0: not known.
    round_trip_ms: f64,
    nacks: u64,
    repairs: u64,
    keyframe_requests: u64,
}

/// The origins that the worker that answers pulls from and publishes to.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Origins {
    origins: Vec<Origin>,
}

/// An origin and the way to it.
#[derive(Debug, Serialize, JsonSchema)]
struct Origin {
    /// As the configuration names it.
    origin: String,
    /// Whether the relay to it is up.
    up: bool,
}

/// Reads what is at a path below `/api/v2`.
pub(super) async fn read(cx: &Context, path: &str, query: Query<'_>) -> Result<Value, Failed> {
    let number = |name: &str| query.raw(name).and_then(|value| value.parse::<u32>().ok());
    let start = number("start").unwrap_or(0);
    let count = number("count").unwrap_or(COUNT.0).min(COUNT.1);
    match path {
        "" | "/openapi.json" => Ok(openapi::document()),
        "/status" => as_json(&status(cx).await?),
        "/workers" => as_json(&status(cx).await?.workers),
        "/overload" => as_json(&status(cx).await?.load),
        "/streams" => as_json(&streams(cx, start, count).await?),
        "/clients" => {
            let asked = LookRequest { start, count, id: query.get("id").unwrap_or_default() };
            let reply = cx.supervisor.ask(async |mut admin| admin.look(asked).await).await?;
            let clients = reply.clients.into_iter().map(Client::from).collect();
            as_json(&Clients { clients, total: reply.total, partial: reply.partial })
        }
        "/origins" => {
            let known = cx.hub.directory().origins().iter().zip(cx.hub.links());
            let origins = known.map(|(origin, link)| Origin { origin: origin.to_string(), up: link.is_up() });
            as_json(&Origins { origins: origins.collect() })
        }
        "/config" => Ok(shown(&cx.hub.config())),
        _ => Err(Failed::new(StatusCode::NOT_FOUND, "there is nothing here; /api/v2/openapi.json lists what is")),
    }
}

/// Disconnects a client.
pub(super) async fn kick(cx: &Context, id: &str) -> Result<Value, Failed> {
    let id = id.to_owned();
    let reply = cx.supervisor.ask(async |mut admin| admin.kick(KickRequest { id }).await).await?;
    Ok(json!({ "done": reply.text }))
}

/// The host.
pub(super) async fn status(cx: &Context) -> Result<Status, Error> {
    Ok(cx.supervisor.ask(async |mut admin| admin.status(StatusRequest {}).await).await?.into())
}

/// A part of the streams.
pub(super) async fn streams(cx: &Context, start: u32, count: u32) -> Result<Streams, Error> {
    let asked = StreamsRequest { start, count, id: String::new() };
    let reply = cx.supervisor.ask(async |mut admin| admin.streams(asked).await).await?;
    let streams = reply.streams.into_iter().map(Stream::from).collect();
    Ok(Streams { streams, total: reply.total, partial: reply.partial })
}

fn as_json(value: &impl Serialize) -> Result<Value, Failed> {
    serde_json::to_value(value).map_err(|error| Failed::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

fn state_of(state: i32) -> &'static str {
    ["ok", "warn", "refuse"].get(usize::try_from(state).unwrap_or(0)).copied().unwrap_or("ok")
}

impl From<StatusReply> for Status {
    fn from(reply: StatusReply) -> Self {
        let listener = |l: weir_proto::supervisor::Listener| Listener { name: l.name, address: l.address };
        Self {
            version: reply.version,
            host: reply.host,
            pid: reply.pid,
            state: reply.state,
            uptime_ms: reply.uptime_ms,
            generation: reply.generation,
            upgrade: reply.upgrade,
            listeners: reply.listeners.into_iter().map(listener).collect(),
            load: reply.load.unwrap_or_default().into(),
            workers: reply.workers.into_iter().map(Worker::from).collect(),
        }
    }
}

impl From<WorkerStatus> for Worker {
    fn from(worker: WorkerStatus) -> Self {
        Self {
            role: worker.role,
            slot: worker.slot,
            incarnation: worker.incarnation,
            pid: worker.pid,
            state: worker.state,
            uptime_ms: worker.uptime_ms,
            connections: worker.connections,
            streams: worker.streams,
            publishers: worker.publishers,
            players: worker.players,
            bytes_in: worker.bytes_in,
            bytes_out: worker.bytes_out,
            cpu_percent: worker.cpu_percent,
            memory_bytes: worker.memory_bytes,
            loop_lag_us: worker.loop_lag_us,
            restarts: worker.restarts,
            overload: worker.overload.unwrap_or_default().into(),
        }
    }
}

impl From<OverloadReport> for Overload {
    fn from(report: OverloadReport) -> Self {
        let reasons = report.reasons.into_iter().map(Reason::from).collect();
        Self { state: state_of(report.state), reasons, refused: report.refused }
    }
}

impl From<OverloadReason> for Reason {
    fn from(reason: OverloadReason) -> Self {
        let OverloadReason { criterion, state, value, threshold } = reason;
        Self { criterion, state: state_of(state), value, threshold }
    }
}

impl From<HostLoad> for Load {
    fn from(load: HostLoad) -> Self {
        let reasons = load.reasons.into_iter().map(Reason::from).collect();
        Self {
            overload: Overload { state: state_of(load.state), reasons, refused: 0 },
            cpu_percent: load.cpu_percent,
            memory_percent: load.memory_percent,
            nic_percent: load.nic_percent,
            disk_percent: load.disk_percent,
        }
    }
}

impl From<StreamRow> for Stream {
    fn from(row: StreamRow) -> Self {
        let video = row.video.map(|video| Video {
            codec: video.codec,
            profile: video.profile,
            level: video.level,
            width: video.width,
            height: video.height,
        });
        let audio = row.audio.map(|audio| Audio {
            codec: audio.codec,
            profile: audio.profile,
            sample_rate: audio.sample_rate,
            channels: audio.channels,
        });
        Self {
            id: row.id,
            vhost: row.vhost,
            app: row.app,
            stream: row.stream,
            publisher: row.publisher_id,
            alive_ms: row.alive_ms,
            clients: row.clients,
            frames: row.frames,
            received_bytes: row.received,
            sent_bytes: row.sent,
            received_bps: row.received_bps,
            sent_bps: row.sent_bps,
            video,
            audio,
        }
    }
}

impl From<ClientRow> for Client {
    fn from(row: ClientRow) -> Self {
        let rtc = row.rtc.map(|rtc| Rtc {
            audio: rtc.audio,
            video: rtc.video,
            tcp: rtc.tcp,
            loss: rtc.loss,
            round_trip_ms: rtc.round_trip_ms,
            nacks: rtc.nacks,
            repairs: rtc.repairs,
            keyframe_requests: rtc.keyframe_requests,
        });
        Self {
            id: row.id,
            vhost: row.vhost,
            app: row.app,
            stream: row.stream,
            peer: row.peer,
            r#type: row.kind,
            alive_ms: row.alive_ms,
            received_bytes: row.received,
            sent_bytes: row.sent,
            received_bps: row.received_bps,
            sent_bps: row.sent_bps,
            rtc,
        }
    }
}
