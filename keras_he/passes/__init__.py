"""One watched pass over a model, forward or backward; it writes nothing.

Decides: what is run on which batch, how layers are watched, where a tensor came from.
Must never know: what is done with what was seen: plans, findings, reports.
Start reading: `forward`, then `tensor_origins`.
"""
