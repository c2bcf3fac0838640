#!/bin/sh
# Judges a folder of filled-in templates: judge-templates.sh FOLDER. The judges' own environment is made once, in build/.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
venv=$here/../../build/venv-templates
stamp=$venv/requirements.txt
requirements=$here/judge_templates.txt
mkdir -p "$(dirname "$venv")"
exec 9>"$venv.lock"
flock 9
if ! cmp -s "$requirements" "$stamp"; then
    rm -rf "$venv"
    python3 -m venv "$venv" >&2
    # Of the clients of KServe and Tekton only their classes are used, without what the rest of them needs.
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps kserve==0.21.0 tekton-pipeline==0.2.0 >&2
    cp "$requirements" "$stamp"
fi
flock -u 9
exec "$venv/bin/python" "$here/judge_templates.py" "$@"
