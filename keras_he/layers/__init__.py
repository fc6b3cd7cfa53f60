"""Where the kernels of a layer or a model are, and how each is used.

Decides: each layer's rule, each variable's path and role, what a path pattern selects.
Must never know: initializers, measurements, reports.
Start reading: `rules`, the table from layers to kernels; then `walk` (all layers inside a model)
and `variables` (one record for each variable). `kinds` are layers with a treatment of their own,
and `constants` kernels that their author made constant.
"""
