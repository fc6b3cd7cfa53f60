"""The only randomness: seed, shape and law → values, addressed by element.

Decides: the stream, the laws' quantiles, blocks and threads; a change here is a *Numbers* entry.
Must never know: Keras, a backend, what a kernel is for. NumPy only.
Start reading: `stream`, then `laws`.
"""
