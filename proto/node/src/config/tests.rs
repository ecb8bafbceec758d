//! What is read, and the exact words of every refusal.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::load::from_text;
use super::*;

fn read(yaml: &str, env: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    from_text(yaml, env).map_err(|faults| ConfigErrors::new("weir.yaml".to_owned(), faults))
}

#[track_caller]
fn ok(yaml: &str) -> Config {
    read(yaml, &[]).unwrap_or_else(|e| panic!("{e}"))
}

#[track_caller]
fn refused(yaml: &str, env: &[(&str, &str)], text: &str) {
    match read(yaml, env) {
        Ok(_) => panic!("accepted: {yaml} {env:?}"),
        Err(errors) => {
            assert_eq!(errors.to_string(), text);
            assert_eq!(errors.count(), text.lines().count());
        }
    }
}

#[test]
fn annotated_file_is_the_default() {
    assert_eq!(load(None, std::iter::empty()).unwrap(), Config::default());
    assert_eq!(ok(""), Config::default());
}

/// Every key of the structures must stand in the annotated file: taking a value from it must not be silent.
#[test]
fn annotated_file_names_every_key() {
    fn keys(value: &serde_json::Value, path: &str, found: &mut Vec<String>) {
        match value.as_object() {
            Some(section) => section.iter().for_each(|(key, inner)| keys(inner, &format!("{path}.{key}"), found)),
            None => found.push(path.to_owned()),
        }
    }
    let tree = tree::Node::parse(DEFAULT_YAML, None).unwrap();
    let mut found = Vec::new();
    keys(&serde_json::to_value(Config::default()).unwrap(), "", &mut found);
    assert!(found.len() > 40);
    for path in found {
        let steps: Vec<&str> = path.split('.').skip(1).collect();
        assert!(tree.clone().remove(&steps), "{path} is not in conf/weir.yaml");
    }
}

#[test]
fn travels_as_json() {
    let mut config = ok("
edge: { workers: 3, rtmp: { listen: [1935, '[::]:1935'], chunk_size: 4096 }, http: { listen: off, cors: off }, log_memory: 100000001 }
vhosts: { a.b: { enabled: off, play: { mw_latency: 1500ms }, publish: { takeover: same_key } } }
node: { name: 007 }
");
    config.cluster.origins.push("h:1".to_owned());
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
    let json = serde_json::to_string(&Config::default()).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), Config::default());
}

