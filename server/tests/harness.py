"""Starts the server as an image would, and reads what it says.

Shared by the tests beside it; nothing here knows the server's code.
"""

import json
import os
import pathlib
import signal
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


class StartError(Exception):
    """The server ended before it was ready."""

    def __init__(self, status, error, lines):
        super().__init__(f"exit status {status}: {json.dumps(error)}")
        self.status = status
        self.error = error or {}
        self.lines = lines


class Server:
    """A running server; a context manager that ends it."""

    def __init__(self, binary, library, model=None, options=None, prefix=(), arguments=("serve",), wait=True, env=None):
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("IMGSERVE_", "AIP_", "SAGEMAKER_"))}
        environment["IMGSERVE_PORT"] = "0"
        environment["IMGSERVE_ADDRESS"] = "127.0.0.1"
        if library is not None:
            environment["IMGSERVE_LIBRARY"] = str(library)
        if model is not None:
            environment["IMGSERVE_MODEL_PATH"] = str(model)
        for key, value in (options or {}).items():
            environment["IMGSERVE_" + key.upper()] = value if isinstance(value, str) else json.dumps(value)
        environment.update(env or {})
        self.lines = []
        self.raw = []
        self.changed = threading.Condition()
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*prefix, str(binary), *arguments], env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if wait:
            self.wait_ready()

    def _read(self):
        for raw in self.process.stderr:
            with self.changed:
                self.raw.append(raw)
                try:
                    self.lines.append(json.loads(raw))
                except ValueError:
                    self.lines.append({"unreadable": raw.decode(errors="replace")})
                self.changed.notify_all()
        with self.changed:
            self.lines.append({"end": True})
            self.changed.notify_all()

    def phase(self, name):
        return next((line for line in self.lines if line.get("phase") == name), None)

    def wait_phase(self, name, seconds=120):
        """Waits for a phase's line; raises StartError when the process ends before it."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while self.phase(name) is None:
                if {"end": True} in self.lines:
                    status = self.process.wait()
                    error = next((line for line in self.lines if line.get("imgserve") == "error"), None)
                    raise StartError(status, error, self.lines)
                if not self.changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"no phase `{name}` in {seconds} s: {self.lines}")
        return self.phase(name)

    def wait_ready(self):
        self.address = self.wait_phase("ready")["address"]
        return self

    def stop(self, how=signal.SIGTERM, seconds=60):
        if self.process.poll() is None:
            self.process.send_signal(how)
        status = self.process.wait(seconds)
        self.reader.join(10)
        return status

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join(10)
        self.process.stderr.close()
