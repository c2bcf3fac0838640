#!/usr/bin/env python3
"""Pulls two images and starts them against each other, alternated, and prints Markdown rows of medians.

    baseline.py --repeats N [--pulls N] [--label TEXT] --docker CLIENT --body FILE --warmer IMAGE OURS OUR_NAME THEIRS

From `docker run` to the first answer of the model: a request is tried again and again until one succeeds. Warm: the files were read
before. Cold: the page cache was dropped, and then another container was started, so that the engine itself is in memory, as on a
node that runs containers. Both answers must agree. In turn with them a container of the warmer that only sleeps is started: until
`docker run` comes back from that, it is the engine's time alone, which no image can take off.
"""

import argparse
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import time

DROP = "/proc/sys/vm/drop_caches"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def docker(*arguments):
    done = subprocess.run([docker.client, *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"docker {' '.join(arguments)} failed: {done.stderr}")
    return done.stdout


def first_answer(start, name, body):
    """Starts a container; gives the seconds to its model's first answer, and the answer."""
    port = free_port()
    before = time.monotonic()
    container = docker(*start(port)).strip()
    try:
        while time.monotonic() - before < 120:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                connection.request("POST", f"/v2/models/{name}/infer", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = response.read()
                if response.status == 200:
                    return time.monotonic() - before, json.loads(answer)
                if response.status not in (404, 503):
                    sys.exit(f"{container} answers {response.status}: {answer.decode(errors='replace')}")
            except OSError:
                pass
            time.sleep(0.002)
        logs = subprocess.run([docker.client, "logs", container], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
        sys.exit(f"no answer within two minutes:\n{logs}")
    finally:
        docker("rm", "--force", container)


def nothing(warmer, run):
    """The seconds that `docker run` takes for a container that does nothing."""
    before = time.monotonic()
    container = docker(*run, warmer, "/busybox", "sleep", "100").strip()
    took = time.monotonic() - before
    docker("rm", "--force", container)
    return took


def pull(image):
    docker("rmi", "--force", image)
    before = time.monotonic()
    docker("pull", "--quiet", image)
    return time.monotonic() - before


def cool(warmer):
    os.sync()
    with open(DROP, "w") as file:
        file.write("3")
    docker("run", "--rm", "--network", "none", warmer, "/busybox", "true")


def can_cool():
    try:
        with open(DROP, "w") as file:
            file.write("1")
        return True
    except OSError:
        return False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pulls", type=int, help="[as many as --repeats]")
    parser.add_argument("--label", default="", help="what rows begin with")
    parser.add_argument("--docker", default="docker")
    parser.add_argument("--body", required=True)
    parser.add_argument("--warmer", required=True)
    parser.add_argument("ours")
    parser.add_argument("name")
    parser.add_argument("theirs")
    arguments = parser.parse_args()
    docker.client = arguments.docker
    with open(arguments.body) as file:
        body = file.read()
    run = ("run", "--detach", "--network", "host", "--read-only", "--cap-drop", "ALL")

    def ours(port):
        return *run, "--env", f"IMGSERVE_PORT={port}", arguments.ours

    def theirs(port):
        # TensorFlow's Python looks for a folder that it can write to.
        return *run, "--tmpfs", "/tmp", arguments.theirs, "python3", "-m", "uvicorn", "app:app", "--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"

    figures = {"pull": ([], []), "first answer, warm": ([], []), "first answer, cold": ([], [])}
    for _ in range(arguments.repeats if arguments.pulls is None else arguments.pulls):
        for side, image in enumerate((arguments.ours, arguments.theirs)):
            figures["pull"][side].append(pull(image))
    sides = ((ours, arguments.name), (theirs, "model"))
    answers = [first_answer(start, name, body)[1] for start, name in sides]
    agree(answers)
    engine = []
    for _ in range(arguments.repeats):
        engine.append(nothing(arguments.warmer, run))
        for side, (start, name) in enumerate(sides):
            figures["first answer, warm"][side].append(first_answer(start, name, body)[0])
    if can_cool():
        for _ in range(arguments.repeats):
            for side, (start, name) in enumerate(sides):
                cool(arguments.warmer)
                figures["first answer, cold"][side].append(first_answer(start, name, body)[0])
    for what, (mine, other) in figures.items():
        if what == "pull" and not mine:
            continue
        what = arguments.label + what
        if not mine:
            print(f"| {what} | could not be measured | the page cache cannot be dropped here | |")
            continue
        a, b = statistics.median(mine), statistics.median(other)
        print(f"| {what} (median of {len(mine)}, spread) | {a:.2f} s ({min(mine):.2f}–{max(mine):.2f}) | {b:.2f} s ({min(other):.2f}–{max(other):.2f}) | {b / a:.1f} |")
    floor = statistics.median(engine)
    a, b = (statistics.median(side) - floor for side in figures["first answer, warm"])
    what = f"{arguments.label}of that beyond `docker run` of a container that does nothing, {floor:.3f} s ({min(engine):.3f}–{max(engine):.3f})"
    print(f"| {what} | {a:.3f} s | {b:.3f} s | {b / a:.1f} |")


def agree(answers):
    first, second = (answer["outputs"][0] for answer in answers)
    same = first["shape"] == second["shape"] and all(abs(a - b) < 1e-4 for a, b in zip(first["data"], second["data"], strict=True))
    if not same:
        sys.exit(f"the images answer differently: {answers}")


if __name__ == "__main__":
    main()
