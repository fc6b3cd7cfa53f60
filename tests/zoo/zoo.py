"""All models of the zoo, by name. Knows nothing of keras_he."""

import keras
import models_attention
import models_conv
import models_dense
import models_graph
import models_mixed
import models_resnet
import models_sequence

FAMILIES = (
    models_dense,
    models_mixed,
    models_conv,
    models_resnet,
    models_sequence,
    models_attention,
    models_graph,
)
MODELS = {name: builder for family in FAMILIES for name, builder in family.MODELS.items()}


def build(name, seed=7):
    """Returns a model and its batch, the same at each call."""
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(seed)
    return MODELS[name]()
