"""Transformers of KerasHub: custom layers in custom layers, dicts of inputs, attention."""

import architectures
import keras
import pytest
import signals
from architectures import batch_for

import keras_he

pytestmark = pytest.mark.slow

keras_hub = pytest.importorskip("keras_hub")

SIZES = {"num_layers": 4, "num_heads": 2, "hidden_dim": 64}
TEXT = {"vocabulary_size": 50, "intermediate_dim": 128, "max_sequence_length": 16, **SIZES}
BACKBONES = {
    "GPT-2": lambda: keras_hub.models.GPT2Backbone(dropout=0.0, **TEXT),
    "BERT": lambda: keras_hub.models.BertBackbone(dropout=0.0, **TEXT),
    "ViT": lambda: keras_hub.models.ViTBackbone(
        image_shape=(32, 32, 3), patch_size=8, mlp_dim=128, **SIZES
    ),
    "Llama": architectures.llama,
}


@pytest.fixture(params=BACKBONES)
def backbone(request):
    keras.utils.set_random_seed(0)
    return BACKBONES[request.param]()


def test_every_kernel_is_set_or_named(backbone):
    report = keras_he.initialize(backbone, seed=1)
    report.check()
    assert len(report.rows) == len(backbone.variables)
    measured = [row for row in report.kernels if row.rule == "measured"]
    # Six kernels to a block, seven with Llama's gate.
    assert len(measured) in (24, 25, 28)
    tables = [row for row in report.kernels if row.rule != "measured"]
    assert all("embeddings" in row.path for row in tables)


def test_the_signal_is_kept(backbone):
    batch, fresh = batch_for(backbone, 16), batch_for(backbone, 16, seed=1)
    if isinstance(batch, dict) and "padding_mask" in batch:
        for one in (batch, fresh):
            one["padding_mask"] = one["padding_mask"] * 0 + 1
    keras_he.initialize(backbone, batch, seed=1)
    moments = [one[0] for one in signals.second_moments(backbone, batch).values()]
    assert signals.factor(moments) < 1.5
    moments = [one[0] for one in signals.second_moments(backbone, fresh).values()]
    assert signals.factor(moments) < 2.5


def test_without_data_the_inputs_are_known(backbone):
    keras_he.initialize(backbone, dry_run=True, seed=1).check()
