#!/usr/bin/env bash
# Compares, on this machine and in one run: the floor (a program that only writes), weir, nginx with its rtmp module, and
# over WebRTC Janus with its streaming plugin.
# Servers run on CPU 0, the load on CPU 1, one at a time, in rounds whose order rotates. Takes about a quarter of an hour.
# Writes RESULTS.md and results.svg beside this script, or into the directory that is given.
#
#   loadtest/compare.sh [-r ROUNDS] [-s SECONDS] [-o DIR] [ROW...]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
rounds=5 seconds=4.2 out=$root/loadtest
while getopts r:s:o: option; do
    case $option in
    r) rounds=$OPTARG ;;
    s) seconds=$OPTARG ;;
    o) out=$OPTARG ;;
    *) exit 2 ;;
    esac
done
shift $((OPTIND - 1))
wanted=("$@")
exec </dev/null

target=${CARGO_TARGET_DIR:-$root/target}
weir=$target/release/weir
load=$target/release/weir-loadtest
work=$(mktemp -d)
runs=$work/runs
started=()

say() {
    printf '== %s\n' "$*" >&2
}

finish() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${started[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT
trap "exit 130" INT TERM

# --- what is needed ------------------------------------------------------------------------------------------------

[[ $(nproc) -ge 2 ]] || { echo "two CPUs are needed: one for the servers, one for the load" >&2; exit 2; }
missing=()
for pair in ffmpeg=ffmpeg nginx=nginx-core janus=janus /usr/lib/nginx/modules/ngx_rtmp_module.so=libnginx-mod-rtmp; do
    [[ -e ${pair%%=*} ]] || command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
done
if [[ ${#missing[@]} != 0 ]]; then
    say "installing ${missing[*]}"
    root_do() { if [[ $(id -u) == 0 ]]; then "$@"; else sudo -n "$@"; fi; }
    # Debian starts what it installs unless it is told not to.
    policy=/usr/sbin/policy-rc.d
    [[ -e $policy ]] && policy= || printf '#!/bin/sh\nexit 101\n' | root_do install -m 755 /dev/stdin $policy
    root_do apt-get -qq update
    DEBIAN_FRONTEND=noninteractive root_do apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
    [[ -z $policy ]] || root_do rm -f $policy
fi
say "building"
(cd "$root" && cargo build --quiet --release --locked -p weir-supervisor -p weir-loadtest)

say "making the source: 640x360, 25 pictures a second, 600 kbit/s H.264, AAC"
ffmpeg -v error -f lavfi -i testsrc2=size=640x360:rate=25 -f lavfi -i sine=frequency=440:sample_rate=44100 -t 20 \
    -c:v libx264 -profile:v baseline -preset veryfast -b:v 600k -maxrate 600k -bufsize 600k -g 50 -bf 0 \
    -c:a aac -b:a 64k "$work/source.flv"

# What the floor sends.
kbps=$(($(stat -c %s "$work/source.flv") * 8 / 20 / 1000))

# --- servers -------------------------------------------------------------------------------------------------------

ports=$((20000 + $$ % 20000))
rtmp=$ports http=$((ports + 1)) api=$((ports + 2)) nginx_rtmp=$((ports + 3)) janus_http=$((ports + 4))
rtc_media=$((ports + 5)) janus_audio=$((ports + 6)) janus_video=$((ports + 8))

# on_cpu_0 LOG COMMAND...: in the background; its pid in $last.
on_cpu_0() {
    local log=$1
    shift
    taskset -c 0 "$@" >"$log" 2>&1 &
    last=$!
    started+=("$last")
}

stop() {
    kill "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
}

accepting() {
    for _ in $(seq 500); do
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
        sleep 0.02
    done
    echo "nobody listens on port $1" >&2
    cat "$work"/*.log >&2
    exit 1
}

# start_weir LATENCY WORKERS [STREAMS]: with that many streams published; pids in $weir_pid and $source_pid.
start_weir() {
    mkdir -p "$work/run"
    cat >"$work/weir.yaml" <<YAML
node: { run_dir: $work/run }
metrics: { listen: off }
overload: { enabled: off }
edge:
  workers: $2
  rtmp: { listen: 127.0.0.1:$rtmp }
  http: { listen: 127.0.0.1:$http }
  api: { listen: 127.0.0.1:$api }
  signal: { listen: off }
origin: { workers: 1 }
rtc: { listen: "127.0.0.1:$rtc_media", candidate: 127.0.0.1 }
vhosts: { __defaultVhost__: { play: { mw_latency: $1 } } }
YAML
    on_cpu_0 "$work/weir.log" "$weir" run -c "$work/weir.yaml"
    weir_pid=$last
    accepting $rtmp
    [[ ${3:-1} == 0 ]] || publish $rtmp
}

stop_weir() {
    [[ -z ${source_pid:-} ]] || stop "$source_pid"
    source_pid=
    stop "$weir_pid"
}

start_nginx() {
    cat >"$work/nginx.conf" <<NGINX
load_module /usr/lib/nginx/modules/ngx_rtmp_module.so;
worker_processes 1;
daemon off;
pid $work/nginx.pid;
error_log $work/nginx-error.log warn;
worker_rlimit_nofile 20000;
events { worker_connections 20000; }
rtmp { server { listen 127.0.0.1:$nginx_rtmp; chunk_size 4096; application live { live on; } } }
NGINX
    on_cpu_0 "$work/nginx.log" nginx -c "$work/nginx.conf" -p "$work"
    nginx_pid=$last
    accepting $nginx_rtmp
    [[ ${1:-1} == 0 ]] || { publish $nginx_rtmp; nginx_source=$source_pid; }
}

stop_nginx() {
    [[ -z ${nginx_source:-} ]] || stop "$nginx_source"
    nginx_source=
    stop "$nginx_pid"
}

# start_janus: one mountpoint of its streaming plugin, fed with what weir's publisher sends, as plain RTP.
start_janus() {
    local lib
    lib=$(dirname "$(find /usr/lib -path '*janus/plugins/libjanus_streaming.so' | head -n 1)")
    mkdir -p "$work/janus"
    cat >"$work/janus/janus.jcfg" <<JANUS
general: {
  configs_folder = "$work/janus"
  plugins_folder = "$lib"
  transports_folder = "${lib%/plugins}/transports"
  events_folder = "$work/janus"
  loggers_folder = "$work/janus"
  debug_level = 3
  session_timeout = 0
  interface = "127.0.0.1"
}
nat: { ice_enforce_list = "lo" }
media: { ipv6 = false }
plugins: { disable = "$(cd "$lib" && printf '%s\n' *.so | grep -v streaming | paste -sd,)" }
transports: { disable = "$(cd "${lib%/plugins}/transports" && printf '%s\n' *.so | grep -v _http | paste -sd,)" }
JANUS
    cat >"$work/janus/janus.transport.http.jcfg" <<JANUS
general: { json = "compact" base_path = "/janus" http = true port = $janus_http ip = "127.0.0.1" https = false }
admin: { admin_http = false }
JANUS
    cat >"$work/janus/janus.plugin.streaming.jcfg" <<JANUS
load: {
  type = "rtp"
  id = 1
  media = (
    { type = "audio", mid = "a", port = $janus_audio, pt = 111, codec = "opus", iface = "127.0.0.1" },
    { type = "video", mid = "v", port = $janus_video, pt = 106, codec = "h264", iface = "127.0.0.1",
      fmtp = "profile-level-id=42e01f;packetization-mode=1" }
  )
}
JANUS
    on_cpu_0 "$work/janus.log" janus -C "$work/janus/janus.jcfg" -F "$work/janus"
    janus_pid=$last
    accepting $janus_http
    "$load" rtp-feed "127.0.0.1:$janus_audio" "127.0.0.1:$janus_video" --cpu 1 >/dev/null 2>&1 &
    janus_source=$!
    started+=("$janus_source")
    sleep 3
}

stop_janus() {
    stop "$janus_source"
    stop "$janus_pid"
}

# publish_rtc: one stream over WebRTC, as the feed of Janus.
publish_rtc() {
    "$load" rtc-publish "http://127.0.0.1:$api/rtc/v1/whip/?app=live&stream=r0" --publishers 1 --duration 86400 --cpu 1 \
        --json >/dev/null 2>&1 &
    source_pid=$!
    started+=("$source_pid")
    sleep 3
}

# publish PORT: one stream, for as long as it is needed.
publish() {
    "$load" publish "rtmp://127.0.0.1:$1/live/s{i}" --publishers 1 --file "$work/source.flv" --duration 86400 --cpu 1 \
        --json >/dev/null 2>&1 &
    source_pid=$!
    started+=("$source_pid")
    # A group is there, and the worker has forgotten its start.
    sleep 3
}

# --- measuring -----------------------------------------------------------------------------------------------------

# field NAME: of each JSON object on the standard input, a line an object.
field() {
    sed 's/,"processes".*//' | grep -oE "[{,]\"$1\":(-?[0-9.]+|null)" | cut -d: -f2 || true
}

# measure ROW SERVER ARGUMENT...: one run of the load; its figures go to the list of runs.
measure() {
    local row=$1 server=$2 json
    shift 2
    json=$("$load" "$@" --json --duration "$seconds" 2>"$work/load.log") || say "$row, $server: $(tail -n 2 "$work/load.log" | tr '\n' ' ')"
    printf '%s %s %s\n' "$row" "$server" "$json" >>"$runs"
    say "$row, $server: CPU $(field cpu_percent <<<"$json") %, $(field kbps_median <<<"$json") kbit/s, gaps $(field gaps <<<"$json")"
}

play() { # ROW SERVER URL PLAYERS PID [ARGUMENT...]
    local row=$1 server=$2 url=$3 players=$4 pid=$5
    shift 5
    measure "$row" "$server" play "$url" --players "$players" --pids "$pid" --cpu 1 "$@"
}

# values ROW SERVER FIELD: of all runs.
values() {
    { grep "^$1 $2 " "$runs" || true; } | field "$3" | grep -v null || true
}
least() { values "$@" | sort -g | head -n 1; }
most() { values "$@" | sort -g | tail -n 1; }
median() { values "$@" | sort -g | awk '{ v[NR] = $1 } END { if (NR) print v[int((NR + 1) / 2)] }'; }

# rotated ROUND SERVER...: another order in each round.
rotated() {
    local by=$(($1 % ($# - 1)))
    shift
    printf '%s\n' "${@:by+1}" "${@:1:by}"
}

want() {
    [[ ${#wanted[@]} == 0 ]] || [[ " ${wanted[*]} " == *" $1 "* ]]
}

# fanout ROW LATENCY INTERVAL PLAYERS SERVER...: floor, weir, nginx, flv (weir over HTTP).
fanout() {
    local row=$1 latency=$2 interval=$3 players=$4 round server seconds=$seconds
    # Few and long writes: whole rounds, and more of them.
    [[ $interval != 350 ]] || seconds=$(awk "BEGIN { print $seconds * 1.5 }")
    shift 4
    want "$row" || return 0
    say "$row: $players players, mw_latency $latency"
    start_weir "$latency" 1
    [[ " $* " != *" nginx "* ]] || start_nginx
    # What comes first finds everything cold.
    play "$row-warm" weir "rtmp://127.0.0.1:$rtmp/live/s0" "$players" "$weir_pid"
    for round in $(seq "$rounds"); do
        for server in $(rotated "$round" "$@"); do
            case $server in
            floor) measure "$row" floor floor --players "$players" --interval "$interval" --kbps "$kbps" --server-cpu 0 --client-cpu 1 ;;
            weir) play "$row" weir "rtmp://127.0.0.1:$rtmp/live/s0" "$players" "$weir_pid" ;;
            flv) play "$row" flv "http://127.0.0.1:$http/live/s0.flv" "$players" "$weir_pid" ;;
            nginx) play "$row" nginx "rtmp://127.0.0.1:$nginx_rtmp/live/s0" "$players" "$nginx_pid" ;;
            esac
        done
    done
    [[ " $* " != *" nginx "* ]] || stop_nginx
    stop_weir
}

touch "$runs"
# One message each 1/25 s of video and 1024/44100 s of sound.
message=$(awk 'BEGIN { printf "%.2f", 1000 / (25 + 44100 / 1024) }')
fanout play-350 350ms 350 1000 floor weir flv
fanout play-2000-350 350ms 350 2000 floor weir
fanout play-40 40ms 40 1000 floor weir flv nginx
fanout play-0 0ms "$message" 1000 floor weir nginx

if want auto; then
    say "auto: one player, joins, and 4000 players"
    start_weir auto 1
    play auto-1 weir "rtmp://127.0.0.1:$rtmp/live/s0" 1 "$weir_pid"
    for round in $(seq "$rounds"); do
        play join weir "rtmp://127.0.0.1:$rtmp/live/s0" 100 "$weir_pid" --ramp 2
        play auto-1 weir "rtmp://127.0.0.1:$rtmp/live/s0" 1 "$weir_pid"
    done
    play auto-4000 weir "rtmp://127.0.0.1:$rtmp/live/s0" 4000 "$weir_pid" --ramp 10
    play auto-4000 weir "rtmp://127.0.0.1:$rtmp/live/s0" 4000 "$weir_pid" --ramp 10
    stop_weir
    start_weir 40ms 1
    play slow weir "rtmp://127.0.0.1:$rtmp/live/s0" 1000 "$weir_pid" --slow 200 --slow-kbps 68
    stop_weir
fi

# rtc PLAYERS SERVER...: one stream over WebRTC, 600 kbit/s at 30 pictures a second with Opus; floor, weir and Janus.
rtc() {
    local row=rtc-$1 players=$1 round server
    shift
    want "$row" || return 0
    say "$row: $players players over WebRTC"
    start_weir auto 1 0
    publish_rtc
    [[ " $* " != *" janus "* ]] || start_janus
    for round in $(seq "$rounds"); do
        for server in $(rotated "$round" "$@"); do
            case $server in
            floor) measure "$row" floor floor-rtc --players "$players" --server-cpu 0 --client-cpu 1 ;;
            weir) rtc_play "$row" weir "http://127.0.0.1:$api/rtc/v1/whep/?app=live&stream=r0" "$players" "$weir_pid" ;;
            janus) rtc_play "$row" janus "janus://127.0.0.1:$janus_http/1" "$players" "$janus_pid" ;;
            esac
            # Sessions of the run before end.
            sleep 2
        done
    done
    [[ " $* " != *" janus "* ]] || stop_janus
    stop_weir
}

rtc_play() { # ROW SERVER URL PLAYERS PID
    measure "$1" "$2" rtc-play "$3" --players "$4" --rate 200 --pids "$5" --cpu 1
}

# rtc_publish PUBLISHERS: of whom nobody is played. Each round has a new server, as memory that was taken once stays.
rtc_publish() {
    local row=rtc-publish-$1
    want "$row" || return 0
    say "$row: $1 publishers over WebRTC"
    for round in $(seq "$rounds"); do
        start_weir auto 1 0
        measure "$row" weir rtc-publish "http://127.0.0.1:$api/rtc/v1/whip/?app=live&stream=p{i}" --publishers "$1" \
            --pids "$weir_pid" --cpu 1
        stop_weir
    done
}

rtc 100 floor weir janus
rtc 300 floor weir janus
# More than Janus can.
rtc 1000 floor weir
rtc_publish 200
rtc_publish 500

if want workers; then
    say "workers: 1000 players on one and on two edge workers, both on CPU 0"
    for round in $(seq "$rounds"); do
        for workers in $(rotated "$round" 1 2); do
            start_weir 40ms "$workers"
            play workers "edge$workers" "rtmp://127.0.0.1:$rtmp/live/s0" 1000 "$weir_pid"
            stop_weir
        done
    done
fi

if want publish; then
    say "publish: 500 publishers, each message its own write"
    start_nginx 0
    start_weir auto 1 0
    for round in $(seq "$rounds"); do
        for server in $(rotated "$round" weir nginx); do
            [[ $server == weir ]] && port=$rtmp pid=$weir_pid || port=$nginx_rtmp pid=$nginx_pid
            measure publish "$server" publish "rtmp://127.0.0.1:$port/live/p{i}" --publishers 500 --file "$work/source.flv" \
                --cpu 1 --pids "$pid"
            # Its streams end with their grace.
            sleep 1
        done
    done
    stop_weir
    stop_nginx
fi

if want idle; then
    say "idle: 3000 connections after the handshake"
    for server in weir nginx; do
        [[ $server == weir ]] && { start_weir auto 1 0; port=$rtmp pid=$weir_pid; } || { start_nginx 0; port=$nginx_rtmp pid=$nginx_pid; }
        measure idle "$server" idle "rtmp://127.0.0.1:$port/live/idle" --connections 3000 --cpu 1 --pids "$pid"
        "stop_$server"
    done
fi

if want start; then
    say "start: from nothing to the first accepted connection"
    for round in $(seq "$rounds"); do
        begin=$(date +%s%N)
        "$weir" run -c "$work/weir.yaml" >"$work/weir.log" 2>&1 &
        weir_pid=$!
        started+=("$weir_pid")
        until (exec 3<>"/dev/tcp/127.0.0.1/$rtmp") 2>/dev/null; do :; done
        printf 'start weir {"millis":%s}\n' "$((($(date +%s%N) - begin) / 1000000))" >>"$runs"
        stop "$weir_pid"
    done
fi

# --- the report ----------------------------------------------------------------------------------------------------

# ratio A B: with two digits, or a dash.
ratio() {
    awk -v a="$1" -v b="$2" 'BEGIN { if (a == "" || b == "" || b == 0) print "-"; else printf "%.2f", a / b }'
}
short() { awk -v a="${1:-}" 'BEGIN { if (a == "") print "-"; else printf "%.1f", a }'; }

# cpu_line TEXT ROW TARGET: least of each server, least against least, and medians.
cpu_line() {
    want "$2" || return 0
    local floor weir flv nginx
    floor=$(least "$2" floor cpu_percent) weir=$(least "$2" weir cpu_percent) flv=$(least "$2" flv cpu_percent)
    nginx=$(least "$2" nginx cpu_percent)
    echo "| $1 | $(short "$floor") | $(short "$weir") | $(short "$flv") | $(short "$nginx") | $(ratio "$weir" "$floor") ($(ratio "$(median "$2" weir cpu_percent)" "$(median "$2" floor cpu_percent)")) | $(ratio "$weir" "$nginx") | $(ratio "$flv" "$weir") | $3 |"
    printf '%s;%s;%s;%s;%s\n' "$1" "$floor" "$weir" "$flv" "$nginx" >>"$work/chart"
}

report() {
    echo "# What weir costs beside the floor and nginx"
    echo
    echo "Made by \`loadtest/compare.sh\` on $(date -u +%Y-%m-%d): $(nproc) x$(sed -n 's/^model name[^:]*://p' /proc/cpuinfo | head -n 1), Linux $(uname -r | cut -d- -f1)," \
        "loopback, servers on CPU 0 and load on CPU 1, $rounds rounds of $seconds s in rotated order. Source: 640x360, 25 pictures a" \
        "second, $(short "$(median play-40 weir kbps_median)") kbit/s in $(awk "BEGIN { printf \"%.0f\", 1000 / $message }") messages a second. nginx $(nginx -v 2>&1 | sed 's|.*/||') with its rtmp module, one worker."
    echo
    echo "CPU is per cent of one core, user and system, of all processes of the server, and on loopback includes the" \
        "receiver's TCP input. Figures are the smallest of all rounds, ratios smallest to smallest (medians in brackets)."
    echo
    echo "## Players"
    echo
    echo "| | floor | weir RTMP | weir HTTP-FLV | nginx RTMP | weir : floor | weir : nginx | FLV : RTMP | target |"
    echo "|---|---|---|---|---|---|---|---|---|"
    cpu_line "1000 players, a write each 350 ms" play-350 "<= 1.25 x floor"
    cpu_line "2000 players, a write each 350 ms" play-2000-350 "<= 1.25 x floor"
    cpu_line "1000 players, a write each 40 ms" play-40 "<= 1.25 x floor, <= 0.5 x nginx"
    cpu_line "1000 players, a write each message" play-0 "<= 1.1 x floor"
    echo
    echo "![CPU of each server](results.svg)"
    rtc_report
    echo
    echo "## Everything else"
    echo
    echo "| | weir | nginx | target |"
    echo "|---|---|---|---|"
    if want auto; then
        echo "| auto, 1 player: frame latency p50 / p99, ms | $(median auto-1 weir latency_p50_ms) / $(median auto-1 weir latency_p99_ms) | | 0.6 / 5 |"
        echo "| auto, joins at 50 a second: first keyframe p50 / p99, ms | $(median join weir first_key_p50_ms) / $(median join weir first_key_p99_ms) | | 3 / 20 |"
        echo "| auto, 4000 players: CPU % / gaps over 1 s / frame latency p50, ms | $(least auto-4000 weir cpu_percent) / $(most auto-4000 weir gaps) / $(median auto-4000 weir latency_p50_ms) | | < 60 / 0 |"
        echo "| auto, 4000 players: memory a player, bytes | $(most auto-4000 weir memory_per_connection_bytes) | | <= 16384 |"
        echo "| 1000 players of which 200 read a tenth: gaps of the others / memory, KiB | $(most slow weir gaps) / $(most slow weir memory_kib) | | 0 |"
    fi
    if want workers; then
        echo "| 1000 players each 40 ms on 2 edge workers against 1: CPU | $(short "$(least workers edge2 cpu_percent)") : $(short "$(least workers edge1 cpu_percent)") = $(ratio "$(least workers edge2 cpu_percent)" "$(least workers edge1 cpu_percent)") | | |"
    fi
    if want publish; then
        echo "| 500 publishers: CPU % | $(least publish weir cpu_percent) | $(least publish nginx cpu_percent) | <= 1.0 x nginx, here $(ratio "$(least publish weir cpu_percent)" "$(least publish nginx cpu_percent)") |"
        echo "| 500 publishers: memory a publisher besides its group / of its group, KiB | $(groups) | | <= 60 |"
    fi
    if want idle; then
        echo "| 3000 idle connections: bytes each | $(most idle weir memory_per_connection_bytes) | $(most idle nginx memory_per_connection_bytes) | <= 6144 |"
    fi
    want start && echo "| start to first accepted connection, ms | $(median start weir millis) | | <= 150 |"
    return 0
}

# rtc_line TEXT ROW: what WebRTC costs.
rtc_line() {
    want "$2" || return 0
    local floor weir janus
    floor=$(least "$2" floor cpu_percent) weir=$(least "$2" weir cpu_percent) janus=$(least "$2" janus cpu_percent)
    echo "| $1 | $(short "$floor") | $(short "$weir") | $(short "$janus") | $(ratio "$weir" "$floor") | $(ratio "$weir" "$janus") | $(kib "$(most "$2" weir memory_per_connection_bytes)") / $(kib "$(most "$2" janus memory_per_connection_bytes)") | $(short "$(median "$2" weir connect_p50_ms)") / $(short "$(median "$2" janus connect_p50_ms)") | $(short "$(median "$2" weir latency_p99_ms)") / $(short "$(median "$2" janus latency_p99_ms)") | $(most "$2" weir lost) / $(most "$2" janus lost | grep . || echo -) |"
}
kib() { awk -v a="${1:-}" 'BEGIN { if (a == "") print "-"; else printf "%.0f", a / 1024 }'; }

rtc_report() {
    want rtc-100 || want rtc-300 || want rtc-1000 || return 0
    echo
    echo "## WebRTC"
    echo
    echo "One stream of 600 kbit/s, H.264 at 30 pictures a second and Opus, to each player. The floor encrypts with" \
        "AES-128-GCM and sends a picture in one go; Janus $(janus --version 2>&1 | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1) has one mountpoint of its streaming plugin. Memory is what anonymous pages grew by, at most in a round."
    echo
    echo "| | floor | weir | Janus | weir : floor | weir : Janus | memory a player, KiB, weir / Janus | connect p50, ms | frame latency p99, ms | lost packets |"
    echo "|---|---|---|---|---|---|---|---|---|---|"
    rtc_line "100 players: CPU %" rtc-100
    rtc_line "300 players: CPU %" rtc-300
    rtc_line "1000 players: CPU %" rtc-1000
    echo
    local publishers row
    for publishers in 200 500; do
        row=rtc-publish-$publishers
        want "$row" || continue
        echo "$publishers publishers without players, $(median "$row" weir kbps_median) kbit/s each:" \
            "CPU $(short "$(least "$row" weir cpu_percent)") %," \
            "memory $(kib "$(most "$row" weir memory_per_connection_bytes)") KiB each, of which about" \
            "$(awk -v kbps="$(median "$row" weir kbps_median)" 'BEGIN { printf "%.0f", 2 * kbps * 1000 / 8 / 1024 }') KiB are the" \
            "packets of the newest group of two seconds."
        echo
    done
}

# groups: what a publisher costs in all workers, without and in its group at its longest, in KiB. The group is two seconds
# long and held twice, at the edge and at the origin. The first round counts: later ones find memory that was taken already.
groups() {
    local first
    first=$(grep -m 1 "^publish weir " "$runs")
    awk -v growth="$(field anon_growth_kib <<<"$first")" -v kbps="$(field kbps_median <<<"$first")" \
        'BEGIN { group = 2 * 2 * kbps * 1000 / 8 / 1024; printf "%.0f / %.0f", growth / 500 - group, group }'
}

# chart: bars of CPU, a group a row.
chart() {
    awk -F';' '
        BEGIN { split("floor;weir RTMP;weir HTTP-FLV;nginx RTMP", name, ";"); split("#8a94a3;#0b6e99;#4aa3c4;#c77d2e", colour, ";") }
        { text[NR] = $1; for (i = 1; i <= 4; i++) { v[NR, i] = $(i + 1); if ($(i + 1) + 0 > max) max = $(i + 1) } }
        END {
            if (!NR) exit
            h = 40
            for (r = 1; r <= NR; r++) { h += 26; for (i = 1; i <= 4; i++) if (v[r, i] != "") h += 20; h += 8 }
            printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"720\" height=\"%d\" font-family=\"sans-serif\" font-size=\"13\">\n", h
            print "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>"
            print "<text x=\"12\" y=\"24\" font-size=\"15\" fill=\"#1c2733\">CPU of the server, per cent of one core</text>"
            y = 40
            for (r = 1; r <= NR; r++) {
                y += 18; printf "<text x=\"12\" y=\"%d\" fill=\"#1c2733\" font-weight=\"bold\">%s</text>\n", y, text[r]; y += 8
                for (i = 1; i <= 4; i++) {
                    if (v[r, i] == "") continue
                    w = 480 * v[r, i] / max
                    printf "<text x=\"112\" y=\"%d\" text-anchor=\"end\" fill=\"#44505c\">%s</text><rect x=\"120\" y=\"%d\" width=\"%.1f\" height=\"15\" fill=\"%s\"/><text x=\"%.1f\" y=\"%d\" fill=\"#1c2733\">%.1f</text>\n", y + 12, name[i], y, w, colour[i], 126 + w, y + 12, v[r, i]
                    y += 20
                }
                y += 8
            }
            print "</svg>"
        }' "$work/chart"
}

mkdir -p "$out"
touch "$work/chart"
report >"$work/RESULTS.md"
chart >"$work/results.svg"
cp "$work/RESULTS.md" "$work/results.svg" "$out/"
cat "$out/RESULTS.md"
