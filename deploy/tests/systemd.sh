#!/usr/bin/env bash
# Installs weir into a small Debian, boots that with a real systemd in namespaces of its own, and operates the service:
# start, publish and play, deaths, stop, uninstall. Needs root and Linux namespaces, no container engine. The first run
# fetches the Debian.
# shellcheck source=deploy/tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Process 1 of the new namespaces: mounts what systemd expects, then becomes it.
boot() {
    local root=$1 node
    mount --make-rprivate /
    overlay "$root" /mnt
    root=/mnt/root
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    mount -t tmpfs -o mode=755 tmpfs "$root/run"
    mount -t tmpfs tmpfs "$root/tmp"
    mount -t tmpfs -o mode=755 tmpfs "$root/dev"
    for node in 'null 3' 'zero 5' 'full 7' 'random 8' 'urandom 9'; do
        mknod -m 666 "$root/dev/${node% *}" c 1 "${node#* }"
    done
    mknod -m 666 "$root/dev/tty" c 5 0
    : >"$root/dev/console"
    mkdir "$root/dev/pts" "$root/dev/shm"
    mount -t devpts -o newinstance,ptmxmode=666 devpts "$root/dev/pts"
    ln -s pts/ptmx "$root/dev/ptmx"
    ln -s /proc/self/fd "$root/dev/fd"
    mkdir "$root/tree"
    mount --bind "$deploy" "$root/tree"
    install -m 0755 "$2" "$root/weir.new"
    ip link set lo up
    cd "$root"
    pivot_root . .
    umount -l .
    cd /
    exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system </dev/null
}
if [[ ${1:-} == --boot ]]; then boot "$2" "$3"; fi

if [[ $(id -u) != 0 ]]; then exec sudo -n --preserve-env=WEIR,CARGO_TARGET_DIR,DEBIAN_MIRROR "$0"; fi
need ffmpeg=ffmpeg ip=iproute2 nsenter=util-linux
weir=$(executable)
root=$tools/bookworm-systemd
debian_root "$root" systemd systemd-sysv procps

say "boot"
# systemd wants a cgroup of its own to divide.
unified=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/mounts)
[[ -n $unified ]] || fail "there is no cgroup2 here"
group=$unified/weir-test-$$
mkdir "$group"
(
    echo "$BASHPID" >"$group/cgroup.procs"
    exec unshare --mount --pid --net --uts --ipc --cgroup --fork --kill-child "$0" --boot "$root" "$weir"
) >"$tools/systemd.log" 2>&1 &
machine=$!
finish() {
    kill -KILL "$machine" 2>/dev/null || true
    wait "$machine" 2>/dev/null || true
    until_ok 5 remove_groups || true
}
remove_groups() {
    find "$group" -depth -type d -exec rmdir {} + 2>/dev/null
    [[ ! -d $group ]]
}
trap finish EXIT
init() {
    pgrep -P "$machine"
}
until_ok 5 init || fail "no namespaces: $(cat "$tools/systemd.log")"
pid=$(init)
# in_machine COMMAND...: in there. in_network COMMAND...: this system's programs on that network.
in_machine() {
    nsenter --target "$pid" --all --root --wd "$@"
}
booted() {
    [[ $(in_machine systemctl is-system-running) =~ running|degraded ]]
}
until_ok 20 booted || fail "systemd does not come up: $(cat "$tools/systemd.log")"

state() {
    in_machine systemctl show -P "$1" weir
}
# is PROPERTY VALUE
is() {
    [[ $(state "$1") == "$2" ]]
}
log() {
    in_machine journalctl --no-pager -o cat -u weir
}
ready() {
    in_machine weir ctl status --json | jq -e '[.workers[].state] | length > 1 and all(. == "ready")'
}

say "install"
in_machine /tree/install.sh --prefix /usr /weir.new | tee "$tools/install.log"
grep -q 'systemctl enable --now weir' "$tools/install.log" || fail "the next command is not said"
in_machine systemd-analyze verify --man=no weir.service || fail "the unit is not clean"

say "start"
in_machine systemctl enable --now --quiet weir || fail "it does not start: $(log)"
until_ok 10 ready || fail "it is not ready: $(log)"
[[ "$(state Type) $(state SubState)" == "notify running" ]] || fail "systemd does not see it running"
main=$(state MainPID)
status=$(in_machine cat "/proc/$main/status")
grep -q '^NoNewPrivs:[[:space:]]*1' <<<"$status" || fail "it may gain privileges"
grep -q '^CapBnd:[[:space:]]*0*400$' <<<"$status" || fail "it has more than CAP_NET_BIND_SERVICE"
[[ $(in_machine stat -c '%U %a' /run/weir) == "weir 700" ]] || fail "/run/weir is not its own"
in_machine weir ctl status

say "publish and play"
(
    export -f publish_and_play played until_ok fail
    nsenter --target "$pid" --net bash -c 'set -euo pipefail; publish_and_play'
)

say "a port below 1024"
printf 'edge: { http: { listen: [8080, 80] } }\n' | in_machine tee /etc/weir/weir.yaml >/dev/null
in_machine systemctl restart weir || fail "it does not start: $(log)"
until_ok 10 nsenter --target "$pid" --net bash -c 'exec 3<>/dev/tcp/127.0.0.1/80' || fail "port 80 is not open"
main=$(state MainPID)

