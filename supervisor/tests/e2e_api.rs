//! The HTTP API: SRS's shapes, the same from every worker, and only for those who may ask.

mod common;
mod e2e;

use std::net::SocketAddr;
use std::time::Duration;

use common::{Cluster, eventually};
use e2e::SOON;
use e2e::ffmpeg::Ffmpeg;
use e2e::http;
use e2e::peer::Peer;
use e2e::rtc::{self, Client, whip};
use e2e::source::Source;
use serde_json::{Value, json};

fn get(address: SocketAddr, path: &str) -> (u16, Value) {
    let answer = http::get(address, path);
    assert_eq!(answer.field("content-type"), Some("application/json"), "{path}");
    let status = answer.status;
    let text = answer.text();
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}")))
}

/// The answer to what is there.
fn found(address: SocketAddr, path: &str) -> Value {
    let (status, value) = get(address, path);
    assert_eq!((status, &value["code"]), (200, &json!(0)), "{path}: {value}");
    value
}

/// Every key of `shape` is in `value`, with a value of the same type; of lists, in each entry.
fn assert_shape(shape: &Value, value: &Value, at: &str) {
    match (shape, value) {
        (Value::Object(shape), Value::Object(fields)) => {
            for (name, shape) in shape {
                let value = fields.get(name).unwrap_or_else(|| panic!("{at}.{name} is missing in {value}"));
                assert_shape(shape, value, &format!("{at}.{name}"));
            }
        }
        (Value::Array(shape), Value::Array(entries)) => {
            assert!(!entries.is_empty(), "{at} is empty");
            entries.iter().for_each(|entry| assert_shape(&shape[0], entry, at));
        }
        (Value::Number(_), Value::Number(_))
        | (Value::String(_), Value::String(_))
        | (Value::Bool(_), Value::Bool(_)) => {}
        _ => panic!("{at} is {value}, not like {shape}"),
    }
}

/// Names of numbers, for shapes.
fn numbers(names: &str) -> serde_json::Map<String, Value> {
    names.split_whitespace().map(|name| (name.to_owned(), json!(0))).collect()
}

fn kbps() -> Value {
    json!({ "recv_30s": 0, "send_30s": 0 })
}

