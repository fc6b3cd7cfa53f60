"""`keras_he.initialize`: measure → plan → write.

Decides: which gain every variable of a model gets, and writes it after everything was checked.
Must never know: findings of an audit.
Start reading: `initialize`, then `plan` and `measure`; `write` is the only writer.
"""
