"""What a user gives a layer: the Keras classes, the strings, and `skip_init`.

Decides: arguments and configs, how an activation argument is read, how Keras finds the strings.
Must never know: models, and how layers use their kernels.
Start reading: `kaiming`, then `names` (which strings exist) and `registry` (why Keras finds them).
"""
