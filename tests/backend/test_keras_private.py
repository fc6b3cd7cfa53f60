"""What keras_he relies on and Keras does not promise: one test for each row of `keras_private`.

Where Keras has changed something, the test that fails is named after it.
"""

import inspect
import re
import zipfile

import keras
import numpy as np
import pytest

from keras_he.backend import keras_private as private
from keras_he.initializers.names import names
from keras_he.layers.variables import remade_initializer
from keras_he.passes.tensor_origins import _BY_OPERATION, _MOVING
from keras_he.theory.activations import canonical


class Block(keras.layers.Layer):
    """A layer with a weight, a generator, and layers in a list and in a dict."""

    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(2)
        self.others = [keras.layers.Dense(3), {"named": keras.layers.Dropout(0.5)}]

    def build(self, shape):
        self.scale = self.add_weight(shape=(), name="scale")
        self.generator = keras.random.SeedGenerator(1)
        self.first.build(shape)
        self.others[0].build((None, 2))
        self.built = True

    def call(self, x):
        return self.others[0](self.first(x)) * self.scale


@pytest.fixture
def block():
    layer = Block()
    layer.build((None, 4))
    return layer


def test_flatten_layers_gives_the_layers_directly_inside(block):
    assert hasattr(block, "_flatten_layers")
    parameters = inspect.signature(block._flatten_layers).parameters
    assert {"include_self", "recursive"} <= set(parameters)
    assert private.sublayers(block) == [
        block.first, block.others[0], block.others[1]["named"]
    ]  # fmt: skip
    assert private.layers_inside(keras.Sequential([block]))[1:3] == [block, block.first]


def test_trainable_variables_has_the_own_weights_frozen_ones_included(block):
    assert hasattr(block, "_trainable_variables")
    assert private.own(block).weights == [block.scale]
    block.trainable = False
    assert private.own(block).weights == [block.scale]
    # The state of the generator is a variable of the layer, and no weight.
    assert [id(one) for one in private.own(block).variables] == [
        id(block.scale), id(block.generator.state)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (keras.layers.Dense(2), "kernel_initializer"),
        (keras.layers.Embedding(2, 2), "embeddings_initializer"),
        (keras.layers.DepthwiseConv2D(2), "depthwise_initializer"),
        (keras.layers.SeparableConv2D(2, 2), "pointwise_initializer"),
        (keras.layers.LSTMCell(2), "recurrent_initializer"),
        (keras.layers.MultiHeadAttention(1, 2), "_kernel_initializer"),
        (keras.layers.GroupQueryAttention(2, 2, 1), "kernel_initializer"),
    ],
    ids=lambda one: one if isinstance(one, str) else type(one).__name__,
)
def test_attributes_hold_initializers(layer, name):
    held = private.attributes(layer)
    assert isinstance(held[name], keras.initializers.Initializer)
    assert private.argument_of(name) in inspect.signature(type(layer).__init__).parameters


def test_attributes_have_no_properties():
    layer = keras.layers.LSTM(2)  # whose initializers are those of its cell
    assert isinstance(layer.kernel_initializer, keras.initializers.Initializer)
    assert "kernel_initializer" not in private.attributes(layer)


def test_what_shadows_call_and_activation_is_called(block):
    calls = []

    def called(name, function):
        return lambda *args, **kwargs: calls.append(name) or function(*args, **kwargs)

    inner = keras.layers.Dense(3, activation="relu")
    model = keras.Sequential([keras.Input((2, 4)), keras.layers.TimeDistributed(inner)])
    before = dict(vars(inner))
    hooks = [(inner, "call", called("call", inner.call))]
    hooks.append((inner, "activation", called("activation", inner.activation)))
    with private.shadowed(hooks):
        model(np.ones((1, 2, 4), "float32"))
    assert calls[:2] == ["call", "activation"]
    assert vars(inner) == before
    assert "call" not in vars(inner)


def test_functional_models_tell_their_operations():
    x = keras.Input((4,))
    model = keras.Model(x, keras.layers.Dense(4)(x) + x)
    assert len(private.operations(model)) == 3
    assert private.operations(Block()) == []
    sequential = keras.Sequential([keras.layers.Dense(2)])
    assert private.operations(sequential) == []


