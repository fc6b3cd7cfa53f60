"""Real gRPC requests, good ones and wrong ones, to exports that examples/serving wrote.

`stand_in/front.py` answers them over the C++ loader that TensorFlow Serving uses. The server
itself is tested where Docker answers.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import urllib.request
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import serving_example
from serving_example import (
    OUTPUTS,
    PATIENCE,
    STAND_IN,
    code,
    finished,
    process_of,
    small_model,
    table,
    zeros,
)

pytestmark = [*serving_example.MARKS, pytest.mark.slow]


def good_request(scripts):
    return scripts.client.request_of("digits", "serving_default", zeros(2, 8, 8, 1), 1)


MODULES = """
import runpy, sys
sys.path.insert(0, {folder!r})
sys.argv = ["front.py", *{arguments!r}]
runpy.run_path({folder!r} + "/front.py", run_name="__main__")
maps = open("/proc/self/maps").read()
print("C++ loader:", "libtensorflow_cc.so" in maps, "TensorFlow's Python:", "_pywrap_" in maps)
packages = {{"keras", "keras_he", "tensorflow"}}
print(*sorted(n for n, m in sys.modules.items() if m and n.split(".")[0] in packages))
"""


@contextmanager
def running(*arguments):
    """Starts a front and yields its process and address; it has stopped at the end."""
    process = process_of("front.py", *arguments)
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if line.startswith("Listening on "):
                break
        else:
            pytest.fail(f"the front said {said} and {process.stderr.read()}")
        yield process, line.split()[-1]
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="module")
def front(exported, scripts):
    """Returns the address of a front that serves two versions of digits."""
    batch = {"image": exported.arrays["inputs/image"]}
    scripts.export_model.export(small_model(), exported.base / "digits", batch)
    arguments = (exported.base, "digits", "--version", 1, "--version", 2, "--seconds", 3600)
    with running(*arguments) as (_, address):
        yield address


@pytest.fixture(scope="module")
def channel(front, scripts):
    import grpc

    with grpc.insecure_channel(front, options=scripts.client.OPTIONS) as channel:
        yield channel


@pytest.fixture(scope="module")
def predict(channel, scripts):
    stub = scripts.client.prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return lambda request: stub.Predict(request, timeout=PATIENCE)


def test_several_clients_at_once_get_keras_answers_bit_for_bit(front, exported):
    arguments = (front, "digits", exported.check, "--version", 1, "--timeout", PATIENCE)
    clients = [process_of("client.py", *arguments) for _ in range(4)]
    for status, out, err in map(finished, clients):
        assert (status, err) == (0, "")
        said = sorted(out.splitlines())
        assert said == sorted([*serving_example.shown("client.py"), "digits version 2: AVAILABLE."])
        assert sum("equal to Keras' bit for bit" in line for line in said) == 3


def test_a_client_says_where_answers_differ(front, exported):
    status, out, err = finished(
        process_of("client.py", front, "digits", exported.check, "--timeout", PATIENCE)
    )
    assert (status, err) == (1, "")  # it was answered by version 2, which is another model
    assert "serving_default, probabilities: OTHER ANSWERS: largest difference" in out
    assert (
        "features, features: ANOTHER TENSOR: float32 of (450, 64), not float32 of (450, 512)" in out
    )


def test_a_client_says_what_was_refused_in_one_line(front, exported):
    status, out, err = finished(
        process_of("client.py", front, "letters", exported.check, "--timeout", PATIENCE)
    )
    assert (status, out) == (1, "")
    assert err.startswith("NOT_FOUND: Servable not found for request: letters")
    assert err.count("\n") == 1


def test_a_client_says_that_no_server_answers(exported):
    arguments = ("127.0.0.1:1", "digits", exported.check, "--timeout", 0.1)
    ended = finished(process_of("client.py", *arguments))
    assert ended == (1, "", "No server answers at 127.0.0.1:1.\n")


@pytest.mark.parametrize(("asked", "answered"), [(None, 2), (1, 1), (2, 2)], ids=str)
def test_a_request_chooses_its_version_or_gets_the_highest(
    asked, answered, predict, exported, scripts
):
    inputs = {"image": exported.arrays["inputs/image"]}
    response = predict(scripts.client.request_of("digits", "", inputs, asked))
    spec = response.model_spec
    assert (spec.name, spec.signature_name) == ("digits", "serving_default")
    assert spec.version.value == answered
    served = scripts.protocol.array_of(response.outputs["probabilities"])
    same = np.array_equal(served, exported.arrays["serving_default/probabilities"])
    assert same == (answered == 1)


def test_a_filter_chooses_outputs(predict, exported, scripts):
    request = good_request(scripts)
    request.output_filter.append("label")
    assert predict(request).outputs.keys() == {"label"}


def test_a_request_of_many_megabytes_is_answered(predict, scripts):
    request = scripts.client.request_of("digits", "features", zeros(20_000, 8, 8, 1), 1)
    response = predict(request)
    assert scripts.protocol.array_of(response.outputs["features"]).shape == (20_000, 512)


def test_values_beyond_the_shape_are_dropped_as_the_server_does(predict, scripts):
    request = good_request(scripts)
    expected = predict(request)
    tensor = request.inputs["image"]
    tensor.float_val.extend([*np.frombuffer(tensor.tensor_content, "float32").tolist(), 7.0])
    tensor.tensor_content = b""
    assert predict(request).outputs == expected.outputs


def test_metadata_are_the_signatures(channel, scripts):
    messages = scripts.protocol.get_model_metadata_pb2
    request = messages.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "digits"
    stub = scripts.client.prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.GetModelMetadata(request, timeout=PATIENCE)
    signatures = messages.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    found = {name: {*one.outputs} for name, one in signatures.signature_def.items() if one.outputs}
    assert {name: found[name] for name in OUTPUTS} == OUTPUTS
    shape = signatures.signature_def["features"].inputs["image"].tensor_shape
    assert [dim.size for dim in shape.dim] == [-1, 8, 8, 1]
    assert response.model_spec.version.value == 2


# Wrong requests: the table of docs/serving.md


def of_spec(**fields):
    def change(request):
        request.model_spec.ClearField("version")
        for name, value in fields.items():
            if name == "version":
                request.model_spec.version.value = value
            else:
                setattr(request.model_spec, name, value)

    return change


def of_image(array):
    def change(request):
        import tensorflow as tf

        request.inputs["image"].CopyFrom(tf.make_tensor_proto(array))

    return change


def of_tensor(size=2, values=(), rank=True, **fields):
    """Returns a change of the input's message, field by field."""

    def change(request):
        tensor = request.inputs["image"]
        for name, value in fields.items():
            setattr(tensor, name, value)
        tensor.float_val.extend(values)
        tensor.tensor_shape.dim[0].size = size
        tensor.tensor_shape.unknown_rank = not rank

    return change


