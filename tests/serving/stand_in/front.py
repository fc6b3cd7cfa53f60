"""Answers gRPC requests as TensorFlow Serving does, on this machine alone: a stand-in for it.

    python front.py models digits        # prints the address, and stops after ten minutes

It is not `tensorflow_model_server`. It is a small Python process that reads the same requests (the
messages of tensorflow-serving-api) and runs them through the same TensorFlow C++ SavedModel loader,
for tests where no Docker runs. Neither Keras nor keras_he is in the process, and of TensorFlow's
Python only generated message classes (protocol.py): the import of all three is blocked before a
model is loaded. It serves the highest version, or those of `--version`, and answers `Predict`,
`GetModelMetadata` and `GetModelStatus`. It has no batching, no REST, no labels of versions, and
does not look for new versions. It listens on 127.0.0.1 and stops by itself.
"""

import argparse
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

# Both before the TensorFlow library is loaded: no notes on how it loads, and roundings as exported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import grpc
import protocol
from protocol import error_codes_pb2 as codes
from protocol import get_model_metadata_pb2, get_model_status_pb2
from servable import Refusal, Servable, versions
from serve_without_keras import TensorFlowError, block_imports

prediction_service, model_service = protocol.services()

GRACE = 5  # seconds in which requests that have begun are answered
OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # any size, as TensorFlow Serving; else it is 4 MB
    ("grpc.so_reuseport", 0),  # a port that is taken is refused
)


class Life:
    """How long the front lives: so many seconds, so many without a request, so many requests."""

    def __init__(self, seconds: float, idle: float | None, requests: int | None) -> None:
        self._end = time.monotonic() + seconds
        self._idle, self._left = idle, requests
        self._last = time.monotonic()
        self._changed = threading.Condition()

    def request(self) -> None:
        """Notes a request."""
        with self._changed:
            self._last = time.monotonic()
            self._left = None if self._left is None else self._left - 1
            self._changed.notify()

    def wait(self) -> str:
        """Returns why it ends, when it does."""
        with self._changed:
            while True:
                idle_end = self._end if self._idle is None else self._last + self._idle
                left = min(self._end, idle_end) - time.monotonic()
                if self._left is not None and self._left <= 0:
                    return "that was the last request"
                if left <= 0:
                    return "its time is over" if self._end <= idle_end else "no requests came"
                self._changed.wait(left)


