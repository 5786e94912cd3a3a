"""What `model.name` stands for: files as they are, a run's final model, or a checkpoint made into a model folder."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from llmtrain.errors import fail
from llmtrain.record import checkpoints, files, index
from llmtrain.record.folder import RunFolder

SETUP = "setup"
"""Folder of a run that holds the model's configuration and the tokenizer from its first minute on."""

RUN_WORD = re.compile(r"latest(@\d+)?$|\d{6}-\d{6}-")
"""`latest`, or the beginning of a run's id."""


def is_run(name: str) -> bool:
    """Whether a model's name means a run of ours: its folder, or its folder@STEP."""
    path, mark, step = name.rpartition("@")
    return (Path(name) / "run.json").is_file() or bool(mark and step and (Path(path) / "run.json").is_file())


def resolve(name: str, cache: Path, root: str) -> str:
    """The folder behind `model.name`; anything that is no run of ours stays as it is.

    Args:
        name: a folder, hub id, file, run folder, run id under `root` or `latest`; a run may have `@STEP`.
        cache: where folders made from checkpoints are kept.
        root: folder of run folders.

    Raises:
        Failure: the run has no final model, or no such checkpoint.
    """
    name = str(Path(name).expanduser()) if name.startswith("~") else name
    if not is_run(name) and not (RUN_WORD.match(name) and not Path(name).exists()):
        return name
    found = index.refer(name, root)
    if found.checkpoint is not None:
        return str(_checkpoint_model(found.folder, found.checkpoint, cache))
    if (found.folder.model / "tokenizer.json").is_file():
        return str(found.folder.model)
    state = found.folder.status().get("state", "unknown")
    steps = [candidate.step for candidate in checkpoints.list_checkpoints(found.folder)]
    hint = f"{name}@{steps[0]} names its newest checkpoint" if steps else f"llmtrain train RECIPE --resume {name}"
    raise fail("E-MODEL-001", f"run {name} has no final model (state: {state})", key="model.name", hint=hint)


def _checkpoint_model(folder: RunFolder, name: str, cache: Path) -> Path:
    """A checkpoint's weights as a model folder in the cache, made once, verified first."""
    from llmtrain.doors import transformers as door
    from llmtrain.engine import checkpoint_plan
    from llmtrain.export import folder as export

    candidate = next(c for c in checkpoints.list_checkpoints(folder) if c.path.name == name)
    setup = folder.path / SETUP
    if candidate.manifest is None or not (setup / "config.json").is_file():
        reason = candidate.reason or "the run's setup folder is gone"
        raise fail("E-CKPT-005", f"{folder.id}: {name} cannot be opened as a model: {reason}", key="model.name")
    key = hashlib.sha256(json.dumps([folder.id, candidate.manifest["self_sha256"]]).encode()).hexdigest()[:24]
    target = cache / "models" / f"{folder.id}-{name}-{key}"
    if (target / "config.json").is_file():
        return target
    with checkpoints.reading(candidate.path):
        verdict = checkpoints.verify(candidate)
        if verdict.reasons:
            raise fail("E-CKPT-005", f"{folder.id}: {name}: {verdict.reasons[0]}", key="model.name")
        whole = checkpoint_plan.load_full(candidate.path, candidate.manifest, lambda key: key.startswith("weights/"))
    weights = {key.removeprefix("weights/"): tensor for key, tensor in whole.items()}
    config = door.load_config(door.Origin(name=str(setup), offline=True))
    ids = files.read_json(setup / "ids.json")
    target.parent.mkdir(parents=True, exist_ok=True)
    export.write_model(target, config, weights, eos=ids["eos"], pad=ids["pad"], save_tokenizer=copy_tokenizer(setup))
    return target


TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "tokenizer.model", "chat_template.jinja",
)  # fmt: skip


def copy_tokenizer(source: Path) -> Callable[[Path], None]:
    """A function that copies a tokenizer's files, byte for byte, so that its fingerprint and data cache stay valid."""

    def copy(target: Path) -> None:
        for name in TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, target / name)

    return copy