say "a changed file is taken by a reload"
printf 'edge: { workers: 3 }\n' | in_machine tee /etc/weir/weir.yaml >/dev/null
in_machine systemctl reload weir || fail "it does not reload: $(log)"
three_edges() {
    in_machine weir ctl status --json | jq -e '[.workers[] | select(.role == "edge" and .state == "ready")] | length == 3'
}
until_ok 15 three_edges || fail "the third worker does not come: $(log)"
until_ok 5 is SubState running || fail "systemd sees it $(state SubState) after the reload"
is MainPID "$main" || fail "a reload has exchanged the supervisor"

say "a wrong file, and one that needs a restart, are refused by a reload"
for refused in 'edge: { worker: 2 }' 'origin: { workers: 2 }'; do
    printf '%s\n' "$refused" | in_machine tee /etc/weir/weir.yaml >/dev/null
    ! in_machine systemctl reload weir 2>/dev/null || fail "the reload was taken with $refused"
    [[ "$(state MainPID) $(state ActiveState)" == "$main active" ]] || fail "it did not survive $refused"
done
for word in edge.worker origin.workers; do
    log | grep -q "$word" || fail "the log does not name $word"
done
printf 'edge: { worker: 2 }\n' | in_machine tee /etc/weir/weir.yaml >/dev/null
! in_machine /tree/install.sh --prefix /usr /weir.new >"$tools/install.log" 2>&1 || fail "installed over a wrong file"
grep -q 'nothing was installed' "$tools/install.log" || fail "no word of it: $(cat "$tools/install.log")"
in_machine cp /tree/weir.yaml /etc/weir/weir.yaml

say "a worker dies and is replaced, by the supervisor"
worker=$(in_machine weir ctl status --json | jq '[.workers[] | select(.role == "edge")][0].pid')
in_machine kill -KILL "$worker"
replaced() {
    ready && ! in_machine test -e "/proc/$worker"
}
until_ok 10 replaced || fail "the worker was not replaced"
[[ "$(state MainPID) $(state NRestarts)" == "$main 0" ]] || fail "systemd did what is the supervisor's to do"

say "the supervisor dies and is started again, by systemd"
in_machine kill -KILL "$main"
restarted() {
    is NRestarts 1 && is SubState running && ready
}
until_ok 15 restarted || fail "it was not started again: $(log)"
! is MainPID "$main" || fail "it is the same process"

say "a supervisor that hangs is started again, too"
# Shorter than the unit's, for the test's sake.
in_machine mkdir -p /run/systemd/system/weir.service.d
printf '[Service]\nWatchdogSec=3s\n' | in_machine tee /run/systemd/system/weir.service.d/test.conf >/dev/null
in_machine systemctl daemon-reload
in_machine systemctl restart weir
main=$(state MainPID)
in_machine kill -STOP "$main"
hung() {
    is NRestarts 1 && is SubState running && ready
}
until_ok 20 hung || fail "the watchdog did not bite: $(state NRestarts) $(log)"

say "stop lets a client go on until it leaves"
exec 7< <(
    nsenter --target "$pid" --net timeout 60 ffmpeg -nostdin -v error -re -f lavfi -i testsrc2=size=320x180:rate=25 -c:v libx264 \
        -preset ultrafast -t 6 -f flv rtmp://127.0.0.1/live/river && echo whole
)
publishes() {
    in_machine weir ctl status --json | jq -e '[.workers[] | select(.role == "edge") | .connections] | add == 1'
}
until_ok 5 publishes || fail "the publisher does not come"
before=$SECONDS
in_machine systemctl stop weir || fail "it does not stop: $(log)"
took=$((SECONDS - before))
[[ $(cat <&7) == whole ]] || fail "the publisher was cut off: $(log)"
is Result success || fail "it ended with $(state Result)"
[[ $took -ge 2 && $took -lt 30 ]] || fail "it took $took s to stop"
echo "  after $took s"

say "an installation over a running service, its upgrade, and its removal"
in_machine systemctl start weir
printf '#' | in_machine tee -a /weir.new >/dev/null
in_machine /tree/install.sh --prefix /usr /weir.new | tee "$tools/install.log"
grep -q '/usr/bin/weir ctl upgrade' "$tools/install.log" || fail "the upgrade is not said"
main=$(state MainPID)
in_machine weir ctl upgrade || fail "it does not upgrade: $(log)"
upgraded() {
    ready && is SubState running && [[ $(in_machine readlink "/proc/$main/exe") == /usr/bin/weir ]]
}
until_ok 30 upgraded || fail "the old executable still runs: $(log)"
is MainPID "$main" || fail "an upgrade has exchanged the process"
(
    export -f publish_and_play played until_ok fail
    nsenter --target "$pid" --net bash -c 'set -euo pipefail; publish_and_play'
)
! log | grep -i 'not permitted\|permission denied' || fail "the unit forbids something that weir wants"
in_machine /tree/install.sh --uninstall --prefix /usr
is ActiveState inactive || fail "it still runs"
! in_machine test -e /usr/bin/weir || fail "the executable is left"
in_machine test -e /etc/weir/weir.yaml || fail "the configuration is gone"

say "systemd: all is well"
