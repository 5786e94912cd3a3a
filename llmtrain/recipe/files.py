"""Reads the bytes of a recipe as text, or says what is wrong with the file.

Separate from YAML, which starts at text.
"""

import difflib
import stat
from pathlib import Path

from llmtrain.errors import fail, quoted

MAX_BYTES = 1_000_000


def read_text(path: Path, shown: str) -> str:
    """The text of a small UTF-8 file without its byte-order mark; `shown` is its name in messages.

    Raises:
        Failure: missing, not a regular file, unreadable, too large, not UTF-8.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            kind = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise fail("E-FILE-004", f"is {kind}; a recipe file is expected", file=shown)
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise fail("E-FILE-001", "file not found", file=shown, hint=_neighbour(path)) from error
    except OSError as error:
        raise fail("E-FILE-002", f"cannot be read: {error.strerror or 'input error'}", file=shown) from error
    except ValueError as error:
        raise fail("E-FILE-001", "not a file name", file=shown) from error
    if len(data) > MAX_BYTES:
        raise fail("E-RECIPE-017", f"larger than {MAX_BYTES:,} bytes; a recipe is a small file", file=shown)
    return _decode(data, shown)


def _decode(data: bytes, shown: str) -> str:
    try:
        return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        offset = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        like = ", looks like UTF-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        what = f"not UTF-8 (byte 0x{data[offset]:02x} at offset {offset}{like}); save it as UTF-8"
        raise fail("E-FILE-003", what, file=shown, line=data.count(b"\n", 0, offset) + 1) from error


def _neighbour(path: Path) -> str | None:
    try:
        names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml"))
    except OSError:
        return None
    near = difflib.get_close_matches(path.name, names, 1)
    return f"did you mean {quoted(near[0])}?" if near else None
