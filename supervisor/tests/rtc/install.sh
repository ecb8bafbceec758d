#!/usr/bin/env bash
# Installs the WebRTC clients of the tests: install.sh DIR puts playwright-core, aiortc and a newer ffmpeg (WHIP) below
# DIR, and Chromium and node by apt-get. Safe to run again, and by several at once; what is there stays.
set -euo pipefail
dir=${1:?usage: install.sh DIR}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
exec </dev/null 9>"$dir/.rtc.lock"
flock 9

as_root() {
    if [[ $(id -u) == 0 ]]; then "$@"; else sudo -n "$@"; fi
}

# by_apt PROGRAM=PACKAGE...: what is missing of it.
by_apt() {
    local pair missing=()
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    [[ ${#missing[@]} != 0 ]] || return 0
    command -v apt-get >/dev/null || {
        echo "these tests need ${missing[*]}: install them, there is no apt-get here" >&2
        exit 1
    }
    export DEBIAN_FRONTEND=noninteractive
    as_root apt-get -qq update
    as_root apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# by_pip NAME VERSION [OPTION...]: into DIR/NAME.
by_pip() {
    local name=$1 version=$2
    shift 2
    [[ ! -d $dir/$name ]] || return 0
    rm -rf "$dir/$name.part"
    PIP_ROOT_USER_ACTION=ignore \
        python3 -m pip --quiet --disable-pip-version-check install "$@" --target "$dir/$name.part" "$name==$version"
    mv "$dir/$name.part" "$dir/$name"
}

# by_npm NAME VERSION: into DIR/NAME/node_modules.
by_npm() {
    local name=$1 version=$2
    [[ ! -d $dir/$name ]] || return 0
    rm -rf "$dir/$name.part"
    npm install --silent --no-save --no-audit --no-fund --prefix "$dir/$name.part" "$name@$version" >/dev/null
    mv "$dir/$name.part" "$dir/$name"
}

# Where node came without npm the latter's package would bring another node: it is only asked for where it is missing.
by_apt chromium=chromium node=nodejs npm=npm python3=python3
python3 -m pip --version >/dev/null 2>&1 || as_root apt-get -qq install -y --no-install-recommends python3-pip >/dev/null
by_npm playwright-core 1.65.1
by_npm werift 0.25.2
by_npm axe-core 4.14.1
by_pip aiortc 1.16.0
by_pip imageio-ffmpeg 0.8.1 --no-deps
find "$dir/imageio-ffmpeg" -type f -path '*/binaries/ffmpeg*' ! -name '*.md' -exec chmod +x {} +
