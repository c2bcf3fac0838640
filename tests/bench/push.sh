#!/usr/bin/env bash
# Pushing a large layer to Debian's registry on the loopback, against skopeo and docker push.
source "$(dirname "$0")/lib.sh"
sizes=(1GB-external:5 4GB-external:3)
quick && sizes=(2MB-external:1)
[ -z "${BENCH_SIZES:-}" ] || read -ra sizes <<<"$BENCH_SIZES"

emit <<'MD'
## Pushing

One image to one `docker-registry` on the loopback, emptied before every push, so that nothing is skipped or mounted; its files are in
memory (`/dev/shm`) where 10 GB of it are free, so that its disk is not what is measured. `imgbuild` and
`skopeo copy --preserve-digests` send the same blobs; `docker push` sends the same files as layers that it compresses itself, which
is why it is slower and has no throughput that compares. The registry's own CPU time is not counted.

MD

for pair in "${sizes[@]}"; do
  name=${pair%:*}
  if [ "$name" = 4GB-external ] && [ "$(df --output=avail -B1000000000 "$work" | tail -n 1)" -lt 16 ]; then
    echo "The 4 GB model was left out: fewer than 16 GB of disk were free." | emit
    continue
  fi
  note "push of $name"
  files=$work/registry
  free=$(df --output=avail -B1000000000 /dev/shm 2>/dev/null | tail -n 1)
  if [ "${free:-0}" -ge 10 ]; then
    files=$(mktemp -d /dev/shm/imgbuild-registry-XXXXXX)
    leftovers+=("$files")
  fi
  start_registry "$files"
  sized "$work" "$name"
  cd "$work"
  "$imgbuild" build -q "$name/model.onnx" -o "oci:$work/image:1" >/dev/null
  bytes=$(find "$work/image/blobs" -type f -printf '%s\n' | awk '{ sum += $1 } END { printf "%.0f", sum }')
  rm -rf "${work:?}/$name"
  contenders=(
    "imgbuild push" "rm -rf $files/*" "$imgbuild push -q oci:$work/image:1 docker://$registry/imgbuild:1"
    "skopeo copy" "rm -rf $files/*" "skopeo copy --quiet --preserve-digests --dest-tls-verify=false oci:$work/image:1 docker://$registry/skopeo:1"
  )
  daemons=()
  if [ "$name" != 4GB-external ]; then
    start_docker
    daemons=(--daemon "docker push=$docker_pid")
    "$imgbuild" push -q "oci:$work/image:1" "docker-daemon:$registry/docker:1" >/dev/null
    contenders+=("docker push" "rm -rf $files/*" "$docker push --quiet $registry/docker:1")
  fi
  race --repeats "${pair#*:}" --bytes "$bytes" "${daemons[@]}" "$(megabytes "$bytes") MB" "${contenders[@]}" | emit
  echo | emit
  kill "$registry_pid"; wait "$registry_pid" 2>/dev/null || true
  started=()
  [ -z "${docker_state:-}" ] || "$root/tests/tools/dockerd.sh" stop "$docker_state"
  rm -rf "${files:?}"
  find "$IMGBUILD_STORE/blobs" -type f -size +300M -delete
  find "$work" -mindepth 1 -maxdepth 1 -exec rm -rf {} +
done