def inputs_named(*names):
    def change(request):
        tensor = type(request.inputs["image"])()
        tensor.CopyFrom(request.inputs["image"])
        del request.inputs["image"]
        for name in names:
            request.inputs[name].CopyFrom(tensor)

    return change


def outputs_named(*names):
    return lambda request: request.output_filter.extend(names)


WRONG = {
    "unknown model": of_spec(name="letters"),
    "a version that is not served": of_spec(version=9),
    "a label for a version": of_spec(version_label="stable"),
    "no model name": of_spec(name=""),
    "unknown signature": of_spec(signature_name="scores", version=1),
    "unknown input": inputs_named("picture"),
    "one input too many": inputs_named("image", "mask"),
    "no input": inputs_named(),
    "wrong rank": of_image(np.zeros((2, 8, 8), "float32")),
    "wrong size": of_image(np.zeros((2, 8, 7, 1), "float32")),
    "a scalar": of_image(np.float32(1)),
    "float64": of_image(np.zeros((2, 8, 8, 1))),
    "strings": of_image(np.full((2, 8, 8, 1), b"x")),
    "no type": of_tensor(dtype=0),
    "fewer bytes than its shape says": of_tensor(tensor_content=bytes(511)),
    "no samples": of_image(np.zeros((0, 8, 8, 1), "float32")),
    "a shape that is not known": of_tensor(size=-1),
    "a shape of no rank": of_tensor(rank=False),
    "a few bytes that say they are huge": of_tensor(2**40, tensor_content=b"", values=[0.0]),
    "unknown output": outputs_named("logits"),
    "an output twice": outputs_named("label", "label"),
}

