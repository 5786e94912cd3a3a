"""What ranks run in the launcher's tests: join a gloo group, then do what the first word says."""

import os
import signal
import sys
import time
from pathlib import Path

from llmtrain.launch.rank import bind_to_launcher, record_exit

bind_to_launcher()

import torch  # noqa: E402
import torch.distributed as distributed  # noqa: E402

from llmtrain.errors import fail  # noqa: E402

what, folder = sys.argv[1], Path(sys.argv[2])
rank = int(os.environ["RANK"])
stop: list[int] = []
if what in ("stop", "stubborn"):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda received, _: stop.append(received))
distributed.init_process_group("gloo")
value = torch.tensor([float(rank + 1)])
distributed.all_reduce(value)
(folder / f"ready_{rank}").write_text(f"{value.item()} {os.environ['OMP_NUM_THREADS']} {sys.argv[3:]} {os.getpid()}")


def leave(code: int, **more: object) -> None:
    record_exit(code, **more)  # type: ignore[arg-type]
    sys.stdout.flush()
    os._exit(code)


def peers() -> None:
    """Wait in a collective until the peer is gone."""
    try:
        distributed.all_reduce(value)
    except RuntimeError:
        leave(69, kind="peer")


if what == "ok":
    print(f"rank {rank} says hello")
    leave(0)
if what == "kill":
    os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else peers()
if what == "fail":
    problem = fail("E-RUN-001", "loss is NaN on rank 1").problems
    leave(3, problems=problem) if rank == 1 else peers()
if what == "both":
    leave(3, problems=fail("E-RUN-001", "loss is NaN").problems)
if what == "exit":
    os._exit(7) if rank == 1 else peers()
if what == "stuck":
    os.kill(os.getpid(), signal.SIGKILL) if rank == 1 else signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
if what == "stop":
    while not stop:
        time.sleep(0.01)
    (folder / f"stopped_{rank}").write_text(str(stop))
    leave(75)
if what in ("wait", "stubborn"):
    time.sleep(60)
