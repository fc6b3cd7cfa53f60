"""The ones-oracle of fans: what a layer of ones does to ones, with no formula of a fan.

With a kernel of ones and no bias, an output unit that is fed ones counts the connections into it,
and the sum of the outputs that one input unit reaches, the gradient of the summed output, counts
those out of it. Where units differ (strides), both are means over whole periods of interior units.
"""

import keras
import numpy as np


def run(layer, *inputs, **arguments):
    """Returns the outputs of a layer as float64."""
    tensors = [keras.ops.convert_to_tensor(x) for x in inputs]
    return keras.ops.convert_to_numpy(layer(*tensors, **arguments)).astype(np.float64)


def fill_with_ones(layer, *names):
    """Sets the named weights of a layer to ones and all others to zeros."""
    for weight in layer.weights:
        value = 1.0 if weight.path.rsplit("/", 1)[-1] in names else 0.0
        weight.assign(np.full(weight.shape, value, "float32"))


def dense_fans(layer, shape):
    """Returns (fan_in, fan_out) of a layer without spatial borders, fed `shape`."""
    y = run(layer, np.ones(shape, "float32"))
    return float(y.mean()), float(y.sum() / np.prod(shape))


def spatial_fans(layer, kernel_size, channels, strides, dilation, transposed, last=True):
    """Returns (fan_in, fan_out) of a convolution with kernel of ones, by its interior units."""
    rank = len(kernel_size)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel_size, dilation, strict=True)]
    sizes = [2 * e + 4 * s for e, s in zip(reach, strides, strict=True)]

    def with_channels(spatial):
        return (1, *spatial, channels) if last else (1, channels, *spatial)

    def region(slices):
        return (slice(None), *slices, slice(None)) if last else (slice(None), slice(None), *slices)

    y = run(layer, np.ones(with_channels(sizes), "float32"))
    spatial = y.shape[1:-1] if last else y.shape[2:]
    period = strides if transposed else (1,) * rank
    middle = [slice(n // 2, n // 2 + p) for n, p in zip(spatial, period, strict=True)]
    fan_in = y[region(middle)].mean()

    # One period of input units far from every border, fed ones among zeros.
    x = np.zeros(with_channels(sizes), "float32")
    x[region([slice(e, e + s) for e, s in zip(reach, strides, strict=True)])] = 1.0
    return float(fan_in), float(run(layer, x).sum() / x.sum())
