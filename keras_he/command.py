"""The command line: `keras-he`, or `python -m keras_he`.

Exit codes: 0 where all is well; 1 where `--fail-on` found what it was to fail on; 2 where something
cannot be done, said in one line on standard error.
"""

import argparse
import importlib
import json
import os
import re
import sys
import textwrap
import zipfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_he.entries import LAWS
from keras_he.errors import KerasHeError, did_you_mean
from keras_he.examine import audit
from keras_he.keras_activations import depth_factors, gain
from keras_he.loading import skip_init
from keras_he.model import initialize
from keras_he.portable import make_portable
from keras_he.registry import names
from keras_he.variance import MODES
from keras_he.verdicts import VERDICTS

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
_CODES = "exit codes: 0 all is well, 1 --fail-on found something, 2 it cannot be done"


class Refusal(Exception):
    """What is told in one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line, and returns its exit code."""
    options = _parser().parse_args(arguments)
    try:
        code: int = options.run(options)
        sys.stdout.flush()  # a reader that is gone is met here, not when Python ends
    except BrokenPipeError:  # such as `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Refusal, KerasHeError, ImportError, OSError) as error:
        text = " ".join(str(error).split())
        print(f"keras-he: {text}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-he",
        description="Kaiming He's initialization for Keras 3: look at models, and mend them.",
        epilog=_epilog(*_EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = partial(_command, commands)
    _audit_options(add("audit", "tell what a model does to its signal"))
    _init_options(add("init", "give every kernel the right scale"))
    one = add("names", "list the strings that layers take")
    one.add_argument("pattern", nargs="?", default="*", help="a shell pattern, such as 'he_gelu*'")
    one.set_defaults(run=_names)
    one = add("gain", "tell an activation's gain, and what it does over depth")
    one.add_argument("activation", help="a name, such as gelu")
    one.add_argument("--mode", default="fan_in", choices=MODES)
    one.add_argument("--negative-slope", type=float, help="of leaky_relu or prelu")
    one.set_defaults(run=_gain)
    one = add("portable", "make a file that loads without keras_he")
    _model_options(one)
    one.add_argument("out", metavar="OUT", help="the file to write, .keras or .h5")
    one.set_defaults(run=_portable)
    return parser


def _command(commands: Any, name: str, told: str) -> argparse.ArgumentParser:
    """Returns the parser of a command, whose help ends with its examples."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=told,
        description=f"{told[0].upper()}{told[1:]}.",
        epilog=_epilog(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


def _epilog(*names: str) -> str:
    lines = [f"  {line}" for name in names for line in _EXAMPLES[name]]
    return "\n".join(["examples:", *lines, "", _CODES])


def _model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a .keras or .h5 file")
    parser.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="import a module that registers the model's own layers; may be given again",
    )


def _audit_options(parser: argparse.ArgumentParser) -> None:
    _model_options(parser)
    parser.add_argument("--data", metavar="X.npy", help="a batch of inputs; .npz holds several")
    parser.add_argument("--html", metavar="OUT", help="write a page")
    parser.add_argument("--json", metavar="OUT", help="write the report as JSON; - prints it")
    parser.add_argument("--no-backward", action="store_true", help="leave the gradient out")
    parser.add_argument(
        "--fail-on",
        metavar="VERDICTS",
        default="",
        help="exit with 1 on these, with commas between, or on any",
    )
    verdicts = textwrap.wrap(f"verdicts: {', '.join(VERDICTS)}", 78, break_on_hyphens=False)
    parser.epilog = "\n".join([parser.epilog or "", *verdicts])
    parser.set_defaults(run=_audit)


def _init_options(parser: argparse.ArgumentParser) -> None:
    _model_options(parser)
    parser.add_argument("out", metavar="OUT", help="the file to write, .keras or .h5")
    parser.add_argument("--data", metavar="X.npy", help="a batch of inputs; .npz holds several")
    parser.add_argument("--seed", type=int, help="an integer of at least 0")
    parser.add_argument("--mode", default="fan_in", choices=MODES)
    parser.add_argument("--law", default="normal", choices=tuple(LAWS))
    parser.set_defaults(run=_init)


def _audit(options: argparse.Namespace) -> int:
    wanted = _verdicts(options.fail_on)
    html = _writable(options.html) if options.html else None
    out = _writable(options.json) if options.json not in (None, "-") else None
    # What layers print, and the progress that is shown, is no JSON.
    with redirect_stdout(sys.stderr if options.json == "-" else sys.stdout):
        model = _loaded(options, compiled=False)
        report = _run(options, audit, model, backward=not options.no_backward)
    print(report.to_json(indent=1) if options.json == "-" else report)
    if html:
        report.to_html(html)
    if out:
        out.write_text(report.to_json(indent=1), encoding="utf-8")
    return int(any(finding.verdict in wanted for finding in report.findings))


def _verdicts(text: str) -> set[str]:
    wanted = {one.strip() for one in text.split(",") if one.strip()}
    if "any" in wanted:
        return set(VERDICTS)
    for one in wanted - set(VERDICTS):
        hint = did_you_mean(one, VERDICTS) or f"There are {', '.join(VERDICTS)}, any."
        raise Refusal(f"--fail-on knows no {one!r}. {hint}")
    return wanted


def _init(options: argparse.Namespace) -> int:
    out = _output(options.out)
    model = _loaded(options)
    report = _run(options, initialize, model, seed=options.seed, mode=options.mode, law=options.law)
    print(report)
    _save(model, out)
    return 0


def _names(options: argparse.Namespace) -> int:
    found = [name for name in names() if fnmatch(name, options.pattern)]
    if not found:
        hint = did_you_mean(options.pattern, names())
        raise Refusal(f"no name fits {options.pattern!r}. {hint}".rstrip())
    print("\n".join(found))
    return 0


def _gain(options: argparse.Namespace) -> int:
    slope = options.negative_slope
    print(f"{gain(options.activation, negative_slope=slope, mode=options.mode):.9g}")
    signal, gradient = depth_factors(options.activation, negative_slope=slope)
    print(f"per layer: errors of the signal ×{signal:.4g}, gradient ×{gradient:.4g}")
    return 0


def _portable(options: argparse.Namespace) -> int:
    out = _output(options.out)
    model = _loaded(options)
    replaced = make_portable(model)
    for one in replaced:
        note = f"  ({one.note})" if one.note else ""
        config = ", ".join(f"{key}={value!r}" for key, value in one.after.get_config().items())
        print(f"{one.layer}.{one.attribute} = {type(one.after).__name__}({config}){note}")
    print(f"{len(replaced)} initializers replaced.")
    _save(model, out)
    return 0


def _run(options: argparse.Namespace, function: Callable[..., Any], model: Any, **how: Any) -> Any:
    """Returns what a function says of a model, whose own errors are told in one line."""
    data = _data(options.data)
    try:
        return function(model, data, **how)
    except KerasHeError:
        raise
    except Exception as error:  # whatever layers raise on a batch that does not fit
        batch = f"--data {options.data}" if options.data else "a batch of normal draws; give --data"
        raise Refusal(f"{options.model} fails on {batch}. Keras says: {_last(error)}") from error


def _loaded(options: argparse.Namespace, *, compiled: bool = True) -> Any:
    """Returns the model of a file, loaded in safe mode."""
    path = Path(options.model)
    if not path.is_file():
        raise Refusal(f"{path} is no file")
    _check_suffix(path)
    if options.modules:  # they are looked for here first, as by `python -m`
        sys.path.insert(0, os.getcwd())
    for module in options.modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever the module raises
            raise Refusal(f"--import {module}: {error}") from error
    try:
        with skip_init(missing="draw"):
            return keras.models.load_model(path, compile=compiled, safe_mode=True)
    except Exception as error:  # whatever a broken or a foreign file makes Keras raise
        if not compiled:
            raise Refusal(_why(path, error)) from error
        said = _last(error)
    # Keras cannot read back what it wrote of a loss named "mse" in .h5.
    model = _loaded(options, compiled=False)
    print(f"Without its loss and optimizer, which cannot be read: {said}", file=sys.stderr)
    return model


def _why(path: Path, error: Exception) -> str:
    """Returns why a file does not load, and what to do."""
    text = str(error)
    if "lambda" in text.lower() and "safe" in text.lower():
        return (
            f"{path} holds a Lambda layer, whose code a file must not run. If you trust it, load "
            "it in Python with keras.models.load_model(…, safe_mode=False), and call keras_he there"
        )
    version = _version(path)
    if version and _numbers(version) > _numbers(keras.__version__):
        return (
            f"{path} was written by Keras {version}, and this is {keras.__version__}: "
            "upgrade Keras, or write the file with this one"
        )
    if version is None:
        return f"{path} is no Keras file, or is damaged"
    if "custom" in text.lower() or "Could not locate" in text:
        return (
            f"{path} holds classes that are not known here. Name the module that registers them: "
            f"--import MODULE. Keras says: {_last(error)}"
        )
    return f"{path} cannot be loaded. Keras says: {_last(error)}"


def _last(error: Exception) -> str:
    """Returns the end of a message, where the reason stands, without arguments and colours."""
    text = re.sub(r"\x1b\[\d*m", "", str(error)).partition("Arguments received by")[0]
    words = " ".join(text.split()) or type(error).__name__
    return words if len(words) <= 300 else f"{words[:140]} … {words[-150:]}"


def _version(path: Path) -> str | None:
    """Returns the version of Keras that wrote a file, `None` where it is no such file."""
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                return str(json.loads(archive.read("metadata.json"))["keras_version"])
        import h5py

        with h5py.File(path) as file:
            return str(file.attrs["keras_version"])
    except Exception:  # whatever is wrong with it, it is no such file
        return None


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split(".")[:3])


def _check_suffix(path: Path) -> None:
    if path.suffix not in (".keras", ".h5"):
        raise Refusal(f"{path} must be a .keras or .h5 file")


def _output(name: str) -> Path:
    path = Path(name)
    _check_suffix(path)
    return _writable(name)


def _writable(name: str) -> Path:
    path = Path(name)
    if path.is_dir():
        raise Refusal(f"{path} cannot be written: it is a folder")
    if not path.parent.is_dir():
        raise Refusal(f"{path} cannot be written: {path.parent} is no folder")
    return path


def _save(model: Any, path: Path) -> None:
    """Writes a model aside, and puts it in its place when it is whole."""
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        model.save(aside)
        os.replace(aside, path)
    except Exception as error:  # a full disk, or a model that the format does not take
        raise Refusal(f"{path} cannot be written. Keras says: {_last(error)}") from error
    finally:
        aside.unlink(missing_ok=True)


def _data(name: str | None) -> Any:
    """Returns the arrays of a file: one, or several by their names."""
    if name is None:
        return None
    try:
        held = np.load(name, allow_pickle=False)
        return dict(held) if isinstance(held, np.lib.npyio.NpzFile) else held
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise Refusal(f"--data {name}: {error}") from error
