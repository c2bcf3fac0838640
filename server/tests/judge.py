"""Judges the server with clients and a runtime that are not its own.

The Open Inference Protocol's client is tritonclient, with its defaults (binary data both ways) and without them; what
the outputs should be is asked of ONNX Runtime's own Python interface; the metrics are read by prometheus_client.

    python server/tests/judge.py --server target/debug/imgserve --library LIBONNXRUNTIME

Prints a line for each check; exits 1 when any fails.
"""

import argparse
import concurrent.futures
import gzip
import http.client
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import numpy as np
import onnx
import onnxruntime
import tritonclient.http as triton
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

import models
from clients import CHECKS, Skipped, check, fail, ours, post, refused, request, same, samples, tensor, theirs
from harness import Server, StartError

@check
def every_datatype_in_binary_and_empty_ones_too(context):
    random = np.random.default_rng(7)
    path = models.types(context.folder)
    with ours(context, path) as server:
        client = triton.InferenceServerClient(server.address)
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("types")
        declared = client.get_model_metadata("types")
        assert [i["datatype"] for i in declared["inputs"]] == list(models.DATATYPES), declared
        assert all(i["shape"] == [-1, -1] for i in declared["inputs"] + declared["outputs"]), declared
        assert declared["platform"] == "onnx_onnxv1" and declared["versions"] == ["1"]
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        for shape in [(2, 3), (1, 1), (0, 3), (0, 0), (37, 11)]:
            arrays = {name: samples(name, shape, random) for name in models.DATATYPES}
            inputs = [tensor(f"in_{name}", array, name) for name, array in arrays.items()]
            result = client.infer("types", inputs, request_id="é 1")
            assert result.get_response()["id"] == "é 1"
            for name, array in arrays.items():
                same(array, result.as_numpy(f"out_{name}"), f"{name} {shape}")
        assert server.stop() == 0


@check
def every_datatype_in_json(context):
    random = np.random.default_rng(8)
    for name, kind in models.DATATYPES.items():
        path = models.identity(context.folder / "json.onnx", kind, ["n", "m"])
        with ours(context, path) as server:
            array = samples(name, (3, 2), random)
            if name == "BF16":
                array = np.ones((3, 2))
            if array.dtype.kind == "f":
                array = np.nan_to_num(array, posinf=np.finfo(array.dtype).max, neginf=np.finfo(array.dtype).min)
            if name == "BYTES":
                array = np.array([["a", "grüße"], ["", "\x00\n\"\\"], ["𝄞", "x" * 300]], object)
            document = {"inputs": [{"name": "x", "shape": [3, 2], "datatype": name, "data": array.tolist()}]}
            status, answer = post(server, document)
            if name == "BF16":
                refused(status, answer, 400, "binary only")
                continue
            assert status == 200, answer
            output = answer["outputs"][0]
            assert output["datatype"] == name and output["shape"] == [3, 2], output
            assert answer["model_name"] == "json" and answer["model_version"] == "1" and "id" not in answer
            # Through NumPy's own reading of the numbers, to the last bit.
            same(array, np.array(output["data"], array.dtype).reshape(3, 2), name)
            document["inputs"][0]["data"] = array.ravel().tolist()
            assert post(server, document)[1]["outputs"] == answer["outputs"], "flat is as nested"
            if name not in ("FP16", "BYTES"):
                client = triton.InferenceServerClient(server.address)
                wanted = [triton.InferRequestedOutput("y", binary_data=False)]
                result = client.infer("json", [tensor("x", array, name, binary=False)], outputs=wanted)
                same(array, result.as_numpy("y"), f"{name} by the client")


@check
def scalars(context):
    for name in ("FP32", "INT64", "BYTES", "BOOL"):
        path = models.identity(context.folder / "scalar.onnx", models.DATATYPES[name], [])
        with ours(context, path) as server:
            data = {"FP32": 1.5, "INT64": -7, "BYTES": "word", "BOOL": True}[name]
            for given in (data, [data]):
                document = {"inputs": [{"name": "x", "shape": [], "datatype": name, "data": given}]}
                status, answer = post(server, document)
                assert (status, answer["outputs"][0]["shape"], answer["outputs"][0]["data"]) == (200, [], [data]), answer


