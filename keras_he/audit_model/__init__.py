"""`keras_he.audit`: observe → checks → findings.

Decides: what is wrong with a model, by which threshold, and the line of code that corrects it.
Must never know: plans; it changes nothing.
Start reading: `audit`, then `verdicts` and `subject`; the checks are `signal_checks` and
`initializer_checks`.
"""
