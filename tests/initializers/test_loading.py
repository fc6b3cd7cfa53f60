"""`skip_init`: what is built to be loaded is not drawn, and nothing stays at zero in silence."""

import contextvars
import copy
import inspect
import threading

import keras
import numpy as np
import pytest

import keras_he
from keras_he.errors import NotLoaded
from keras_he.initializers.skip_init import skip_init

L = keras.layers
K = keras.initializers
BACKEND = keras.backend.backend()
SHAPE = (4, 8)


def built_in_classes():
    """Returns every initializer class of Keras; each can be made without arguments."""
    classes = {cls for _, cls in inspect.getmembers(K, inspect.isclass)}
    return sorted((cls for cls in classes if cls is not K.Initializer), key=lambda c: c.__name__)


def is_random(cls):
    return "seed" in inspect.signature(cls).parameters


def sequential(*layers, shape=(8,)):
    return keras.Sequential([keras.Input(shape), *layers])


def dense(seed=1):
    return sequential(
        L.Dense(4, kernel_initializer=keras_he.KaimingNormal(seed=seed)),
        L.Dense(3, kernel_initializer=K.GlorotUniform(seed=seed)),
    )


def image_model():
    """Layers of every kind, some of them inside others."""
    inputs = keras.Input((8, 8, 4))
    x = L.Conv2D(4, 3, kernel_initializer="he_relu")(inputs)
    x = L.SeparableConv2D(4, 2, depthwise_initializer="he_relu_depthwise")(x)
    x = L.Conv2DTranspose(4, 2, strides=2, kernel_initializer="he_normal")(x)
    x = L.BatchNormalization()(L.PReLU()(x))
    x = L.Reshape((-1, 4))(x)
    x = L.MultiHeadAttention(2, 4, kernel_initializer="he_linear")(x, x)
    x = L.TimeDistributed(
        sequential(L.Dense(4, kernel_initializer="he_relu_orthogonal"), shape=(4,))
    )(x)
    x = L.Bidirectional(L.LSTM(3, recurrent_initializer="he_linear_orthogonal"))(x)
    return keras.Model(inputs, L.Dense(2, bias_initializer="random_normal")(x))


@keras.saving.register_keras_serializable("loading")
class Subclassed(keras.Model):
    """A model without a graph of layers, with a kernel of its own."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = L.Dense(4, kernel_initializer="he_relu")

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.mixing = self.add_weight((4, 2), initializer="he_relu_uniform", name="mixing")

    def call(self, x):
        return keras.ops.matmul(self.dense(x), self.mixing)


def subclassed():
    model = Subclassed()
    model.build((None, 8))
    return model


MODELS = {"dense": dense, "image": image_model, "subclassed": subclassed}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def weights(model):
    return [one.numpy().copy() for one in model.weights]


def assert_equal(first, second):
    assert len(first) == len(second) > 0
    for one, other in zip(first, second, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def untouched():
    """Returns what Keras' variables are made and assigned by."""
    own = vars(keras.Variable)
    return keras.Variable.__init__, keras.Variable.assign, "__init__" in own, "assign" in own


@pytest.fixture(autouse=True)
def left_as_it_was():
    """Whatever a test does, nothing of it stays in Keras."""
    before = untouched()
    yield
    assert untouched() == before


# What is skipped


@pytest.mark.parametrize("cls", built_in_classes(), ids=lambda cls: cls.__name__)
def test_random_built_ins_are_skipped_and_no_others(cls):
    shape = (3, 1, 4) if cls is K.STFT else (4, 4)
    drawn = keras.Variable(cls(), shape=shape).numpy()
    with skip_init("draw"):
        variable = keras.Variable(cls(), shape=shape)
        skipped = not variable.numpy().any() and drawn.any()
    assert skipped == is_random(cls)