@check
def outputs_are_chosen_and_mixed(context):
    path = models.fixed(context.folder)
    a, b = np.array([[1, 2], [3, 4]], np.float32), np.array([[10, 20], [30, 40]], np.float32)
    expected = dict(zip(("sum", "difference", "a"), theirs(path, {"a": a, "b": b})))
    with ours(context, path) as server:
        client = triton.InferenceServerClient(server.address)
        inputs = [tensor("b", b, "FP32"), tensor("a", a, "FP32", binary=False)]
        for names in [("difference",), ("a", "sum"), ("sum", "difference", "a")]:
            for binary in [True, False]:
                outputs = [triton.InferRequestedOutput(name, binary_data=binary ^ (i == 0)) for i, name in enumerate(names)]
                result = client.infer("fixed", inputs, outputs=outputs, model_version="1")
                assert [output["name"] for output in result.get_response()["outputs"]] == list(names)
                for name in names:
                    same(expected[name], result.as_numpy(name), name)
        result = client.infer("fixed", inputs)
        for name, array in expected.items():
            same(array, result.as_numpy(name), name)
        for algorithm in ("gzip", "deflate"):
            result = client.infer(
                "fixed", inputs, request_compression_algorithm=algorithm, response_compression_algorithm=algorithm
            )
            same(expected["sum"], result.as_numpy("sum"), algorithm)


