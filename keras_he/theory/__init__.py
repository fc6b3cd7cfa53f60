"""The mathematics: activation → second moments → gain; kernel shape → fans; both → std.

Decides: what a gain and a fan are, for every activation and every way to use a kernel.
Must never know: Keras, a backend, a random number. NumPy only.
Start reading: `kernel_geometry`, from a shape to fans, and to the standard deviation; then
`activations`, the table of activations and their parameters, whose numbers come from `closed_forms`
or, without one, from `quadrature`.
"""
