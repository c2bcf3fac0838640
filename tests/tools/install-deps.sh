#!/usr/bin/env bash
# Installs what a fresh Debian or Ubuntu machine lacks. With --demo: only what `make demo` needs.
set -euo pipefail
missing=()
need() { # COMMAND PACKAGE
  command -v "$1" >/dev/null 2>&1 || missing+=("$2")
}
need python3 python3
need curl curl
need gcc gcc
need make make
python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
python3 -c 'import venv, ensurepip' >/dev/null 2>&1 || missing+=(python3-venv)
[ -f /etc/ssl/certs/ca-certificates.crt ] || missing+=(ca-certificates)
if [ "${1:-}" != --demo ]; then
  need dockerd docker.io
  need docker-registry docker-registry
  need skopeo skopeo
  need umoci umoci
  need buildah buildah
  need runc runc
  need htpasswd apache2-utils
  need readelf binutils
  need openssl openssl
  need zstd zstd
  need g++ g++
  need qemu-x86_64 qemu-user
  need busybox busybox-static
  need chromium chromium
  need setpriv util-linux
  # What the benchmark compares with.
  [ -x /usr/bin/time ] || missing+=(time)
  PATH=$PATH:/usr/sbin need debootstrap debootstrap
fi
if ! command -v cargo >/dev/null 2>&1; then
  echo "error: cargo is missing: install a Rust toolchain (version: rust-version in Cargo.toml)" >&2
  exit 1
fi
# Base packages are fetched with apt-get, which needs its lists.
lists_are_empty() { ! apt-cache policy libc6 2>/dev/null | grep -q 'Candidate: [0-9]' || ! apt-get --print-uris download libc6 >/dev/null 2>&1; }
if [ ${#missing[@]} -gt 0 ] || lists_are_empty; then
  if ! command -v apt-get >/dev/null 2>&1; then
    echo "error: this machine has no apt-get; install by hand: ${missing[*]}" >&2
    exit 1
  fi
  sudo=()
  [ "$(id -u)" = 0 ] || sudo=(sudo)
  echo "installing: ${missing[*]:-(package lists)}" >&2
  "${sudo[@]}" apt-get update -qq
  [ ${#missing[@]} -eq 0 ] || DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
if [ "${1:-}" != --demo ] && ! cargo nextest --version >/dev/null 2>&1; then
  cargo install --locked cargo-nextest
fi
