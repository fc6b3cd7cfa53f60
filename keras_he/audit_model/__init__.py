"""`keras_he.audit`: observe → checks → findings.

Decides: what is wrong with a model, by which threshold, and the line of code that corrects it.
Must never know: plans; it changes nothing.
Start reading: `audit`, then `verdicts` (names and thresholds). `initializer_checks` finds wrong
fans, gains, slopes and places, from what `initializer_assumptions` says that an initializer
assumes; `signal_checks` finds all other faults. `observe` measures; `kernel_facts` has
the record of a kernel.
"""
