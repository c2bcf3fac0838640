#!/bin/sh
# Makes the virtual environment that the Python tests run in, unless it is there already: venv.sh [FOLDER [REQUIREMENTS]].
# Prints its python; anything pip says goes to standard error.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$(CDPATH='' cd -- "$here/../.." && pwd)
venv=${1:-$root/build/venv}
requirements=${2:-$here/requirements.txt}
stamp=$venv/requirements.txt

if ! cmp -s "$requirements" "$stamp"; then
    mkdir -p "$(dirname -- "$venv")"
    # Another process that makes the same environment is waited for.
    exec 9>"$venv.lock"
    flock 9
    if ! cmp -s "$requirements" "$stamp"; then
        rm -rf "$venv"
        python3 -m venv "$venv" >&2
        "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements" >&2
        # Last, so that an interrupted run starts over.
        cp "$requirements" "$stamp"
    fi
fi
echo "$venv/bin/python"
