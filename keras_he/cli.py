"""The command line: `keras-he`, or `python -m keras_he`.

Exit codes: 0 for success; 1 if `--fail-on` found one of its verdicts; 2 if the command failed, with
one line on standard error.
"""

import argparse
import importlib
import os
import sys
import textwrap
import zipfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from keras_he.audit_model.verdicts import VERDICT_NAMES
from keras_he.errors import KerasHeError, did_you_mean
from keras_he.initializers.names import names
from keras_he.model_files import Refusal, check_is_model, last_words, load, save, writable
from keras_he.sampling.laws import LAWS
from keras_he.startup import complete
from keras_he.theory import activations
from keras_he.theory.kernel_geometry import MODES

_EXAMPLES = {
    "audit": (
        "keras-he audit model.keras --html report.html",
        "keras-he audit model.keras --data batch.npy --fail-on vanishing,exploding",
    ),
    "init": ("keras-he init model.keras initialized.keras --data batch.npy --seed 1",),
    "names": ("keras-he names 'he_prelu*'",),
    "gain": ("keras-he gain gelu", "keras-he gain leaky_relu --negative-slope 0.1"),
    "portable": ("keras-he portable model.keras portable.keras",),
}
_CODES = "exit codes: 0 success, 1 --fail-on found something, 2 the command failed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, and returns its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that lacks × or ² gets ?
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()  # a closed pipe raises here, not when Python ends
    except BrokenPipeError:  # such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KerasHeError, ImportError, OSError) as error:
        text = " ".join(str(error).split())
        print(f"keras-he: {text}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-he",
        description="Kaiming He's initialization for Keras 3: audit and initialize models.",
        epilog=_epilog(*_EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = partial(_command, commands)
    _audit_options(add("audit", "show how the signal and the gradient pass through a model"))
    _init_options(add("init", "initialize every kernel at the right scale"))
    one = add("names", "show the grammar of the strings that layers accept, or list strings")
    one.add_argument("pattern", nargs="?", help="list what matches it, such as 'he_gelu*'")
    one.set_defaults(run=_names)
    one = add("gain", "print an activation's gain, and its effect over depth")
    one.add_argument("activation", help="a name, such as gelu")
    one.add_argument("--mode", default="fan_in", choices=MODES)
    one.add_argument("--negative-slope", type=float, help="of leaky_relu or prelu")
    one.set_defaults(run=_gain)
    one = add("portable", "write a file that loads without keras_he")
    _model_options(one, out=True, data=False)
    one.set_defaults(run=_portable)
    return parser


def _command(commands: Any, name: str, summary: str) -> argparse.ArgumentParser:
    """Returns the parser of a command, whose help ends with its examples."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=_epilog(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _epilog(*names: str) -> str:
    lines = [f"  {line}" for name in names for line in _EXAMPLES[name]]
    return "\n".join(["examples:", *lines, "", _CODES])


def _model_options(parser: argparse.ArgumentParser, *, out: bool, data: bool) -> None:
    parser.add_argument("model", metavar="MODEL", help="a .keras or .h5 file")
    parser.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="import a module that registers the model's own layers; may be repeated",
    )
    if out:
        parser.add_argument("out", metavar="OUT", help="the file to write, .keras or .h5")
    if data:
        parser.add_argument("--data", metavar="X.npy", help="a batch of inputs; .npz holds several")


def _audit_options(parser: argparse.ArgumentParser) -> None:
    _model_options(parser, out=False, data=True)
    parser.add_argument("--html", metavar="OUT", help="write a page")
    parser.add_argument("--json", metavar="OUT", help="write the report as JSON; - prints it")
    parser.add_argument("--no-backward", action="store_true", help="do not measure the gradient")
    parser.add_argument(
        "--fail-on",
        metavar="VERDICTS",
        default="",
        help="exit with 1 if one of these, separated by commas, is found; or any",
    )
    verdicts = textwrap.wrap(f"verdicts: {', '.join(VERDICT_NAMES)}", 78, break_on_hyphens=False)
    parser.epilog = "\n".join([parser.epilog or "", *verdicts])
    parser.set_defaults(run=_audit)


def _init_options(parser: argparse.ArgumentParser) -> None:
    _model_options(parser, out=True, data=True)
    parser.add_argument("--seed", type=int, help="an integer of at least 0")
    parser.add_argument("--mode", default="fan_in", choices=MODES)
    parser.add_argument("--law", default="normal", choices=tuple(LAWS))
    parser.set_defaults(run=_init)


def _audit(options: argparse.Namespace) -> int:
    wanted = _verdicts(options.fail_on)
    html = writable(options.html) if options.html else None
    out = writable(options.json) if options.json not in (None, "-") else None
    # With `--json -`, standard output is JSON only; layers and progress print to standard error.
    with redirect_stdout(sys.stderr if options.json == "-" else sys.stdout):
        model = _loaded(options, compiled=False)
        _check_backward(options)
        report = _run(options, complete().audit, model, backward=not options.no_backward)
    print(report.to_json(indent=1) if options.json == "-" else report)
    if html:
        report.to_html(html)
    if out:
        out.write_text(report.to_json(indent=1), encoding="utf-8")
    return int(any(finding.verdict in wanted for finding in report.findings))


def _check_backward(options: argparse.Namespace) -> None:
    """Says which option is missing if the backend computes no gradients."""
    import keras

    from keras_he.backend.framework import framework

    if not (options.no_backward or framework.takes_gradients):
        name = keras.backend.backend()
        raise Refusal(f"the {name} backend takes no gradients: add --no-backward")


def _verdicts(text: str) -> set[str]:
    wanted = {one.strip() for one in text.split(",") if one.strip()}
    if "any" in wanted:
        return set(VERDICT_NAMES)
    for one in wanted - set(VERDICT_NAMES):
        hint = did_you_mean(one, VERDICT_NAMES) or f"There are {', '.join(VERDICT_NAMES)}, any."
        raise Refusal(f"--fail-on knows no {one!r}. {hint}")
    return wanted


def _init(options: argparse.Namespace) -> int:
    out = writable(options.out, model=True)
    model = _loaded(options)
    how = {"seed": options.seed, "mode": options.mode, "law": options.law}
    report = _run(options, complete().initialize, model, **how)
    print(report)
    save(model, out)
    return 0


def _names(options: argparse.Namespace) -> int:
    print(names() if options.pattern is None else "\n".join(names(options.pattern)))
    return 0


def _gain(options: argparse.Namespace) -> int:
    found = activations.named(options.activation)
    if options.negative_slope is not None:
        found = activations.with_slope(found, options.negative_slope)
    print(f"{activations.gain(found.moments, options.mode):.9g}")
    signal, gradient = activations.depth_factors(found.moments)
    print(f"per layer: errors of the signal ×{signal:.4g}, gradient ×{gradient:.4g}")
    return 0


def _portable(options: argparse.Namespace) -> int:
    out = writable(options.out, model=True)
    model = _loaded(options)
    replaced = complete().make_portable(model)
    for one in replaced:
        note = f"  ({one.note})" if one.note else ""
        config = ", ".join(f"{key}={value!r}" for key, value in one.after.get_config().items())
        print(f"{one.layer}.{one.attribute} = {type(one.after).__name__}({config}){note}")
    print(f"{len(replaced)} initializers replaced.")
    save(model, out)
    return 0


def _run(options: argparse.Namespace, function: Callable[..., Any], model: Any, **how: Any) -> Any:
    """Returns the function's report; any error of the model becomes one line."""
    data = _data(options.data)
    try:
        return function(model, data, **how)
    except KerasHeError:
        raise
    except Exception as error:  # a layer may raise anything on a batch that does not fit
        batch = f"--data {options.data}" if options.data else "a drawn batch; give --data"
        said = f"{options.model} fails on {batch}. Keras says: {last_words(error)}"
        raise Refusal(said) from error


def _loaded(options: argparse.Namespace, *, compiled: bool = True) -> Any:
    """Returns the model of a file, after importing the modules that register its layers."""
    path = Path(options.model)
    check_is_model(path)
    complete()
    if options.modules:  # search the current folder first, as `python -m` does
        sys.path.insert(0, os.getcwd())
    for module in options.modules:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # a module may raise anything
            raise Refusal(f"--import {module}: {error}") from error
    return load(path, compiled=compiled)


def _data(name: str | None) -> Any:
    """Returns the arrays of a file: one, or several by their names."""
    if name is None:
        return None
    try:
        held = np.load(name, allow_pickle=False)
        return dict(held) if isinstance(held, np.lib.npyio.NpzFile) else held
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise Refusal(f"--data {name}: {error}") from error
