//! SRS's API, in its shapes: `/api/v1`. Where it is told of, an HTTP status says what its code says.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::body::Incoming;
use hyper::header::{HeaderValue, LOCATION};
use hyper::{Method, Request, StatusCode};
use serde_json::{Map, Value, json};
use weir_node::config::DEFAULT_VHOST;
use weir_node::rows::id_of;
use weir_proto::supervisor::{
    ClientRow, KickRequest, LookRequest, StatusReply, StatusRequest, StreamRow, StreamsReply, StreamsRequest,
};

use super::host::Error;
use super::{Answer, json_answer, only, system, text};
use crate::serve::Context;
use crate::serve::query::Query;

/// Rows of a list where the client does not say how many, as SRS has it, and at most.
const COUNT: (u32, u32) = (10, 1000);

/// SRS's codes (inventory, appendix G).
pub(super) mod code {
    pub(in super::super) const VHOST: u32 = 2014;
    pub(in super::super) const STREAM: u32 = 2048;
    pub(in super::super) const CLIENT: u32 = 2049;
    pub(in super::super) const RAW_OFF: u32 = 1061;
    pub(in super::super) const RAW_PARAMS: u32 = 1063;
    pub(in super::super) const RELOAD: u32 = 1064;
    /// Of what SRS has no code for: nobody answers, or who asks may not.
    pub(in super::super) const FAILED: u32 = 1000;
    pub(in super::super) const DENIED: u32 = 1001;
}

/// Why there is no answer: status, code and words.
struct Failure(StatusCode, u32, String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(StatusCode::SERVICE_UNAVAILABLE, code::FAILED, format!("the supervisor gives no answer: {error}"))
    }
}

/// Whether reading this changes something.
pub(super) fn changes(path: &str, query: Option<&str>) -> bool {
    path == "/api/v1/raw" && Query(query.unwrap_or_default()).raw("rpc") == Some("reload")
}

/// Answers a request for `path`, which has no slash at its end.
pub(super) async fn answer(cx: &Context, request: &Request<Incoming>, path: &str) -> Answer {
    let method = request.method();
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let query = Query(request.uri().query().unwrap_or_default());
    let done = match (path.strip_prefix("/api/v1/clients/"), reads) {
        (Some(id), false) if *method == Method::DELETE => kick(cx, id).await,
        (_, true) => match path {
            "/api/v1/tests/redirects" => return elsewhere("/api/v1/tests/errors"),
            _ => read(cx, request, path, query).await,
        },
        (Some(_), _) => return only("GET, HEAD, DELETE, OPTIONS"),
        _ => return only("GET, HEAD, OPTIONS"),
    };
    match done {
        Ok(value) => json_answer(StatusCode::OK, &value),
        Err(Failure(status, code, error)) => json_answer(status, &json!({ "code": code, "error": error })),
    }
}

fn elsewhere(path: &'static str) -> Answer {
    let mut answer = text(StatusCode::FOUND, "");
    answer.headers_mut().insert(LOCATION, HeaderValue::from_static(path));
    answer
}