# How each operation is written, whose class is known by its name.
MOVED = {
    "cast": lambda x: keras.ops.cast(x, "float16"),
    "expanddims": lambda x: keras.ops.expand_dims(x, -1),
    "flip": keras.ops.flip,
    "getitem": lambda x: x[:, 0],
    "moveaxis": lambda x: keras.ops.moveaxis(x, 1, 2),
    "pad": lambda x: keras.ops.pad(x, [[0, 0], [1, 1], [0, 0]]),
    "repeat": lambda x: keras.ops.repeat(x, 2, 1),
    "reshape": lambda x: keras.ops.reshape(x, (-1, 12)),
    "roll": lambda x: keras.ops.roll(x, 1, 1),
    "squeeze": lambda x: keras.ops.squeeze(x[:, :1], 1),
    "swapaxes": lambda x: keras.ops.swapaxes(x, 1, 2),
    "take": lambda x: keras.ops.take(x, [0], 1),
    "tile": lambda x: keras.ops.tile(x, (1, 2, 1)),
    "transpose": lambda x: keras.ops.transpose(x, (0, 2, 1)),
}
OPERATIONS = {
    **MOVED,
    **{
        name: getattr(keras.ops, function)
        for name, function in _BY_OPERATION.items()
        if hasattr(keras.ops, function)
    },
    "add": lambda x: x + x,
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_known_by_the_names_of_their_classes(name):
    x = keras.Input((3, 4))
    model = keras.Model(x, OPERATIONS[name](x))
    operation = private.operations(model)[-1]
    found = private.operation_name(operation)
    if name in _BY_OPERATION:  # one class has several names, such as "hardswish" and "hardsilu"
        assert canonical(_BY_OPERATION[found]) == canonical(_BY_OPERATION[name])
    else:
        assert found == name
    assert private.is_of_keras(operation)


def test_all_operations_that_are_known_by_name_are_tried():
    assert set(_MOVING) == set(MOVED)
    assert {"relu", "gelu", "silu", "tanh", "sigmoid"} <= set(OPERATIONS)


def test_layers_of_keras_are_in_its_modules(block):
    assert private.is_of_keras(keras.layers.Dense(2))
    assert not private.is_of_keras(block)
    assert private.operation_name(block) == ""


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_cell_of_a_convolutional_lstm_is_known_by_its_attributes(rank):
    layer = getattr(keras.layers, f"ConvLSTM{rank}D")(2, 3)
    bias = remade_initializer(layer.cell, "bias")((8,), dtype="float32")
    forget_gate = [0, 0, 1, 1, 0, 0, 0, 0]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(bias), forget_gate)
    assert layer.cell.strides == (1,) * rank
    gru = keras.layers.GRUCell(2)
    assert remade_initializer(gru, "bias") is gru.bias_initializer


def test_lora_names_the_weights_that_it_adds():
    layer = keras.layers.Dense(4)
    layer.build((None, 4))
    layer.enable_lora(2)
    added = [one.name for one in layer.weights if private.is_lora(one)]
    assert added == ["lora_kernel_a", "lora_kernel_b"]
    assert len(layer.weights) == 4


def test_variables_are_initialized_and_assigned_by_the_methods_that_are_wrapped(tmp_path):
    made, assigned = [], []

    def init_wrapper(init):
        def wrapped(self, initializer, *args, **kwargs):
            made.append(initializer)
            init(self, initializer, *args, **kwargs)

        return wrapped

    def assign_wrapper(assign):
        def wrapped(self, value):
            assigned.append(id(self))
            return assign(self, value)

        return wrapped

    own = {name: vars(keras.Variable).get(name) for name in ("__init__", "assign")}
    unwrap = private.wrap_variables(__init__=init_wrapper, assign=assign_wrapper)
    try:
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        kinds = (keras.initializers.GlorotUniform, keras.initializers.Zeros)
        assert sum(isinstance(one, kinds) for one in made) == 2  # of the kernel and the bias
        expected = {id(one) for one in model.weights}
        model.set_weights(model.get_weights())
        assert set(assigned) == expected
        model.save_weights(tmp_path / "model.weights.h5")
        assigned.clear()
        model.load_weights(tmp_path / "model.weights.h5")
        assert set(assigned) == expected
    finally:
        unwrap()
    assert {name: vars(keras.Variable).get(name) for name in own} == own


def test_seeds_are_drawn_by_next_also_of_a_class_that_is_derived():
    class Derived(keras.random.SeedGenerator):
        def next(self, ordered=True):
            return self.state.value * 2

    told = []
    generators = [keras.random.SeedGenerator(1), Derived(2)]
    own = vars(keras.random.SeedGenerator)["next"]
    with private.keras_seeds(told.append):
        for generator in generators:
            keras.random.normal((2,), seed=generator)
    assert told == generators
    assert vars(keras.random.SeedGenerator)["next"] is own


def test_the_global_seed_generator_that_a_block_made_is_gone_after_it():
    keras.utils.clear_session()
    told = []
    with private.without_new_global_generator(), private.keras_seeds(told.append):
        keras.random.normal((2,))
    with private.keras_seeds(told.append):
        keras.random.normal((2,))
        keras.random.normal((2,))
    first, second, third = told
    assert first is not second
    assert second is third


