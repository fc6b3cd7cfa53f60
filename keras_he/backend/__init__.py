"""TensorFlow, JAX, PyTorch, and what of Keras is private: no other folder imports them.

Decides: how a drawn array, already rounded, becomes a tensor, and whose memory it takes; whether
code is traced, gradients, shards; what a foreign model or file is.
Must never know: gains, fans, layers' rules, models.
Start reading: `framework`, which chooses one class, of `generic`, `tensorflow`, `jax` or `torch`.
`tensors` only reads numbers out of tensors; `keras_private` has all that Keras does not promise.
"""