async fn read(cx: &Context, request: &Request<Incoming>, path: &str, query: Query<'_>) -> Result<Value, Failure> {
    let page = Page::of(query);
    if let Some(id) = path.strip_prefix("/api/v1/vhosts/") {
        let (all, _) = vhosts(cx).await?;
        let found = all.into_iter().find(|vhost| vhost["id"] == id);
        return Ok(cx.enveloped("vhost", found.ok_or_else(|| unknown(code::VHOST, "vhost"))?));
    }
    if let Some(id) = path.strip_prefix("/api/v1/streams/") {
        let reply = ask_streams(cx, page, id).await?;
        let found = reply.streams.first().ok_or_else(|| missing(reply.partial, code::STREAM, "stream"))?;
        return Ok(cx.enveloped("stream", stream(found)));
    }
    if let Some(id) = path.strip_prefix("/api/v1/clients/") {
        let asked = LookRequest { id: id.to_owned(), ..LookRequest::default() };
        let reply = cx.supervisor.ask(async |mut admin| admin.look(asked).await).await?;
        let found = reply.clients.first().ok_or_else(|| missing(reply.partial, code::CLIENT, "client"))?;
        return Ok(cx.enveloped("client", client(found)));
    }
    Ok(match path {
        "/api" => cx.enveloped("urls", json!({ "v1": "the api version 1.0" })),
        "/api/v1" => index(cx),
        "/api/v1/versions" => cx.enveloped("data", versions()),
        "/api/v1/summaries" => summaries(cx).await?,
        "/api/v1/rusages" => {
            let pids: Vec<u32> = status(cx).await?.workers.iter().map(|worker| worker.pid).filter(|p| *p > 0).collect();
            cx.enveloped("data", system::usage(&pids, now_ms()))
        }
        "/api/v1/self_proc_stats" => {
            let status = status(cx).await?;
            let percent: f64 = status.workers.iter().map(|worker| worker.cpu_percent).sum();
            cx.enveloped("data", system::process(status.pid, percent / 100.0, now_ms()))
        }
        "/api/v1/system_proc_stats" => {
            let load = status(cx).await?.load.and_then(|load| load.cpu_percent).unwrap_or(0.0);
            cx.enveloped("data", system::system(load / 100.0, now_ms()))
        }
        "/api/v1/meminfos" => cx.enveloped("data", system::memory(now_ms())),
        "/api/v1/authors" => {
            cx.enveloped("data", json!({ "license": env!("CARGO_PKG_LICENSE"), "contributors": "the authors of weir" }))
        }
        "/api/v1/features" => cx.enveloped("data", features()),
        "/api/v1/requests" | "/api/v1/tests/requests" => cx.enveloped("data", echo(request)),
        "/api/v1/tests/errors" => return Err(Failure(StatusCode::OK, 100, "as was asked for".to_owned())),
        "/api/v1/vhosts" => {
            let (vhosts, partial) = vhosts(cx).await?;
            let mut out = cx.enveloped("vhosts", Value::Array(vhosts));
            if partial {
                out["partial"] = json!(true);
            }
            out
        }
        "/api/v1/streams" => {
            let reply = ask_streams(cx, page, "").await?;
            let rows = reply.streams.iter().map(stream).collect();
            cx.listed("streams", rows, reply.total, reply.partial)
        }
        "/api/v1/clients" => {
            let asked = LookRequest { start: page.start, count: page.count, id: String::new() };
            let reply = cx.supervisor.ask(async |mut admin| admin.look(asked).await).await?;
            let rows = reply.clients.iter().map(client).collect();
            cx.listed("clients", rows, reply.total, reply.partial)
        }
        "/api/v1/raw" => raw(cx, query).await?,
        "/api/v1/clusters" => clusters(query),
        _ => {
            let text = "there is nothing here; /api/v1 lists what is".to_owned();
            return Err(Failure(StatusCode::NOT_FOUND, StatusCode::NOT_FOUND.as_u16().into(), text));
        }
    })
}

/// Which part of a list.
#[derive(Clone, Copy)]
struct Page {
    start: u32,
    count: u32,
}

impl Page {
    fn of(query: Query<'_>) -> Self {
        let number = |name: &str| query.raw(name).and_then(|value| value.parse::<u32>().ok());
        let count = number("count").filter(|count| *count > 0).unwrap_or(COUNT.0).min(COUNT.1);
        Self { start: number("start").unwrap_or(0), count }
    }
}

impl Context {
    /// An answer as SRS wraps it: who answers is this host, whichever worker it is.
    fn enveloped(&self, name: &str, value: Value) -> Value {
        let host = &self.host;
        let mut out = json!({ "code": 0, "server": host.server, "service": host.service, "pid": host.pid.to_string() });
        if let Some(fields) = out.as_object_mut() {
            fields.insert(name.to_owned(), value);
        }
        out
    }

    /// A part of a list, with how long it is; `partial`: what a worker knows is missing.
    fn listed(&self, name: &str, rows: Vec<Value>, total: u64, partial: bool) -> Value {
        let mut out = self.enveloped(name, Value::Array(rows));
        out["total"] = json!(total);
        if partial {
            out["partial"] = json!(true);
        }
        out
    }
}

async fn status(cx: &Context) -> Result<StatusReply, Failure> {
    Ok(cx.supervisor.ask(async |mut admin| admin.status(StatusRequest {}).await).await?)
}

async fn ask_streams(cx: &Context, page: Page, id: &str) -> Result<StreamsReply, Failure> {
    let asked = StreamsRequest { start: page.start, count: page.count, id: id.to_owned() };
    Ok(cx.supervisor.ask(async |mut admin| admin.streams(asked).await).await?)
}

async fn kick(cx: &Context, id: &str) -> Result<Value, Failure> {
    let id = id.to_owned();
    match cx.supervisor.ask(async |mut admin| admin.kick(KickRequest { id }).await).await {
        Ok(_) => Ok(cx.enveloped("ok", json!(true))),
        Err(error) if error.is_not_found() => Err(unknown(code::CLIENT, "client")),
        Err(error) => Err(error.into()),
    }
}

/// What was not found may be with a worker that did not answer.
fn missing(partial: bool, code: u32, what: &str) -> Failure {
    match partial {
        false => unknown(code, what),
        true => Failure(StatusCode::SERVICE_UNAVAILABLE, code::FAILED, "a worker did not answer in time".to_owned()),
    }
}

