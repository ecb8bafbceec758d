#!/usr/bin/env bash
# Tests what operators install: unit, kernel settings, install.sh, Prometheus, Grafana. Seconds, and needs no root.
#
#   deploy.sh          the above
#   deploy.sh --all    also boots a small Debian with the service (systemd.sh) and makes the image's last stage
#                      (docker.sh): some minutes, as root
#
# WEIR: the executable to test with; otherwise what cargo has built last.
# shellcheck source=deploy/tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
all=''
case ${1:-} in
    '') ;;
    --all) all=yes ;;
    *) fail "usage: deploy.sh [--all]" ;;
esac
need shellcheck=shellcheck jq=jq systemd-analyze=systemd sysctl=procps
need_promtool
weir=$(executable)
export WEIR=$weir
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say "scripts"
shellcheck --external-sources "$deploy"/*.sh "$deploy"/docker/healthz "$tests"/*.sh

say "the configuration that is installed"
"$weir" check -c "$deploy/weir.yaml"
# What is suggested there in comments has to be right, too.
sed -n 's/^# \(\(edge\|vhosts\|  .*\).*\)/\1/p' "$deploy/weir.yaml" >"$work/suggested.yaml"
[[ $(wc -l <"$work/suggested.yaml") -ge 4 ]] || fail "no suggestions found in weir.yaml"
"$weir" check -c "$work/suggested.yaml"

say "unit"
mkdir -p "$work/bin"
ln -s "$weir" "$work/bin/weir"
sed "s#/usr/bin/weir#$work/bin/weir#g" "$deploy/systemd/weir.service" >"$work/weir.service"
found=$(systemd-analyze verify --man=no "$work/weir.service" 2>&1) || fail "$found"
[[ -z $found ]] || fail "$found"
# In tenths: an exposure of 2.0 at most.
systemd-analyze security --offline=true --no-pager --threshold=20 "$work/weir.service" | tail -n 1

say "times to stop are longer than edge.drain_timeout"
drain=$("$weir" config | sed -n 's/^ *drain_timeout: \([0-9]*\)s$/\1/p')
for file in systemd/weir.service:TimeoutStopSec= docker/compose.yaml:stop_grace_period:; do
    time=$(sed -n "s/^ *${file#*:} *\([0-9]*\)s\$/\1/p" "$deploy/${file%%:*}")
    [[ -n $drain && -n $time && $time -ge $((drain + 10)) ]] || fail "$file is '$time' s, edge.drain_timeout '$drain' s"
done

say "kernel settings"
while IFS='=' read -r key value; do
    key=${key// /}
    value=${value// /}
    [[ $value =~ ^[0-9]+$ ]] || fail "$key: '$value' is not a number"
    [[ $key == -* ]] || sysctl -n "$key" >/dev/null 2>&1 || [[ $key == net.core.* ]] || fail "the kernel has no $key"
    echo "  $key = $value"
done < <(grep -v '^#' "$deploy/sysctl/99-weir.conf" | grep .) | tee "$work/keys"
[[ $(wc -l <"$work/keys") -ge 5 ]] || fail "there are none"
files=$(sed -n 's/^LimitNOFILE=//p' "$deploy/systemd/weir.service")
[[ $files -le $(sed -n 's/^fs.nr_open = //p' "$deploy/sysctl/99-weir.conf") ]] || fail "LimitNOFILE is above fs.nr_open"

say "install.sh"
stage=$work/stage
install=("$deploy/install.sh" --root "$stage")
mkdir "$stage"
# said TEXT: in what install.sh has said last.
said() {
    grep -qF -- "$1" "$work/said" || fail "install.sh does not say '$1': $(cat "$work/said")"
}
"${install[@]}" "$weir" >"$work/said"
said "systemctl enable --now weir"
said "installed  /usr/local/bin/weir"
[[ -x $stage/usr/local/bin/weir && -f $stage/etc/sysctl.d/99-weir.conf ]] || fail "something is missing"
grep -qx 'ExecStart=/usr/local/bin/weir run -c /etc/weir/weir.yaml' "$stage/etc/systemd/system/weir.service" ||
    fail "the unit does not have the prefix"
[[ $(stat -c %a "$stage/etc/weir" "$stage/etc/weir/weir.yaml" | xargs) == "750 640" ]] || fail "others can read the configuration"
echo 'edge: { workers: 3 }' >"$stage/etc/weir/weir.yaml"
"${install[@]}" "$weir" >"$work/said"
said "kept       /etc/weir/weir.yaml"
said "unchanged  /usr/local/bin/weir"
[[ $(cat "$stage/etc/weir/weir.yaml") == 'edge: { workers: 3 }' ]] || fail "the configuration was overwritten"
# A new executable takes the place of the old one by another file, which leaves a running one alone.
(cat "$weir" && echo) >"$work/newer" && chmod +x "$work/newer"
inode=$(stat -c %i "$stage/usr/local/bin/weir")
echo 'edge: { worker: 3 }' >"$stage/etc/weir/weir.yaml"
! "${install[@]}" "$work/newer" >"$work/said" 2>&1 || fail "installed over a wrong configuration"
said "nothing was installed"
[[ $(stat -c %i "$stage/usr/local/bin/weir") == "$inode" ]] || fail "something was installed all the same"
echo '{}' >"$stage/etc/weir/weir.yaml"
"${install[@]}" "$work/newer" >"$work/said"
said "replaced   /usr/local/bin/weir"
[[ $(stat -c %i "$stage/usr/local/bin/weir") != "$inode" ]] || fail "the executable was written over"
"${install[@]}" --uninstall >"$work/said"
said "kept       /etc/weir"
[[ $(find "$stage" -type f) == "$stage/etc/weir/weir.yaml" ]] || fail "left behind: $(find "$stage" -type f)"
"${install[@]}" --prefix /usr "$weir" >"$work/said"
[[ -f $stage/usr/lib/systemd/system/weir.service && -f $stage/usr/lib/sysctl.d/99-weir.conf ]] || fail "not where packages have it"
for wrong in '--prefix relative' "--prefix /a'b" '--root /does/not/exist' '--unknown' 'one two' /does/not/exist; do
    # shellcheck disable=SC2086 # Its words are the arguments.
    ! "${install[@]}" $wrong >"$work/said" 2>&1 || fail "install.sh takes $wrong"
    said "install.sh: "
done

say "Prometheus"
promtool check config "$deploy/prometheus/prometheus.yml" | grep -v '^$'
(cd "$deploy/prometheus" && promtool test rules weir-alerts-test.yml)
while read -r name; do
    grep -q "alertname=\"$name\"" "$deploy/prometheus/weir-alerts-test.yml" || fail "alert $name has no test"
    alert=$(sed -n "/alert: $name\$/,/^\$/p" "$deploy/prometheus/weir-alerts.yml")
    for key in 'severity: \(warning\|critical\)' 'summary:' 'description:'; do
        grep -q "$key" <<<"$alert" || fail "alert $name has no $key"
    done
done < <(sed -n 's/.*- alert: //p' "$deploy/prometheus/weir-alerts.yml")
"$tests/metrics.sh"

if [[ -n $all ]]; then
    if ! as_root unshare --mount --pid --net --ipc --uts --cgroup --fork true 2>/dev/null || ! grep -q ' cgroup2 ' /proc/mounts; then
        say "no root, namespaces or cgroup2 here: systemd.sh and docker.sh are left out"
    else
        "$tests/systemd.sh"
        "$tests/docker.sh"
    fi
fi

say "deploy: all is well"
