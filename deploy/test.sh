#!/usr/bin/env bash
# Installs what the tests need on a Debian machine with Rust and a C compiler, then runs all of them.
# Stops at the first failure. One cargo profile throughout, so that a clean checkout is built once.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

need() { # COMMAND PACKAGE
    command -v "$1" > /dev/null && return
    step "installing $2"
    if [ -z "${updated:-}" ]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
        updated=yes
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" > /dev/null
}

need ffmpeg ffmpeg
need rtmpdump rtmpdump

# Debian's ffmpeg knows no enhanced RTMP; a newer one comes as a Python package.
tools=target/test-tools
if [ ! -d "$tools/imageio_ffmpeg" ] && command -v pip3 > /dev/null; then
    step "installing a newer ffmpeg"
    pip3 install --quiet --disable-pip-version-check --no-deps --target "$tools" imageio-ffmpeg ||
        echo "not to be had: the tests of enhanced RTMP are left out"
fi
newer=$(find "$PWD/$tools/imageio_ffmpeg/binaries" -name 'ffmpeg-*' -type f 2> /dev/null | head -n 1 || true)
if [ -n "$newer" ]; then
    chmod +x "$newer"
    export WEIR_TEST_FFMPEG9="$newer"
fi

step "format"
cargo fmt --all --check
step "clippy"
cargo clippy --workspace --all-targets --locked -- -D warnings
step "documentation"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --document-private-items
step "unit, property and simulation tests"
cargo test --workspace --locked --lib --bins
step "end to end"
cargo test --locked --package weir-supervisor --test '*'
