"""Runs an exported Keras model with NumPy and TensorFlow's C++ library alone.

    python serve_without_keras.py EXPORT_DIR INPUTS.npy OUTPUTS.npy

The export is loaded and run by the TensorFlow C++ SavedModel loader that TensorFlow Serving uses,
with no Keras and no keras_he in the process: importing them, or TensorFlow's Python, is blocked.
The loader is a library in the `tensorflow` and `tensorflow-cpu` wheels for Linux. Inputs are
checked against the export's signature first, because TensorFlow's CPU kernels may abort the process
on a wrong rank.
"""

import ctypes
import importlib.machinery
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# The numbers of tensorflow/core/framework/types.proto.
_DTYPES = {1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8"}
_DTYPES |= {9: "int64", 10: "bool", 17: "uint16", 19: "float16", 22: "uint32", 23: "uint64"}
_P, _I, _TEXT, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t
_FUNCTIONS: dict[str, tuple[Any, ...]] = {  # what each returns, then takes: tensorflow/c/c_api.h
    "NewStatus NewGraph NewBuffer NewSessionOptions": (_P,),
    "DeleteStatus DeleteGraph DeleteBuffer DeleteSessionOptions DeleteTensor": (None, _P),
    "DeleteSession": (None, _P, _P),
    "Message": (_TEXT, _P),
    "LoadSessionFromSavedModel": (_P, _P, _P, _TEXT, _P, _I, _P, _P, _P),
    "GraphOperationByName": (_P, _P, _TEXT),
    "SessionRun": (None, _P, _P, _P, _P, _I, _P, _P, _I, _P, _I, _P, _P),
    "AllocateTensor": (_P, _I, _P, _I, _SIZE),
    "TensorData": (_P, _P),
    "NumDims GetCode": (_I, _P),
    "Dim": (ctypes.c_int64, _P, _I),
}


class _Output(ctypes.Structure):
    _fields_ = (("operation", _P), ("index", _I))


class Tensor(NamedTuple):
    """An input or output: its name in the graph, NumPy's name of its type, its shape."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None  # None in it: any size; None in its place: any shape


class Signature(NamedTuple):
    """A function of the export, by the names of its inputs and outputs."""

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]


class TensorFlowError(RuntimeError):
    """A failure in TensorFlow; `code` is a number of its error_codes.proto, as in gRPC."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class SavedModel(AbstractContextManager["SavedModel"]):
    """A loaded export, for one thread; the end of its `with` block frees it in TensorFlow."""

    def __init__(self, path: str | os.PathLike[str], tag: str = "serve") -> None:
        """Loads the graph, its variables and its `signatures`.

        Args:
            path: Folder that holds `saved_model.pb`, as `model.export(path)` writes it.
            tag: Which graph of the export; Keras writes one, `"serve"`.

        Raises:
            FileNotFoundError: If there is no export, or no TensorFlow wheel.
            TensorFlowError: If TensorFlow cannot load it.
            ValueError: If an input or output has a type that NumPy lacks (bfloat16, string).
        """
        if not any(Path(path).glob("saved_model.*pb*")):
            versions = "".join(f" Did you mean {p.parent}?" for p in Path(path).glob("*/*.pb"))
            raise FileNotFoundError(f"`path` must hold saved_model.pb. Received: {path}{versions}")
        self._tf = tf = _tensorflow()
        with ExitStack() as self._undo:
            self._status, self._graph = self._new("Status"), self._new("Graph")
            options, meta = self._new("SessionOptions"), self._new("Buffer")
            export = (os.fsencode(path), (_TEXT * 1)(tag.encode()), 1)
            results = (self._graph, meta, self._status)
            self._session = tf.TF_LoadSessionFromSavedModel(options, None, *export, *results)
            self._check_status()
            self._undo.callback(tf.TF_DeleteSession, self._session, self._status)
            data, length = (_SIZE * 2).from_address(meta)  # how a TF_Buffer begins
            self.signatures = _signatures(ctypes.string_at(data, length))
            self._undo = self._undo.pop_all()

    def run(self, signature: str = "serving_default", **inputs: Any) -> dict[str, np.ndarray]:
        """Returns the outputs of one call, by name.

        Args:
            signature: One of `signatures`.
            **inputs: An array of the right type and shape for each input of the signature.

        Raises:
            ValueError: If a name, a type or a shape does not fit, or the model is closed.
            TensorFlowError: If TensorFlow fails.
        """
        if self._session is None:
            raise ValueError("The model is closed. Load it again.")
        if signature not in self.signatures:
            raise _refused("signature", f"one of {', '.join(self.signatures)}", signature)
        spec = self.signatures[signature]
        arrays = _checked_inputs(spec, inputs)
        sources, fetches = self._find(spec.inputs), self._find(spec.outputs)
        fed, fetched = (_P * len(sources))(), (_P * len(fetches))()
        try:
            fed[:] = [self._to_tensor(array) for array in arrays.values()]
            feeds = (sources, fed, len(fed), fetches, fetched, len(fetched))
            self._tf.TF_SessionRun(self._session, None, *feeds, None, 0, None, self._status)
            self._check_status()
            outputs = map(self._to_array, fetched, spec.outputs.values())
            return dict(zip(spec.outputs, outputs, strict=True))
        finally:
            for tensor in filter(None, (*fed, *fetched)):
                self._tf.TF_DeleteTensor(tensor)

    def __exit__(self, *_: object) -> None:
        self._session = None
        self._undo.close()

    def _new(self, kind: str) -> int:
        handle = getattr(self._tf, f"TF_New{kind}")()
        self._undo.callback(getattr(self._tf, f"TF_Delete{kind}"), handle)
        return handle

    def _check_status(self) -> None:
        if code := self._tf.TF_GetCode(self._status):
            raise TensorFlowError(self._tf.TF_Message(self._status).decode(errors="replace"), code)

    def _find(self, tensors: Mapping[str, Tensor]) -> "ctypes.Array[_Output]":
        parts = [tensor.name.encode().partition(b":") for tensor in tensors.values()]
        find = self._tf.TF_GraphOperationByName
        return (_Output * len(parts))(*((find(self._graph, n), int(i)) for n, _, i in parts))

    def _to_tensor(self, array: np.ndarray) -> int:
        number = next(number for number, dtype in _DTYPES.items() if dtype == array.dtype)
        shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        tensor = self._tf.TF_AllocateTensor(number, shape, array.ndim, array.nbytes)
        ctypes.memmove(self._tf.TF_TensorData(tensor), array.ctypes.data, array.nbytes)
        return tensor

    def _to_array(self, tensor: int, info: Tensor) -> np.ndarray:
        shape = [self._tf.TF_Dim(tensor, axis) for axis in range(self._tf.TF_NumDims(tensor))]
        array = np.empty(shape, info.dtype)
        ctypes.memmove(array.ctypes.data, self._tf.TF_TensorData(tensor), array.nbytes)
        return array


def _tensorflow() -> ctypes.CDLL:
    """Returns the C API of the installed wheel, without importing the package."""
    spec = importlib.machinery.PathFinder.find_spec("tensorflow")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("No TensorFlow found. Run: python -m pip install tensorflow")
    # It loads libtensorflow_framework.so.2 from its own folder.
    library = ctypes.CDLL(str(Path(spec.origin).with_name("libtensorflow_cc.so.2")))
    for names, (returned, *taken) in _FUNCTIONS.items():
        for name in names.split():
            function = getattr(library, f"TF_{name}")
            function.restype, function.argtypes = returned, taken
    return library


def _checked_inputs(spec: Signature, inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the inputs as arrays, or raises an error if they do not fit the signature."""
    if inputs.keys() != spec.inputs.keys():
        raise _refused("inputs", ", ".join(spec.inputs), ", ".join(inputs))
    arrays = {name: np.asarray(inputs[name], order="C") for name in spec.inputs}
    for name, array in arrays.items():
        _, dtype, shape = spec.inputs[name]
        shape = array.shape if shape is None else shape
        fits = array.dtype == dtype and array.ndim == len(shape)
        if not fits or any(a not in (None, b) for a, b in zip(shape, array.shape, strict=True)):
            accepted = f"{dtype} of shape {shape}, None being any size"
            raise _refused(name, accepted, f"{array.dtype} of shape {array.shape}")
    return arrays


def _refused(argument: str, accepted: str, received: object) -> ValueError:
    return ValueError(f"`{argument}` must be {accepted}. Received: {argument}={received}")


def _signatures(meta_graph: bytes) -> dict[str, Signature]:
    """Reads a MetaGraphDef, by the field numbers of meta_graph.proto and tensor_shape.proto."""
    return {
        name: Signature(*({k: _tensor(v) for k, v in _entries(s, i).items()} for i in (1, 2)))
        for name, s in _entries(meta_graph, 5).items()
        if not name.startswith(
            "__saved_model_"
        )  # TensorFlow's own, which initializes the variables
    }


def _tensor(info: bytes) -> Tensor:
    fields = dict(_fields(info))
    shape = list(_fields(fields.get(3, b"")))
    sizes = [dict(_fields(value)).get(1, 0) for field, value in shape if field == 2]
    sizes = tuple(size if size < 2**63 else None for size in sizes)  # any size is -1 in 64 bits
    name, number = fields.get(1, b"").decode(), fields.get(2, 0)
    if number not in _DTYPES:
        raise ValueError(f"{name} has a type that NumPy lacks ({number} in types.proto)")
    return Tensor(name, _DTYPES[number], None if (3, 1) in shape else sizes)


def _entries(message: bytes, field: int) -> dict[str, bytes]:
    entries = [dict(_fields(value)) for number, value in _fields(message) if number == field]
    return {key.decode(): value for key, value in sorted((e[1], e.get(2, b"")) for e in entries)}


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    stream = BytesIO(message)
    while stream.tell() < len(message):
        key, value = _integer(stream), _integer(stream)
        yield key >> 3, stream.read(value) if key & 7 == 2 else value  # 2: a number of bytes


def _integer(stream: BytesIO) -> int:
    """Reads seven bits of each byte, low bits first; the eighth bit says that more bytes follow."""
    byte = stream.read(1)[0]
    return byte if byte < 128 else byte - 128 + (_integer(stream) << 7)


def block_imports() -> None:
    """Blocks the import of Keras, keras_he and TensorFlow's Python."""
    blocked = {"keras", "keras_he", "tensorflow"}
    if loaded := blocked & sys.modules.keys():
        raise RuntimeError(f"Already imported: {', '.join(sorted(loaded))}")
    sys.modules.update(dict.fromkeys(blocked))  # `None` makes `import` raise


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(f"usage: {sys.argv[0]} EXPORT_DIR INPUTS.npy OUTPUTS.npy")
    export, inputs, outputs = sys.argv[1:]
    block_imports()
    print("Imports of keras, keras_he and TensorFlow's Python are blocked in this process.")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # no messages about loading
    with SavedModel(export) as model:
        spec = model.signatures["serving_default"]
        if len(spec.inputs) != 1 or len(spec.outputs) != 1:
            sys.exit("The model has several inputs or outputs: call SavedModel.run from Python.")
        np.save(outputs, *model.run(**dict.fromkeys(spec.inputs, np.load(inputs))).values())
    print(f"The TensorFlow C++ loader ran {export} and wrote {outputs}.")


if __name__ == "__main__":
    main()
