"""The tests can fail: each mutant is patched in, and the test that guards against it must object.

The guards are the tests of this suite themselves, called on the mutant, not copies of them.
"""

import math

import keras
import numpy as np
import pytest
import test_audit
import test_initialize
import test_initializers
import test_layers
import test_measured_audits
import test_names
import test_orthogonal
import test_sampling

import keras_he
from keras_he.audit_model import audit as examine
from keras_he.audit_model import expectations, observe
from keras_he.audit_model import initializer_assumptions as claims
from keras_he.initialize_model import measure, plan
from keras_he.initializers import kaiming as initializers
from keras_he.initializers import names as strings
from keras_he.layers import walk as layers
from keras_he.sampling import laws, orthogonal, regions
from keras_he.sampling import stream as sampling
from keras_he.theory import activations
from keras_he.theory import kernel_geometry as geometry
from keras_he.theory.quadrature import Moments


def he_prelu():
    test_initializers.test_he_prelu_has_the_papers_standard_deviation()


def rectifier(second_moment):
    """Returns a stand-in for `activations.moments` by the rule given for a slope."""

    def moments(name, **parameters):
        slope = {"relu": 0.0, "linear": 1.0}.get(name, parameters.get("negative_slope"))
        return Moments(*[second_moment(slope)] * 3)

    return moments


def fans_swapped(patch):
    right = geometry.geometry_fans
    wrong = lambda *arguments: geometry.Fans(*reversed(right(*arguments)))  # noqa: E731
    patch.setattr(geometry, "geometry_fans", wrong)
    patch.setattr(layers, "geometry_fans", wrong)
    yield lambda: test_layers.test_dense_has_the_oracles_fans(5, 7)
    yield lambda: test_initializers.test_dense_is_drawn_with_the_oracles_fans(patch)


def stride_ignored_in_transposed_fans(patch):
    right = geometry.geometry_fans

    def wrong(shape, how):
        return right(shape, how._replace(strides=(1,)) if how.kind == "transpose" else how)

    patch.setattr(geometry, "geometry_fans", wrong)
    patch.setattr(layers, "geometry_fans", wrong)
    arguments = {"filters": 3, "kernel_size": (3, 3), "strides": (2, 2)}
    layer = keras.layers.Conv2DTranspose
    yield lambda: test_layers.test_transposed_convolutions_have_the_oracles_fans(
        layer, 5, arguments
    )
    yield lambda: test_initializers.test_convolutions_are_drawn_with_the_oracles_fans(
        patch, layer, arguments
    )


def truncation_uncorrected(patch):
    patch.setattr(laws, "TRUNCATED_STD", 1.0)
    yield lambda: test_sampling.test_draws_follow_their_law("truncated_normal", "float32")


def slope_unsquared(patch):
    patch.setattr(activations, "moments", rectifier(lambda slope: (1 + slope) / 2))
    yield he_prelu


def gain_of_relu_for_prelu(patch):
    patch.setattr(activations, "moments", rectifier(lambda slope: 0.5))
    yield he_prelu


def replace_fill(patch, law, fill):
    patch.setitem(laws.LAWS, law, laws.LAWS[law]._replace(fill=fill))


def law_ignored(patch):
    for law in ("uniform", "truncated_normal"):
        replace_fill(patch, law, laws.normal)
    for law in ("uniform", "truncated_normal"):
        yield lambda law=law: test_sampling.test_draws_follow_their_law(law, "float32")


def seed_ignored(patch):
    right = sampling.draw
    wrong = lambda law, shape, std, seed, dtype, **how: right(law, shape, std, 0, dtype, **how)  # noqa: E731
    patch.setattr(test_sampling, "draw", wrong)
    patch.setattr(regions, "draw", wrong)
    yield lambda: test_sampling.test_seeds_and_blocks_are_uncorrelated("normal")
    yield lambda: test_initializers.test_calls_with_one_seed_are_equal_and_with_a_generator_not(
        "normal"
    )


def float32_draw_skipped_for_bfloat16(patch):
    """Words of eight bits, which is what a draw in bfloat16 takes."""
    right = sampling.draw

    def wrong(law, shape, std, seed, dtype, **how):
        fill = laws.LAWS[law].fill

        def coarse(std):
            def filled(words, values, scratch):
                fill(std)(words & -(2**24), values, scratch)

            return laws.Fill(filled)

        with pytest.MonkeyPatch.context() as inner:
            replace_fill(inner, law, coarse)
            return right(law, shape, std, seed, dtype, **how)

    patch.setattr(test_sampling, "draw", wrong)
    yield test_sampling.test_bfloat16_has_many_values_and_few_zeros


def alias_under_a_keras_name(patch):
    right = strings.meanings
    wrong = lambda: {**right(), "he_normal": right()["kaiming_normal"]}  # noqa: E731
    patch.setattr(strings, "meanings", wrong)

    def guard():
        patch.setattr(test_names, "NAMES", keras_he.names())  # taken when the module was imported
        test_names.test_no_name_is_a_public_name_of_keras("initializers")

    yield guard


def orthogonal_without_the_sign_fix(patch):
    right = np.linalg.qr

    def wrong(matrix):
        q, r = right(matrix)
        return q, np.abs(r)

    patch.setattr(orthogonal.np.linalg, "qr", wrong)
    yield test_orthogonal.test_matrices_are_uniform_over_the_group
    yield test_orthogonal.test_it_is_the_orthogonal_factor_of_its_normal_draw


