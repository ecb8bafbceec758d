# Shared by the tests of deploy/; to be sourced.
# shellcheck shell=bash
set -euo pipefail
tests=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
deploy=$(dirname "$tests")
# Used by the scripts that source this.
# shellcheck disable=SC2034
source_tree=$(dirname "$deploy")
target=${CARGO_TARGET_DIR:-$source_tree/target}
tools=$target/test-tools

say() {
    printf '\n== %s\n' "$*"
}

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

as_root() {
    if [[ $(id -u) == 0 ]]; then "$@"; else sudo -n "$@"; fi
}

# need PROGRAM=PACKAGE...: installs by apt-get what is missing of it.
need() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [[ ${#missing[@]} != 0 ]] || return 0
    command -v apt-get >/dev/null || fail "these tests need ${missing[*]}: install them, there is no apt-get here"
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    as_root apt-get -qq update
    as_root apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# Puts promtool into PATH. Its package would also start a Prometheus, so the program is only taken out of it.
need_promtool() {
    command -v promtool >/dev/null && return 0
    local dir=$tools/prometheus
    if [[ ! -x $dir/usr/bin/promtool ]]; then
        command -v apt-get >/dev/null || fail "these tests need promtool: install it, there is no apt-get here"
        say "fetching promtool"
        rm -rf "$dir.part" && mkdir -p "$dir.part"
        as_root apt-get -qq update
        (cd "$dir.part" && apt-get -qq download prometheus && dpkg-deb -x prometheus_*.deb . && rm prometheus_*.deb)
        mv "$dir.part" "$dir"
    fi
    PATH=$dir/usr/bin:$PATH
}

# The executable under test: WEIR, or what cargo has built last.
executable() {
    local path found=${WEIR:-}
    if [[ -z $found ]]; then
        for path in "$target/debug/weir" "$target/release/weir"; do
            [[ -x $path ]] || continue
            if [[ -z $found || $path -nt $found ]]; then found=$path; fi
        done
    fi
    [[ -n $found && -x $found ]] || fail "there is no weir to test: cargo build, or set WEIR"
    readlink -f "$found"
}

# until_ok SECONDS COMMAND...: tries until it succeeds.
until_ok() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [[ $SECONDS -lt $end ]] || return 1
        sleep 0.1
    done
}

# A small Debian below DIR with the further PACKAGES, made once and kept.
debian_root() {
    local dir=$1
    shift
    [[ ! -d $dir ]] || return 0
    need debootstrap=debootstrap
    say "a Debian for the tests: $(basename "$dir") (made once)"
    # From where this machine has its own; debootstrap knows another place where that is no bookworm.
    local mirror=${DEBIAN_MIRROR:-}
    # shellcheck disable=SC2016
    [[ -n $mirror ]] || mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Release: bookworm' | head -n 1)
    mkdir -p "$(dirname "$dir")"
    as_root rm -rf "$dir.part"
    as_root debootstrap --variant=minbase ${1:+--include="$(IFS=,; echo "$*")"} bookworm "$dir.part" \
        ${mirror:+"$mirror"} >"$dir.log" 2>&1 || fail "debootstrap: see $dir.log"
    as_root mv "$dir.part" "$dir"
}

# overlay LOWER AT: mounts a copy of LOWER that is forgotten with this mount namespace.
overlay() {
    mount -t tmpfs -o size=1g tmpfs "$2"
    mkdir "$2/upper" "$2/work" "$2/root"
    mount -t overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" overlay "$2/root"
}

# publish_and_play: a publisher, and two players of which each must get 50 frames within 20 s. At 127.0.0.1.
publish_and_play() {
    local log url publisher failed=''
    log=$(mktemp)
    ffmpeg -nostdin -v error -re -f lavfi -i testsrc2=size=320x180:rate=25 -f lavfi -i sine=frequency=440:sample_rate=44100 \
        -c:v libx264 -preset ultrafast -tune zerolatency -g 25 -c:a aac -t 60 -f flv rtmp://127.0.0.1/live/river 2>"$log" &
    publisher=$!
    for url in rtmp://127.0.0.1/live/river http://127.0.0.1:8080/live/river.flv; do
        if ! until_ok 20 played "$url"; then
            failed=$url
            break
        fi
        echo "  played $url"
    done
    kill "$publisher" 2>/dev/null || true
    wait "$publisher" 2>/dev/null || true
    if [[ -n $failed ]]; then
        cat "$log" >&2
        rm -f "$log"
        fail "$failed cannot be played"
    fi
    rm -f "$log"
}

# played URL: 50 frames of it can be decoded.
played() {
    local frames
    frames=$(timeout 15 ffmpeg -nostdin -v error -i "$1" -map 0:v -frames:v 50 -f framecrc - 2>/dev/null | grep -vc '^#' || true)
    [[ $frames == 50 ]]
}