/// What SRS answers, by path: the keys and types of its version 7 (its fields `data`, or of a list's entry).
fn shapes() -> Vec<(&'static str, Value)> {
    let mut own = numbers("pid ppid mem_kbyte mem_percent cpu_percent srs_uptime");
    own.extend(["version", "argv", "cwd"].map(|name| (name.to_owned(), json!(""))));
    let system = numbers(
        "cpu_percent disk_read_KBps disk_write_KBps disk_busy_percent mem_ram_kbyte mem_ram_percent mem_swap_kbyte \
         mem_swap_percent cpus cpus_online uptime ilde_time load_1m load_5m load_15m net_sample_time net_recv_bytes \
         net_send_bytes net_recvi_bytes net_sendi_bytes srs_sample_time srs_recv_bytes srs_send_bytes conn_sys \
         conn_sys_et conn_sys_tw conn_sys_udp conn_srs",
    );
    let mut usage = numbers(
        "sample_time ru_utime ru_stime ru_maxrss ru_ixrss ru_idrss ru_isrss ru_minflt ru_majflt ru_nswap ru_inblock \
         ru_oublock ru_msgsnd ru_msgrcv ru_nsignals ru_nvcsw ru_nivcsw",
    );
    usage.insert("ok".to_owned(), json!(true));
    let mut process = numbers(
        "sample_time percent pid ppid pgrp session tty_nr tpgid flags minflt cminflt majflt cmajflt utime stime cutime \
         cstime priority nice num_threads itrealvalue starttime vsize rss rsslim startcode endcode startstack kstkesp \
         kstkeip signal blocked sigignore sigcatch wchan nswap cnswap exit_signal processor rt_priority policy \
         delayacct_blkio_ticks guest_time cguest_time",
    );
    process.extend([("ok", json!(true)), ("comm", json!("")), ("state", json!(""))].map(|(n, v)| (n.to_owned(), v)));
    let mut cpu = numbers("sample_time percent user nice sys idle iowait irq softirq steal guest");
    cpu.insert("ok".to_owned(), json!(true));
    let mut memory = numbers(
        "sample_time percent_ram percent_swap MemActive RealInUse NotInUse MemTotal MemFree Buffers Cached SwapTotal SwapFree",
    );
    memory.insert("ok".to_owned(), json!(true));
    let can = "ssl hls hds callback api httpd dvr transcode ingest stat caster complex_send tcp_nodelay so_sendbuf mr";
    let can: serde_json::Map<String, Value> = can.split(' ').map(|name| (name.to_owned(), json!(true))).collect();
    let vhost = json!({
        "id": "", "name": "", "enabled": true, "clients": 0, "streams": 0, "send_bytes": 0, "recv_bytes": 0,
        "kbps": kbps(), "hls": { "enabled": true },
    });
    let stream = json!({
        "id": "", "name": "", "vhost": "", "app": "", "tcUrl": "", "url": "", "live_ms": 0, "clients": 0, "frames": 0,
        "send_bytes": 0, "recv_bytes": 0, "kbps": kbps(), "publish": { "active": true, "cid": "" },
        "video": { "codec": "", "profile": "", "level": "", "width": 0, "height": 0 },
        "audio": { "codec": "", "sample_rate": 0, "channel": 0, "profile": "" },
    });
    let client = json!({
        "id": "", "vhost": "", "stream": "", "ip": "", "pageUrl": "", "swfUrl": "", "tcUrl": "", "url": "", "name": "",
        "type": "", "publish": true, "alive": 0.0, "send_bytes": 0, "recv_bytes": 0, "kbps": kbps(),
    });
    vec![
        ("/api", json!({ "urls": { "v1": "" } })),
        ("/api/v1", json!({ "urls": { "versions": "", "streams": "", "clients": "", "tests": { "errors": "" } } })),
        ("/api/v1/versions", json!({ "data": { "major": 0, "minor": 0, "revision": 0, "version": "" } })),
        ("/api/v1/summaries", json!({ "data": { "ok": true, "now_ms": 0, "self": own, "system": system } })),
        ("/api/v1/rusages", json!({ "data": usage })),
        ("/api/v1/self_proc_stats", json!({ "data": process })),
        ("/api/v1/system_proc_stats", json!({ "data": cpu })),
        ("/api/v1/meminfos", json!({ "data": memory })),
        ("/api/v1/authors", json!({ "data": { "license": "", "contributors": "" } })),
        (
            "/api/v1/features",
            json!({ "data": { "options": "", "options2": "", "build": "", "build2": "", "features": can } }),
        ),
        ("/api/v1/vhosts", json!({ "vhosts": [vhost] })),
        ("/api/v1/streams", json!({ "streams": [stream] })),
        ("/api/v1/clients", json!({ "clients": [client] })),
        (
            "/api/v1/tests/requests",
            json!({ "data": { "uri": "", "path": "", "METHOD": "", "headers": { "host": "" } } }),
        ),
    ]
}

/// A stream with a publisher and players, once all of it is known.
fn watched(cluster: &Cluster, scratch: &std::path::Path) -> (Ffmpeg, Vec<Peer>, Value) {
    let publisher = Ffmpeg::publish(Source::plain(), &format!("rtmp://{}/live/river", cluster.rtmp), scratch);
    let mut players: Vec<Peer> = (0..4).map(|_| Peer::play(cluster.rtmp, "live", "river")).collect();
    players.extend((0..4).map(|_| Peer::flv(cluster.http, "/live/river.flv")));
    Peer::wait_media_of(&players, 10, SOON);
    let stream = eventually("all of the stream is known", SOON, || {
        let stream = found(cluster.api, "/api/v1/streams/")["streams"][0].clone();
        let known = stream["clients"] == 9 && stream["video"]["width"] == 320 && stream["audio"]["channel"] == 1;
        (known && stream["kbps"]["send_30s"].as_u64()? > 0).then_some(stream)
    });
    (publisher, players, stream)
}