def uniform_without_sqrt_3(patch):
    replace_fill(patch, "uniform", lambda std: laws.uniform(std / math.sqrt(3)))
    yield lambda: test_sampling.test_draws_follow_their_law("uniform", "float32")


def per_channel_slopes_averaged_before_squaring(patch):
    patch.setattr(activations, "root_mean_square", lambda argument, value: float(np.mean(value)))
    yield test_initializers.test_per_channel_slopes_count_by_their_root_mean_square


def fan_avg_of_the_fans_alone(patch):
    right = geometry.standard_deviation

    def wrong(gain, fans, mode):
        if mode == "fan_avg" and isinstance(gain, Moments):
            gain = activations.gain(gain, mode)
        return right(gain, fans, mode)

    patch.setattr(initializers, "standard_deviation", wrong)
    yield test_initializers.test_fan_avg_is_the_mean_of_both_conditions_not_of_the_fans


def pre_activations_passed_on_as_they_were(patch):
    right = measure.Measurement._scaled

    def wrong(self, kernels, value, inputs):
        right(self, kernels, value, inputs)
        return value

    patch.setattr(measure.Measurement, "_scaled", wrong)
    yield lambda: test_initialize.test_every_law_keeps_the_signal("normal")


def branches_of_sums_left(patch):
    patch.setattr(plan, "branch_factors", lambda runs: {})
    yield test_initialize.test_a_trunk_of_a_hundred_blocks_keeps_its_second_moment


def moving_statistics_left(patch):
    patch.setattr(plan, "_batch_statistics", lambda entries, statistics: None)
    yield lambda: test_initialize.test_moving_statistics_are_the_batchs_or_keras_own("batch")


def one_seed_for_every_kernel(patch):
    patch.setattr(plan, "seed_of", lambda seed, key: seed)
    yield test_initialize.test_layers_of_one_shape_are_drawn_apart


def audit_counts_no_dead_units(patch):
    patch.setattr(observe, "_dead", lambda value, result, channel: 0.0)
    yield test_audit.test_dead_and_saturated_shares_are_counted


def audit_takes_the_gradient_of_twice_the_loss(patch):
    right = examine.backward

    def wrong(model, inputs, shapes, loss, seed, **kwargs):
        return right(model, inputs, shapes, lambda outputs: 2.0 * loss(outputs), seed, **kwargs)

    patch.setattr(examine, "backward", wrong)
    yield test_audit.test_the_figures_are_those_of_backpropagation_by_hand


def audit_believes_the_fans_of_keras(patch):
    patch.setattr(layers, "geometry_fans", lambda shape, geometry: claims.keras_fans(shape))
    name = "fan, he_normal in depthwise"
    yield lambda: test_audit.test_a_planted_fault_is_found_and_its_remedy_clears_it(name)


def audit_omits_layers_of_the_users_own(patch):
    patch.setattr(observe.Observation, "_observe_output", lambda self, call, output: None)
    for name in ("between kernels", "low rank"):
        yield (
            lambda name=name: (
                test_measured_audits.test_a_signal_that_own_layers_lose_is_found_and_restored(name)
            )
        )


def audit_assumes_what_precedes_a_users_kernel(patch):
    patch.setattr(expectations, "is_of_keras", lambda layer: True)
    case = (test_measured_audits.Expecting, "he_relu", 0.394, False)
    yield (
        lambda: (
            test_measured_audits.test_a_wrong_gain_is_told_of_an_own_layer_where_the_signal_shows_it(
                *case
            )
        )
    )


MUTANTS = [
    audit_omits_layers_of_the_users_own,
    audit_assumes_what_precedes_a_users_kernel,
    audit_counts_no_dead_units,
    audit_takes_the_gradient_of_twice_the_loss,
    audit_believes_the_fans_of_keras,
    pre_activations_passed_on_as_they_were,
    branches_of_sums_left,
    moving_statistics_left,
    one_seed_for_every_kernel,
    fans_swapped,
    stride_ignored_in_transposed_fans,
    truncation_uncorrected,
    slope_unsquared,
    gain_of_relu_for_prelu,
    law_ignored,
    seed_ignored,
    float32_draw_skipped_for_bfloat16,
    alias_under_a_keras_name,
    orthogonal_without_the_sign_fix,
    uniform_without_sqrt_3,
    per_channel_slopes_averaged_before_squaring,
    fan_avg_of_the_fans_alone,
]


@pytest.fixture(autouse=True)
def no_memory_of_other_mutants():
    """Forgets what the sampler keeps of a law: a mutant's, or the right one before a mutant."""
    sampling._made.cache_clear()
    yield
    sampling._made.cache_clear()


@pytest.mark.quick(100)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_the_suite_kills(mutant):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HE_NUM_THREADS", "1")
        for guard in mutant(patch):
            with pytest.raises(AssertionError):
                guard()


@pytest.mark.quick(100)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_without_the_mutant_its_guards_pass(mutant):
    with pytest.MonkeyPatch.context() as patch:
        guards = list(mutant(patch))
        patch.undo()
        for guard in guards:
            guard()