@check
def numbers_that_json_lacks(context):
    with ours(context, models.not_finite(context.folder)) as server:
        document = {"inputs": [{"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 0]}]}
        refused(*post(server, document), 400, "binary_data")
        document["outputs"] = [{"name": "same"}]
        assert post(server, document)[0] == 200
        client = triton.InferenceServerClient(server.address)
        result = client.infer("notfinite", [tensor("x", np.array([1, 0], np.float32), "FP32")])
        same(np.array([1, np.nan], np.float32), result.as_numpy("ratio"), "ratio")


@check
def bad_requests_get_their_status_and_harm_nothing(context):
    path = models.fixed(context.folder)
    good = {"shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
    b = {"name": "b", **good}

    def document(**changes):
        return {"inputs": [b, {"name": "a", **good, **changes}]}

    cases = [
        (document(name="c"), 400, "input `c` is unknown, the model has `a`, `b`"),
        (document(name="b"), 400, "input `b` is given twice"),
        ({"inputs": [b]}, 400, "input `a` (FP32, shape [-1,2]) is missing"),
        (document(datatype="FP64"), 400, "input `a` has datatype FP64, expected FP32"),
        (document(datatype="FP8"), 400, "datatype `FP8` is unknown"),
        (document(shape=[2]), 400, "input `a` has shape [2], expected [-1,2]"),
        (document(shape=[1, 3]), 400, "expected [-1,2]"),
        (document(shape=[2, 2]), 400, "found 2"),
        (document(shape=[-1, 2]), 400, "dimension of -1"),
        (document(shape=[2**62, 2]), 400, "more elements than"),
        (document(shape=[2**70, 2]), 400, "failed to read the request's JSON"),
        (document(shape=[1] * 100), 400, "100 dimensions"),
        (document(data=[1, "2"]), 400, "does not fit"),
        (document(data=[[1, 2], [3]]), 400, "data"),
        (document(data=[1, 1e39]), 400, "does not fit"),
        (document(data=None), 400, "neither `data` nor"),
        (document(parameters={"binary_data_size": 8}), 400, "both `data` and"),
        (document() | {"outputs": [{"name": "nope"}]}, 400, "output `nope` is unknown"),
        (document() | {"outputs": [{"name": "sum"}, {"name": "sum"}]}, 400, "asked for twice"),
        (document() | {"outputs": [{"name": "sum", "parameters": {"classification": 2}}]}, 501, "classification"),
        ({"instances": [[1, 2]]}, 400, "inputs"),
        ([], 400, "failed to read"),
    ]
    header = "Inference-Header-Content-Length"
    split = json.dumps(document(data=...), default=lambda _: None).replace(', "data": null', ', "parameters": {"binary_data_size": 8}')
    deep = "[" * 100_000 + "1" + "]" * 100_000
    raw = [
        (b"{", {}, 400), (b"", {}, 400), (b"\xff" * 50, {}, 400), (b"NaN", {}, 400),
        (json.dumps(document(data=float("nan"))).encode(), {}, 400),
        (split.encode() + bytes(8), {header: len(split)}, 200),
        (split.encode() + bytes(7), {header: len(split)}, 400),
        (split.encode() + bytes(9), {header: len(split)}, 400),
        (split.encode() + bytes(8), {header: len(split) + 9}, 400),
        (split.encode() + bytes(8), {header: len(split) - 1}, 400),
        (split.encode() + bytes(8), {header: -5}, 400),
        (split.encode() + bytes(8), {header: 2**64}, 400),
        (split.encode() + bytes(8), {}, 400),
        (json.dumps(document()).encode()[:-2] + b'], "x": ' + deep.encode() + b"}", {}, 200),
        (json.dumps(document(data=0)).replace('"data": 0', f'"data": {deep}').encode(), {}, 400),
        (b" " * 3_000_000, {}, 413),
        (gzip.compress(b" " * 3_000_000), {"Content-Encoding": "gzip"}, 413),
        (b"{}", {"Content-Encoding": "gzip"}, 400), (b"{}", {"Content-Encoding": "br"}, 415),
    ]
    with ours(context, path, options={"max_body_bytes": 2_000_000}) as server:
        for body, status, text in cases:
            refused(*post(server, body), status, text)
        for body, headers, status in raw:
            found, _, answer = request(server, body, headers)
            assert found == status, f"{body[:80]!r} {headers}: status {found}, expected {status}: {answer[:300]}"
            assert status == 200 or isinstance(json.loads(answer)["error"], str)
        for method, target, status in [
            ("GET", "/v2/models/nope", 404), ("POST", "/v2/models/nope/infer", 404), ("GET", "/v2/models/fixed/infer", 405),
            ("POST", "/v2/models/fixed/versions/2/infer", 404), ("POST", "/v2/health/live", 405), ("GET", "/nope", 404),
        ]:  # fmt: skip
            found, headers, answer = request(server, b"{}" if method == "POST" else None, path=target, method=method)
            assert found == status and json.loads(answer)["error"], f"{method} {target}: {found} {answer}"
            assert status != 405 or headers["Allow"]
        client = triton.InferenceServerClient(server.address)
        try:
            client.infer("fixed", [tensor("a", np.zeros((1, 2)), "FP64")])
            fail("a wrong datatype was taken")
        except InferenceServerException as error:
            assert error.status() == "400" and "datatype FP64" in error.message(), error
        assert post(server, document())[0] == 200, "it still serves"
        assert "unreadable" not in str(server.lines), server.lines
        assert server.stop() == 0


@check
def values_that_a_model_cannot_take_are_an_error_of_the_run(context):
    nodes = [onnx.helper.make_node("Div", ["a", "b"], ["c"])]
    kind = onnx.TensorProto.INT64
    inputs = [models.value("a", kind), models.value("b", kind)]
    path = models.save(context.folder / "divide.onnx", nodes, inputs, [models.value("c", kind)])
    with ours(context, path) as server:
        # Its zeros divide by zero, which is logged and not fatal.
        assert server.phase("warm_up")["outcome"] == "failed" and "zero" in server.phase("warm_up")["reason"]
        numbers = [{"name": name, "shape": [2], "datatype": "INT64", "data": [1, 0]} for name in "ab"]
        refused(*post(server, {"inputs": numbers}), 500, "division by zero")
        numbers[1]["data"] = [1, 1]
        assert post(server, {"inputs": numbers})[1]["outputs"][0]["data"] == [1, 0]


@check
def a_real_model_under_concurrency(context):
    package = pathlib.Path(importlib.util.find_spec("magika").origin).parent
    (path,) = sorted(package.glob("models/standard*/model.onnx"))[-1:]
    session = onnxruntime.InferenceSession(path)
    name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    random = np.random.default_rng(9)
    feeds = [random.integers(0, 257, (batch, session.get_inputs()[0].shape[1]), dtype=np.int32) for batch in (1, 2, 5, 8)]
    expected = [session.run(None, {name: feed})[0] for feed in feeds]
    with ours(context, path, options={"model_name": "magika", "max_concurrency": 3}) as server:

        def work(number):
            client = triton.InferenceServerClient(server.address)
            for i in range(8):
                which = (number + i) % len(feeds)
                result = client.infer("magika", [tensor(name, feeds[which], "INT32")])
                np.testing.assert_allclose(result.as_numpy(output), expected[which], rtol=1e-4, atol=1e-6)
            client.close()

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        _, _, body = request(server, None, path="/metrics", method="GET")
        families = {family.name: family for family in text_string_to_metric_families(body.decode())}
        counts = {tuple(s.labels.values()): s.value for s in families["imgserve_requests"].samples}
        assert counts[("infer", "200")] == 64, counts
        totals = {s.name: s.value for s in families["imgserve_run_duration_seconds"].samples if "bucket" not in s.name}
        assert totals["imgserve_run_duration_seconds_count"] == 64 and totals["imgserve_run_duration_seconds_sum"] > 0
        for gauge in ("imgserve_requests_in_flight", "imgserve_queue_length", "imgserve_model_load_seconds"):
            assert families[gauge].samples, gauge
        assert families["imgserve_requests_in_flight"].samples[0].value == 1, "only the one that asks"
        assert families["process_resident_memory_bytes"].samples[0].value > 10e6
        assert server.stop() == 0


def slow_request(server, steps, results):
    inputs = [tensor("n", np.array(steps), "INT64"), tensor("x", np.ones(1, np.float32), "FP32")]
    client = triton.InferenceServerClient(server.address, network_timeout=120)
    try:
        results.append(client.infer("slow", inputs).as_numpy("y"))
    except Exception as error:  # noqa: BLE001 - judged by the caller
        results.append(error)


def in_flight(server, steps):
    """Starts a slow request and waits until the server has it."""
    results = []
    thread = threading.Thread(target=slow_request, args=(server, steps, results))
    thread.start()
    for _ in range(500):
        _, _, body = request(server, None, path="/metrics", method="GET")
        if b"imgserve_requests_in_flight 2" in body:
            return thread, results
        time.sleep(0.01)
    fail(f"the slow request never arrived: {results}")


def steps_for(context, server, seconds):
    """How many steps take about so long on this machine, now."""
    results = []
    slow_request(server, 50, results)
    started = time.monotonic()
    slow_request(server, 200, results)
    assert all(isinstance(result, np.ndarray) for result in results), results
    return int(200 * seconds / (time.monotonic() - started)) + 1


@check
def sigterm_drains(context):
    path = models.slow(context.folder)
    for how in (signal.SIGTERM, signal.SIGINT):
        with ours(context, path, options={"threads": 1}) as server:
            thread, results = in_flight(server, steps_for(context, server, 1.5))
            server.process.send_signal(how)
            time.sleep(0.3)
            try:
                http.client.HTTPConnection(server.address, timeout=5).request("GET", "/v2/health/live")
                fail("it still accepts connections")
            except OSError:
                pass
            assert server.process.poll() is None, "it ended before its request did"
            assert server.process.wait(60) == 0
            thread.join(60)
            assert isinstance(results[0], np.ndarray) and results[0][0, 0] == 1, results
            messages = [line.get("message") for line in server.lines]
            assert f"stopping after {how.name}" in messages and "stopped" in messages, messages


@check
def a_drain_that_takes_too_long_is_cut_off(context):
    path = models.slow(context.folder)
    with ours(context, path, options={"threads": 1, "drain_timeout_ms": 300}) as server:
        thread, results = in_flight(server, steps_for(context, server, 30))
        started = time.monotonic()
        assert server.stop() == 7 and time.monotonic() - started < 10
        thread.join(60)
        assert isinstance(results[0], Exception)


@check
def runs_that_are_too_slow_are_stopped(context):
    path = models.slow(context.folder)
    options = {"threads": 1, "request_timeout_ms": 10_000, "max_queue": 0}
    with ours(context, path, options=options) as server:
        steps = steps_for(context, server, 60)
    with ours(context, path, options={**options, "request_timeout_ms": 500}) as server:
        thread, results = in_flight(server, steps)
        refused(*post(server, {"inputs": []}), 503, "max_queue")
        thread.join(60)
        assert isinstance(results[0], InferenceServerException) and results[0].status() == "503", results
        assert "request_timeout_ms" in results[0].message()
        # The run itself was stopped: its place is free long before it would have ended.
        for _ in range(100):
            again = []
            slow_request(server, 1, again)
            if isinstance(again[0], np.ndarray):
                break
            time.sleep(0.05)
        else:
            fail(f"the place was not given back: {again}")


@check
def the_first_process_of_a_container(context):
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-pf", "true"], capture_output=True).returncode:
        raise Skipped("no new PID namespace can be made here")
    prefix = (unshare, "--pid", "--fork", "--mount-proc", "--kill-child")
    with ours(context, models.fixed(context.folder), prefix=prefix) as server:
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True, text=True)
        (child,) = map(int, children.stdout.split())
        status = pathlib.Path(f"/proc/{child}/status").read_text()
        (pids,) = [line.split()[1:] for line in status.splitlines() if line.startswith("NSpid:")]
        assert pids[-1] == "1", pids
        assert server.phase("exec")["at_ms"] < 60_000
        os.kill(child, signal.SIGTERM)
        assert server.process.wait(20) == 0


@check
def threads_follow_the_affinity(context):
    taskset = shutil.which("taskset")
    if taskset is None:
        raise Skipped("taskset is not here")
    with ours(context, models.fixed(context.folder), prefix=(taskset, "-c", "0")) as server:
        assert server.phase("session")["threads"] == 1, server.phase("session")
    with ours(context, models.fixed(context.folder), options={"threads": 3}) as server:
        assert server.phase("session")["threads"] == 3


@check
def threads_follow_the_cgroup(context):
    """One CPU of two, by the first version of cgroups or the second, whichever controls the CPU here."""
    name = f"imgserve-judge-{os.getpid()}"
    first = pathlib.Path("/sys/fs/cgroup/cpu")
    folder = (first if first.is_dir() else pathlib.Path("/sys/fs/cgroup")) / name
    try:
        folder.mkdir()
    except OSError as error:
        raise Skipped(f"no cgroup can be made here: {error}") from None
    try:
        try:
            if first.is_dir():
                (folder / "cpu.cfs_period_us").write_text("100000")
                (folder / "cpu.cfs_quota_us").write_text("100000")
            else:
                (folder / "cpu.max").write_text("100000 100000")
            enter = ("sh", "-c", f'echo $$ > "{folder}/cgroup.procs" && exec "$@"', "sh")
            if subprocess.run([*enter, "true"], capture_output=True).returncode:
                raise Skipped("a cgroup cannot be entered here")
        except OSError as error:
            raise Skipped(f"a cgroup's CPU cannot be limited here: {error}") from None
        with ours(context, models.fixed(context.folder), prefix=enter) as server:
            assert server.phase("session")["threads"] == 1, server.phase("session")
            assert len(os.sched_getaffinity(server.process.pid)) > 1 or os.cpu_count() == 1
    finally:
        folder.rmdir()


@check
def phases_are_in_order(context):
    with ours(context, models.fixed(context.folder)) as server:
        phases = [line for line in server.lines if line.get("imgserve") == "phase"]
        assert [p["phase"] for p in phases] == ["exec", "config", "dlopen", "session", "warm_up", "ready"], phases
        assert all(p["took_ms"] >= 0 for p in phases)
        at = [p["at_ms"] for p in phases]
        assert at == sorted(at) and abs(sum(p["took_ms"] for p in phases) - at[-1]) < 1, phases
        elapsed = (time.monotonic() - server.started) * 1000
        assert at[-1] < elapsed + 20, f"ready at {at[-1]} ms, but it was started {elapsed} ms ago"
        assert phases[2]["runtime"] == "onnxruntime 1.32.0"
        assert server.address == phases[-1]["address"]


@check
def platforms_are_obeyed(context):
    variables = {"AIP_HEALTH_ROUTE": "/well", "AIP_PREDICT_ROUTE": "/guess", "IMGSERVE_SERVICE_HOST": "10.0.0.1"}
    with ours(context, models.fixed(context.folder), env=variables) as server:
        for path in ("/well", "/ping", "/v2/health/ready"):
            assert request(server, None, path=path, method="GET")[0] == 200, path
        header = json.dumps({
            "inputs": [
                {"name": name, "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}} for name in "ab"
            ],
            "parameters": {"binary_data_output": True},
        }).encode()
        body = header + struct.pack("<4f", 1, 2, 10, 20)
        media = "application/vnd.sagemaker-triton.binary+json;json-header-size="
        for path in ("/guess", "/invocations"):
            status, headers, answer = request(server, body, {"Content-Type": media + str(len(header))}, path)
            assert status == 200 and headers["Content-Type"].startswith(media), (status, headers)
            length = int(headers["Content-Type"][len(media) :])
            assert struct.unpack("<6f", answer[length:]) == (11, 22, -9, -18, 1, 2)


@check
def warm_up_on_given_data(context):
    folder = pathlib.Path(onnx.__file__).parent / "backend/test/data/simple/test_expand_shape_model1"
    with ours(context, folder / "model.onnx", options={"warm_up": str(folder / "test_data_set_0")}) as server:
        assert server.phase("warm_up")["outcome"] == "ran", server.phase("warm_up")
    with ours(context, folder / "model.onnx") as server:
        assert server.phase("warm_up")["outcome"] == "failed"
    with ours(context, folder / "model.onnx", options={"warm_up": "off"}) as server:
        assert server.phase("warm_up")["outcome"] == "skipped"
    path = models.fixed(context.folder)
    given = {"warm_up": str(folder / "test_data_set_0")}
    start_fails(context, path, 6, {"stage": "warm_up"}, "input_0.pb", "for input `a`", options=given)
    start_fails(context, path, 6, {"stage": "warm_up"}, "input_0.pb", options={"warm_up": "/nowhere"})


@check
def what_the_protocol_cannot_carry(context):
    with ours(context, models.sequence_output(context.folder)) as server:
        assert any("`list` is a sequence" in line.get("message", "") for line in server.lines)
        metadata = json.loads(request(server, None, path="/v2/models/sequence", method="GET")[2])
        assert [output["name"] for output in metadata["outputs"]] == ["y"]
        document = {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [1]}]}
        assert post(server, document)[1]["outputs"][0]["name"] == "y"
        refused(*post(server, document | {"outputs": [{"name": "list"}]}), 501, "a sequence")
    start_fails(context, models.sequence_input(context.folder), 4, {"input": "list"}, "`list`", "a sequence")
    start_fails(context, models.float8(context.folder), 4, {"input": "x"}, "`x`", "float8e4m3fn")


def start_fails(context, model, status, fields, *texts, library=None, **keywords):
    """The server must not start, and must say why; `--check` must say the same."""
    for arguments in (("serve",), ("--check",)):
        try:
            with Server(context.server, library or context.library, model, arguments=arguments, **keywords) as server:
                fail(f"it started: {server.lines}")
        except StartError as error:
            assert error.status == status == error.error.get("exit"), error
            for key, value in fields.items():
                assert error.error.get(key) == value, f"`{key}` is not `{value}`: {error}"
            for text in texts:
                assert text in error.error["message"], f"`{text}` is not in: {error}"
            # Nothing but its own lines, and one error.
            assert sum(line.get("imgserve") == "error" for line in error.lines) == 1, error.lines
            assert all("imgserve" in line or line == {"end": True} for line in error.lines), error.lines


@check
def a_start_that_fails_says_what_is_missing(context):
    folder = context.folder
    good = models.fixed(folder)
    (folder / "junk.onnx").write_bytes(b"hello" * 20)
    (folder / "empty.onnx").write_bytes(b"")
    start_fails(context, models.unknown_operator(folder), 4, {"operator": "Mystery"}, "Mystery")
    start_fails(context, models.unknown_operator(folder, "com.acme"), 4, {"operator": "com.acme:Mystery"})
    start_fails(context, models.future_opset(folder), 4, {"stage": "session"}, "Opset 99")
    start_fails(context, folder / "junk.onnx", 4, {"model": str(folder / "junk.onnx")}, "Protobuf parsing failed")
    start_fails(context, folder / "empty.onnx", 4, {}, "empty.onnx")
    start_fails(context, folder / "none.onnx", 4, {"missing_file": str(folder / "none.onnx")}, "No such file")
    start_fails(context, folder, 4, {"stage": "session"}, "directory")
    model, data = models.external(folder)
    with ours(context, model) as server:
        assert server.phase("warm_up")["outcome"] == "ran"
    data.rename(folder / "moved.bin")
    start_fails(context, model, 4, {"missing_file": str(data)}, "external.bin")

    start_fails(context, good, 3, {"library": "libnope.so", "missing_library": "libnope.so"}, library="libnope.so")
    start_fails(context, good, 3, {"missing_symbol": "OrtGetApiBase"}, library="libm.so.6")
    (folder / "cut.so").write_bytes(context.library.read_bytes()[:100])
    start_fails(context, good, 3, {"library": str(folder / "cut.so")}, "cannot read", library=folder / "cut.so")
    missing = {"custom_op_libraries": ["/nowhere/libops.so"]}
    start_fails(context, good, 3, {"missing_library": "/nowhere/libops.so"}, options=missing)

    start_fails(context, good, 2, {"stage": "config"}, "variable `IMGSERVE_THREADS`", options={"threads": "x"})
    (folder / "config.json").write_text('{"modle_path": "x"}')
    config = {"config": str(folder / "config.json")}
    start_fails(context, None, 2, {"hint": "did you mean `model_path`?"}, "unknown key `modle_path`", options=config)
    start_fails(context, None, 2, {"stage": "config"}, "neither `model_name` nor")
    bad_entry = {"session_config": {"": "1"}}
    start_fails(context, good, 2, {"option": "`session_config` entry ``"}, options=bad_entry)


@check
def a_port_that_is_taken(context):
    with ours(context, models.fixed(context.folder)) as server:
        port = server.address.split(":")[1]
        try:
            with ours(context, models.fixed(context.folder), env={"IMGSERVE_PORT": port}):
                fail("it started")
        except StartError as error:
            assert error.status == 5 and error.error["stage"] == "listen" and port in error.error["message"], error


@check
def a_library_is_found_by_its_name(context):
    search = {"LD_LIBRARY_PATH": str(context.library.parent)}
    with Server(context.server, None, models.fixed(context.folder), env=search) as server:
        assert server.phase("dlopen")["library"] == str(context.library), server.phase("dlopen")
        assert server.stop() == 0


@check
def an_empty_root_is_enough(context):
    """Nothing but the libraries that are needed, no /proc and no /tmp, another user, no environment."""
    chroot = shutil.which("chroot", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if chroot is None or os.geteuid() != 0:
        raise Skipped("the root cannot be changed here")
    root = context.folder / "root"
    libraries = root / "lib/x86_64-linux-gnu"
    for folder in (libraries, root / "lib64", root / "usr/bin", root / "models/m", root / "etc/imgserve"):
        folder.mkdir(parents=True)
    needed = subprocess.run(["ldd", context.server, context.library], capture_output=True, text=True, check=True).stdout
    for word in needed.split():
        if word.startswith("/lib") and not word.endswith(":"):
            target = root / "lib64" if "ld-linux" in word else libraries
            shutil.copy(word, target)
    shutil.copy(context.library, libraries)
    shutil.copy(context.server, root / "usr/bin/imgserve")
    shutil.copy(models.fixed(context.folder), root / "models/m/model.onnx")
    (root / "etc/imgserve/config.json").write_text('{"model_name": "m", "address": "127.0.0.1", "port": 0}')
    for path in (root, context.folder):
        path.chmod(0o755)
    prefix = ("env", "-i", chroot, "--userspec=65532:65532", root)
    with Server("/usr/bin/imgserve", None, prefix=prefix) as server:
        assert server.phase("dlopen")["library"] == "/lib/x86_64-linux-gnu/libonnxruntime.so.1", server.lines
        numbers = [{"name": name, "shape": [1, 2], "datatype": "FP32", "data": [1, 2]} for name in "ab"]
        status, answer = post(server, {"inputs": numbers})
        assert status == 200 and answer["outputs"][0]["data"] == [2, 4], answer
        assert request(server, None, path="/metrics", method="GET")[0] == 200
        assert server.stop() == 0
    (libraries / "libstdc++.so.6").unlink()
    try:
        with Server("/usr/bin/imgserve", None, prefix=prefix):
            fail("it started without a library")
    except StartError as error:
        assert error.status == 3 and error.error["missing_library"] == "libstdc++.so.6", error


@check
def a_stop_while_loading(context):
    for _ in range(5):
        with ours(context, models.fixed(context.folder), wait=False) as server:
            server.wait_phase("config")
            assert server.stop(seconds=20) == 0


@check
def the_command_line(context):
    def run(*arguments, **env):
        return subprocess.run([context.server, *arguments], capture_output=True, text=True, env=env, timeout=60)

    assert "max_body_bytes" in run("--help").stdout and run("--version").stdout.startswith("imgserve ")
    printed = run("--print-config", IMGSERVE_MODEL_NAME="m", IMGSERVE_SESSION_CONFIG='{"a": "b"}')
    config = json.loads(printed.stdout)
    assert config["model_path"] == "/models/m/model.onnx" and config["session_config"] == {"a": "b"}, config
    (context.folder / "printed.json").write_text(printed.stdout)
    assert json.loads(run("--config", context.folder / "printed.json", "--print-config").stdout) == config
    wrong = run("--nope")
    assert wrong.returncode == 2 and json.loads(wrong.stderr)["stage"] == "arguments"
    good = {"IMGSERVE_MODEL_PATH": str(models.fixed(context.folder)), "IMGSERVE_LIBRARY": str(context.library)}
    checked = run("--check", **good)
    assert checked.returncode == 0 and json.loads(checked.stderr.splitlines()[-1])["phase"] == "ready", checked


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--server", required=True, type=pathlib.Path)
    parser.add_argument("--library", required=True, type=pathlib.Path)
    parser.add_argument("--only", default="", help="part of the checks' names")
    context = parser.parse_args()
    context.library = context.library.resolve()
    onnxruntime.set_default_logger_severity(4)
    counts = {"ok": 0, "skipped": 0, "failed": 0}
    for function in CHECKS:
        if context.only not in function.__name__:
            continue
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            context.folder = pathlib.Path(folder)
            try:
                function(context)
                verdict = "ok"
            except Skipped as reason:
                verdict = f"skipped: {reason}"
            except Exception:  # noqa: BLE001 - whatever went wrong, it is this check's failure
                verdict = f"failed\n{traceback.format_exc()}"
        counts[verdict.split(":")[0].split("\n")[0]] += 1
        print(f"{function.__name__.replace('_', ' ')} ({time.monotonic() - started:.1f} s): {verdict}", flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    sys.exit(1 if counts["failed"] or not counts["ok"] else 0)


if __name__ == "__main__":
    main()