def test_every_string_is_skipped():
    with skip_init("draw"):
        made = {name: keras.Variable(name, shape=(3, 3, 4, 2)) for name in keras_he.names()}
        assert [name for name, one in made.items() if one.numpy().any()] == []
    assert [name for name, one in made.items() if not one.numpy().any()] == []


@every_model
def test_what_is_built_inside_starts_as_zeros(make):
    plain = make()
    with skip_init("draw"):
        model = make()
        kernels = [one for one in model.weights if len(one.shape) > 1]
        assert kernels
        assert all(not one.numpy().any() for one in kernels)
    assert [one.shape for one in model.weights] == [one.shape for one in plain.weights]
    assert [one.dtype for one in model.weights] == [one.dtype for one in plain.weights]


def test_nothing_is_drawn_where_everything_is_loaded(monkeypatch):
    values = weights(dense())

    def fail(*_, **__):
        raise AssertionError("drawn")

    monkeypatch.setattr(keras_he.KaimingNormal, "__call__", fail)
    monkeypatch.setattr(K.VarianceScaling, "__call__", fail)
    with pytest.raises(AssertionError, match="drawn"):
        dense()
    with skip_init():
        dense().set_weights(values)


def test_a_generator_does_not_move():
    generator = keras.random.SeedGenerator(3)
    before = generator.state.numpy()
    with skip_init():
        variable = keras.Variable(keras_he.KaimingNormal(seed=generator), shape=SHAPE)
        variable.assign(np.ones(SHAPE))
    np.testing.assert_array_equal(generator.state.numpy(), before)


def test_other_initializers_run_as_always():
    def ones(shape, dtype=None):
        return keras.ops.ones(shape, dtype)

    with skip_init():
        made = [keras.Variable(one, shape=(2,)) for one in (ones, "ones", K.Constant(1.0))]
    assert [one.numpy().tolist() for one in made] == [[1.0, 1.0]] * 3


@pytest.mark.filterwarnings("ignore:Explicitly requested dtype float64")  # JAX, without x64
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dtypes_stay(dtype):
    with skip_init("draw"):
        variable = keras.Variable("he_relu", shape=SHAPE, dtype=dtype)
    plain = keras.Variable("he_relu", shape=SHAPE, dtype=dtype)
    assert variable.dtype == plain.dtype == dtype
    assert variable.value.dtype == plain.value.dtype
    assert keras.ops.convert_to_numpy(keras.ops.cast(variable.value, "float32")).any()


# What is loaded


def by_weights_file(path, model, make):
    model.save_weights(path / "model.weights.h5")
    with skip_init():
        again = make()
        again.load_weights(path / "model.weights.h5")
    return again


def by_model_file(path, model, make):
    model.save(path / "model.keras")
    with skip_init():
        return keras.models.load_model(path / "model.keras")


def by_old_model_file(path, model, make):
    model.save(path / "model.h5")
    with skip_init():
        return keras.models.load_model(path / "model.h5")


def by_clone(path, model, make):
    with skip_init():
        again = keras.models.clone_model(model)
        again.set_weights(model.get_weights())
    return again


def by_json(path, model, make):
    with skip_init():
        again = keras.models.model_from_json(model.to_json())
        again.set_weights(model.get_weights())
    return again


ROUTES = {
    ".keras": by_model_file,
    ".h5": by_old_model_file,
    ".weights.h5": by_weights_file,
    "clone": by_clone,
    "JSON": by_json,
}
# The old format, clones and JSON are for models that have a graph.
CASES = [
    (make, route)
    for make in MODELS
    for route in ROUTES
    if make != "subclassed" or route in (".keras", ".weights.h5")
]


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize(("make", "route"), CASES)
def test_loaded_weights_are_those_of_the_file(make, route, tmp_path):
    model = MODELS[make]()
    model.set_weights([one + 1 for one in model.get_weights()])
    assert_equal(weights(ROUTES[route](tmp_path, model, MODELS[make])), weights(model))


