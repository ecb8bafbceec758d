#!/usr/bin/env bash
# Installs weir as a systemd service, or removes it. Can be run again at any time; what is there already stays.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

usage() {
    cat <<'END'
install.sh [--prefix DIR] [--root DIR] [BINARY]
install.sh --uninstall [--prefix DIR] [--root DIR]

Installs BINARY (default: target/release/weir of this source tree) with a user, a configuration, a systemd unit and
kernel settings. An existing configuration is kept; if BINARY finds it wrong, nothing is installed.

  --prefix DIR   the executable goes to DIR/bin (default /usr/local). With /usr, unit and kernel settings go to
                 /usr/lib, as distributions have them, otherwise to /etc
  --root DIR     install below DIR: another system's root, or a package's staging directory. Nothing is started or applied
  --uninstall    stop the service and remove the executable, the unit and the kernel settings. Configuration, data,
                 logs and the user stay
END
}

die() {
    echo "install.sh: $*" >&2
    exit 1
}

did() {
    printf '  %-10s %s\n' "$1" "$2"
}

# Runs the new executable without the WEIR_* variables of this shell, which the service will not have either.
weir() {
    env -i PATH="$PATH" "$binary" "$@"
}

# own OWNER:GROUP PATH, where this user may do so and the names are known there.
own() {
    [[ $(id -u) == 0 ]] || return 0
    if [[ -n $root ]]; then
        # The numbers of the other system, whose users this one need not have.
        local user=${1%%:*} group=${1##*:}
        user=$(awk -F: -v name="$user" '$1 == name { print $3 }' "$root/etc/passwd" 2>/dev/null || true)
        group=$(awk -F: -v name="$group" '$1 == name { print $3 }' "$root/etc/group" 2>/dev/null || true)
        chown "${user:-0}:${group:-0}" "$2"
    else
        chown "$1" "$2"
    fi
}

# put MODE SOURCE DESTINATION: by rename, so that a running executable is replaced and never written to.
put() {
    local mode=$1 source=$2 path=$3
    if cmp -s "$source" "$root$path"; then
        did unchanged "$path"
        return
    fi
    local what=installed
    [[ ! -e $root$path ]] || what=replaced
    install -D -m "$mode" "$source" "$root$path.new"
    own root:root "$root$path.new"
    mv -f "$root$path.new" "$root$path"
    did "$what" "$path"
}

make_user() {
    if [[ -n $root && ! -f $root/etc/passwd ]]; then
        did skipped "user weir: $root is not a whole system; the package has to make it"
    elif grep -qs '^weir:' "$root/etc/passwd" || { [[ -z $root ]] && id weir >/dev/null 2>&1; }; then
        did unchanged "user weir"
    else
        local where=()
        [[ -z $root ]] || where=(--root "$root")
        useradd "${where[@]}" --system --user-group --home-dir /var/lib/weir --no-create-home \
            --shell /usr/sbin/nologin --comment "weir live-streaming server" weir
        did made "user weir"
    fi
}

put_config() {
    install -d -m 0750 "$root/etc/weir"
    own root:weir "$root/etc/weir"
    if [[ -e $root/etc/weir/weir.yaml ]]; then
        did kept /etc/weir/weir.yaml
        return
    fi
    install -m 0640 "$here/weir.yaml" "$root/etc/weir/weir.yaml"
    own root:weir "$root/etc/weir/weir.yaml"
    did installed /etc/weir/weir.yaml
}

# True where there is a systemd that runs the system that is installed to.
systemd_runs() {
    [[ -z $root && -d /run/systemd/system ]]
}

# True for the kernel settings of a machine; a container has no say in most of them.
apply_sysctl() {
    [[ -z $root ]] && command -v sysctl >/dev/null || return 0
    if sysctl -q -p "$sysctl_path" >/dev/null 2>&1; then
        did applied "$sysctl_path"
    else
        did warning "not every setting of $sysctl_path could be applied (in a container this is normal): sysctl -p $sysctl_path"
    fi
}

next_steps() {
    echo
    if ! systemd_runs; then
        echo "Next, where systemd runs: systemctl enable --now weir"
    elif systemctl -q is-active weir; then
        echo "The running weir is still the old one. Next, without disconnecting anybody: $prefix/bin/weir ctl upgrade"
    else
        echo "Next: edit /etc/weir/weir.yaml, then: systemctl enable --now weir"
    fi
}

install_all() {
    [[ -f $binary && -x $binary ]] || die "$binary is not there: cargo build --release, or name the executable"
    local version
    version=$(weir --version) || die "$binary does not run on this machine"
    if [[ -e $root/etc/weir/weir.yaml ]]; then
        weir check -c "$root/etc/weir/weir.yaml" >/dev/null ||
            die "$version does not accept $root/etc/weir/weir.yaml: nothing was installed"
    fi
    echo "$version, below ${root:-/}:"
    make_user
    put 0755 "$binary" "$prefix/bin/weir"
    put_config
    weir check -c "$root/etc/weir/weir.yaml" >/dev/null
    local unit
    unit=$(mktemp)
    # shellcheck disable=SC2064 # The file's name is known now and not when the function has returned.
    trap "rm -f '$unit'" EXIT
    sed "s#/usr/bin/weir#$prefix/bin/weir#g" "$here/systemd/weir.service" >"$unit"
    put 0644 "$unit" "$unit_path"
    put 0644 "$here/sysctl/99-weir.conf" "$sysctl_path"
    apply_sysctl
    if systemd_runs; then systemctl daemon-reload; fi
    next_steps
}

uninstall() {
    echo "from ${root:-/}:"
    if systemd_runs && systemctl -q is-active weir; then
        systemctl stop weir
        did stopped weir.service
    fi
    local path
    for path in /etc/systemd/system/multi-user.target.wants/weir.service "$unit_path" "$sysctl_path" "$prefix/bin/weir"; do
        [[ -e $root$path || -L $root$path ]] || continue
        rm -f "$root$path"
        did removed "$path"
    done
    if systemd_runs; then systemctl daemon-reload; fi
    for path in /etc/weir /var/lib/weir /var/log/weir; do
        [[ ! -e $root$path ]] || did kept "$path"
    done
    echo
    echo "Next, if nothing of it is needed again: rm -r /etc/weir /var/lib/weir /var/log/weir; userdel weir"
}

prefix=/usr/local root='' binary='' action=install_all
while [[ $# != 0 ]]; do
    case $1 in
        --prefix | --root)
            [[ $# -ge 2 ]] || die "$1 needs a directory"
            if [[ $1 == --prefix ]]; then prefix=$2; else root=$2; fi
            shift
            ;;
        --uninstall) action=uninstall ;;
        -h | --help)
            usage
            exit 0
            ;;
        -*)
            usage >&2
            die "unknown option $1"
            ;;
        *)
            [[ -z $binary ]] || die "one executable only"
            binary=$1
            ;;
    esac
    shift
done
# It becomes part of the unit.
[[ $prefix =~ ^(/[A-Za-z0-9._-]+)+$ ]] || die "--prefix takes an absolute path of letters, digits and ._-"
if [[ -n $root ]]; then
    root=$(cd "$root" 2>/dev/null && pwd) || die "--root: there is no such directory"
    [[ $root != / ]] || root=''
fi
if [[ -z $root && $(id -u) != 0 ]]; then die "to be run as root, or with --root"; fi
if [[ -z $binary ]]; then binary=${CARGO_TARGET_DIR:-$here/../target}/release/weir; fi
lib=/etc
[[ $prefix != /usr ]] || lib=/usr/lib
unit_path=$lib/systemd/system/weir.service
sysctl_path=$lib/sysctl.d/99-weir.conf
"$action"
