"""Tells keras_he which weights of the zoo's own layers are kernels."""

import own_layers as own

import keras_he

PER_EXPERT = {"input_axes": (1,), "output_axes": (2,)}

KERNELS = {
    own.LowRank: {"down": {}, "up": {}},
    own.TwoKernels: {"a": {}, "b": {}},
    own.KolmogorovArnold: {"base": {}, "spline": {"input_axes": (0, 1), "output_axes": (2,)}},
    own.Highway: {"kernel": {}, "gate": {}},
    own.Maxout: {"kernel": {"input_axes": (0,), "output_axes": (1, 2)}},
    own.Cross: {"kernel": {}},
    own.Bilinear: {"kernel": {"input_axes": (0, 1), "output_axes": (2,)}},
    own.PeriodicFeatures: {"frequencies": {"input_axes": (), "output_axes": (1,)}},
    # A unit sums over the condition and over the inputs.
    own.Hyper: {"generator": {"input_axes": (0, 1), "output_axes": (2,)}},
    own.TiedTranspose: {},
    own.Experts: {"kernels": PER_EXPERT},
    own.GraphConvolution: {"kernel": {}},
    own.GraphAttention: {
        "kernel": {"input_axes": (0,), "output_axes": (1, 2)},
        "source": {"input_axes": (1,), "output_axes": ()},
        "target": {"input_axes": (1,), "output_axes": ()},
    },
    own.MinimalGatedCell: {"kernel": {"gates": 2}, "recurrent_kernel": {"gates": 2}},
    own.SpatialGate: {"kernel": {}},
    own.Positions: {},
    own.ClassToken: {},
    own.LayerScale: {},
    own.Zero: {},
}


def register():
    """Registers all of them."""
    for layer, kernels in KERNELS.items():
        keras_he.register_kernels(layer, lambda _, kernels=kernels: kernels)
