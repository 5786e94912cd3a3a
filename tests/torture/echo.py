"""An entry for the zygote's own test: does what its first argument says."""

import os
import sys
import time


def main(argv: list[str]) -> int:
    if argv[0] == "echo":
        print(" ".join(argv[1:]), os.getcwd(), os.environ.get("SPECIAL"), os.environ.get("HOME"))
        print("heard", file=sys.stderr)
        return 7
    if argv[0] == "crash":
        raise ValueError("boom")
    if argv[0] == "read":
        return len(sys.stdin.read())
    time.sleep(60)
    return 0
