#!/usr/bin/env bash
# Makes what the Dockerfile's last stage describes, without a container engine: its steps are carried out in a small
# Debian, and what comes of it runs there as the image's user, with the restrictions of compose.yaml, on a network of
# its own. Then somebody publishes and plays. Needs root and Linux namespaces. The first run fetches the Debian.
#
# The builder stage is not carried out; the executable under test takes the place of what it makes.
# shellcheck source=deploy/tests/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
dockerfile=$deploy/docker/Dockerfile

# The last stage, a step a line: comments out, continued lines joined.
last_stage() {
    sed -e '/^[[:space:]]*#/d' -e '/^[[:space:]]*$/d' "$dockerfile" | sed -e ':join' -e '/\\$/N; s/[[:space:]]*\\\n[[:space:]]*/ /; t join' |
        awk '$1 == "FROM" { stage = "" } { stage = stage $0 "\n" } END { printf "%s", stage }'
}

# copy ROOT OPTIONS... SOURCE DESTINATION: a COPY of one file.
copy() {
    local root=$1 from='' mode='' word words=()
    shift
    for word in "$@"; do
        case $word in
            --from=*) from=${word#*=} ;;
            --chmod=*) mode=${word#*=} ;;
            --*) fail "COPY $word is not known to this test" ;;
            *) words+=("$word") ;;
        esac
    done
    [[ ${#words[@]} == 2 && ${words[1]} != */ ]] || fail "COPY $*: this test knows copies of one file to one path"
    local source=$source_tree/${words[0]}
    [[ -z $from ]] || source=$weir
    [[ -f $source ]] || fail "COPY $*: there is no such file"
    # A folder made on the way has Docker's mode whatever the umask here is.
    (umask 022 && mkdir -p "$(dirname "$root/${words[1]}")")
    cp --preserve=mode "$source" "$root/${words[1]}"
    [[ -z $mode ]] || chmod "$mode" "$root/${words[1]}"
    chown 0:0 "$root/${words[1]}"
}

inside() {
    local root=/mnt/root step rest user=0:0 workdir=/ signal=TERM variables=(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin)
    local ports='' health=() entry=() command=()
    mount --make-rprivate /
    overlay "$1" /mnt
    weir=$2
    mount -t proc proc "$root/proc"
    mount --rbind /dev "$root/dev"
    ip link set lo up

    say "the steps of the last stage"
    while read -r step rest; do
        printf '  %s %s\n' "$step" "${rest:0:100}"
        case $step in
            FROM) [[ $rest == debian:bookworm-slim ]] || fail "this test has another base than $rest" ;;
            RUN) chroot "$root" env -i "${variables[@]}" sh -c "$rest" || fail "RUN $rest" ;;
            COPY)
                # shellcheck disable=SC2086 # Its words are the arguments.
                copy "$root" $rest
                ;;
            ENV) variables+=("$rest") ;;
            USER) user=$rest ;;
            WORKDIR) workdir=$rest && mkdir -p "$root$rest" ;;
            EXPOSE) ports=$rest ;;
            STOPSIGNAL) signal=$rest ;;
            HEALTHCHECK) mapfile -t health < <(jq -r '.[]' <<<"${rest#* CMD }") ;;
            ENTRYPOINT) mapfile -t entry < <(jq -r '.[]' <<<"$rest") ;;
            CMD) mapfile -t command < <(jq -r '.[]' <<<"$rest") ;;
            *) fail "$step is not known to this test" ;;
        esac
    done < <(last_stage)
    [[ ${#entry[@]} != 0 && ${#command[@]} != 0 && ${#health[@]} != 0 ]] || fail "ENTRYPOINT, CMD or HEALTHCHECK is missing"
    [[ ${user%%:*} =~ ^[0-9]+$ && ${user%%:*} != 0 ]] || fail "USER has to be a number and not root, for runAsNonRoot"
    [[ " $ports " == " 1935 1985 1989 8080 9972 8000/udp " ]] || fail "EXPOSE $ports"

    say "start, read-only, without capabilities, as $user"
    # As compose.yaml has it.
    mount -t tmpfs tmpfs "$root/tmp"
    mount -t tmpfs -o "mode=0700,uid=${user%%:*},gid=${user##*:}" tmpfs "$root/run/weir"
    mount --bind "$root/var/lib/weir" "$root/var/lib/weir"
    mount -o remount,ro "$root"
    # What stands before a command in the container, as `docker exec` would run it.
    local contained=(chroot "$root" setpriv --reuid "${user%%:*}" --regid "${user##*:}" --clear-groups --bounding-set=-all
        --inh-caps=-all --no-new-privs env -i -C "$workdir" "${variables[@]}" CANDIDATE=203.0.113.7)
    ! "${contained[@]}" "${health[@]}" 2>/dev/null || fail "it is healthy before it runs"
    # As process 1, which it is in a container, too.
    unshare --pid --mount --fork --mount-proc="$root/proc" "${contained[@]}" "${entry[@]}" "${command[@]}" &
    local container=$! main workers pid
    until_ok 10 "${contained[@]}" "${health[@]}" || fail "it does not get healthy"
    "${contained[@]}" weir ctl status
    main=$(pgrep -P "$container")
    workers=$(pgrep -P "$main") || fail "there are no workers"
    for pid in $main $workers; do
        [[ $(stat -c %u:%g "/proc/$pid") == "$user" ]] || fail "process $pid runs as $(stat -c %u:%g "/proc/$pid")"
        tr '\0' '\n' <"/proc/$pid/environ" | grep -qx CANDIDATE=203.0.113.7 || fail "process $pid does not know CANDIDATE"
    done

    say "publish and play"
    publish_and_play

    say "stop by $signal"
    kill -s "${signal#SIG}" "$main"
    local code=0
    wait "$container" || code=$?
    [[ $code == 0 ]] || fail "it ended with code $code"
    ! "${contained[@]}" "${health[@]}" 2>/dev/null || fail "it is healthy after its end"
}

if [[ ${1:-} == --inside ]]; then
    inside "$2" "$3"
    exit
fi
if [[ $(id -u) != 0 ]]; then exec sudo -n --preserve-env=WEIR,CARGO_TARGET_DIR,DEBIAN_MIRROR "$0"; fi
need ffmpeg=ffmpeg ip=iproute2 jq=jq setpriv=util-linux
weir=$(executable)
debian_root "$tools/bookworm"
# With the first process of the namespaces everything in them ends.
unshare --mount --pid --net --ipc --fork --mount-proc --kill-child "$0" --inside "$tools/bookworm" "$weir"

say "Docker: all is well"
