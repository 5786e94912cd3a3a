"""The machine as training will find it: versions, processor, memory, disk, devices.

Separate because it starts nothing and needs no recipe.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

FLOORS: dict[str, str] = {
    "torch": "2.13.0", "transformers": "5.23", "tokenizers": "0.23.1", "safetensors": "0.8.0", "numpy": "2.0",
    "omegaconf": "2.4.0", "pyyaml": "6.0.3", "typer": "0.29", "rich": "15", "pyarrow": "24", "zstandard": "0.23",
    "tensorboard": "2.21",
}  # fmt: skip
"""Lower bounds of the packages every run needs; a test compares them with pyproject.toml."""
OPTIONAL: dict[str, tuple[str, str]] = {
    "datasets": ("hub", "reads hub data sets"),
    "gguf": ("gguf", "reads GGUF models"),
}
"""Extra and use of packages that only some runs need."""
LEAST_MEMORY_GIB = 2.0
LEAST_DISK_GIB = 2.0
GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line: what was looked at, how it stands (`ok`, `note`, `warn`, `fail`), and what mends it."""

    name: str
    state: str
    text: str
    mend: str | None = None


def examine() -> list[Finding]:
    """All findings; never raises for what a machine can be."""
    checks: Sequence[Callable[[], list[Finding]]] = (
        system, packages, processor, memory, disk, cache, devices, compiler,
    )  # fmt: skip
    return [finding for check in checks for finding in check()]


def table(findings: Sequence[Finding]) -> str:
    """The findings as text, each failed line with its mend under it."""
    width = max(len(item.name) for item in findings)
    lines = []
    for item in findings:
        lines.append(f"{item.state:<4}  {item.name:<{width}}  {item.text}")
        if item.mend and item.state != "ok":
            lines.append(f"{'':<4}  {'':<{width}}  mend: {item.mend}")
    return "\n".join(lines) + "\n"


def system() -> list[Finding]:
    """Python and the platform."""
    version = platform.python_version()
    python = Finding(
        name="python", state="ok" if sys.version_info >= (3, 11) else "fail", text=f"{version} (3.11 or newer)",
        mend="install Python 3.11 or newer",
    )  # fmt: skip
    promises = {
        "Linux": ("ok", "everything", None),
        "Darwin": ("note", "one process", "several processes need Linux"),
        "Windows": ("fail", "not supported directly", "run inside WSL"),
    }
    state, promise, mend = promises.get(platform.system(), ("warn", "untested", "use Linux"))
    where = f"{platform.system()} {platform.release()} {platform.machine()}: {promise}"
    return [python, Finding(name="platform", state=state, text=where, mend=mend)]


def packages() -> list[Finding]:
    """Installed versions against the tested lower bounds."""
    found = [_package(name, floor) for name, floor in FLOORS.items()]
    for name, (extra, use) in OPTIONAL.items():
        try:
            text = importlib.metadata.version(name)
            found.append(Finding(name=name, state="ok", text=f"{text}, {use}"))
        except importlib.metadata.PackageNotFoundError:
            found.append(
                Finding(name=name, state="note", text=f"absent; {use}", mend=f'pip install "llmtrain[{extra}]"')
            )
    return found


def processor() -> list[Finding]:
    """Cores this process may use, and whether bfloat16 products are fast."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    flags = cpu_flags()
    fast = [label for flag, label in (("amx_bf16", "AMX"), ("avx512_bf16", "AVX512-BF16")) if flag in flags]
    vector = next((name for name in ("avx512f", "avx2", "asimd") if name in flags), "no wide vectors")
    text = f"{cores} cores, {vector}, " + (f"bf16 by {' and '.join(fast)}" if fast else "bf16 is slow: fp32 is used")
    return [Finding(name="processor", state="ok", text=text)]


def memory() -> list[Finding]:
    """Memory of the machine or of the control group, whichever is smaller."""
    limit = memory_limit()
    if limit is None:
        return [Finding(name="memory", state="note", text="unknown")]
    total = limit / GIB
    state = "ok" if total >= LEAST_MEMORY_GIB else "warn"
    return [
        Finding(name="memory", state=state, text=f"{total:.1f} GiB", mend="small models only: lower batch.micro_size")
    ]


def disk() -> list[Finding]:
    """Free space where runs go."""
    free = shutil.disk_usage(Path.cwd()).free / GIB
    writable = os.access(Path.cwd(), os.W_OK)
    state = "fail" if not writable else "ok" if free >= LEAST_DISK_GIB else "warn"
    text = f"{free:.1f} GiB free in the current folder" + ("" if writable else ", not writable")
    return [Finding(name="disk", state=state, text=text, mend="run in a folder with space that you may write to")]


def cache() -> list[Finding]:
    """Whether the cache folder can be written."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        text = f"{folder}: {error.strerror}"
        return [Finding(name="cache", state="fail", text=text, mend="set LLMTRAIN_CACHE to a folder you may write to")]
    return [Finding(name="cache", state="ok", text=f"{folder}")]


def devices() -> list[Finding]:
    """Accelerators that torch sees."""
    if importlib.util.find_spec("torch") is None:
        return [Finding(name="devices", state="fail", text="unknown without torch", mend="pip install torch")]
    import torch

    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return [
        Finding(name="devices", state="ok", text=", ".join(names) or "no accelerator: training runs on the processor")
    ]


def compiler() -> list[Finding]:
    """The C++ compiler that torch.compile needs on a processor."""
    name = os.environ.get("CXX") or next((tool for tool in ("g++", "clang++") if shutil.which(tool)), None)
    if name is None or shutil.which(name) is None:
        return [Finding(name="compiler", state="note", text="none: speed.compile stays off", mend="install g++")]
    return [Finding(name="compiler", state="ok", text=str(shutil.which(name)))]


def cpu_flags(file: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Capabilities of the first processor; empty where the kernel does not tell."""
    try:
        text = file.read_text(errors="replace")
    except OSError:
        return frozenset()
    match = re.search(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)
    return frozenset(match[1].split()) if match else frozenset()


def memory_limit(
    control: Sequence[Path] = (
        Path("/sys/fs/cgroup/memory.max"),
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
    ),
) -> int | None:
    """Bytes this process may use: the smaller of the machine's memory and the control group's limit."""
    limits = []
    if "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in control:
        try:
            text = file.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            limits.append(int(text))
    return min(limits) if limits else None


def cache_folder() -> Path:
    """`$LLMTRAIN_CACHE`, else `llmtrain` in the user's cache folder."""
    named = os.environ.get("LLMTRAIN_CACHE")
    if named:
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "llmtrain"


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparing."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+", maxsplit=1)[0])[:3])


def _package(name: str, floor: str) -> Finding:
    mend = f'pip install "{name}>={floor}"'
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(name=name, state="fail", text=f"absent ({floor} or newer)", mend=mend)
    state = "ok" if numbers(version) >= numbers(floor) else "fail"
    return Finding(name=name, state=state, text=f"{version} ({floor} or newer)", mend=mend)
