"""Bytes to text, strictly: BOM, UTF-8, a declared encoding, or a refusal; separate because every text format shares it.

Nothing is guessed: without a BOM or `encoding:` a file is UTF-8 or is refused, with the byte and the encodings that
would read it, best first.
"""

import codecs
import re
import unicodedata
from collections.abc import Iterable, Iterator

from llmtrain.errors import Failure, fail, quoted

BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
"""UTF-32 first: its little-endian mark starts with that of UTF-16."""
CANDIDATES = (
    "gb18030", "big5", "shift_jis", "euc_jp", "cp949", "cp1252", "cp1251", "cp1250", "koi8-r", "cp1256",
)  # fmt: skip
_SHIFTS = re.compile(rb"\x1b(?:\$[@AB]|\([BIJ])")
"""Escape sequences of ISO-2022-JP, which is 7-bit and so valid UTF-8."""


def named_encoding(name: str, *, key: str | None = None) -> str:
    """The codec's own name.

    Raises:
        Failure: no text codec has that name.
    """
    try:
        found = codecs.lookup(name)
        found.incrementaldecoder("strict").decode(b"", final=True)
    except (LookupError, TypeError, ValueError, UnicodeError) as error:
        raise fail(
            "E-DATA-002",
            f"no text encoding is called {quoted(name)}",
            key=key,
            hint="try utf-8, utf-16, cp1252, gb18030 or shift_jis",
        ) from error
    if not isinstance(found.incrementaldecoder("strict").decode(b"", final=True), str):
        raise fail("E-DATA-002", f"{quoted(name)} is not an encoding of text", key=key)
    return found.name


def decode(chunks: Iterable[bytes], *, file: str, encoding: str | None) -> Iterator[str]:
    """Text of a byte stream, a mark at its start taken off.

    Raises:
        Failure: a byte that the encoding does not allow, a NUL, or signs of an encoding that was not declared; with
            the offset of the byte in the (decompressed) file and its line.
    """
    reader = _Decoding(file, encoding)
    for chunk in chunks:
        yield from reader.feed(chunk, final=False)
    yield from reader.feed(b"", final=True)


class _Decoding:
    """State of one stream: the decoder, the bytes consumed and the lines seen."""

    def __init__(self, file: str, declared: str | None) -> None:
        self.file = file
        self.declared = declared
        self.head = b""
        self.decoder: codecs.IncrementalDecoder | None = None
        self.name = ""
        self.consumed = 0
        self.lines = 0

    def feed(self, chunk: bytes, *, final: bool) -> Iterator[str]:
        if self.decoder is None:
            self.head += chunk
            if len(self.head) < 4 and not final:
                return
            chunk = self._start()
        text = self._decode(chunk, final)
        if text:
            yield text

    def _start(self) -> bytes:
        """Choose the decoder from the first bytes; what is left of them after the mark."""
        mark, found = next(((m, n) for m, n in BOMS if self.head.startswith(m)), (b"", None))
        self.name = self.declared or found or "utf-8"
        if self.declared in ("utf-8-sig", "utf-16", "utf-32"):
            mark = b""
        elif found is not None and self.declared not in (None, found):
            message = f"the file starts with the mark of {found}, but `encoding:` says {self.declared}"
            raise self._fail(message, 1, f"add `encoding: {found}`, or leave it out")
        self.decoder = codecs.getincrementaldecoder(self.name)("strict")
        self.consumed = len(mark)
        head, self.head = self.head[len(mark) :], b""
        return head

    def _decode(self, chunk: bytes, final: bool) -> str:
        assert self.decoder is not None
        pending = self.decoder.getstate()[0]
        try:
            text = self.decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            raise self._bad_byte(pending, chunk, error) from error
        except UnicodeError as error:
            raise self._fail(f"cannot be read as {self.name}: {error}", self.lines + 1) from error
        if "\0" in text:
            raise self._nul(text, pending + chunk)
        if self.declared is None and (found := _SHIFTS.search(chunk)):
            line = self.lines + chunk.count(b"\n", 0, found.start()) + 1
            raise self._fail(
                "the text has the shift sequences of ISO-2022-JP",
                line,
                "add `encoding: iso2022_jp`",
            )
        self.consumed += len(chunk)
        self.lines += text.count("\n")
        return text

    def _bad_byte(self, pending: bytes, chunk: bytes, error: UnicodeDecodeError) -> Failure:
        data = pending + chunk
        if len(error.object) != len(data):
            data, pending = chunk, b""
        base = self.consumed - len(pending)
        line = self.lines + data[: error.start].decode(self.name, "replace").count("\n") + 1
        cut = (
            "the file ends inside a character"
            if error.reason.startswith(("unexpected end", "truncated", "incomplete"))
            else ""
        )
        what = cut or f"byte 0x{data[error.start]:02x}"
        return self._fail(
            f"{what} at offset {base + error.start:,} is not {self.name}",
            line,
            _advice(data, self.declared),
        )

    def _nul(self, text: str, data: bytes) -> Failure:
        line = self.lines + text.count("\n", 0, text.index("\0")) + 1
        even, odd = data[0:4000:2].count(0), data[1:4000:2].count(0)
        hint = "text files hold no NUL bytes; remove them"
        if max(even, odd) > 4 * (min(even, odd) + 1):
            hint = f"this looks like UTF-16 without a mark: add `encoding: utf-16-{'le' if odd > even else 'be'}`"
        return self._fail("the text holds a NUL character", line, hint)

    def _fail(self, message: str, line: int, hint: str | None = None) -> Failure:
        return fail("E-DATA-002", message, file=self.file, line=line, hint=hint)