MESSAGES = {  # of the stand-in; those of TensorFlow Serving have other words
    "unknown model": "Servable not found for request: letters",
    "a version that is not served": "Servable not found for request: Specific(digits, 9)",
    "a label for a version": "Unrecognized servable version label: stable",
    "no model name": "must be digits. Received: no name",
    "unknown signature": 'Serving signature key "scores" not found.',
    "unknown input": "must be image. Received: inputs=picture",
    "one input too many": "must be image. Received: inputs=image, mask",
    "no input": "must be image. Received: inputs=",
    "wrong rank": "must be float32 of shape (None, 8, 8, 1), None being any size",
    "wrong size": "Received: image=float32 of shape (2, 8, 7, 1)",
    "a scalar": "Received: image=float32 of shape ()",
    "float64": "Received: image=float64 of shape (2, 8, 8, 1)",
    "strings": "has a type that is not served here: number 7 of types.proto",
    "no type": "has a type that is not served here: number 0 of types.proto",
    "fewer bytes than its shape says": "must have 512 bytes. Received: 511",
    "no samples": "The batch must have at least one sample.",
    "a shape that is not known": "must have a known shape. Received: [-1, 8, 8, 1]",
    "a shape of no rank": "must have a known shape. Received: None",
    "a few bytes that say they are huge": "must be smaller than 2 GiB",
    "unknown output": "must be of label, probabilities. Received: logits",
    "an output twice": "must name an output once. Received: label, label",
    "other metadata than signatures": "must be signature_def. Received: metadata_field=graph",
    "`Classify`": "method_name to be tensorflow/serving/classify",
    "`Regress`": "method_name to be tensorflow/serving/regress",
}


def call(channel, scripts, case):
    """Sends the wrong request of a row."""
    stub = scripts.client.prediction_service_pb2_grpc.PredictionServiceStub(channel)
    if case == "`Classify`":
        from tensorflow_serving.apis import classification_pb2

        request = classification_pb2.ClassificationRequest()
        request.model_spec.name = "digits"
        return stub.Classify(request, timeout=PATIENCE)
    if case == "`Regress`":
        from tensorflow_serving.apis import regression_pb2

        request = regression_pb2.RegressionRequest()
        request.model_spec.name = "digits"
        return stub.Regress(request, timeout=PATIENCE)
    if case == "other metadata than signatures":
        messages = scripts.protocol.get_model_metadata_pb2
        request = messages.GetModelMetadataRequest(metadata_field=["graph"])
        request.model_spec.name = "digits"
        return stub.GetModelMetadata(request, timeout=PATIENCE)
    request = good_request(scripts)
    WRONG[case](request)
    return stub.Predict(request, timeout=PATIENCE)


WRONG_ROWS = [pytest.param(row, id=row["request"]) for row in table("Wrong requests")]


def test_every_wrong_request_is_in_the_document():
    told = {row["request"] for row in table("Wrong requests")}
    assert told == MESSAGES.keys()
    assert told == {*WRONG, "`Classify`", "`Regress`", "other metadata than signatures"}


@pytest.mark.parametrize("row", WRONG_ROWS)
def test_a_wrong_request_gets_what_the_document_says_and_the_next_is_answered(
    row, channel, predict, scripts
):
    import grpc

    with pytest.raises(grpc.RpcError) as refusal:
        call(channel, scripts, row["request"])
    assert refusal.value.code().name == code(row["status"])
    assert MESSAGES[row["request"]] in refusal.value.details()
    assert len(predict(good_request(scripts)).outputs["label"].int_val) == 2


# How the front starts and stops


def test_a_front_without_keras_stops_after_its_last_request(exported, scripts, tmp_path):
    import grpc

    arguments = [str(exported.base), "digits", "--requests", "1", "--version", "1"]
    script = tmp_path / "script.py"
    script.write_text(MODULES.format(folder=str(STAND_IN), arguments=arguments), encoding="utf-8")
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    try:
        said = [process.stdout.readline() for _ in range(3)]
        with grpc.insecure_channel(said[-1].split()[-1]) as channel:
            stub = scripts.client.prediction_service_pb2_grpc.PredictionServiceStub(channel)
            assert stub.Predict(good_request(scripts), timeout=PATIENCE).outputs
        rest, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert [line.strip() for line in said[:2]] == [
        "Imports of keras, keras_he and TensorFlow's Python are blocked in this process.",
        "digits version 1: 4 warm-up requests were run.",
    ]
    assert said[2].startswith("Listening on 127.0.0.1:")
    stopped, libraries, modules = rest.splitlines()
    assert stopped == "Stopped: that was the last request."
    assert libraries == "C++ loader: True TensorFlow's Python: False"
    packages = r"tensorflow\.(core|compiler)(\.\w+)*"
    assert modules
    assert all(re.fullmatch(packages, module) for module in modules.split())


