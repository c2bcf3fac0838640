# What the sections of the benchmark share. Each section is a script that sources this, measures, and appends Markdown to
# BENCH_OUTPUT through `emit`. BENCH is `full`, or `quick` for a smoke test of the same steps with small sizes.
set -euo pipefail
bench=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$bench/../.." && pwd)
BENCH=${BENCH:-full}
BENCH_OUTPUT=${BENCH_OUTPUT:-/dev/stdout}
cache=$root/build/bench
target=${CARGO_TARGET_DIR:-$root/target}
imgbuild=$(realpath "${IMGBUILD:-$target/release/imgbuild}")
export IMGBUILD_SERVER; IMGBUILD_SERVER=$(realpath "${IMGBUILD_SERVER:-$target/server/imgserve}")
export IMGBUILD_STORE=${BENCH_STORE:-$cache/store}
mkdir -p "$cache"
work=$(mktemp -d "$cache/work-XXXXXX")
started=()
leftovers=()

# Ends what this section started, by process id, and removes what it wrote.
cleanup() {
  local pid
  for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; done
  [ -z "${docker_state:-}" ] || "$root/tests/tools/dockerd.sh" stop "$docker_state" || true
  rm -rf "$work" "${leftovers[@]}"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

note() { echo "bench: $*" >&2; }
emit() { cat >>"$BENCH_OUTPUT"; }
quick() { [ "$BENCH" = quick ]; }
race() { python3 "$bench/race.py" "$@" 2>>"$cache/figures.jsonl"; }
megabytes() { awk -v bytes="$1" 'BEGIN { printf "%.1f", bytes / 1e6 }'; }

# A Docker daemon of this run's own, and a client that builds with BuildKit: sets DOCKER_HOST, docker and docker_pid.
start_docker() {
  docker_state=$work/docker
  DOCKER_HOST=$("$root/tests/tools/dockerd.sh" start "$docker_state")
  export DOCKER_HOST
  docker_pid=$(cat "$docker_state/pid")
  docker=docker
  local client
  for client in $(type -ap docker); do
    if [ -n "$(DOCKER_BUILDKIT=1 "$client" build --help 2>/dev/null | grep -e --secret)" ]; then docker=$client; break; fi
  done
}

# Debian's registry on the loopback, its files in a folder, $work/registry if none is given: sets registry.
start_registry() { # [FOLDER]
  local files=${1:-$work/registry}
  local port; port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  cat >"$work/registry.yml" <<YAML
version: 0.1
log: {level: error}
storage: {filesystem: {rootdirectory: $files}, delete: {enabled: true}}
http: {addr: "127.0.0.1:$port"}
YAML
  mkdir -p "$files"
  docker-registry serve "$work/registry.yml" >/dev/null 2>&1 &
  started+=($!)
  registry_pid=$!
  registry=localhost:$port
  for _ in $(seq 200); do (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && return; sleep 0.1; done
  note "docker-registry does not answer"; exit 1
}

# Makes a model of a size with weights that do not compress: sized FOLDER NAME, where NAME is one of make_models.py's.
sized() {
  local python; python=$("$root/tests/tools/venv.sh")
  "$python" "$root/tests/tools/make_models.py" "$1" "$2"
}
