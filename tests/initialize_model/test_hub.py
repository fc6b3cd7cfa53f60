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
    report = keras_he.initialize(backbone, batch, seed=1)
    # Sums in the call of a layer are scaled too: the last kernel of each branch is smaller.
    scaled = sum(row.target < 1.0 for row in report.kernels)
    assert scaled in (0, 8)  # two branches to a block; BERT normalises after each sum
    for one, limit in ((batch, 1.5), (fresh, 2.5)):
        moments = signals.moments_aside_from_merges(backbone, report, one)
        assert signals.factor(moments) < limit


def test_without_data_the_inputs_are_known(backbone):
    keras_he.initialize(backbone, dry_run=True, seed=1).check()