@pytest.mark.parametrize(
    ("option", "why"),
    [("--idle", "no requests came"), ("--seconds", "its time is over")],
    ids=["idle", "seconds"],
)
def test_a_front_stops_by_itself(option, why, exported):
    process = process_of("front.py", exported.base, "digits", "--version", 1, option, 0.2)
    status, out, err = finished(process)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == f"Stopped: {why}."


def test_the_highest_version_is_served_where_none_is_named(scripts, exported, front):
    with ExitStack() as stack:
        assert [*scripts.front.loaded(exported.base / "digits", [], stack)] == [2]


@pytest.mark.parametrize(
    ("name", "wanted", "message"),
    [
        ("letters", [], "letters must hold a version: a folder whose name is an integer."),
        ("digits", [1, 9], "--version must be of 1, 2. Received: 9"),
        ("broken", [], "Version 3 cannot be served: `path` must hold saved_model.pb."),
    ],
    ids=["no version", "missing", "broken"],
)
def test_a_front_says_what_it_cannot_serve(name, wanted, message, scripts, exported, front):
    (exported.base / "broken" / "3").mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack, pytest.raises(SystemExit) as end:
        scripts.front.loaded(exported.base / name, wanted, stack)
    assert message in str(end.value)


def test_a_port_that_is_taken_is_refused(scripts):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SystemExit, match=f"--port must be free. Received: --port {port}"):
            scripts.front.serve(
                scripts.front.Front("m", {}, scripts.front.Life(1, None, None)), port
            )


# Docker


def docker_answers():
    if shutil.which("docker") is None:
        return "there is no docker command"
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=20)
    except subprocess.TimeoutExpired:
        return "docker info takes longer than 20 s"
    said = (done.stdout + done.stderr).strip().splitlines()
    return f"docker info: {said[-1] if said else 'failed'}" if done.returncode else None


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def labels_by_rest(port, images):
    body = json.dumps({"instances": images.tolist()}).encode()
    url = f"http://127.0.0.1:{port}/v1/models/digits:predict"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, body, timeout=PATIENCE) as answer:
        return [one["label"] for one in json.load(answer)["predictions"]]


def test_tensorflow_serving_in_docker_gives_keras_answers(exported, tmp_path):
    if why := docker_answers():
        pytest.skip(f"tensorflow/serving was not run: {why}")
    pull = ["docker", "pull", "--quiet", "tensorflow/serving"]
    pulled = subprocess.run(pull, capture_output=True, text=True, check=False)
    if pulled.returncode:
        pytest.skip(f"tensorflow/serving was not run: {pulled.stderr.strip()}")
    grpc_port, rest_port, name = free_port(), free_port(), f"keras-he-{os.getpid()}"
    command = serving_example.command("docker run")
    for written, here in {
        "docker run --rm": f"docker run --rm --detach --name {name}",
        "127.0.0.1:8500": f"127.0.0.1:{grpc_port}",
        "127.0.0.1:8501": f"127.0.0.1:{rest_port}",
    }.items():
        assert command.count(written) == 1
        command = command.replace(written, here)
    # Other tests add versions to the folder that they share.
    shutil.copytree(exported.path, tmp_path / "models" / "digits" / "1")
    subprocess.run(command, shell=True, cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    try:
        arguments = (f"127.0.0.1:{grpc_port}", "digits", exported.check, "--timeout", PATIENCE)
        status, out, err = finished(process_of("client.py", *arguments))
        assert (status, err) == (0, "")
        assert "AVAILABLE" in out
        images = exported.arrays["inputs/image"][:9]
        labels = exported.arrays["serving_default/label"][:9]
        assert labels_by_rest(rest_port, images) == labels.tolist()
    finally:
        subprocess.run(["docker", "stop", name], check=False, stdout=subprocess.DEVNULL)