def test_the_seed_of_tensorflow_and_its_global_generator_are_put_back():
    tf = pytest.importorskip("tensorflow")
    tf.random.set_seed(1)
    expected = [float(tf.random.normal(())) for _ in range(3)]
    tf.random.set_seed(1)
    found = [float(tf.random.normal(()))]
    inside = []
    for _ in range(2):
        with private.tensorflow_seeds(2):
            inside.append(float(tf.random.normal(())))
            inside.append(float(tf.random.Generator.from_non_deterministic_state().normal(())))
    found += [float(tf.random.normal(())) for _ in range(2)]
    assert found == expected
    assert inside[:2] == inside[2:]
    tf.random.set_global_generator(None)
    with private.tensorflow_seeds(2):
        made = tf.random.get_global_generator()
    assert tf.random.get_global_generator() is not made


def test_an_initializer_is_called_with_a_shape_and_the_name_of_a_dtype():
    given = []

    def initializer(shape, dtype=None, **others):
        given.append((tuple(shape), dtype))
        return keras.ops.zeros(shape, dtype)

    keras.Variable(initializer, shape=(2, 3), dtype="float32")
    assert given == [((2, 3), "float32")]


class Told(keras.initializers.VarianceScaling):
    """An initializer that notes which axes it is told."""

    axes = None

    def __init__(self, input_axes=None, output_axes=None, **others):
        super().__init__(**others)
        Told.axes = input_axes, output_axes


def test_einsum_dense_tells_axes_where_variance_scaling_takes_them():
    Told.axes = None
    layer = keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3), kernel_initializer=Told())
    layer.build((None, 4, 5))
    axes = tuple(tuple(one or ()) for one in Told.axes)
    assert axes == (((0,), (1, 2)) if private.tells_axes() else ((), ()))


def test_strings_resolve_by_custom_objects_or_by_the_table_of_built_ins():
    keras.initializers.get("he_prelu")
    table = private.built_in_initializers()
    try:
        with keras.saving.CustomObjectScope({"he_only_here": keras.initializers.Zeros}):
            keras.initializers.get("he_only_here")
    except ValueError:  # from the nightly builds of October 2026 on
        assert table is not None, "ALL_OBJECTS_DICT is gone from keras.initializers"
        assert set(names()) <= set(table)


def test_the_parts_of_an_archive_are_known(tmp_path):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        assert private.is_model_archive(archive.namelist())
    assert private.keras_version(tmp_path / "model.keras") == keras.__version__
    assert not private.is_model_archive(["data.pkl"])


@pytest.mark.filterwarnings("ignore")
def test_the_attributes_of_an_hdf5_file_are_known(tmp_path):
    h5py = pytest.importorskip("h5py")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.save(tmp_path / "model.h5")
    model.save_weights(tmp_path / "model.weights.h5")
    with h5py.File(tmp_path / "model.h5") as file:
        assert private.is_model_hdf5(file.attrs)
    with h5py.File(tmp_path / "model.weights.h5") as file:
        assert not private.is_model_hdf5(file.attrs)
    assert private.keras_version(tmp_path / "model.h5") == keras.__version__
    assert private.keras_version(tmp_path / "model.weights.h5") is None


def test_the_messages_of_load_model_tell_code_from_unknown_classes(tmp_path):
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x)]).save(path)
    with pytest.raises(ValueError, match="Lambda") as error:
        keras.models.load_model(path)
    assert private.is_about_code(str(error.value))
    keras.Sequential([keras.Input((2,)), Block()]).save(path)
    with pytest.raises((TypeError, ValueError)) as error:
        keras.models.load_model(path)
    assert private.is_about_unknown_classes(str(error.value))
    assert not private.is_about_code(str(error.value))


def test_the_message_of_a_failed_call_ends_in_its_arguments():
    class Failing(keras.layers.Layer):
        def call(self, x):
            raise ValueError("It fails.")

    with pytest.raises(ValueError, match="It fails") as error:
        Failing()(np.ones((2, 2), "float32"))
    message = private.without_arguments(str(error.value))
    assert "It fails." in message
    assert len(message) < len(str(error.value))


def test_the_list_of_a_callback_is_found_among_the_callers():
    class First(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            private.call_first(self)

    others, first = [keras.callbacks.Callback(), keras.callbacks.Callback()], First()
    callbacks = keras.callbacks.CallbackList([*others, first])
    callbacks.on_train_begin()
    assert callbacks.callbacks == [first, *others]
    first.on_train_begin()  # outside of a list nothing happens


def test_the_table_names_what_there_is():
    rows = re.findall(r"^\| (.*) \| (.*) \| (.*) \|$", private.__doc__, re.MULTILINE)[1:]
    assert len(rows) >= 15
    assert {versions for *_, versions in rows} <= {"all", "nightly"}
    oldest, newest, nightly = re.search(
        r"nightly one: ([\d.]+), ([\d.]+) and\s+([\d.a-z]+)\.", private.__doc__
    ).groups()
    installed = keras.__version__
    tried = {re.match(r"3\.\d+", one)[0] for one in (oldest, newest, nightly)}
    assert re.match(r"3\.\d+", installed)[0] in {*tried, "3.13", "3.14"}
