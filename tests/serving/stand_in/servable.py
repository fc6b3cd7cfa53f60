"""One version of a model, loaded, with its warm-up run: `PredictRequest` in, `PredictResponse` out.

The loader is that of examples/serve_without_keras.py: the TensorFlow C++ SavedModel loader that
TensorFlow Serving uses. What is refused, and with which status, follows TensorFlow Serving's
source; besides, the messages say what is accepted.
"""

import threading
from contextlib import AbstractContextManager
from pathlib import Path

import protocol
from protocol import error_codes_pb2 as codes
from protocol import predict_pb2
from serve_without_keras import SavedModel, TensorFlowError

WARM_UP = Path("assets.extra", "tf_serving_warmup_requests")  # where TensorFlow Serving looks
MOST_WARM_UPS = 1000  # TensorFlow Serving takes no more
DEFAULT = "serving_default"


class Refusal(Exception):
    """A request that gets no answer; `code` is a number of error_codes.proto, as gRPC has them."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


def versions(folder: Path) -> dict[int, Path]:
    """Returns the versions in a model's folder, lowest first; other names are not looked at."""
    found = [path for path in folder.glob("*") if path.name.isascii() and path.name.isdecimal()]
    return {int(path.name): path for path in sorted(found, key=lambda path: int(path.name))}


class Servable(AbstractContextManager["Servable"]):
    """A loaded version, until its `with` block ends. Requests run one by one, each on all cores."""

    def __init__(self, path: Path) -> None:
        """Loads an export and runs its warm-up.

        Args:
            path: The folder of one version.

        Raises:
            ValueError: If a warm-up request is damaged or refused; TensorFlow Serving does not
                serve such a version either.
            FileNotFoundError: If there is no export in it.
            TensorFlowError: If TensorFlow cannot load it.
        """
        self._lock = threading.Lock()
        self._model = SavedModel(path)
        saved = protocol.saved_model_pb2.SavedModel.FromString(
            (path / "saved_model.pb").read_bytes()
        )
        self.signature_defs = dict(saved.meta_graphs[0].signature_def)
        try:
            self.warm_ups = self._warm_up(path / WARM_UP)
        except BaseException:
            self._model.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._model.__exit__()

    def predict(self, request: predict_pb2.PredictRequest) -> predict_pb2.PredictResponse:
        """Returns the answer to a request, whose model and version the caller has looked at.

        Raises:
            Refusal: If the signature does not exist or does not take the request, or TensorFlow
                fails.
        """
        name = request.model_spec.signature_name or DEFAULT
        if name not in self._model.signatures:
            known = ", ".join(self._model.signatures)
            message = f'Serving signature key "{name}" not found. The signatures are: {known}'
            raise Refusal(codes.FAILED_PRECONDITION, message)
        signature = self._model.signatures[name]
        wanted = _wanted(request, [*signature.outputs])
        if request.inputs.keys() != signature.inputs.keys():
            takes, given = ", ".join(signature.inputs), ", ".join(sorted(request.inputs))
            message = f"`inputs` must be {takes}. Received: inputs={given}"
            raise Refusal(codes.INVALID_ARGUMENT, message)
        outputs = self._run(name, request)
        response = predict_pb2.PredictResponse()
        response.model_spec.signature_name = name
        for output in wanted:
            tensor = protocol.tensor_of(outputs[output], single_values=True)
            response.outputs[output].CopyFrom(tensor)
        return response

    def _run(self, name: str, request: predict_pb2.PredictRequest) -> dict:
        arrays = {}
        for key, tensor in request.inputs.items():
            try:
                arrays[key] = protocol.array_of(tensor)
            except ValueError as error:
                raise Refusal(codes.INVALID_ARGUMENT, f"`{key}` {error}") from None
        try:
            with self._lock:
                return self._model.run(name, **arrays)
        except ValueError as error:
            raise Refusal(codes.INVALID_ARGUMENT, str(error)) from None
        except TensorFlowError as error:
            raise Refusal(error.code, str(error)) from None

    def _warm_up(self, path: Path) -> int:
        """Runs the warm-up requests and returns how many there were."""
        logs = [*protocol.records(path)] if path.exists() else []
        if len(logs) > MOST_WARM_UPS:
            raise ValueError(f"{path.name} must hold {MOST_WARM_UPS} requests at most")
        for number, log in enumerate(logs, start=1):
            request = protocol.prediction_log_pb2.PredictionLog.FromString(log).predict_log.request
            try:
                self.predict(request)
            except Refusal as error:
                raise ValueError(f"warm-up request {number}: {error}") from None
        return len(logs)


def _wanted(request: predict_pb2.PredictRequest, outputs: list[str]) -> list[str]:
    """Returns the outputs that a request asks for: those of its filter, or all."""
    wanted = list(request.output_filter)
    if unknown := [name for name in wanted if name not in outputs]:
        message = f"`output_filter` must be of {', '.join(outputs)}. Received: {', '.join(unknown)}"
        raise Refusal(codes.INVALID_ARGUMENT, message)
    if len({*wanted}) < len(wanted):
        message = f"`output_filter` must name an output once. Received: {', '.join(wanted)}"
        raise Refusal(codes.INVALID_ARGUMENT, message)
    return wanted or outputs
