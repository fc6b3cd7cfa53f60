"""TensorFlow, JAX, PyTorch, and what of Keras is private: no other folder names them.

Decides: how arrays become tensors, whether code is traced, gradients, shards.
Must never know: gains, fans, layers' rules, models.
Start reading: `framework`, which chooses a class: of `generic`, `tensorflow`, `jax` or `torch`.
"""
