"""Losses after training, of models as Keras initializes them and after `keras_he.initialize`.

`docs/training.md` has the protocol and the results. Start reading in `tasks`, the table of models;
`runs` trains one, `experiment` decides what is trained, and `table` says what it means.
"""
