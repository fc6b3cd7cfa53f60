"""`keras_he.initialize`: measure → plan → write.

Decides: which gain every variable of a model gets; writes all values, or none after an error.
Must never know: findings of an audit.
Start reading: `initialize`, then `plan` and `measure`. `write` is the only writer, and restores the
model after an error. `constraints` plans kernels that training constrains.
"""
