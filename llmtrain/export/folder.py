"""The final model as a Hugging Face folder, committed as one, opened again to prove it is the trained model."""

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from llmtrain.doors import safetensors
from llmtrain.doors import transformers as door
from llmtrain.errors import fail
from llmtrain.record import files


def full_weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole weights on the CPU; collective when they are sharded."""
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        whole[name] = value.detach().cpu()
    return whole


def write_model(
    folder: Path, config: Any, weights: Mapping[str, Tensor], *, eos: int, pad: int,  # noqa: ANN401
    save_tokenizer: Callable[[Path], None],
) -> None:  # fmt: skip
    """Write and check beside, then put in place: `folder` is whole or absent.

    Args:
        folder: the result; an existing one of an earlier try is replaced.
        config: a transformers configuration, None for a module of the user's, which gets plain safetensors.
        weights: whole tensors by canonical name, tied ones once.
        eos: end-of-text token, which generation stops at.
        pad: token that fills batches.
        save_tokenizer: writes the tokenizer's files into a folder.

    Raises:
        Failure: what was written does not hold the trained weights.
    """

    def fill(target: Path) -> None:
        if config is None:
            safetensors.write(target / "model.safetensors", dict(weights))
        else:
            door.save_model(config, weights, target, eos=[eos], pad=pad)
        save_tokenizer(target)
        _plain_modes(target)
        if config is not None:
            _verify(target, weights)

    if folder.exists():
        shutil.rmtree(folder)
    files.publish_folder(folder, fill)


def _plain_modes(folder: Path) -> None:
    """Files get the mode the user's umask asks for; the safetensors writer makes them private."""
    mask = os.umask(0)
    os.umask(mask)
    for path in folder.iterdir():
        path.chmod(0o666 & ~mask)


def _verify(folder: Path, weights: Mapping[str, Tensor]) -> None:
    """Open the folder as a user of transformers does and compare every tensor bit by bit."""
    opened = door.open_model(folder).state_dict()
    for name, tensor in weights.items():
        found = opened.get(name)
        if found is None or not torch.equal(found.cpu(), tensor):
            raise fail("E-RUN-008", f"{folder.name}: {name} read back differs from the trained tensor")
