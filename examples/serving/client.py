"""Sends a batch to TensorFlow Serving and compares the answers with Keras' own.

    python client.py 127.0.0.1:8500 digits digits.npz

The file is what `export_model.py --check` wrote: a batch, and the predictions of `model.predict`.
The exit code is 1 where an answer differs by more than rounding. The script needs grpcio and the
messages of tensorflow-serving-api.
"""

import argparse
import os
import sys
from pathlib import Path

# Both before the import of TensorFlow; oneDNN's notice obeys no log level.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import grpc
import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

# Sums of hundreds of float32 products in another order move by 1e-6 of their size a layer, and 1e-4
# is a hundred such layers. A server on another processor adds in another order.
TOLERANCE = 1e-4
OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # any size; else it is 4 MB
    ("grpc.enable_http_proxy", 0),
)


def request_of(
    name: str, signature: str, inputs: dict[str, np.ndarray], version: int | None = None
) -> predict_pb2.PredictRequest:
    """Returns a request for a signature of a model: of a version, or of the highest one."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for key, array in inputs.items():
        request.inputs[key].CopyFrom(tf.make_tensor_proto(array))
    return request


def compare(what: str, served: np.ndarray, expected: np.ndarray) -> bool:
    if served.dtype == expected.dtype and np.array_equal(served, expected):
        print(f"{what}: {len(served)} answers, equal to Keras' bit for bit.")
        return True
    if served.dtype != expected.dtype or served.shape != expected.shape:
        received = f"{served.dtype} of {served.shape}, not {expected.dtype} of {expected.shape}"
        print(f"{what}: ANOTHER TENSOR: {received}.")
        return False
    error = np.abs(served.astype("float64") - expected)
    # False for NaN. Labels are whole numbers, so one that differs is off by more.
    same = bool((error <= TOLERANCE * (1 + np.abs(expected) * (expected.dtype.kind == "f"))).all())
    verdict = "equal up to rounding" if same else "OTHER ANSWERS"
    print(f"{what}: {verdict}: largest difference {error.max():.1e}.")
    return same


def ask(channel: grpc.Channel, given: argparse.Namespace) -> bool:
    """Sends a request for each signature in the file; returns whether all answers agree."""
    try:
        grpc.channel_ready_future(channel).result(given.timeout)
    except grpc.FutureTimeoutError:
        sys.exit(f"No server answers at {given.address}.")
    status = get_model_status_pb2.GetModelStatusRequest()
    status.model_spec.name = given.name
    service = model_service_pb2_grpc.ModelServiceStub(channel)
    answer = service.GetModelStatus(status, given.timeout)
    for one in answer.model_version_status:
        state = get_model_status_pb2.ModelVersionStatus.State.Name(one.state)
        print(f"{given.name} version {one.version}: {state}.")
    expected: dict[str, dict[str, np.ndarray]] = {}
    for key, array in np.load(given.check).items():
        signature, _, tensor = key.partition("/")
        expected.setdefault(signature, {})[tensor] = array
    inputs, same = expected.pop("inputs"), True
    predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    for signature, outputs in expected.items():
        request = request_of(given.name, signature, inputs, given.version)
        response = predictions.Predict(request, given.timeout)
        for name, array in outputs.items():
            served = tf.make_ndarray(response.outputs[name])
            same &= compare(f"{signature}, {name}", served, array)
    return same


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("address", help="of the gRPC port, HOST:PORT")
    parser.add_argument("name", help="of the model")
    parser.add_argument("check", type=Path, help="the file of export_model.py --check")
    parser.add_argument("--version", type=int, help="default: the highest that is served")
    parser.add_argument("--timeout", type=float, default=10, help="seconds to wait (default: 10)")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    try:
        with grpc.insecure_channel(given.address, options=OPTIONS) as channel:
            sys.exit(0 if ask(channel, given) else 1)
    except grpc.RpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")


if __name__ == "__main__":
    main()