def _advice(data: bytes, declared: str | None) -> str:
    names = likely_encodings(data[: 1 << 20])
    if not names:
        return "no known text encoding reads it: is this a text file?"
    wrong = "the declared encoding is not the file's; " if declared else ""
    return f"{wrong}add `encoding: {names[0]}`" + (f" (or {', '.join(names[1:3])})" if len(names) > 1 else "")


def likely_encodings(data: bytes) -> list[str]:
    """Encodings that decode the bytes, most plausible text first.

    A hint for people, never a decision: short texts are valid in several encodings.
    """
    scored = []
    for order, name in enumerate(CANDIDATES):
        try:
            text = codecs.getincrementaldecoder(name)("strict").decode(data, final=False)
        except UnicodeError:
            continue
        scored.append((-_plausibility(text), order, name))
    return [name for score, _, name in sorted(scored) if score < 0]


def _plausibility(text: str) -> float:
    """Mean over the non-ASCII characters: 1 for common letters, 0 for odd ones, negative for signs of mojibake."""
    rare = [c for c in text[:20000] if ord(c) > 127]
    if not rare:
        return 0.0
    return sum(map(_worth, rare)) / len(rare)


def _worth(character: str) -> float:
    code = ord(character)
    if 0x3040 <= code <= 0x30FF or 0xAC00 <= code <= 0xD7A3:
        return 1.0
    if 0x4E00 <= code <= 0x9FFF:
        return 1.0 if _is_common(character) else 0.5
    if 0x3000 <= code <= 0x303F or 0xFF01 <= code <= 0xFF5E:
        return 0.8
    category = unicodedata.category(character)
    if category in ("Cc", "Co", "Cn", "Cs") or 0xFF61 <= code <= 0xFF9F:
        return -2.0
    return 0.6 if category in ("Ll", "Lu") else 0.1


def _is_common(character: str) -> bool:
    """Whether the ideograph stands in the first level of GB 2312, the commonest 3,755 characters, or of JIS or Big5."""
    for name, low, high in (
        ("gb2312", 0xB0A1, 0xD7F9),
        ("euc_jp", 0xB0A1, 0xCFD3),
        ("big5", 0xA440, 0xC67E),
    ):
        try:
            code = int.from_bytes(character.encode(name), "big")
        except UnicodeEncodeError:
            continue
        if low <= code <= high:
            return True
    return False