#[test]
fn answers_have_the_shapes_of_srs_and_come_of_any_worker() {
    let cluster = e2e::start("{ edge: { workers: 2 }, origin: { workers: 1 } }");
    let scratch = tempfile::tempdir().unwrap();
    let (_publisher, players, stream) = watched(&cluster, scratch.path());
    let envelope = json!({ "server": "", "service": "", "pid": "" });
    for (path, shape) in shapes() {
        for form in [path.to_owned(), format!("{path}/")] {
            let value = found(cluster.api, &form);
            assert_shape(&envelope, &value, path);
            assert_shape(&shape, &value, path);
        }
    }
    // Which worker answers is the kernel's choice; nobody can tell.
    for name in ["server", "service", "pid"] {
        let said: Vec<Value> =
            (0..12).map(|at| found([cluster.api, cluster.http][at % 2], "/api/v1/versions")[name].clone()).collect();
        assert!(said.windows(2).all(|pair| pair[0] == pair[1]), "{name}: {said:?}");
    }
    for _ in 0..12 {
        let again = found(cluster.api, "/api/v1/streams")["streams"][0].clone();
        for name in ["id", "clients", "video", "audio", "publish", "url", "vhost"] {
            assert_eq!(again[name], stream[name], "{name}");
        }
    }
    assert_eq!((&stream["video"]["codec"], &stream["audio"]["codec"]), (&json!("H264"), &json!("AAC")));
    assert_eq!((&stream["url"], &stream["publish"]["active"]), (&json!("/live/river"), &json!(true)));
    assert!(stream["kbps"]["recv_30s"].as_u64().unwrap() > 50, "{stream}");

    let table = String::from_utf8(cluster.ctl(&["streams"]).stdout).unwrap();
    assert!(table.contains("live/river") && table.contains("H264 Baseline 320x180 + AAC 44100 Hz"), "{table}");

    // One thing leads to the other.
    let id = |value: &Value| value["id"].as_str().unwrap().to_owned();
    let one = found(cluster.api, &format!("/api/v1/streams/{}", id(&stream)));
    assert_eq!(id(&one["stream"]), id(&stream));
    let vhost = stream["vhost"].as_str().unwrap();
    let vhost = found(cluster.api, &format!("/api/v1/vhosts/{vhost}/"))["vhost"].clone();
    assert_eq!(
        (&vhost["name"], &vhost["clients"], &vhost["streams"]),
        (&json!("__defaultVhost__"), &json!(9), &json!(1))
    );
    let cid = stream["publish"]["cid"].as_str().unwrap();
    let publisher = found(cluster.api, &format!("/api/v1/clients/{cid}"))["client"].clone();
    assert_eq!((&publisher["type"], &publisher["publish"]), (&json!("fmle-publish"), &json!(true)));
    assert_eq!((&publisher["ip"], &publisher["stream"]), (&json!("127.0.0.1"), &stream["id"]));

    // Lists are read in parts, ten where the client does not say.
    let part = |query: &str| {
        let value = found(cluster.api, &format!("/api/v1/clients/?{query}"));
        (value["clients"].as_array().unwrap().iter().map(id).collect::<Vec<_>>(), value["total"].as_u64().unwrap())
    };
    let (all, total) = part("");
    assert_eq!((all.len(), total), (9, 9));
    assert_eq!((part("start=2&count=3").0, part("start=9").0), (all[2..5].to_vec(), vec![]));

    // One is disconnected, wherever it is, and nobody else.
    let clients = found(cluster.api, "/api/v1/clients")["clients"].clone();
    let player = clients.as_array().unwrap().iter().find(|client| client["type"] == "flv-play").unwrap();
    let path = format!("/api/v1/clients/{}", id(player));
    assert_eq!(http::request(cluster.api, "POST", &path, "").status, 405);
    assert_eq!(get(cluster.api, &format!("{path}?method=DELETE")).0, 200, "reading changes nothing");
    let answer = http::request(cluster.api, "DELETE", &path, "");
    assert_eq!(
        (answer.status, serde_json::from_str::<Value>(&answer.text()).unwrap()["code"].clone()),
        (200, json!(0))
    );
    assert_eq!(http::request(cluster.api, "DELETE", &path, "").status, 404);
    eventually("it is gone", SOON, || (found(cluster.api, "/api/v1/clients")["total"] == 8).then_some(()));
    assert_eq!(players.iter().filter(|player| player.look(|notes| notes.end.is_some())).count(), 1);
}

