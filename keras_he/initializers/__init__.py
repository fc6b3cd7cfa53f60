"""What a user gives a layer: the Keras classes, the strings, and `skip_init`.

Decides: arguments and configs, how an activation is read, how strings get into Keras' tables.
Must never know: models, and how layers use their kernels.
Start reading: `kaiming`, then `names` (the grammar) and `registry` (Keras' tables).
"""
