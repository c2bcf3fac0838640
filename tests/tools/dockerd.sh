#!/bin/sh
# Starts and stops a Docker daemon of one's own for tests, apart from any other on the machine.
#
#   dockerd.sh start STATE_DIR [bridge]   prints the value for DOCKER_HOST
#   dockerd.sh stop STATE_DIR             stops it and removes what it mounted
#
# Everything of it lies in STATE_DIR. Without `bridge`, containers can only share the machine's network (`--network host`); with it,
# the daemon gets a bridge of its own, so that ports can be published. Exit code 77 where a daemon cannot run here, with the reason
# on stderr.
set -eu

usage() {
    sed -n '4,5s/^# *//p' "$0" >&2
    exit 64
}

[ $# -ge 2 ] || usage
action=$1
state=$2
network=${3:-none}

unable() {
    echo "dockerd.sh: no Docker daemon can run here: $1" >&2
    exit 77
}

is_running() {
    [ -s "$state/pid" ] && kill -0 "$(cat "$state/pid")" 2>/dev/null
}

# The name of the daemon's bridge, which must have at most 15 characters.
bridge_name() {
    echo "ib$(printf %s "$state" | cksum | cut -d' ' -f1)"
}

start() {
    [ "$(id -u)" = 0 ] || unable "it needs root"
    command -v dockerd >/dev/null || unable "dockerd is not installed"
    mkdir -p "$state"
    state=$(cd "$state" && pwd -P)
    if is_running; then
        echo "unix://$state/docker.sock"
        return
    fi
    # The path of a socket has at most 107 bytes.
    [ ${#state} -le 80 ] || unable "the path $state is too long for a socket"
    bridge=none
    if [ "$network" = bridge ]; then
        bridge=$(bridge_name)
        # One of 16,384 small networks, by the number of this process.
        number=$(($$ % 16384))
        if ! ip link show "$bridge" >/dev/null 2>&1; then
            ip link add "$bridge" type bridge 2>"$state/ip.log" || unable "no bridge can be made: $(cat "$state/ip.log")"
            ip address add "10.$((192 + number / 256)).$((number % 256)).1/24" dev "$bridge"
            ip link set "$bridge" up
        fi
        echo "$bridge" >"$state/bridge"
    fi
    # The machine's own configuration is not for this daemon.
    echo '{}' >"$state/daemon.json"
    # Its own containerd and plug-ins lie below the exec root. Storage drivers from the best to the one that works everywhere.
    for driver in overlay2 vfs; do
        dockerd --data-root "$state/data" --exec-root "$state/exec" --pidfile "$state/pid" --host "unix://$state/docker.sock" \
            --config-file "$state/daemon.json" --bridge "$bridge" --iptables=false --ip6tables=false --ip-masq=false --ip-forward=false \
            --storage-driver "$driver" </dev/null >"$state/$driver.log" 2>&1 &
        daemon=$!
        tries=0
        while kill -0 "$daemon" 2>/dev/null && [ "$tries" -lt 300 ]; do
            if grep -q "API listen on $state/docker.sock" "$state/$driver.log"; then
                echo "unix://$state/docker.sock"
                return
            fi
            tries=$((tries + 1))
            sleep 0.1
        done
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    done
    reason=$(grep -h -e level=error -e level=fatal -e '^failed' "$state/vfs.log" | tail -n 1)
    stop
    unable "${reason:-see $state/vfs.log}"
}

stop() {
    [ -d "$state" ] || return 0
    state=$(cd "$state" && pwd -P)
    if is_running; then
        pid=$(cat "$state/pid")
        kill "$pid"
        tries=0
        # A process that nobody has waited for yet is still there, but has let go of everything.
        while [ -d "/proc/$pid" ] && ! grep -q '^State:[[:space:]]*Z' "/proc/$pid/status" 2>/dev/null; do
            tries=$((tries + 1))
            if [ "$tries" -gt 200 ]; then
                kill -KILL "$pid" 2>/dev/null || true
                break
            fi
            sleep 0.1
        done
    fi
    rm -f "$state/pid"
    # Deepest first.
    cut -d' ' -f5 /proc/self/mountinfo | grep "^$state/" | sort -r | while read -r place; do
        umount "$place" 2>/dev/null || umount -l "$place" 2>/dev/null || true
    done
    if [ -s "$state/bridge" ]; then
        ip link delete "$(cat "$state/bridge")" 2>/dev/null || true
        rm -f "$state/bridge"
    fi
}

case $action in
start) start ;;
stop) stop ;;
*) usage ;;
esac
