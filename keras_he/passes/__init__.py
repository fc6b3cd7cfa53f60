"""One watched pass over a model, forward or backward; it writes nothing.

Decides: what is run on which batch, how layers are watched, where a tensor came from, what counts
as a residual sum, by which factor its branches are to be scaled, and which weights are tables.
Must never know: what is done with it: plans, findings, reports.
Start reading: `forward`, `kernel_watcher` (hooks around each layer), then `tensor_origins`
(origins, sums and branches).
"""