def test_zeros_of_a_file_are_values_like_any_other(tmp_path):
    model = dense()
    model.set_weights([0 * one for one in model.get_weights()])
    again = by_model_file(tmp_path, model, dense)
    assert not any(one.any() for one in weights(again))


@pytest.mark.parametrize("shape", [(), (1,), (2,), (3, 1), (1, 4)], ids=str)
@pytest.mark.parametrize("signs", range(4))
def test_zeros_of_any_sign_are_values_in_small_variables_too(shape, signs):
    """Few elements could have the signs of the marks by chance."""
    initializer = K.RandomNormal(seed=1)
    size = int(np.prod(shape))
    values = np.array([-0.0 if signs >> place & 1 else 0.0 for place in range(size)])
    with skip_init():
        variable = keras.Variable(initializer, shape=shape)
        variable.assign(values.reshape(shape).astype("float32"))
    assert not variable.numpy().any()
    with skip_init("draw"):
        variable = keras.Variable(initializer, shape=shape)
        assert not variable.numpy().any()
    assert variable.numpy().all()


def test_initialize_gives_values_too():
    with skip_init():
        model = dense()
        keras_he.initialize(model, seed=1)
    assert model.layers[0].kernel.numpy().any()


def test_a_model_that_was_loaded_trains(tmp_path):
    model = dense()
    again = by_model_file(tmp_path, model, dense)
    again.compile("sgd", "mse", run_eagerly=BACKEND != "jax")
    before = weights(again)
    again.train_on_batch(np.ones((2, 8), "float32"), np.zeros((2, 3), "float32"))
    assert not np.array_equal(weights(again)[0], before[0])


# What is not


def test_what_no_one_assigned_is_named_and_drawn():
    plain = dense()
    with (
        pytest.raises(
            NotLoaded, match=r"(?s)dense\w*/kernel \(8, 4\), .*skip_init\(missing="
        ) as raised,
        skip_init(),
    ):
        model = dense()
    assert all(one.path in str(raised.value) for one in model.weights if len(one.shape) > 1)
    assert "bias" not in str(raised.value)  # it begins at zero by its own initializer
    assert_equal(weights(model), weights(plain))  # the seeds are equal


def test_what_no_one_assigned_is_drawn_by_choice():
    with skip_init(missing="draw"):
        model = dense()
    assert_equal(weights(model), weights(dense()))


def test_a_file_that_covers_half_of_a_model_is_told(tmp_path):
    model = sequential(L.Dense(4), L.Dense(3))
    path = tmp_path / "model.weights.h5"
    model.save_weights(path)

    def load():
        with skip_init():
            made.append(sequential(L.Dense(4, name="same"), L.Dense(5, name="wider")))
            made[0].load_weights(path, skip_mismatch=True)

    made = []
    with pytest.warns(UserWarning, match="could not be loaded"), pytest.raises(NotLoaded) as raised:
        load()
    (wider,) = made
    assert "wider/kernel (4, 5)" in str(raised.value)
    assert "same/kernel" not in str(raised.value)
    assert_equal(weights(wider)[:2], weights(model)[:2])


def test_many_names_are_cut():
    with pytest.raises(NotLoaded, match="and 5 more: drawn"), skip_init():
        kept = [keras.Variable("he_relu", shape=SHAPE) for _ in range(25)]
    assert all(one.numpy().any() for one in kept)


def test_an_error_inside_passes_and_what_was_built_is_drawn():
    made = []
    with pytest.raises(FileNotFoundError), skip_init():  # noqa: PT012
        made.append(dense())
        made[0].load_weights("no_such_file.weights.h5")
    assert_equal(weights(made[0]), weights(dense()))


def test_what_was_dropped_is_not_asked_for():
    with skip_init():
        for _ in range(3):
            dense()  # holds itself in cycles of references


