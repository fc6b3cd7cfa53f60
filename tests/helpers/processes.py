"""Several processes at once, which talk to each other over the loopback."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def free_ports(count):
    """Returns ports of the loopback that nobody listens on, all of them different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def run_together(folder, code, environments, timeout=600):
    """Returns what each process prints that runs the code, one for each environment.

    Where one of them fails, or they do not end in time, all are stopped and the test fails.
    """
    script = Path(folder, "together.py")
    script.write_text(code, encoding="utf-8")
    outputs = [Path(folder, f"{rank}.out") for rank in range(len(environments))]
    errors = [path.with_suffix(".err") for path in outputs]
    with contextlib.ExitStack() as stack:
        processes = [
            subprocess.Popen(
                [sys.executable, script],
                cwd=folder,
                env={**os.environ, **environment},
                stdout=stack.enter_context(out.open("w")),
                stderr=stack.enter_context(error.open("w")),
            )
            for environment, out, error in zip(environments, outputs, errors, strict=True)
        ]
        try:
            for process, error in zip(processes, errors, strict=True):
                if process.wait(timeout):
                    pytest.fail(f"exit code {process.returncode}: {error.read_text()[-4000:]}")
        except subprocess.TimeoutExpired:
            pytest.fail(f"not done in {timeout} s: {[path.read_text()[-1500:] for path in errors]}")
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                    process.wait()
    return [path.read_text(encoding="utf-8") for path in outputs]