fn unknown(code: u32, what: &str) -> Failure {
    Failure(StatusCode::NOT_FOUND, code, format!("there is no such {what}"))
}

fn versions() -> Value {
    let mut numbers = env!("CARGO_PKG_VERSION").split('.').map(|n| n.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    json!({ "major": next(), "minor": next(), "revision": next(), "version": env!("CARGO_PKG_VERSION") })
}

fn index(cx: &Context) -> Value {
    let urls = json!({
        "versions": "the version of weir",
        "summaries": "the summary (pid, argv, cwd, cpu, memory) of all processes",
        "rusages": "what all workers used",
        "self_proc_stats": "the supervisor's process",
        "system_proc_stats": "the system's processors",
        "meminfos": "the system's memory",
        "authors": "the license and the authors",
        "features": "what this server can",
        "requests": "the request itself",
        "vhosts": "all vhosts, or one: /ID",
        "streams": "all streams, or one: /ID; ?start=0&count=10",
        "clients": "all clients, or one: /ID; ?start=0&count=10; DELETE /ID disconnects",
        "raw": "?rpc=raw: whether it is on; ?rpc=reload: read the configuration again",
        "clusters": "?app=A&stream=S: any edge serves any stream",
        "tests": { "requests": "the request itself", "errors": "always the code 100", "redirects": "always to errors" },
    });
    cx.enveloped("urls", urls)
}

fn features() -> Value {
    json!({
        "options": "", "options2": "", "build": env!("CARGO_PKG_VERSION"), "build2": "0",
        "features": {
            "ssl": true, "hls": false, "hds": false, "callback": true, "api": true, "httpd": true, "dvr": false,
            "transcode": true, "ingest": false, "stat": true, "caster": false, "complex_send": true,
            "tcp_nodelay": true, "so_sendbuf": true, "mr": true,
        },
    })
}

/// The request without what may be secret.
fn echo(request: &Request<Incoming>) -> Value {
    let secret = ["authorization", "cookie", "proxy-authorization"];
    let fields = request.headers().iter().filter(|(name, _)| !secret.contains(&name.as_str()));
    let fields: Map<String, Value> =
        fields.map(|(name, value)| (name.to_string(), json!(value.to_str().unwrap_or("")))).collect();
    json!({
        "uri": request.uri().to_string(), "path": request.uri().path(), "METHOD": request.method().as_str(),
        "headers": fields,
    })
}

async fn summaries(cx: &Context) -> Result<Value, Failure> {
    let status = status(cx).await?;
    let (now, load) = (now_ms(), status.load.unwrap_or_default());
    let mut host = system::summary(load.cpu_percent.unwrap_or(0.0) / 100.0, &cx.host.disk());
    let edges = status.workers.iter().filter(|worker| worker.role == "edge");
    let clients: u64 = edges.map(|worker| worker.connections).sum();
    for (name, value) in [
        ("net_sample_time", now),
        ("srs_sample_time", now),
        ("srs_recv_bytes", status.bytes_in),
        ("srs_send_bytes", status.bytes_out),
        ("conn_srs", clients),
    ] {
        host.insert(name.to_owned(), json!(value));
    }
    let memory = status.workers.iter().map(|worker| worker.memory_bytes).sum::<u64>() / 1024;
    let cpu: f64 = status.workers.iter().map(|worker| worker.cpu_percent).sum();
    let total = system::Memory::read().total.max(1);
    let (argv, cwd) = system::started_as(status.pid);
    let own = json!({
        "version": status.version, "pid": status.pid, "ppid": system::parent(status.pid), "argv": argv, "cwd": cwd,
        "mem_kbyte": memory, "mem_percent": system::hundredths(memory as f64 / total as f64),
        "cpu_percent": system::hundredths(cpu / 100.0), "srs_uptime": status.uptime_ms / 1000,
    });
    Ok(cx.enveloped("data", json!({ "ok": true, "now_ms": now, "self": own, "system": host })))
}

/// The vhosts that are served, and what their streams do together.
/// All of them; true: what a worker knows is missing in their figures.
async fn vhosts(cx: &Context) -> Result<(Vec<Value>, bool), Failure> {
    let reply = ask_streams(cx, Page { start: 0, count: 0 }, "").await?;
    let config = cx.hub.config();
    let rows = config.vhosts.iter().map(|(name, vhost)| {
        let row = reply.vhosts.iter().find(|row| row.vhost == *name).cloned().unwrap_or_default();
        json!({
            "id": id_of(&[name]), "name": name, "enabled": vhost.enabled, "clients": row.clients, "streams": row.streams,
            "send_bytes": row.sent, "recv_bytes": row.received, "kbps": kbps(row.received_bps, row.sent_bps),
            "hls": { "enabled": false },
        })
    });
    Ok((rows.collect(), reply.partial))
}

fn kbps(received: u64, sent: u64) -> Value {
    json!({ "recv_30s": received / 1000, "send_30s": sent / 1000 })
}

fn url(vhost: &str, app: &str, stream: &str) -> String {
    if vhost == DEFAULT_VHOST { format!("/{app}/{stream}") } else { format!("{vhost}/{app}/{stream}") }
}

fn stream(row: &StreamRow) -> Value {
    let video = row.video.as_ref().map(|video| {
        json!({
            "codec": video.codec, "profile": video.profile, "level": video.level, "width": video.width,
            "height": video.height,
        })
    });
    let audio = row.audio.as_ref().map(|audio| {
        json!({
            "codec": audio.codec, "sample_rate": audio.sample_rate, "channel": audio.channels, "profile": audio.profile,
        })
    });
    // It is published if an origin here has it, or its publisher is here.
    let active = row.frames > 0 || !row.publisher_id.is_empty();
    json!({
        "id": row.id, "name": row.stream, "vhost": id_of(&[&row.vhost]), "app": row.app,
        "tcUrl": format!("rtmp://{}/{}", row.vhost, row.app), "url": url(&row.vhost, &row.app, &row.stream),
        "live_ms": now_ms(), "alive_ms": row.alive_ms, "clients": row.clients, "frames": row.frames,
        "send_bytes": row.sent, "recv_bytes": row.received, "kbps": kbps(row.received_bps, row.sent_bps),
        "publish": { "active": active, "cid": row.publisher_id }, "video": video, "audio": audio,
    })
}

fn client(row: &ClientRow) -> Value {
    let ip = row.peer.parse::<SocketAddr>().map(|peer| peer.ip().to_canonical().to_string()).unwrap_or_default();
    let mut out = json!({
        "id": row.id, "vhost": id_of(&[&row.vhost]), "stream": id_of(&[&row.vhost, &row.app, &row.stream]), "ip": ip,
        "pageUrl": "", "swfUrl": "", "tcUrl": format!("rtmp://{}/{}", row.vhost, row.app),
        "url": url(&row.vhost, &row.app, &row.stream), "name": row.stream, "type": row.kind,
        "publish": row.kind.ends_with("publish"), "alive": system::hundredths(row.alive_ms as f64 / 1000.0),
        "send_bytes": row.sent, "recv_bytes": row.received, "kbps": kbps(row.received_bps, row.sent_bps),
    });
    if let Some(rtc) = &row.rtc {
        out["rtc"] = json!({
            "audio": rtc.audio, "video": rtc.video, "tcp": rtc.tcp, "loss": rtc.loss, "rtt_ms": rtc.round_trip_ms,
            "nacks": rtc.nacks, "repairs": rtc.repairs, "keyframe_requests": rtc.keyframe_requests,
        });
    }
    out
}

/// SRS's raw API, of which reloading is the part that operators use.
async fn raw(cx: &Context, query: Query<'_>) -> Result<Value, Failure> {
    let config = cx.hub.config();
    match query.raw("rpc") {
        Some("raw") => {
            let listen = config.edge.api.listen.addresses().first().map(|address| address.port().to_string());
            Ok(json!({
                "code": 0,
                "http_api": {
                    "enabled": true, "listen": listen.unwrap_or_default(), "crossdomain": config.edge.http.cors,
                    "raw_api": {
                        "enabled": config.edge.api.raw, "allow_reload": config.edge.api.raw, "allow_query": false,
                        "allow_update": false,
                    },
                },
            }))
        }
        Some("reload") if !config.edge.api.raw => {
            Err(Failure(StatusCode::FORBIDDEN, code::RAW_OFF, "edge.api.raw is off".to_owned()))
        }
        Some("reload") => match cx.supervisor.reload().await {
            Ok(_) => Ok(json!({ "code": 0 })),
            Err(Error::Status(status)) => Err(Failure(StatusCode::CONFLICT, code::RELOAD, status.message().to_owned())),
            Err(error) => Err(error.into()),
        },
        _ => Err(Failure(StatusCode::BAD_REQUEST, code::RAW_PARAMS, "rpc is raw or reload".to_owned())),
    }
}

/// Where SRS's edges ask for a stream's origin. None need be told: each edge here finds it itself.
fn clusters(query: Query<'_>) -> Value {
    let get = |name: &str| query.get(name).unwrap_or_default();
    let asked = json!({ "ip": get("ip"), "vhost": get("vhost"), "app": get("app"), "stream": get("stream") });
    json!({ "code": 0, "data": { "query": asked, "origin": null } })
}

pub(super) fn now_ms() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(unix.as_millis()).unwrap_or(u64::MAX)
}
