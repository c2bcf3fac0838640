#!/usr/bin/env bash
# Start to first answer: the same imgserve with the same library and model on the bare host and in the embedded runner, alternately.
#
#   container_overhead.sh [RUNS]     31 runs; IMGBUILD and IMGBUILD_SERVER name the programs
source "$(dirname "$0")/lib.sh"
runs=31
quick && runs=2
runs=${1:-$runs}
cd "$root"
library=$(realpath "$(tests/tools/fetch-onnxruntime.sh)")
model=$(realpath "$(tests/tools/fetch-models.sh magika)")
cp "$model" "$work/magika.onnx"
cd "$work"
# As it is: the bare host gets the very file.
"$imgbuild" build -q magika.onnx --optimize off --report size.json >/dev/null
emit <<'MD'
## In a container and without one

magika from the start to its first answer: `imgserve`, the library and the model of an image in the embedded runner (namespaces,
read-only root, no capabilities), and the very same files on the bare host; alternated, everything in the page cache.

MD
python3 - "$imgbuild" "$IMGBUILD_SERVER" "$library" "$work" "$runs" <<'PY' | emit
import hashlib, http.client, json, os, signal, socket, statistics, subprocess, sys, time

imgbuild, server, library, work, runs = *sys.argv[1:5], int(sys.argv[5])
body_head = json.dumps({"inputs": [{"name": "bytes", "datatype": "INT32", "shape": [1, 2048], "parameters": {"binary_data_size": 8192}}]})
body = body_head.encode() + bytes(8192)
headers = {"Inference-Header-Content-Length": str(len(body_head)), "Content-Type": "application/octet-stream"}

# What the bare host runs is what the image holds, byte for byte.
held = {file["path"].rsplit("/", 1)[-1]: file["digest"] for file in json.load(open("size.json"))["files"]}
for name, path in [("imgserve", server), ("libonnxruntime.so.1", library), ("magika.onnx", f"{work}/magika.onnx")]:
    digest = "sha256:" + hashlib.sha256(open(path, "rb").read()).hexdigest()
    assert digest in held.values(), f"the image has another {name} than {path}"

# And in the same environment.
def blob(digest):
    return json.load(open("magika.oci/blobs/" + digest.replace(":", "/")))


manifest = blob(json.load(open("magika.oci/index.json"))["manifests"][0]["digest"])
variables = blob(manifest["config"]["digest"])["config"]["Env"]
held_environment = dict(pair.split("=", 1) for pair in variables if not pair.startswith("PATH="))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def ask(port, method, path, **more):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, **more)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def bare():
    port = free_port()
    environment = dict(os.environ, **held_environment, IMGSERVE_MODEL_NAME="magika", IMGSERVE_MODEL_PATH=f"{work}/magika.onnx", IMGSERVE_LIBRARY=library,
                       IMGSERVE_ADDRESS="127.0.0.1", IMGSERVE_PORT=str(port))
    begun = time.monotonic()
    process = subprocess.Popen([server], env=environment, stderr=subprocess.PIPE, text=True)
    try:
        # Waiting for the line costs nothing; asking again and again would, and the server would pay for it.
        if not any('"phase":"ready"' in line for line in process.stderr):
            raise SystemExit("the server ended on the bare host")
        assert ask(port, "GET", "/v2/health/ready")[0] == 200
        status, text = ask(port, "POST", "/v2/models/magika/infer", body=body, headers=headers)
        assert status == 200, text
        return (time.monotonic() - begun) * 1e3
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def contained():
    report = subprocess.run([imgbuild, "--quiet", "coldstart", "oci:magika.oci", "--runner", "embedded", "--runs", "1", "--clients", "1",
                             "--requests", "1", "--json"], check=True, stdout=subprocess.PIPE).stdout
    column = next(column for column in json.loads(report)["columns"] if column["cache"] == "warm")
    return column["start_to_first_answer"]["median"]


# What this script itself adds to the bare host's time.
spawns = []
for _ in range(20):
    begun = time.monotonic()
    subprocess.run(["/bin/true"])
    spawns.append((time.monotonic() - begun) * 1e3)
bare(), contained()
times = {"bare host": [], "container": []}
for _ in range(runs):
    times["bare host"].append(bare())
    times["container"].append(contained())
print("| | median, ms | spread | ratio |")
print("|---|--:|--:|--:|")
host = statistics.median(times["bare host"])
for name, samples in times.items():
    median = statistics.median(samples)
    print(f"| {name} | {median:.0f} | {min(samples):.0f}–{max(samples):.0f} | {median / host:.2f} |")
print(f"\nOf the bare host's time {statistics.median(spawns):.1f} ms are the script's own for starting any program; {runs} runs each.\n")
PY