#[test]
fn what_is_not_there_is_said_by_status_and_code() {
    let cluster = e2e::start("{ edge: { workers: 1 }, origin: { workers: 1 } }");
    let code = |path: &str| {
        let (status, value) = get(cluster.api, path);
        assert!(value["error"].as_str().is_some_and(|text| !text.is_empty()), "{path}: {value}");
        (status, value["code"].as_u64().unwrap())
    };
    assert_eq!(code("/api/v1/vhosts/vid-nope"), (404, 2014));
    assert_eq!(code("/api/v1/streams/vid-nope"), (404, 2048));
    assert_eq!(code("/api/v1/clients/nope"), (404, 2049));
    assert_eq!(code("/api/v1/clients/edge.0.999.7"), (404, 2049));
    assert_eq!(code("/api/v1/nothing"), (404, 404));
    assert_eq!(code("/api/v1/tests/errors"), (200, 100));
    assert_eq!(code("/api/v1/raw?rpc=reload"), (403, 1061));
    assert_eq!(http::get(cluster.api, "/api/v1/tests/redirects").status, 302);
    assert_eq!(found(cluster.api, "/api/v1/clusters?app=live&stream=a")["data"]["query"]["stream"], "a");
    assert_eq!(found(cluster.api, "/api/v1/streams")["streams"], json!([]));
    let secret =
        http::request(cluster.api, "GET", "/api/v1/requests", "Authorization: Basic c2VjcmV0\r\nCookie: a=b\r\n");
    let text = secret.text();
    assert!(!text.contains("c2VjcmV0") && !text.contains("a=b"), "{text}");
}

#[test]
fn whoever_has_the_password_may_ask_and_nobody_else() {
    let open = e2e::start("{ edge: { workers: 1 }, origin: { workers: 1 } }");
    let ask = |cluster: &Cluster, fields: &str| http::request(cluster.api, "GET", "/api/v1/clients", fields).status;
    assert_eq!(ask(&open, ""), 200, "this host");
    assert_eq!(ask(&open, "X-Forwarded-For: 192.0.2.9\r\n"), 403, "another one, by a proxy");
    assert_eq!(ask(&open, "Origin: https://evil.example\r\n"), 403, "a page of another site");
    let rebound = http::send(open.api, b"GET /api/v1/clients HTTP/1.1\r\nHost: evil.example\r\n\r\n");
    assert_eq!(rebound.status, 403, "a name of another site that points here");

    let yaml =
        "{ edge: { workers: 1, api: { user: op, password: hush, token: t0ken, raw: on } }, origin: { workers: 1 } }";
    let closed = e2e::start(yaml);
    let refused = http::get(closed.api, "/api/v1/clients");
    assert_eq!(refused.status, 401);
    assert!(refused.field("www-authenticate").unwrap().starts_with("Basic "));
    // op:hush and op:hash.
    assert_eq!(ask(&closed, "Authorization: Basic b3A6aHVzaA==\r\n"), 200);
    assert_eq!(ask(&closed, "Authorization: Basic b3A6aGFzaA==\r\n"), 401);
    assert_eq!(ask(&closed, "Authorization: Bearer t0ken\r\n"), 200);
    assert_eq!(ask(&closed, "Authorization: Bearer t0keN\r\n"), 401);
    assert_eq!(http::get(closed.api, "/api/v1/versions").status, 200);
    assert_eq!(http::get(closed.api, "/readyz").status, 200, "probes know no password");
    let token = "Authorization: Bearer t0ken\r\n";
    assert_eq!(http::request(closed.api, "GET", "/api/v1/raw?rpc=reload", token).status, 200);
    let site = format!("{token}Origin: https://evil.example\r\n");
    assert_eq!(http::request(closed.api, "GET", "/api/v1/raw?rpc=reload", &site).status, 403);
    let config = http::request(closed.api, "GET", "/api/v2/config", token).text();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!((&config["edge"]["api"]["password"], &config["edge"]["api"]["user"]), (&json!("***"), &json!("op")));
    assert_eq!(http::get(closed.api, "/api/v2/events").status, 401);
    assert_eq!(http::get(closed.api, "/api/v2/openapi.json").status, 401);
    let log = closed.log();
    assert!(!log.contains("hush") && !log.contains("t0ken"), "{log}");
}