def test_assigning_in_a_stateless_scope_is_no_assignment():
    with pytest.raises(NotLoaded), skip_init():  # noqa: PT012
        variable = keras.Variable("he_relu", shape=SHAPE)
        with keras.StatelessScope():
            variable.assign(np.ones(SHAPE))
    assert len(np.unique(variable.numpy())) > 2


def as_drawn(model):
    return model


def zeroed(model):
    """Returns the model with kernels of zeros of either sign."""
    model.set_weights([0 * one for one in model.get_weights()])
    return model


every_content = pytest.mark.parametrize("change", [as_drawn, zeroed])


@pytest.mark.skipif(BACKEND != "torch", reason="state dicts are PyTorch's")
@every_content
def test_a_state_dict_of_pytorch_counts(change):
    model = change(dense(seed=2))
    with skip_init():
        again = dense()
        values = model.state_dict().values()  # its keys hold the numbers of the layers
        again.load_state_dict(dict(zip(again.state_dict(), values, strict=True)))
    assert_equal(weights(again), weights(model))


@pytest.mark.skipif(BACKEND != "tensorflow", reason="checkpoints are TensorFlow's")
@every_content
def test_a_checkpoint_of_tensorflow_counts(tmp_path, change):
    import tensorflow as tf

    model = change(dense(seed=2))
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    with skip_init():
        again = dense()
        tf.train.Checkpoint(model=again).read(path)
    assert_equal(weights(again), weights(model))


def by_set_weights(model):
    again = keras.models.clone_model(model)
    again.set_weights(model.get_weights())
    return again


def by_deepcopy(model):
    return copy.deepcopy(model)


@pytest.mark.parametrize("copied", [by_set_weights, by_deepcopy])
def test_a_copy_of_what_was_not_loaded_is_not_loaded(copied):
    values, kept = weights(dense(seed=2)), []

    def load():
        with skip_init():
            kept.append(dense())
            kept.append(copied(kept[0]))
            kept[0].set_weights(values)

    with pytest.raises(NotLoaded, match=r"kernel \(8, 4\), \w*/?dense\w*/kernel \(4, 3\): drawn"):
        load()
    assert_equal(weights(kept[0]), values)
    assert_equal(weights(kept[1]), weights(dense()))


def test_what_a_layer_makes_of_its_own_zeros_is_no_value():
    class Halved(L.Layer):
        def build(self, input_shape):
            self.kernel = self.add_weight(SHAPE, initializer="he_relu", name="kernel")
            self.kernel.assign(self.kernel * 0.5)

    with skip_init("draw"):
        layer = Halved()
        layer.build(None)
    assert layer.kernel.numpy().all()


class Failing(K.RandomNormal):
    """Cannot be drawn."""

    def __call__(self, shape, dtype=None):
        raise MemoryError("no room")


def test_a_draw_that_fails_is_told_after_the_others():
    made = []

    def load():
        with skip_init():
            made.append(keras.Variable(Failing(), shape=SHAPE))
            made.append(keras.Variable("he_relu", shape=SHAPE))

    with pytest.raises(MemoryError, match="no room"):
        load()
    assert made[1].numpy().all()


def test_a_draw_that_fails_does_not_hide_the_error_inside():
    made = []

    def load():
        with skip_init():
            made.append(keras.Variable(Failing(), shape=SHAPE))
            made.append(keras.Variable("he_relu", shape=SHAPE))
            raise FileNotFoundError

    with pytest.warns(UserWarning, match="1 variables stay zero"), pytest.raises(FileNotFoundError):
        load()
    assert made[1].numpy().all()


# Variables whose first value is put off


def test_a_variable_that_gets_its_value_after_the_block_gets_its_own():
    initializer = keras_he.KaimingNormal(seed=4)
    with keras.StatelessScope(), skip_init():
        variable = keras.Variable(initializer, shape=SHAPE)
    np.testing.assert_array_equal(
        variable.numpy(), keras.ops.convert_to_numpy(initializer(SHAPE, "float32"))
    )


