"""TensorFlow, JAX, PyTorch, and what of Keras is private: no other folder names them.

Decides: how a drawn array becomes a tensor of its dtype, whether code is traced, gradients, shards.
Must never know: gains, fans, layers' rules, models.
Start reading: `framework`, which chooses one class, of `generic`, `tensorflow`, `jax` or `torch`.
`tensors` only reads numbers out of tensors; `keras_private` has all that Keras does not promise.
"""
