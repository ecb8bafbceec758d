#!/usr/bin/env bash
# Installs what the tests need on Debian, then runs them all: format, clippy, docs, unit, property, fuzz and simulation
# tests, tests of real processes, and last the end-to-end tests with real clients. Stops at the first failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec </dev/null
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-never}
target=${CARGO_TARGET_DIR:-$PWD/target}

say() {
    printf '\n== %s\n' "$*"
}

as_root() {
    if [[ $(id -u) == 0 ]]; then "$@"; else sudo -n "$@"; fi
}

# install PROGRAM=PACKAGE...: by apt-get, what is missing of it.
install() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [[ ${#missing[@]} != 0 ]] || return 0
    command -v apt-get >/dev/null || {
        echo "these tests need ${missing[*]}: install them, there is no apt-get here" >&2
        exit 1
    }
    say "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    as_root apt-get -qq update
    as_root apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# Debian's ffmpeg knows neither HEVC nor AV1 nor Opus in FLV. PyPI has a newer build; without Python its tests are
# left out, and say so.
newer_ffmpeg() {
    local dir=$target/test-tools/imageio-ffmpeg
    if [[ ! -d $dir ]]; then
        python3 -m pip --version >/dev/null 2>&1 || {
            say "no pip here: the tests of enhanced RTMP are left out"
            return 0
        }
        say "installing imageio-ffmpeg"
        rm -rf "$dir.part"
        PIP_ROOT_USER_ACTION=ignore \
            python3 -m pip --quiet --disable-pip-version-check install --no-deps --target "$dir.part" 'imageio-ffmpeg==0.8.1' || {
            say "imageio-ffmpeg cannot be had: the tests of enhanced RTMP are left out"
            return 0
        }
        mv "$dir.part" "$dir"
    fi
    NEWER_FFMPEG=$(find "$dir" -type f -path '*/binaries/ffmpeg*' ! -name '*.md' | head -n 1)
    chmod +x "$NEWER_FFMPEG"
    export NEWER_FFMPEG
}

install cc=gcc ffmpeg=ffmpeg rtmpdump=rtmpdump curl=curl openssl=openssl
newer_ffmpeg
say "clients of WebRTC"
supervisor/tests/rtc/install.sh "$target/test-tools"

say "format"
cargo fmt --all --check

say "clippy"
cargo clippy --quiet --locked --workspace --all-targets -- -D warnings

say "docs"
RUSTDOCFLAGS="-D warnings" cargo doc --quiet --locked --workspace --no-deps --document-private-items

# The end-to-end tests come last, when everything smaller is known to work; one workspace-wide choice of features for
# all runs, so that each crate is built once.
processes=()
for file in */tests/*.rs proto/*/tests/*.rs; do
    name=$(basename "$file" .rs)
    [[ $name == e2e_* ]] || processes+=(--test "$name")
done

say "units, properties, fuzzing, simulation, processes"
cargo build --quiet --locked --workspace --examples
cargo test --quiet --locked --workspace --lib --bins "${processes[@]}"

say "examples in the docs"
cargo test --quiet --locked --workspace --doc

say "end to end"
cargo test --locked --workspace --test 'e2e_*'

say "deployment"
WEIR=$target/debug/weir deploy/tests/deploy.sh --all
