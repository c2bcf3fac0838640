#!/usr/bin/env bash
# Builds, on this machine, the container image that people make today for a model: Debian slim, Python, `pip install`, an app.
#
#   python_image.sh image PACKAGE MODEL TAG    builds it in the Docker daemon of DOCKER_HOST with fastapi, uvicorn and PACKAGE:
#                                              onnxruntime for an ONNX model, tensorflow-cpu for a SavedModel's folder
#   python_image.sh size [--kept] [PACKAGE…]   prints "UNPACKED COMPRESSED" in bytes of Debian slim, Python and these packages
#
# No image is pulled. Debian slim is made by debootstrap from the archive that apt is configured for, and loses what Debian's own
# slim images lose (documentation, translations, lists); packages come through pip as it is configured here. COMPRESSED is gzip -6
# of each layer. `size` needs no Docker; what it measured is kept in build/bench, since it takes minutes for the large packages; with
# --kept nothing is measured, and nothing printed where nothing was.
# Needs root, as debootstrap does; exit code 77 without it.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=$root/build/bench
serving=(fastapi uvicorn numpy)

usage() { sed -n '4,6s/^# *//p' "$0" >&2; exit 64; }
say() { echo "python_image.sh: $*" >&2; }

# The tarball of Debian slim with Python, made once.
base() {
  local tarball=$cache/python-base.tar
  if [ ! -s "$tarball" ]; then
    [ "$(id -u)" = 0 ] || { say "debootstrap needs root"; exit 77; }
    command -v debootstrap >/dev/null || { say "debootstrap is not installed"; exit 77; }
    local codename mirror rootfs
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' | awk -v c="$codename" '$2 == c && $3 == "main" { print $1; exit }')
    mkdir -p "$cache"
    rootfs=$(mktemp -d "$cache/rootfs-XXXXXX")
    say "making Debian $codename slim with Python"
    debootstrap --variant=minbase --include=python3,python3-pip,ca-certificates "$codename" "$rootfs" "$mirror" >"$cache/debootstrap.log" 2>&1 ||
      { tail -n 5 "$cache/debootstrap.log" >&2; exit 1; }
    rm -rf "$rootfs"/usr/share/{doc,man,info,locale,groff,lintian,linda}/* "$rootfs"/var/lib/apt/lists/* "$rootfs"/var/cache/apt/* \
      "$rootfs"/var/log/* "$rootfs"/tmp/*
    find "$rootfs" -name __pycache__ -prune -exec rm -rf {} +
    tar -C "$rootfs" --numeric-owner --one-file-system -cf "$tarball.part" .
    mv "$tarball.part" "$tarball"
    rm -rf "$rootfs"
  fi
  echo "$tarball"
}

# The Python version inside the base.
python_of() { tar -tf "$1" | sed -n 's#^\./usr/bin/python\(3\.[0-9]*\)$#\1#p' | head -n 1; }

# Downloads packages and what they need for the base's Python, and prints the folder.
wheels() { # BASE PACKAGE…
  local version folder; version=$(python_of "$1"); shift
  folder=$cache/wheels-$(printf '%s ' "$version" "$@" | cksum | cut -d' ' -f1)
  if [ ! -d "$folder" ]; then
    say "downloading $*"
    rm -rf "$folder.part"
    local tags=()
    for glibc in 17 24 27 28 31 34; do tags+=(--platform "manylinux_2_${glibc}_$(uname -m)"); done
    python3 -m pip download --quiet --disable-pip-version-check --only-binary=:all: --python-version "$version" "${tags[@]}" \
      --platform "manylinux2014_$(uname -m)" --dest "$folder.part" "$@" >&2
    mv "$folder.part" "$folder"
  fi
  echo "$folder"
}

image() { # PACKAGE MODEL TAG
  local tarball folder context server
  tarball=$(base)
  folder=$(wheels "$tarball" "$1" "${serving[@]}")
  docker import "$tarball" imgbuild-bench/python-base:1 >/dev/null
  context=$(mktemp -d)
  cp "$here/python-image/Dockerfile" "$context"
  cp -r "$here/python-image/$1" "$context/app"
  if [ -d "$2" ]; then cp -r "$2" "$context/app/model"; else cp "$2" "$context/app/model.onnx"; fi
  # The packages are served on the loopback, so that they need no layer of their own.
  python3 -u -m http.server --bind 127.0.0.1 --directory "$folder" 0 >"$context.log" 2>/dev/null &
  server=$!
  trap 'kill '"$server"' 2>/dev/null || true; rm -rf '"$context $context.log" EXIT
  for _ in $(seq 100); do grep -q 'port ' "$context.log" && break; sleep 0.1; done
  # As the compressed layers of a registry count, the older builder's image is the same as BuildKit's.
  DOCKER_BUILDKIT=0 docker build --quiet --network host --tag "$3" --build-arg BASE=imgbuild-bench/python-base:1 \
    --build-arg WHEELS="http://127.0.0.1:$(sed -n 's/.*port \([0-9]*\).*/\1/p' "$context.log")/" \
    --build-arg PACKAGES="$1 ${serving[*]}" "$context" >&2
}

size() { # [--kept] PACKAGE…
  local tarball folder result kept=
  [ "${1:-}" != --kept ] || { kept=yes; shift; }
  local packages=("$@")
  result=$cache/size-$(printf '%s ' "$@" | cksum | cut -d' ' -f1)
  if [ ! -s "$result" ]; then
    [ -z "$kept" ] || return 0
    tarball=$(base)
    say "measuring ${packages[*]:-the base}"
    local unpacked compressed
    unpacked=$(tar -xOf "$tarball" | wc -c)
    compressed=$(gzip -6 -c "$tarball" | wc -c)
    if [ ${#packages[@]} -gt 0 ]; then
      folder=$(wheels "$tarball" "${packages[@]}" "${serving[@]}")
      # As pip puts them in place, but without compiling to bytecode, in their favour; as a stream, since it may be many gigabytes.
      compressed=$((compressed + $(python3 "$here/python-image/unpack.py" "$result.bytes" "$folder"/*.whl | gzip -6 | wc -c)))
      unpacked=$((unpacked + $(cat "$result.bytes")))
      rm "$result.bytes"
    fi
    echo "$unpacked $compressed" >"$result.part"
    mv "$result.part" "$result"
  fi
  cat "$result"
}

case "${1:-}" in
  image) [ $# = 4 ] && [ -d "$here/python-image/$2" ] || usage; image "$2" "$3" "$4" ;;
  size) shift; size "$@" ;;
  *) usage ;;
esac
