"""What one plain YAML word means: a strict subset of YAML 1.1 without its surprises.

Separate because the checker, untyped values and the command line must agree on it (libraries.md 4: `off`, `010`,
`1_000` and `12:30:45` are read as False, 8, 1000 and 45045 by YAML 1.1; `1e-4` as text by PyYAML).
"""

import re

NULL = ("", "~", "null", "Null", "NULL")
TRUE = ("true", "True", "TRUE")
FALSE = ("false", "False", "FALSE")

_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)([eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF|nan|NaN|NAN)")
_GROUPED = re.compile(r"[-+]?[1-9][0-9]{0,2}(_[0-9]{3})+")
_OCTAL = re.compile(r"[-+]?0[0-7_]+")
_RADIX = re.compile(r"[-+]?(0x[0-9a-fA-F_]+|0b[01_]+|0o[0-7]+)")
_UNDERSCORED = re.compile(r"[-+]?[0-9][0-9_]*_[0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
_SWITCH = {"yes": "true", "on": "true", "no": "false", "off": "false"}
_DIGITS = 400


def is_grouped(text: str) -> bool:
    """Whether `text` is a whole number with thousands marked by underscores, as `1_000`."""
    return _GROUPED.fullmatch(text) is not None


def trap(text: str) -> str | None:
    """What YAML 1.1 reads this plain word as, when a reader would expect its text; None for harmless words."""
    if text.lower() in _SWITCH and text in (text.lower(), text.upper(), text.capitalize()):
        return _SWITCH[text.lower()]
    if len(text) > _DIGITS:
        return None
    if _OCTAL.fullmatch(text) and text.strip("+-0_"):
        return str(int(text.replace("_", ""), 8))
    if _OCTAL.fullmatch(text):
        return "0"
    if _RADIX.fullmatch(text):
        return "text" if "o" in text else str(int(text.replace("_", ""), 0))
    if _SEXAGESIMAL.fullmatch(text):
        return _sexagesimal(text.replace("_", ""))
    return text.replace("_", "") if _UNDERSCORED.fullmatch(text) else None


def _sexagesimal(text: str) -> str:
    total = 0.0
    for part in text.lstrip("+-").split(":"):
        total = total * 60 + float(part)
    return f"{'-' if text[0] == '-' else ''}{total:.15g}"


def parse(text: str) -> bool | int | float | str | None:
    """The value of a plain word. Numbers beyond 400 characters stay text."""
    if text in NULL:
        return None
    if text in TRUE or text in FALSE:
        return text in TRUE
    if len(text) > _DIGITS:
        return text
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if special := _SPECIAL.fullmatch(text):
        return float(special[1] + special[2])
    return text
