"""`keras_he.audit`: observe → checks → findings.

Decides: what is wrong with a model, by which threshold, and the line of code that corrects it.
Must never know: plans; it changes nothing.
Start reading: `audit`, then `verdicts` (names and thresholds). `observe` and `gradient` measure;
`kernel_facts` has the record of a kernel. `initializer_checks` finds wrong fans, gains, slopes and
places, from what `initializer_assumptions` says that an initializer assumes; `gradient_checks`
finds faults of the gradient, `signal_checks` all others. `expectations` has the standard deviation
that the table and the remedies share; `rows` makes the report's rows.
"""
