#!/bin/sh
# Makes the virtual environment that the Python tests run in, unless it is there already.
# Prints its python; anything pip says goes to standard error.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
venv=${1:-$root/build/venv}
stamp=$venv/requirements.txt

if ! cmp -s "$here/requirements.txt" "$stamp"; then
    mkdir -p "$(dirname -- "$venv")"
    # Another process that makes the same environment is waited for.
    exec 9>"$venv.lock"
    flock 9
    if ! cmp -s "$here/requirements.txt" "$stamp"; then
        rm -rf "$venv"
        python3 -m venv "$venv" >&2
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt" >&2
        # Last, so that an interrupted run starts over.
        cp "$here/requirements.txt" "$stamp"
    fi
fi
echo "$venv/bin/python"
