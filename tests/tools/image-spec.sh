#!/bin/sh
# Prints the folder of the image specification's JSON schemas, fetched once from the Debian package that ships them.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
folder=$root/build/image-spec
mkdir -p "$root/build"
exec 9>"$folder.lock"
flock 9
if [ ! -d "$folder" ]; then
    scratch=$(mktemp -d "$folder-XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    (cd "$scratch" && apt-get download -qq golang-github-opencontainers-image-spec-dev >&2 && dpkg-deb -x ./*.deb files)
    mv "$scratch/files/usr/share/gocode/src/github.com/opencontainers/image-spec/schema" "$folder"
fi
echo "$folder"
