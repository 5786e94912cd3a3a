"""Start-up time of the commands that must feel immediate: minimum and median over cold processes, as a table.

Run with the interpreter of the environment that is measured: `.venv/bin/python scripts/bench/startup.py [REPEATS]`.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

COMMANDS = ("--help", "check train/demo", "schema", "recipes", "train --help")
SCRIPT = Path(sys.executable).parent / "llmtrain"


def seconds(words: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([str(SCRIPT), *words], stdout=subprocess.DEVNULL, check=True, timeout=60)
    return time.perf_counter() - start


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    print(f"{'command':<24}{'minimum':>9}{'median':>9}   seconds, {repeats} runs")
    for command in COMMANDS:
        words = command.split()
        seconds(words)
        times = [seconds(words) for _ in range(repeats)]
        print(f"{'llmtrain ' + command:<24}{min(times):>9.3f}{statistics.median(times):>9.3f}")


if __name__ == "__main__":
    main()