/// What SRS has no words for, and its document.
#[test]
fn the_own_api_tells_of_the_host() {
    let cluster = e2e::start("{ edge: { workers: 2 }, origin: { workers: 1 } }");
    let scratch = tempfile::tempdir().unwrap();
    let (_publisher, _players, _) = watched(&cluster, scratch.path());
    let ask = |path: &str| {
        let (status, value) = get(cluster.api, &format!("/api/v2{path}"));
        assert_eq!(status, 200, "{path}: {value}");
        value
    };
    // Every path of the document is there, and its answers have what the document says that they have.
    let document = ask("/openapi.json");
    for (path, methods) in document["paths"].as_object().unwrap() {
        let below = path.strip_prefix("/api/v2").unwrap();
        if methods.get("get").is_none() || below == "/events" {
            continue;
        }
        let (value, schema) =
            (ask(below), &methods["get"]["responses"]["200"]["content"]["application/json"]["schema"]);
        let schema = schema["$ref"].as_str().map_or(schema, |to| document.pointer(&to[1..]).unwrap());
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(value.get(name.as_str().unwrap()).is_some(), "{path}: {name} is missing in {value}");
        }
    }
    assert_eq!(ask("/workers").as_array().unwrap().len(), 3);
    assert_eq!(ask("/streams")["streams"][0]["clients"], 9);
    assert_eq!(ask("/origins")["origins"], json!([{ "origin": "0", "up": true }]));
    assert_eq!(get(cluster.api, "/api/v2/nothing").0, 404);
    let id = ask("/clients?count=1")["clients"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(http::request(cluster.api, "DELETE", &format!("/api/v2/clients/{id}"), "").status, 200);
    assert_eq!(http::request(cluster.api, "DELETE", &format!("/api/v2/clients/{id}"), "").status, 404);
    assert_eq!(http::request(cluster.api, "POST", "/api/v2/status", "").status, 405);

    // Events come each second to all who listen, and one who leaves keeps nobody busy.
    let mut answers: Vec<http::Answer> = (0..3).map(|_| http::get(cluster.api, "/api/v2/events")).collect();
    for answer in &mut answers {
        assert_eq!(answer.field("content-type"), Some("text/event-stream"));
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let mut line = String::new();
            assert!(std::io::BufRead::read_line(&mut answer.body, &mut line).unwrap() > 0);
            if let Some(data) = line.strip_prefix("data: ") {
                seen.push(serde_json::from_str::<Value>(data).unwrap());
            }
        }
        assert!(seen.windows(2).all(|pair| pair[0]["now_ms"].as_u64() < pair[1]["now_ms"].as_u64()));
        assert_eq!((&seen[2]["status"]["state"], &seen[2]["streams"]["total"]), (&json!("ready"), &json!(1)));
    }
}

/// Sessions at the origin are in the same lists, and can be ended from there.
#[test]
fn webrtc_is_in_the_lists() {
    let (host, _) = rtc::start("{ edge: { workers: 2 }, origin: { workers: 1 } }");
    let scratch = tempfile::tempdir().unwrap();
    let _publisher = Client::chromium_publishes(&whip(host.api, "cam", ""), "H264", scratch.path());
    let player = Peer::flv(host.http, "/live/cam.flv");
    let stream = eventually("it is listed", Duration::from_secs(30), || {
        let stream = found(host.api, "/api/v1/streams")["streams"][0].clone();
        (stream["clients"] == 2 && stream["video"]["width"].as_u64()? > 0).then_some(stream)
    });
    assert_eq!((&stream["video"]["codec"], &stream["audio"]["codec"]), (&json!("H264"), &json!("Opus")));
    let path = format!("/api/v1/clients/{}", stream["publish"]["cid"].as_str().unwrap());
    let client = found(host.api, &path)["client"].clone();
    assert_eq!((&client["type"], &client["rtc"]["video"]), (&json!("rtc-publish"), &json!("H264")));
    assert!(client["recv_bytes"].as_u64().unwrap() > 0, "{client}");
    assert_eq!(http::request(host.api, "DELETE", &path, "").status, 200);
    eventually("it is gone", SOON, || (get(host.api, &path).0 == 404).then_some(()));
    drop(player);
}