#[test]
fn values_are_read_as_written() {
    let config = ok("
node: { name: 1e3 }
edge:
  workers: 4
  rtmp: { listen: '127.0.0.1:1936', handshake_timeout: 1500ms }
  http: { listen: [8080, \"[::1]:8081\"] , cors: no }
  api:
  log_memory: 1GiB
  publish_memory: 20000000
  drain_timeout: 2h
vhosts:
  __defaultVhost__: &common { play: { mw_latency: 0ms, gop_cache: OFF } }
  Live.example.com: { <<: *common, publish: { takeover: replace } }
");
    assert_eq!(config.node_name(), "1e3");
    assert_eq!(config.edge_workers(), 4);
    assert_eq!(config.edge.rtmp.listen.addresses(), ["127.0.0.1:1936".parse().unwrap()]);
    assert_eq!(config.edge.rtmp.handshake_timeout, Duration::from_millis(1500));
    assert_eq!(config.edge.http.listen.addresses(), ["0.0.0.0:8080".parse().unwrap(), "[::1]:8081".parse().unwrap()]);
    assert!(!config.edge.http.cors);
    assert_eq!(config.edge.api, Api::default());
    assert_eq!(config.edge.log_memory, 1 << 30);
    assert_eq!(config.edge.publish_memory, 20_000_000);
    assert_eq!(config.edge.drain_timeout, Duration::from_secs(7200));
    let (name, live) = config.vhost("live.EXAMPLE.com").unwrap();
    assert_eq!((name, live.publish.takeover), ("Live.example.com", Takeover::Replace));
    assert_eq!(live.play.mw_latency, Auto::Is(Duration::ZERO));
    assert!(!live.play.gop_cache);
}

#[test]
fn switches_know_on_and_off() {
    for (word, value) in [("on", true), ("off", false), ("true", true), ("false", false), ("yes", true), ("no", false)]
    {
        assert_eq!(ok(&format!("edge: {{ http: {{ cors: {word} }} }}")).edge.http.cors, value, "{word}");
    }
    refused(
        "edge: { http: { cors: maybe } }",
        &[],
        "weir.yaml:1: edge.http.cors: \"maybe\" is neither on nor off; write one of them",
    );
}

#[test]
fn vhosts_resolve() {
    let only = ok("vhosts: { a.example: {}, b.example: { enabled: off } }");
    assert_eq!(only.vhost("A.example").unwrap().0, "a.example");
    assert!(only.vhost("b.example").is_none(), "disabled");
    assert!(only.vhost("c.example").is_none(), "no default vhost is listed");
    assert_eq!(Config::default().vhost("c.example").unwrap().0, DEFAULT_VHOST);
}

#[test]
fn origins_are_split() {
    assert_eq!(host_port("origin-1.example.com:1990"), Some(("origin-1.example.com", 1990)));
    assert_eq!(host_port("127.0.0.2:1"), Some(("127.0.0.2", 1)));
    assert_eq!(host_port("[fd00::1]:1990"), Some(("fd00::1", 1990)));
    for wrong in ["", ":1", "a", "a:", "a:0", "a:+1", "a:65536", "fd00::1:1990", "[x]:1", "a b:1", "http://a:1"] {
        assert_eq!(host_port(wrong), None, "{wrong}");
    }
}

#[test]
fn listener_of_a_worker() {
    let listen = Listen::at(["10.0.0.1:65534".parse().unwrap(), "[::1]:100".parse().unwrap()]);
    assert_eq!(listen.of_worker(1), ["10.0.0.1:65535".parse().unwrap(), "[::1]:101".parse().unwrap()]);
    assert_eq!(listen.of_worker(2), ["[::1]:102".parse().unwrap()]);
    assert!(Listen::OFF.of_worker(0).is_empty());
}

#[test]
fn unknown_keys_are_refused_with_a_suggestion() {
    refused(
        "edge:\n  rtmp:\n    # a comment\n    lisen: 1935\n",
        &[],
        "weir.yaml:4: edge.rtmp.lisen: unknown key, did you mean \"listen\"?",
    );
    refused(
        "edge: { api: { port: 1 } }",
        &[],
        "weir.yaml:1: edge.api.port: unknown key; the keys here are listen, user, password, token, raw",
    );
    refused("vhosts:\n  a:\n    plya: {}\n", &[], "weir.yaml:3: vhosts.a.plya: unknown key, did you mean \"play\"?");
}

#[test]
fn all_faults_come_together() {
    refused(
        "edge:\n  workers: many\n  drain_timeout: 30\n  rtmp: { listen: 99999 }\norign: {}\ncluster:\n  origins: [a:1, {}]\n",
        &[("WEIR_LOG__LEVEL", "loud")],
        "weir.yaml:2: edge.workers: \"many\" is not understood; write auto or a whole number\n\
         weir.yaml:3: edge.drain_timeout: 30 has no unit; write 30ms, 30s or 30m\n\
         weir.yaml:4: edge.rtmp.listen: 99999 is not a port; write 1..=65535\n\
         weir.yaml:5: orign: unknown key, did you mean \"origin\"?\n\
         weir.yaml:7: cluster.origins[1]: write one text here\n\
         environment WEIR_LOG__LEVEL: log.level: \"loud\" is not understood; write trace, debug, info, warn, error",
    );
}

#[test]
fn thresholds_can_be_off_and_peers_go_without_a_port() {
    let config = ok(
        "overload: { nic: { warn: 0, refuse: off, limit: 500 }, udp_drops: { refuse: 100 }, redirect: { rtmp: edge-2, http: '[fd00::2]:80' } }",
    );
    let overload = &config.overload;
    assert_eq!(
        (overload.nic.warn, overload.nic.refuse, overload.nic.limit),
        (Threshold::Off, Threshold::Off, Auto::Is(500))
    );
    assert_eq!((overload.udp_drops.warn, overload.udp_drops.refuse), (Threshold::At(1), Threshold::At(100)));
    let json = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<Config>(&json).unwrap(), config);
}

/// Flow-style documents, a section a line: the text begins with the section, which gives the line.
#[track_caller]
fn refused_each(cases: &[(&str, &str)]) {
    for (yaml, text) in cases {
        let begins = |line: &str| text.starts_with(line.split(':').next().unwrap());
        let place = match yaml.lines().position(begins) {
            Some(line) => format!("weir.yaml:{}", line + 1),
            None => "weir.yaml".to_owned(),
        };
        refused(yaml, &[], &format!("{place}: {text}"));
    }
}

#[test]
fn wrong_words_say_what_to_write() {
    refused_each(&[
        ("edge: { drain_timeout: 30 }", "edge.drain_timeout: 30 has no unit; write 30ms, 30s or 30m"),
        (
            "edge: { drain_timeout: 3d }",
            "edge.drain_timeout: \"3d\" is not a duration; write one such as 350ms, 10s, 1m or 2h",
        ),
        (
            "edge: { drain_timeout: 99999999999999999h }",
            "edge.drain_timeout: \"99999999999999999h\" is longer than 10000h; write a shorter duration",
        ),
        (
            "edge: { drain_timeout: -1s }",
            "edge.drain_timeout: \"-1s\" is not a duration; write one such as 350ms, 10s, 1m or 2h",
        ),
        (
            "edge: { drain_timeout: [1s] }",
            "edge.drain_timeout: a list cannot stand here; write a duration such as 350ms, 10s, 1m or 2h",
        ),
        (
            "edge: { drain_timeout: }",
            "edge.drain_timeout: the value is missing; write a duration such as 350ms, 10s, 1m or 2h, or leave the key out",
        ),
        ("edge: { log_memory: 8MB }", "edge.log_memory: 8MB: sizes are counted in powers of 1024; write 8MiB"),
        (
            "edge: { log_memory: big }",
            "edge.log_memory: \"big\" is not a size; write one such as 64KiB, 8MiB or 1GiB, or plain bytes",
        ),
        (
            "edge: { log_memory: 99999999999GiB }",
            "edge.log_memory: \"99999999999GiB\" is larger than any memory; write a smaller size",
        ),
        ("edge: { log_memory: 1MiB }", "edge.log_memory: 1MiB is out of range; write 16MiB to 1024GiB"),
    ]);
}

#[test]
fn wrong_values_say_what_to_write() {
    refused_each(&[
        ("edge: { workers: some }", "edge.workers: \"some\" is not understood; write auto or a whole number"),
        ("edge: { workers: 300 }", "edge.workers: 300 is not a worker count; write auto or 0..=256"),
        (
            "edge: { workers: 0 }\norigin: { workers: 0 }",
            "edge.workers: 0 leaves nothing to run beside origin.workers: 0; write auto or 1..=256",
        ),
        (
            "origin: { workers: 0 }",
            "origin.workers: 0 leaves the edges without an origin; write 1..=64, or list the cluster's origins in cluster.origins",
        ),
        ("origin: { workers: 65 }", "origin.workers: 65 is not a worker count; write 0..=64"),
        ("edge: { rtmp: 1935 }", "edge.rtmp: \"1935\" cannot stand here; this is a section, write its keys below it"),
        (
            "edge: { rtmp: { listen: 0 } }",
            "edge.rtmp.listen: 0 is not a port; write 1..=65535, or off to listen nowhere",
        ),
        ("edge: { rtmp: { listen: 70000 } }", "edge.rtmp.listen: 70000 is not a port; write 1..=65535"),
        ("edge: { rtmp: { listen: '::1' } }", "edge.rtmp.listen: \"::1\" has no port; write it as in \"[::1]:1935\""),
        (
            "edge: { rtmp: { listen: 'localhost:1' } }",
            "edge.rtmp.listen: \"localhost:1\" is not an address; write a port (1935), \"ADDRESS:PORT\" with a numeric address, a list of these, or off",
        ),
        (
            "edge: { rtmp: { listen: [1935, x] } }",
            "edge.rtmp.listen[1]: \"x\" is not an address; write a port (1935), \"ADDRESS:PORT\" with a numeric address, a list of these, or off",
        ),
        ("edge: { rtmp: { listen: [] } }", "edge.rtmp.listen: the list is empty; write off to listen nowhere"),
        ("edge: { rtmp: { chunk_size: 1 } }", "edge.rtmp.chunk_size: 1 is out of range; write 128 to 65536"),
        (
            "cluster: { directory: etcd }",
            "cluster.directory: this version has no etcd directory; write static and list cluster.origins",
        ),
        ("cluster: { origins: a:1 }", "cluster.origins: a list stands here; write [a:1]"),
        (
            "vhosts: { a: { play: { queue_close: 5s } } }",
            "vhosts.a.play.queue_close: 5s is less than queue_length, 10s: players would be closed before they may skip; write at least 10s",
        ),
        (
            "vhosts: { a: { play: { mw_latency: 11s } } }",
            "vhosts.a.play.mw_latency: 11s is out of range; write 0s to 10s",
        ),
        ("vhosts: { 'rtmp://a': {} }", "vhosts.rtmp://a: not a host name; write one without scheme, port or path"),
        (
            "vhosts: {}",
            "vhosts: no vhost is listed, so nobody could publish or play; list one, or leave the section out",
        ),
        (
            "overload: { worker_cpu: { warn: much } }",
            "overload.worker_cpu.warn: \"much\" is not understood; write off or a whole number",
        ),
        ("overload: { host_cpu: { refuse: 101 } }", "overload.host_cpu.refuse: 101 is out of range; write 1 to 100"),
        (
            "overload: { memory: { warn: 90, refuse: 85 } }",
            "overload.memory.refuse: 85 is less than warn, 90; write at least 90",
        ),
        (
            "overload: { loop_lag: { warn: 11s, refuse: off } }",
            "overload.loop_lag.warn: 11s is out of range; write 1ms to 10s",
        ),
        ("overload: { nic: { limit: 0 } }", "overload.nic.limit: 0 is out of range; write 1 to 10000000"),
        (
            "overload: { nic: { interface: ../eth0 } }",
            "overload.nic.interface: \"../eth0\" is not the name of a network interface; write auto or one such as eth0",
        ),
        (
            "overload: { disk: { path: data } }",
            "overload.disk.path: \"data\" is not an absolute path; write one that begins with /",
        ),
        (
            "overload: { redirect: { rtmp: 'rtmp://b/live' } }",
            "overload.redirect.rtmp: \"rtmp://b/live\" is not HOST or HOST:PORT; write one such as edge-2.example.com",
        ),
        ("overload: { leave: 11m }", "overload.leave: 11m is out of range; write 0s to 10m"),
        ("node: { run_dir: run }", "node.run_dir: \"run\" is not an absolute path; write one that begins with /"),
        ("- 1", "a list cannot stand here; this is a section, write its keys below it"),
    ]);
}

#[test]
fn ports_are_taken_once() {
    refused(
        "edge:\n  http:\n    listen: 1935\n",
        &[],
        "weir.yaml:3: edge.http.listen: port 1935 is already taken by edge.rtmp.listen; write another one",
    );
    refused(
        "edge: { http: { listen: ['127.0.0.1:80', 80] } }",
        &[],
        "weir.yaml:1: edge.http.listen: port 80 stands there twice; write each address once",
    );
    ok(
        "edge: { rtmp: { listen: [1935, '[::]:1935'] }, http: { listen: '127.0.0.1:1', cors: on }, api: { listen: '127.0.0.2:1' } }",
    );
}

#[test]
fn hosts_talk_only_over_tls() {
    refused(
        "cluster:\n  relay: { listen: 1991 }\n  control: { listen: 1990 }\n  origins: [a, 'b:1', 'b:1']\n  tls: { ca: /dev/null }\n",
        &[],
        "weir.yaml:4: cluster.origins: \"a\" is not HOST:PORT; write one such as origin-1.example.com:1990 or \"[fd00::1]:1990\"\n\
         weir.yaml:4: cluster.origins: \"b:1\" stands there twice; write each origin worker once\n\
         weir.yaml:2: cluster.relay.listen: needs cluster.tls: hosts talk to each other over mutual TLS only; write ca, cert and key (weir cert makes them)\n\
         weir.yaml:3: cluster.control.listen: needs cluster.tls: hosts talk to each other over mutual TLS only; write ca, cert and key (weir cert makes them)\n\
         weir.yaml:4: cluster.origins: needs cluster.tls: hosts talk to each other over mutual TLS only; write ca, cert and key (weir cert makes them)\n\
         weir.yaml:5: cluster.tls: incomplete; write all of ca, cert and key, or none",
    );
    let tls = "tls: { ca: /dev/null, cert: /dev/null, key: /dev/null }";
    ok(&format!("cluster: {{ relay: {{ listen: 1990 }}, control: {{ listen: 1990 }}, {tls} }}"));
    refused(
        "cluster: { relay: { listen: 1991 }, control: { listen: 1990 }, tls: { ca: /nowhere/ca.pem, cert: /dev/null, key: /dev/null } }",
        &[],
        "weir.yaml:1: cluster.tls.ca: /nowhere/ca.pem cannot be opened: No such file or directory (os error 2)",
    );
    refused(
        &format!(
            "origin: {{ workers: 6 }}\ncluster:\n  control: {{ listen: 1980 }}\n  relay: {{ listen: 65533 }}\n  {tls}\n"
        ),
        &[],
        "weir.yaml:3: cluster.control.listen: port 1985 is already taken by edge.api.listen; write another one\n\
         weir.yaml:4: cluster.relay.listen: origin worker i takes port 65533 + i, and 6 workers pass 65535; write a lower port",
    );
    refused(
        &format!("cluster:\n  relay: {{ listen: 1991 }}\n  {tls}\n"),
        &[],
        "weir.yaml:2: cluster.relay.listen: other hosts find the relay through cluster.control.listen, which is off; write both",
    );
    refused(
        &format!("cluster:\n  origins: ['a:1']\n  {tls}\n"),
        &[],
        "weir.yaml:2: cluster.origins: this host has origin workers that other hosts cannot reach; write cluster.relay.listen and cluster.control.listen, or origin.workers: 0",
    );
    refused(
        &format!(
            "origin: {{ workers: 0 }}\ncluster:\n  origins: ['a:1']\n  relay: {{ listen: 1991 }}\n  control: {{ listen: 1990 }}\n  {tls}\n"
        ),
        &[],
        "weir.yaml:4: cluster.relay.listen: only origin workers listen here and origin.workers is 0; write off",
    );
}

#[test]
fn the_pair_of_hosts_is_right_but_for_its_files() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["ca.pem", "origin-1.pem", "origin-1.key", "edge-1.pem", "edge-1.key"] {
        std::fs::write(dir.path().join(name), "").unwrap();
    }
    let here = |text: &str| text.replace("/etc/weir/tls", dir.path().to_str().unwrap());
    let origin = ok(&here(include_str!("../../../../conf/origin.yaml")));
    let edge = ok(&here(include_str!("../../../../conf/edge.yaml")));
    assert_eq!((origin.edge_workers(), origin.origin.workers), (1, 1));
    assert_eq!((edge.edge_workers(), edge.origin.workers), (2, 0));
    assert_eq!(origin.cluster.origins, edge.cluster.origins);
    assert_eq!(origin.cluster.control.listen.addresses()[0].to_string(), edge.cluster.origins[0]);
    assert_ne!(origin.run_dir(), edge.run_dir());
}

#[test]
fn environment_wins_over_the_file() {
    let yaml = "edge: { workers: 2, rtmp: { chunk_size: 4096 } }\nvhosts: { b: {} }\n";
    let config = read(
        yaml,
        &[
            ("WEIR_EDGE__WORKERS", "4"),
            ("WEIR_EDGE__RTMP", "{listen: 1}"),
            ("WEIR_EDGE__RTMP__LISTEN", "[::]:1936"),
            ("WEIR_EDGE__HTTP__LISTEN", "[8081, '[::]:8081']"),
            ("WEIR_NODE__NAME", "a: b # c"),
            ("WEIR_VHOSTS", "{Live.b: {enabled: off}}"),
            ("WEIR_VHOSTS____DEFAULTVHOST____PLAY__MW_LATENCY", "350ms"),
            ("WEIR_LOG", "debug"),
            ("WEIR_INTERNAL_FDS", "3"),
            ("WEIR_SERVICE_HOST", "10.0.0.1"),
            ("WEIR_PORT_1935_TCP", "tcp://10.0.0.1:1935"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(config.edge.workers, Auto::Is(4));
    assert_eq!(config.edge.rtmp.chunk_size, 4096, "sections are joined");
    assert_eq!(config.edge.rtmp.listen.addresses(), ["[::]:1936".parse().unwrap()]);
    assert_eq!(config.edge.http.listen.addresses().len(), 2);
    assert_eq!(config.node.name, "a: b # c");
    assert_eq!(config.vhosts.keys().collect::<Vec<_>>(), ["Live.b", DEFAULT_VHOST, "b"]);
    assert_eq!(config.vhosts[DEFAULT_VHOST].play.mw_latency, Auto::Is(Duration::from_millis(350)));
}

#[test]
fn environment_is_refused_like_the_file() {
    refused(
        "",
        &[("WEIR_EDGE__WORKERS", "300")],
        "environment WEIR_EDGE__WORKERS: edge.workers: 300 is not a worker count; write auto or 0..=256",
    );
    refused(
        "",
        &[("WEIR_EDGE__WORKER", "3")],
        "environment WEIR_EDGE__WORKER: edge.worker: unknown key, did you mean \"workers\"?",
    );
    refused(
        "",
        &[("WEIR_EDGE____WORKERS", "3")],
        "environment WEIR_EDGE____WORKERS: not the name of a key; write WEIR_ and the keys joined by two underscores, as in WEIR_EDGE__WORKERS",
    );
    refused(
        "",
        &[("WEIR_EDGE_WORKERS", "3")],
        "environment WEIR_EDGE_WORKERS: not the name of a key; write WEIR_ and the keys joined by two underscores, as in WEIR_EDGE__WORKERS",
    );
    refused(
        "",
        &[("WEIR_VHOSTS__LIVE__ENABLED", "off")],
        "environment WEIR_VHOSTS__LIVE__ENABLED: the name of a vhost cannot be part of a variable's name; write WEIR_VHOSTS='{live.example.com: {...}}', or WEIR_VHOSTS____DEFAULTVHOST____...",
    );
    refused(
        "",
        &[("WEIR_EDGE__WORKERS", "")],
        "environment WEIR_EDGE__WORKERS: edge.workers: the value is missing; write auto or a value, or leave the key out",
    );
}

#[test]
fn broken_yaml_is_refused_with_its_line() {
    for yaml in [
        "edge:\n  workers: 1\n  workers: 2\n",
        "edge:\n  workers: 1\n bad: [\n",
        "a: *nowhere\n",
        "edge: {}\n---\nedge: {}\n",
    ] {
        let text = read(yaml, &[]).unwrap_err().to_string();
        assert!(text.starts_with("weir.yaml:"), "{text}");
        println!("{text}");
    }
    let twice = read("edge:\n  workers: 1\n  workers: 2\n", &[]).unwrap_err().to_string();
    assert!(twice.starts_with("weir.yaml:3: ") && twice.contains("duplicate") && twice.contains("workers"), "{twice}");
}

#[test]
fn bombs_are_refused_quickly() {
    let mut aliases = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for i in 1..9 {
        let of = vec![format!("*a{}", i - 1); 10].join(", ");
        aliases.push_str(&format!("a{i}: &a{i} [{of}]\n"));
    }
    let deep = "[".repeat(10_000);
    let wide = format!("cluster: {{ origins: [{}] }}", "a, ".repeat(200_000));
    let long = "#".repeat(2 << 20);
    let started = std::time::Instant::now();
    for bomb in [&aliases, &deep, &wide, &long] {
        println!("{}", read(bomb, &[]).unwrap_err());
    }
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[test]
fn files_that_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weir.yaml");
    let text = |path: &Path| load(Some(path), std::iter::empty()).unwrap_err().to_string();
    assert_eq!(text(&path), format!("{}: cannot be opened: No such file or directory (os error 2)", path.display()));
    assert!(text(dir.path()).contains("cannot be read"));
    std::fs::write(&path, b"edge:\n  # \xff\n").unwrap();
    assert_eq!(text(&path), format!("{}:2: not UTF-8 text", path.display()));
    std::fs::write(&path, "edge: { workers: 7 }\n").unwrap();
    assert_eq!(load(Some(&path), std::iter::empty()).unwrap().edge_workers(), 7);
}

fn yaml_soup() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "edge",
        "rtmp",
        "listen",
        "workers",
        "vhosts",
        "__defaultVhost__",
        "play",
        "mw_latency",
        "cluster",
        "origins",
        "tls",
        "ca",
        ":",
        ": ",
        "\n",
        "\n  ",
        "\n    ",
        "{",
        "}",
        "[",
        "]",
        ", ",
        "- ",
        "&a ",
        "*a",
        "<<: ",
        "!!str ",
        "!!int ",
        "|",
        ">",
        "'",
        "\"",
        "1935",
        "auto",
        "on",
        "off",
        "10s",
        "8MiB",
        "~",
        "#",
        "---",
        "...",
        "? ",
        "\\",
        "\t",
        "\u{feff}",
        "é",
        "0x10",
        "1e999",
        ".nan",
    ]);
    prop::collection::vec(words, 0..40).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10_000) })]

    #[test]
    fn any_text_is_loaded_or_refused(yaml in yaml_soup(), name in "WEIR_[A-Z_]{0,20}", value in yaml_soup()) {
        let _ = read(&yaml, &[(&name, &value)]).map_err(|e| e.to_string());
    }

    #[test]
    fn any_bytes_are_loaded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let text = String::from_utf8_lossy(&bytes);
        let _ = read(&text, &[("WEIR_EDGE", &text)]).map_err(|e| e.to_string());
    }

    #[test]
    fn scalars_are_read_back(millis in 0u64..=36_000_000_000, bytes: usize, count: u32, text in ".{0,12}") {
        let duration = Duration::from_millis(millis);
        prop_assert_eq!(Duration::parse(&duration.show()), Ok(duration));
        prop_assert_eq!(usize::parse(&bytes.show()), Ok(bytes));
        prop_assert_eq!(Auto::parse(&Auto::Is(count).show()), Ok(Auto::Is(count)));
        let _ = (Duration::parse(&text), usize::parse(&text), Auto::<u32>::parse(&text));
    }
}