def test_a_variable_that_is_put_off_within_the_block_is_watched():
    with pytest.raises(NotLoaded), skip_init():  # noqa: PT012
        with keras.StatelessScope():
            variable = keras.Variable("he_relu", shape=SHAPE)
        assert not variable.numpy().any()
    assert variable.numpy().any()


# Blocks in blocks, threads, decorators


def test_blocks_answer_for_what_they_made():
    with skip_init():
        outer = keras.Variable("he_relu", shape=SHAPE)
        with pytest.raises(NotLoaded), skip_init():
            inner = keras.Variable("he_relu", shape=SHAPE)
        assert inner.numpy().any()
        assert not outer.numpy().any()
        outer.assign(np.ones(SHAPE))


def test_one_block_may_be_entered_twice():
    block = skip_init("draw")
    with block, block:
        inner = keras.Variable("he_relu", shape=SHAPE)
        assert not inner.numpy().any()
    assert inner.numpy().any()
    assert keras.Variable("he_relu", shape=SHAPE).numpy().any()


def test_an_inner_block_leaves_the_outer_one_open():
    with skip_init("draw"):
        with skip_init("draw"):
            pass
        assert not keras.Variable("he_relu", shape=SHAPE).numpy().any()


def test_it_decorates_a_function():
    @skip_init()
    def load(values):
        model = dense()
        model.set_weights(values)
        return model

    values = weights(dense(seed=2))
    assert_equal(weights(load(values)), values)
    assert_equal(weights(load(values)), values)


def test_a_block_may_be_left_in_another_context():
    block = skip_init("draw")
    made = []

    def enter():
        block.__enter__()
        made.append(keras.Variable("he_relu", shape=SHAPE))
        assert not made[0].numpy().any()

    contextvars.copy_context().run(enter)
    block.__exit__(None, None, None)
    assert made[0].numpy().all()


def in_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join(60)
    return results[0]


def test_another_thread_draws_as_always():
    with skip_init():
        other = in_thread(lambda: keras.Variable("he_relu", shape=SHAPE).numpy())
    assert other.any()


def test_another_thread_may_assign():
    with skip_init():
        variable = keras.Variable("he_relu", shape=SHAPE)
        in_thread(lambda: variable.assign(np.ones(SHAPE)))
    assert (variable.numpy() == 1).all()


def test_many_threads_open_and_close_blocks_at_once():
    started = threading.Barrier(8)

    def load(number):
        started.wait(60)
        for _ in range(20):
            with skip_init():
                variable = keras.Variable("he_relu", shape=SHAPE)
                zero = not variable.numpy().any()
                variable.assign(np.full(SHAPE, number))
            drawn = keras.Variable("he_relu", shape=SHAPE).numpy().any()
            results.append(zero and drawn and (variable.numpy() == number).all())

    results = []
    threads = [threading.Thread(target=load, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [True] * 160


# What is refused


@pytest.mark.parametrize("missing", ["ignore", None, True])
def test_an_unknown_choice_is_named(missing):
    with pytest.raises(keras_he.KerasHeError, match='`missing` must be "raise" or "draw"'):
        skip_init(missing)


@pytest.mark.skipif(
    BACKEND == "torch", reason="TorchDynamo leaves the function at a context manager"
)
def test_compiled_code_is_refused():
    def load(x):
        with skip_init():
            return x

    if BACKEND == "jax":
        import jax

        compiled = jax.jit(load)
    else:
        import tensorflow as tf

        compiled = tf.function(load, autograph=False)
    with pytest.raises(keras_he.KerasHeError, match="entered outside of compiled code"):
        compiled(keras.ops.ones(()))


def test_the_error_is_one_of_keras_he_and_of_values():
    assert issubclass(NotLoaded, keras_he.KerasHeError)
    assert issubclass(NotLoaded, ValueError)
