"""TensorFlow Serving's messages, and their tensors as NumPy arrays, without TensorFlow's Python.

The message classes of tensorflow-serving-api import others from `tensorflow.core`, and Python would
run the whole of TensorFlow, and Keras with it, for these. So they are imported through an empty
`tensorflow` package, which is taken away again: what is left of TensorFlow's Python are generated
message classes, `tensorflow.core.….…_pb2`. Where TensorFlow is imported already, its own are used.
"""

import importlib.machinery
import struct
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path.append(str(Path(__file__).resolve().parents[3] / "examples"))  # for serve_without_keras


@contextmanager
def _messages_alone() -> Iterator[None]:
    """Lets `tensorflow.core` be imported without `tensorflow/__init__.py`."""
    spec = importlib.machinery.PathFinder.find_spec("tensorflow")
    if "tensorflow" in sys.modules or spec is None:
        yield
        return
    empty = types.ModuleType("tensorflow")
    empty.__path__ = spec.submodule_search_locations
    sys.modules["tensorflow"] = empty
    try:
        yield
    finally:
        del sys.modules["tensorflow"]


with _messages_alone():
    from tensorflow.core.framework import tensor_pb2, types_pb2
    from tensorflow.core.protobuf import error_codes_pb2, saved_model_pb2
    from tensorflow_serving.apis import (
        get_model_metadata_pb2,
        get_model_status_pb2,
        predict_pb2,
        prediction_log_pb2,
    )

__all__ = [
    "array_of",
    "error_codes_pb2",
    "get_model_metadata_pb2",
    "get_model_status_pb2",
    "predict_pb2",
    "prediction_log_pb2",
    "records",
    "saved_model_pb2",
    "services",
    "tensor_of",
]

# NumPy's name of a type: its number in types.proto, and the field that holds single values.
_TYPES = {
    "float32": (types_pb2.DT_FLOAT, "float_val"),
    "float64": (types_pb2.DT_DOUBLE, "double_val"),
    "float16": (types_pb2.DT_HALF, "half_val"),
    "bool": (types_pb2.DT_BOOL, "bool_val"),
    "int8": (types_pb2.DT_INT8, "int_val"),
    "int16": (types_pb2.DT_INT16, "int_val"),
    "int32": (types_pb2.DT_INT32, "int_val"),
    "int64": (types_pb2.DT_INT64, "int64_val"),
    "uint8": (types_pb2.DT_UINT8, "int_val"),
    "uint16": (types_pb2.DT_UINT16, "int_val"),
    "uint32": (types_pb2.DT_UINT32, "uint32_val"),
    "uint64": (types_pb2.DT_UINT64, "uint64_val"),
}
_LARGEST = 2**31 - 1  # bytes; no message is larger


def services() -> tuple[Any, Any]:
    """Returns the gRPC code for predictions and metadata, and that for the status of models."""
    with _messages_alone():
        from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
    return prediction_service_pb2_grpc, model_service_pb2_grpc


def tensor_of(array: np.ndarray, single_values: bool = False) -> tensor_pb2.TensorProto:
    """Returns the message of an array.

    Args:
        array: Of a type that NumPy and TensorFlow both have; no strings.
        single_values: Numbers one by one, as TensorFlow Serving answers; else as bytes.
    """
    number, field = _TYPES[array.dtype.name]
    tensor = tensor_pb2.TensorProto(dtype=number)
    tensor.tensor_shape.SetInParent()  # a scalar has a shape too
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    if single_values:
        values = array.view("uint16") if field == "half_val" else array
        getattr(tensor, field).extend(values.ravel().tolist())
    else:
        tensor.tensor_content = array.tobytes()
    return tensor


def array_of(tensor: tensor_pb2.TensorProto) -> np.ndarray:
    """Returns the array of a message.

    Single values may be fewer than the shape says: the last one repeats, and none at all are zeros.
    More than the shape says are dropped. Bytes must be as many as it says.

    Raises:
        ValueError: If the message holds another number of values than its shape says, or a type
            that NumPy lacks.
    """
    names = {number: name for name, (number, _) in _TYPES.items()}
    if tensor.dtype not in names:
        raise ValueError(
            f"has a type that is not served here: number {tensor.dtype} of types.proto"
        )
    dtype = np.dtype(names[tensor.dtype])
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    count = _count(shape, dtype, tensor.tensor_shape.unknown_rank)
    if tensor.tensor_content:
        values = np.frombuffer(tensor.tensor_content, np.uint8)
        if values.size != count * dtype.itemsize:
            raise ValueError(f"must have {count * dtype.itemsize} bytes. Received: {values.size}")
        return values.view(dtype).reshape(shape)
    field = _TYPES[dtype.name][1]
    given = np.array(getattr(tensor, field), np.uint16 if field == "half_val" else None)
    given = given.view(dtype) if field == "half_val" else given.astype(dtype)
    values = np.full(count, given[-1] if given.size else 0, dtype)
    values[: given.size] = given[:count]
    return values.reshape(shape)


def _count(shape: list[int], dtype: np.dtype, unknown: bool) -> int:
    """Returns how many values a shape holds; refuses what no message could hold."""
    if unknown or any(size < 0 for size in shape):
        raise ValueError(f"must have a known shape. Received: {None if unknown else shape}")
    count = 1
    for size in shape:
        count *= size
    if count * dtype.itemsize > _LARGEST:
        raise ValueError(f"must be smaller than 2 GiB. Received: {dtype} of shape {shape}")
    return count


def records(path: Path) -> Iterator[bytes]:
    """Yields the records of a TFRecord file, and checks them, as TensorFlow does.

    Each is its length in eight bytes, a checksum of these, the data, and a checksum of the data.

    Raises:
        ValueError: If the file is cut short or its checksums are wrong.
    """
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8].ljust(8, b"\0"))
        head, data, content = content[:12], content[12 : 16 + length], content[16 + length :]
        if not (_checked(head) and len(data) == length + 4 and _checked(data)):
            raise ValueError(f"{path.name} is no TFRecord file, or is damaged")
        yield data[:-4]


def _checked(data: bytes) -> bool:
    """Returns whether data ends in its own checksum: CRC-32C, rotated, plus a constant."""
    crc = 2**32 - 1
    for byte in data[:-4]:
        crc = _CRC[(crc ^ byte) & 255] ^ (crc >> 8)
    crc ^= 2**32 - 1
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32
    return data[-4:] == struct.pack("<I", masked)


def _crc_of_byte(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC = [_crc_of_byte(byte) for byte in range(256)]
