"""The only randomness: seed, shape and law → values, addressed by element.

Decides: which random word becomes which element, how values are rounded to a dtype, the quantiles
of each law, blocks and threads. A change here is a *Numbers* entry of the change log.
Must never know: Keras, a backend, what a kernel is for. NumPy only.
Start reading: `stream` (words, elements, rounding), then `laws` (quantiles); `regions` draws a part
of the same array, and `orthogonal` matrices are drawn as a whole.
"""
