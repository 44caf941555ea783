"""Check of the parameters that papermill injects when a chapter is run by hand.

For `-p measure l1`, papermill inserts a cell after the cell tagged `parameters`. It contains the lines `#
Parameters` and `measure = "l1"`. papermill neither refuses unknown names nor checks types. `s2f run` checks
parameters before it starts a chapter.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

from s2f_lib.config import suggest
from s2f_lib.errors import ConfigError

_LITERALS = (str, int, float, bool, list, tuple, dict, type(None))  # types that a parameter can have
_FIRST_LINE = "# Parameters"  # first line of papermill's cell
_EXAMPLE = "-y 'settings: {training.epochs: 3}'"


def check_injected_parameters() -> None:
    """Check each cell of injected parameters before it runs; a wrong one raises a ConfigError.

    Every chapter calls this in its first cell. Outside IPython it does nothing.

    Examples
    --------
    >>> check_injected_parameters()
    """
    from IPython import get_ipython

    shell = get_ipython()
    if shell is None:
        return

    def check(lines: list[str]) -> list[str]:
        if lines and lines[0].strip() == _FIRST_LINE:
            visible = {
                name: shell.user_ns[name] for name in shell.user_ns.keys() - shell.user_ns_hidden.keys()
            }
            check_injected("".join(lines), {k: v for k, v in visible.items() if isinstance(v, _LITERALS)})
        return lines

    shell.input_transformers_cleanup.append(check)


def check_injected(source: str, declared: Mapping[str, Any]) -> None:
    """Raise a ConfigError if a cell sets a name that is not declared, or a value of another type.

    Parameters
    ----------
    source
        Python code of the injected cell.
    declared
        Default of each parameter of the chapter.

    Examples
    --------
    >>> check_injected("# Parameters\\nmeasure = 'l1'", {"measure": "cosine"})
    >>> check_injected("# Parameters\\nmesure = 'l1'", {"measure": "cosine"})
    Traceback (most recent call last):
    s2f_lib.errors.ConfigError: unknown parameter 'mesure' - did you mean measure?
    """
    known = sorted(name for name in declared if not name.startswith("_"))
    for statement in ast.parse(source).body:
        if not isinstance(statement, ast.Assign):
            continue
        name = ast.unparse(statement.targets[0])
        if "." in name:
            raise ConfigError(f"{name} is a setting of the study, not a parameter: use {_EXAMPLE}")
        if name not in known:
            raise ConfigError(f"unknown parameter {name!r}{suggest(name, known)}")
        try:
            value, default = ast.literal_eval(statement.value), declared[name]
        except ValueError:  # papermill writes float("nan") and float("inf")
            raise ConfigError(f"parameter {name!r}: expected a finite number") from None
        number = isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool)
        if default is not None and not number and type(value) is not type(default):
            hint = f": use {_EXAMPLE}" if name == "settings" else f", such as {default!r}"
            raise ConfigError(f"parameter {name!r} is {value!r}, expected {type(default).__name__}{hint}")