def answers(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any, grpc.ServicerContext], Any]:
    """Makes a gRPC method of a function: counts the request, and tells a refusal as its status."""
    statuses = {status.value[0]: status for status in grpc.StatusCode}

    @functools.wraps(method)
    def answer(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return method(self, request)
        except Refusal as refusal:
            context.abort(statuses[refusal.code], str(refusal))
        finally:
            self.life.request()

    return answer


class Front(prediction_service.PredictionServiceServicer, model_service.ModelServiceServicer):
    """The methods that are answered; gRPC says UNIMPLEMENTED to all others of the two services."""

    def __init__(self, name: str, servables: dict[int, Servable], life: Life) -> None:
        self.name, self.servables, self.life = name, servables, life

    @answers
    def Predict(self, request: Any) -> Any:  # noqa: N802 - the name in the protocol
        """Runs a signature of a version on the inputs."""
        version = self._version(request)
        response = self.servables[version].predict(request)
        response.model_spec.name = self.name
        response.model_spec.version.value = version
        return response

    @answers
    def Classify(self, request: Any) -> Any:  # noqa: N802
        """Refuses, as the server does where a signature is for `Predict`."""
        raise self._other_method(request, "classification", "classify")

    @answers
    def Regress(self, request: Any) -> Any:  # noqa: N802
        """Refuses, as the server does where a signature is for `Predict`."""
        raise self._other_method(request, "regression", "regress")

    def _other_method(self, request: Any, kind: str, method: str) -> Refusal:
        self._version(request)
        wanted, held = f"tensorflow/serving/{method}", "tensorflow/serving/predict"
        message = f"Expected {kind} signature method_name to be {wanted}. Was: {held}"
        return Refusal(codes.INVALID_ARGUMENT, message)

    @answers
    def GetModelMetadata(self, request: Any) -> Any:  # noqa: N802
        """Returns the signatures of a version."""
        version = self._version(request)
        if list(request.metadata_field) != ["signature_def"]:
            fields = ", ".join(request.metadata_field)
            message = f"`metadata_field` must be signature_def. Received: metadata_field={fields}"
            raise Refusal(codes.INVALID_ARGUMENT, message)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        for name, signature in self.servables[version].signature_defs.items():
            signatures.signature_def[name].CopyFrom(signature)
        response = get_model_metadata_pb2.GetModelMetadataResponse()
        response.model_spec.name = self.name
        response.model_spec.version.value = version
        response.metadata["signature_def"].Pack(signatures)
        return response

    @answers
    def GetModelStatus(self, request: Any) -> Any:  # noqa: N802
        """Returns which versions are served: all that were loaded, or the one that is asked for."""
        self._version(request)
        spec = request.model_spec
        asked = [spec.version.value] if spec.HasField("version") else self.servables
        response = get_model_status_pb2.GetModelStatusResponse()
        for version in asked:
            available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
            response.model_version_status.add(version=version, state=available)
        return response

    def _version(self, request: Any) -> int:
        """Returns which version a request is for: the one it names, or the highest."""
        spec = request.model_spec
        if not spec.name:
            message = f"`model_spec.name` must be {self.name}. Received: no name"
            raise Refusal(codes.INVALID_ARGUMENT, message)
        if spec.version_label:
            message = f"Unrecognized servable version label: {spec.version_label}. Give a number."
            raise Refusal(codes.INVALID_ARGUMENT, message)
        version = spec.version.value if spec.HasField("version") else max(self.servables)
        if spec.name != self.name or version not in self.servables:
            asked = f"Specific({spec.name}, {version})" if spec.HasField("version") else spec.name
            served = ", ".join(f"{self.name} version {version}" for version in self.servables)
            message = f"Servable not found for request: {asked}. Served here: {served}"
            raise Refusal(codes.NOT_FOUND, message)
        return version


def loaded(folder: Path, wanted: list[int], stack: ExitStack) -> dict[int, Servable]:
    """Returns the wanted versions of a model, or the highest; exits if one cannot be served."""
    found = versions(folder)
    if not found:
        sys.exit(f"{folder} must hold a version: a folder whose name is an integer.")
    wanted = sorted({*wanted}) or [max(found)]
    if missing := [version for version in wanted if version not in found]:
        sys.exit(f"--version must be of {', '.join(map(str, found))}. Received: {missing[0]}")
    servables = {}
    for version in wanted:
        try:
            servables[version] = stack.enter_context(Servable(found[version]))
        except (ValueError, TensorFlowError, OSError) as error:
            sys.exit(f"Version {version} cannot be served: {error}")
    return servables


def serve(front: Front, port: int) -> str:
    """Answers requests until the front's life ends; returns why it did."""
    server = grpc.server(ThreadPoolExecutor(max_workers=8), options=OPTIONS)
    prediction_service.add_PredictionServiceServicer_to_server(front, server)
    model_service.add_ModelServiceServicer_to_server(front, server)
    try:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    except RuntimeError:
        sys.exit(f"--port must be free. Received: --port {port}")
    server.start()
    for version, servable in front.servables.items():
        print(f"{front.name} version {version}: {servable.warm_ups} warm-up requests were run.")
    print(f"Listening on 127.0.0.1:{port}", flush=True)
    try:
        return front.life.wait()
    except KeyboardInterrupt:
        return "interrupted"
    finally:
        server.stop(GRACE).wait()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("base", type=Path, help="folder of all models")
    parser.add_argument("name", help="of the model")
    parser.add_argument("--version", type=int, action="append", default=[], help="may be repeated")
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument("--seconds", type=float, default=600, help="to live (default: 600)")
    parser.add_argument("--idle", type=float, help="seconds without a request after which it stops")
    parser.add_argument("--requests", type=int, help="after so many it stops")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    block_imports()
    print("Imports of keras, keras_he and TensorFlow's Python are blocked in this process.")
    with ExitStack() as stack:
        servables = loaded(given.base / given.name, given.version, stack)
        life = Life(given.seconds, given.idle, given.requests)
        why = serve(Front(given.name, servables, life), given.port)
    print(f"Stopped: {why}.")


if __name__ == "__main__":
    main()
