"""Kaiming He's initialization for Keras 3: right gains, right fans, on every backend.

Importing the package registers its strings, so that a layer can say
`kernel_initializer="he_prelu"`.
"""

# Beside the folders: `errors` and `notes` (public errors, texts with a kind), `startup` (whether
# Keras can be imported, and when), `model_files` (what a file is, loading, saving, and the
# errors about files), `portable` (our initializers become Keras' own), `callback` (an audit during
# training), and `cli` (options, exit codes; an error is one line).

from typing import TYPE_CHECKING, Any

from keras_he.startup import check_keras, complete, is_deferred

__version__ = "0.1.0"

if not is_deferred():
    check_keras()
    from keras_he.audit_model.audit import audit
    from keras_he.callback import SignalLogger
    from keras_he.errors import KerasHeError
    from keras_he.initialize_model.initialize import initialize
    from keras_he.initializers.activation_argument import depth_factors, gain
    from keras_he.initializers.kaiming import (
        KaimingNormal,
        KaimingOrthogonal,
        KaimingTruncatedNormal,
        KaimingUniform,
    )
    from keras_he.initializers.names import names
    from keras_he.initializers.registry import get, register
    from keras_he.initializers.skip_init import skip_init
    from keras_he.layers.rules import register_kernels
    from keras_he.layers.walk import layer_fans
    from keras_he.notes import Note
    from keras_he.portable import make_portable
    from keras_he.reports.audit_report import AuditReport
    from keras_he.reports.data import Figures, Finding, Row
    from keras_he.reports.initialization_report import InitializationReport
    from keras_he.reports.report import Comparison, Report
    from keras_he.theory.activations import DepthFactors
    from keras_he.theory.kernel_geometry import Fans, fans

    register()

__all__ = [
    "AuditReport",
    "Comparison",
    "DepthFactors",
    "Fans",
    "Figures",
    "Finding",
    "InitializationReport",
    "KaimingNormal",
    "KaimingOrthogonal",
    "KaimingTruncatedNormal",
    "KaimingUniform",
    "KerasHeError",
    "Note",
    "Report",
    "Row",
    "SignalLogger",
    "audit",
    "depth_factors",
    "fans",
    "gain",
    "get",
    "initialize",
    "layer_fans",
    "make_portable",
    "names",
    "register",
    "register_kernels",
    "skip_init",
]


def __dir__() -> list[str]:
    """Returns the public names: what tab completion shows."""
    return sorted([*__all__, "__version__", "errors"])


if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Imports the public names if that was deferred, as in the command line."""
        if name in __all__ and is_deferred():
            return getattr(complete(), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
