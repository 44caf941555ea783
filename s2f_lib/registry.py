"""Names of extractors, losses, encoders, decoders and sources, and the fingerprints of custom ones.

Built-in parts are made from their settings. Custom parts come from installed distributions (entry points,
for example in the group `s2f_lib.losses`), or from `register`, which acts on the current process only.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import re
from collections.abc import Mapping
from types import FunctionType, ModuleType
from typing import Any, Literal

from s2f_lib.errors import ConfigError, InputError
from s2f_lib.storage import digest

Kind = Literal["extractors", "losses", "encoders", "decoders", "sources"]

BUILT_IN: dict[Kind, tuple[str, ...]] = {
    "extractors": ("dlib_resnet", "vgg_face"),
    # the report's four, then symmetric InfoNCE and Speech2Face's full loss
    "losses": ("l1", "l2", "l1_l2", "contrastive", "info_nce", "speech2face"),
    "encoders": ("report",),
    "decoders": ("report", "residual"),
    "sources": ("synthetic", "avspeech", "pairs"),
}

_SINGULAR: dict[Kind, str] = {
    "extractors": "extractor", "losses": "loss", "encoders": "encoder", "decoders": "decoder",
    "sources": "source",
}  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # names become parts of folder names

_registered: dict[Kind, dict[str, Any]] = {kind: {} for kind in BUILT_IN}


def register(kind: Kind, name: str, value: Any) -> None:
    """Register a custom extractor, loss, encoder, decoder or source under a name, in the current process.

    Settings can then use the name. A second call with the same name replaces the first. Commands and worker
    processes do not know the name. To make it known to them, a distribution declares an entry point in the
    group `s2f_lib.KIND`.

    Parameters
    ----------
    kind
        "extractors", "losses", "encoders", "decoders" or "sources".
    name
        Letters, digits, "_", "." and "-".
    value
        A callable. Its keyword arguments are those below and the `options` of the settings' section.

        - extractor: class or function that returns a `FaceFeatureExtractor`; called without other arguments.
        - loss: function of `(face, speech)`, or a class that is called without arguments for each training.
        - encoder: class or function that returns a `torch.nn.Module`; called with `feature_dimension` and
          `spectrogram`.
        - decoder: class or function that returns a `torch.nn.Module`; called with `feature_dimension`.
        - source: function that returns an iterable of `ClipRef`; called without other arguments.

    Raises
    ------
    InputError
        The kind is unknown, the name is built in or has other characters, or the value is not callable.

    Examples
    --------
    >>> from s2f_lib import load_config
    >>> def squared(face, speech):
    ...     return (face - speech).square().mean()
    >>> register("losses", "squared", squared)
    >>> load_config("quick", {"training.main_loss": "squared"}).training.main_loss
    'squared'
    """
    if kind not in BUILT_IN:
        raise InputError(f"unknown kind {kind!r}: expected one of {', '.join(BUILT_IN)}")
    _check_characters(name)
    if name in BUILT_IN[kind]:
        raise InputError(f"{name!r} is a built-in {_SINGULAR[kind]}: choose another name")
    if not callable(value):
        raise InputError(f"{_SINGULAR[kind]} {name!r} is a {type(value).__name__}: expected a callable")
    _registered[kind][name] = value


def is_built_in(kind: Kind, name: str) -> bool:
    """Return whether the name is built into the package."""
    return name in BUILT_IN[kind]


def is_known(kind: Kind, name: str) -> bool:
    """Return whether a name is built in, registered or an entry point; nothing is imported."""
    return name in BUILT_IN[kind] or name in _registered[kind] or name in _entry_points(kind)


def is_known_to_workers(kind: Kind, name: str) -> bool:
    """Return whether worker processes find the same value under this name."""
    return name not in _registered[kind]


def names(kind: Kind) -> list[str]:
    """Return all known names of a kind, the built-in ones first."""
    return [*BUILT_IN[kind], *sorted({*_registered[kind], *_entry_points(kind)} - {*BUILT_IN[kind]})]


def load(kind: Kind, name: str) -> Any:
    """Return what was registered under a name, or import it from the distribution that supplies it.

    Raises a `ConfigError` if the name is unknown, two distributions supply it, or the import fails.
    """
    if name in _registered[kind]:
        return _registered[kind][name]
    points = _entry_points(kind).get(name, [])
    if not points:
        raise ConfigError(f"unknown {_SINGULAR[kind]} {name!r}: known are {', '.join(names(kind))}")
    suppliers = [f"{point.dist.name} {point.dist.version}" if point.dist else "?" for point in points]
    what = f"{_SINGULAR[kind]} {name!r}"
    if len(points) > 1:
        raise ConfigError(f"{what} is supplied by {' and by '.join(suppliers)}: uninstall all but one")
    try:
        value = points[0].load()
    except Exception as error:  # the module of another distribution can raise anything
        raise ConfigError(
            f"{what} of {suppliers[0]} cannot be imported from {points[0].value!r} "
            f"({type(error).__name__}: {error}): repair or uninstall that distribution"
        ) from error
    if not callable(value):
        raise ConfigError(f"{what} of {suppliers[0]} is a {type(value).__name__}: expected a callable")
    return value


def make(kind: Kind, factory: Any, options: Mapping[str, Any] | None = None, **arguments: Any) -> Any:
    """Call a factory with keyword arguments and the options of its settings' section.

    Raises a `ConfigError` if the factory does not take these arguments.
    """
    options = options or {}
    try:
        inspect.signature(factory).bind(**arguments, **options)
    except TypeError as error:
        given = ", ".join([*arguments, *options]) or "none"
        raise ConfigError(
            f"{_SINGULAR[kind]} {getattr(factory, '__name__', factory)!s} does not take the arguments "
            f"that it is called with: {error} (given: {given})"
        ) from None
    except ValueError:
        pass  # a callable that is written in C has no signature
    return factory(**arguments, **options)


def name_of(value: Any) -> str:
    """Return the name of an object that is given directly: its attribute `name`, or `__name__`."""
    name = getattr(value, "name", None) or getattr(value, "__name__", None)
    if not isinstance(name, str):
        raise InputError(f"{value!r} has no name: give it an attribute `name`, a text")
    return _check_characters(name)


def fingerprint_of(value: Any) -> str:
    """Return the attribute `fingerprint` of an object, or a digest of the source of a function or class.

    The digest covers the functions and classes of the same package that the source uses, and the numbers and
    texts that it reads from outside. Changes of other values cannot be seen, so such values are refused.

    Raises
    ------
    InputError
        There is no `fingerprint`, and the source code or a value that it uses cannot be read.

    Examples
    --------
    >>> class Loss:
    ...     fingerprint = "1"
    >>> fingerprint_of(Loss)
    '1'
    """
    own = getattr(value, "fingerprint", None)
    if isinstance(own, str) and own:
        return own
    try:
        return digest(*_source_parts(value, _package(value), set()), length=16)
    except (TypeError, OSError) as error:
        raise InputError(
            f"{getattr(value, '__name__', value)!s} has no fingerprint, and none can be computed ({error}): "
            "give it an attribute `fingerprint`, a text that changes whenever its results change"
        ) from None


def identity(kind: Kind, value: Any) -> tuple[str, str | None]:
    """Return name and fingerprint of a value, or of the part with that name; None for built-in parts."""
    if not isinstance(value, str):
        return name_of(value), fingerprint_of(value)
    return value, None if is_built_in(kind, value) else fingerprint_of(load(kind, value))


def _source_parts(value: Any, package: str, seen: set[int]) -> list[str]:
    """Return texts that decide what a function or class does; TypeError or OSError if one is unknown."""
    if isinstance(value, None | bool | int | float | complex | str | bytes):
        return [repr(value)]
    if isinstance(value, tuple | list | frozenset):
        return [part for item in value for part in (*_source_parts(item, package, seen), ",")]
    if isinstance(value, dict):
        return _source_parts([item for pair in value.items() for item in pair], package, seen)
    if isinstance(value, ModuleType):
        return [value.__name__]
    if type(value).__module__ == "typing":
        return [repr(value)]
    if isinstance(value, property):
        return _source_parts(value.fget, package, seen)
    if isinstance(value, staticmethod | classmethod):
        return _source_parts(value.__func__, package, seen)
    if isinstance(value, functools.cached_property):
        return _source_parts(value.func, package, seen)
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"
    if isinstance(value, FunctionType | type) or inspect.isbuiltin(value):
        if id(value) in seen or (seen and _package(value) != package) or inspect.isbuiltin(value):
            return [name]
    else:
        raise TypeError(f"it uses a value of the type {type(value).__name__}")
    seen.add(id(value))
    if isinstance(value, type):
        used = {key: item for key, item in vars(value).items() if not _is_machinery(key)}
        parts = [base for kind in value.__bases__ for base in _source_parts(kind, package, seen)]
    else:
        variables = inspect.getclosurevars(value)
        used = {**variables.globals, **variables.nonlocals}
        used |= {"defaults": value.__defaults__, **(value.__kwdefaults__ or {})}
        parts = [inspect.getsource(value)]
    for key in sorted(used):
        parts += [key, "=", *_source_parts(used[key], package, seen)]
    return parts


def _is_machinery(name: str) -> bool:
    """Return whether Python, and not the author of the class, sets an attribute."""
    return name in {
        "__module__", "__qualname__", "__dict__", "__weakref__", "__doc__", "__annotations__",
        "__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__", "__parameters__",
        "__annotations_cache__",
    }  # fmt: skip


def _package(value: Any) -> str:
    return (getattr(value, "__module__", None) or "").partition(".")[0]


def _check_characters(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InputError(f"name {name!r}: expected letters, digits, '_', '.' and '-'; it names a folder")
    return name


@functools.cache
def _entry_points(kind: Kind) -> dict[str, list[importlib.metadata.EntryPoint]]:
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for point in importlib.metadata.entry_points(group=f"s2f_lib.{kind}"):
        found.setdefault(point.name, []).append(point)
    return found
