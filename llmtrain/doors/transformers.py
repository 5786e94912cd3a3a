"""The one place that imports transformers: configurations, models, tokenizers, final folders.

A door turns the library's calls into ours and its exceptions into `Failure`s; it decides nothing.
"""

# transformers is typed in part only
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import contextlib
import difflib
import importlib.util
import logging
import os
import warnings
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
)

from llmtrain.errors import fail, quoted

TESTED = ((5, 23), (6, 0))
"""Lower and upper bound of the versions whose borrowed symbols (`_init_weights`) the contract tests cover."""
ATTENTION = {"auto": None, "sdpa": "sdpa", "eager": "eager", "flex": "flex_attention", "flash": "flash_attention_2"}
UNREADABLE = (
    OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, ImportError, SafetensorError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a model's files are: a folder or hub id, and the GGUF file in it, if it is one."""

    name: str
    gguf: str | None = None
    revision: str | None = None
    trust_remote_code: bool = False
    offline: bool = False

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of every `from_pretrained`."""
        given: dict[str, Any] = {"trust_remote_code": self.trust_remote_code, "local_files_only": self.offline}
        if self.revision:
            given["revision"] = self.revision
        if self.gguf:
            given["gguf_file"] = self.gguf
        return given


def locate(name: str, *, revision: str | None, trust_remote_code: bool, offline: bool) -> Origin:
    """Tell a GGUF file from a folder from a hub id.

    Raises:
        Failure: the path looks local and is not there, or is a file of a kind that is not opened.
    """
    path = Path(name).expanduser()
    common: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code, "offline": offline}
    if path.is_file():
        if path.suffix == ".gguf":
            if importlib.util.find_spec("gguf") is None:
                hint = "pip install 'llmtrain[gguf]'"
                raise fail("E-ENV-001", f"{name} needs the package gguf", key="model.name", hint=hint)
            return Origin(name=str(path.parent), gguf=path.name, **common)
        if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl"):
            raise fail("E-SEC-001", f"{name}: a pickle file can run code when loaded; not opened", key="model.name")
        raise fail("E-MODEL-001", f"{name} is a file; a folder, hub id or .gguf expected", key="model.name")
    if path.is_dir():
        return Origin(name=str(path), **common)
    looks_local = name.startswith((".", "/", "~")) or name.count("/") > 1 or os.sep * 2 in name
    if looks_local or offline:
        why = "no such folder" if looks_local else "not a folder, and `offline` allows no hub"
        raise fail("E-MODEL-001", f"{quoted(name)}: {why}", key="model.name")
    return Origin(name=name, **common)


def refuse_pickle(origin: Origin) -> None:
    """Refuse a local folder whose only weights are pickle files.

    Raises:
        Failure: no safetensors beside a `.bin`.
    """
    folder = Path(origin.name)
    if origin.gguf or not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    for path in sorted(folder.iterdir()):
        if path.suffix in (".bin", ".pt", ".pth", ".ckpt"):
            raise fail(
                "E-SEC-001", f"{path}: a pickle file can run code when loaded; not opened", key="model.name",
                hint="save the model as safetensors with the tool that made it",
            )  # fmt: skip


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Keep the library's progress bars and advice off the screen; our messages say what matters."""
    from transformers.utils import logging as their_logging

    before = their_logging.get_verbosity()
    their_logging.set_verbosity_error()
    their_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        their_logging.set_verbosity(before)


def _one_line(error: Exception) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return text if len(text) <= 160 else text[:159] + "…"


def load_config(origin: Origin) -> Any:  # noqa: ANN401 - a PretrainedConfig of any model type
    """The configuration of a folder, hub id or GGUF file.

    Raises:
        Failure: it is missing or broken, or asks for remote code that was not allowed.
    """
    try:
        with quiet():
            config = AutoConfig.from_pretrained(origin.name, **origin.arguments())
    except UNREADABLE as error:
        if "trust_remote_code" in str(error):
            raise fail(
                "E-SEC-003", f"{origin.name} brings its own code, which is not run", key="model.name",
                hint="model.trust_remote_code: true with model.revision, if you trust it",
            ) from error  # fmt: skip
        raise fail("E-MODEL-001", f"{origin.name}: {_one_line(error)}", key="model.name") from error
    return without_quantization(config)


def without_quantization(config: Any) -> Any:  # noqa: ANN401
    """Drop what a GGUF file says about its own storage: the weights are dequantised on loading."""
    settings = config.to_dict()
    if settings.pop("quantization_config", None) is None:
        return config
    return type(config)(**settings)


def config_from(settings: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """A configuration from its own keys, `model_type` among them.

    Raises:
        Failure: unknown model type, unknown key or an inconsistent configuration.
    """
    given = dict(settings)
    kind = given.pop("model_type", None)
    if kind is None:
        raise fail("E-MODEL-002", "`model_type` is missing", key="model.config", hint="for example model_type: llama")
    try:
        with quiet():
            plain = AutoConfig.for_model(kind)
    except UNREADABLE as error:
        near = difflib.get_close_matches(str(kind), list(transformers.CONFIG_MAPPING.keys()), 1)
        hint = f"did you mean `{near[0]}`?" if near else None
        raise fail(
            "E-MODEL-002", f"unknown model_type {quoted(str(kind))}", key="model.config.model_type", hint=hint
        ) from error
    try:
        with quiet():
            config = AutoConfig.for_model(kind, **given)
    except UNREADABLE as error:
        raise fail("E-MODEL-002", _one_line(error), key="model.config") from error
    known = set(plain.to_dict()) | set(plain.attribute_map)
    for key in sorted(set(config.to_dict()) & set(given) - known):  # the library keeps what it does not understand
        near = difflib.get_close_matches(key, sorted(known), 1)
        hint = f"did you mean `{near[0]}`?" if near else None
        raise fail("E-MODEL-002", f"{kind} has no setting {quoted(key)}", key=f"model.config.{key}", hint=hint)
    return config


def empty_model(config: Any, *, attention: str) -> PreTrainedModel:  # noqa: ANN401
    """A causal language model on the meta device, in fp32.

    Raises:
        Failure: transformers has no causal model of this type, or the configuration is impossible.
    """
    try:
        with quiet(), torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                config, attn_implementation=ATTENTION[attention], dtype=torch.float32
            )
    except UNREADABLE as error:
        raise fail("E-MODEL-002", _one_line(error), key="model.config") from error


def initialise(model: PreTrainedModel, seed_of: Any) -> None:  # noqa: ANN401
    """Random weights and buffers by the model's own rules, each module under `seed_of(full module name)`.

    Children come before parents, because some families rescale their children's weights from above.
    """
    modules = dict(model.named_modules())
    for name in reversed(list(modules)):
        module = modules[name]
        owner = model
        for end in range(len(name), 0, -1):
            candidate = modules.get(name[:end])
            if isinstance(candidate, PreTrainedModel):
                owner = candidate
                break
        torch.manual_seed(seed_of(name))
        owner._init_weights(module)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage] - nowhere public


def tie(model: PreTrainedModel) -> None:
    """Make tied weights one parameter again."""
    model.tie_weights()


def tied_names(model: nn.Module) -> dict[str, str]:
    """Alias -> name of the parameter it shares."""
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in first:
            aliases[name] = first[id(parameter)]
        else:
            first[id(parameter)] = name
    return aliases


def read_weights(origin: Origin, config: Any) -> dict[str, Tensor]:  # noqa: ANN401
    """All weights of a folder, hub id or GGUF file in fp32 on the CPU, under the names of this version's model.

    Raises:
        Failure: weights are missing, damaged, of another shape, or only there as pickle.
    """
    refuse_pickle(origin)
    try:
        with quiet():
            opened: Any = AutoModelForCausalLM.from_pretrained(
                origin.name, config=config, dtype=torch.float32, output_loading_info=True,
                ignore_mismatched_sizes=True, use_safetensors=None if origin.gguf else True, **origin.arguments(),
            )  # fmt: skip
    except UNREADABLE as error:
        raise fail("E-MODEL-003", f"{origin.name}: {_one_line(error)}", key="model.name") from error
    model, report = opened
    missing = sorted(report.get("missing_keys", ()))
    mismatched = [str(entry[0]) for entry in report.get("mismatched_keys", ())]
    if missing or mismatched:
        names = ", ".join([*missing, *mismatched][:10])
        count = len(missing) + len(mismatched)
        raise fail("E-MODEL-003", f"{origin.name}: {count} weights missing or misshaped: {names}", key="model.name")
    return dict(model.state_dict())


def resize_embeddings(model: PreTrainedModel, size: int) -> None:
    """Grow embedding and head to `size` rows."""
    with quiet():
        model.resize_token_embeddings(size, mean_resizing=False)


def load_tokenizer(origin: Origin) -> Any:  # noqa: ANN401
    """The tokenizer of a folder, hub id or GGUF file.

    Raises:
        Failure: there is none, or it is broken.
    """
    try:
        with quiet():
            return AutoTokenizer.from_pretrained(origin.name, **origin.arguments())
    except UNREADABLE as error:
        raise fail(
            "E-MODEL-004", f"{origin.name}: no usable tokenizer: {_one_line(error)}", key="tokenizer.name"
        ) from error


def tokenizer_json(tokenizer: Any) -> str:  # noqa: ANN401
    """The tokenizer as the text of a tokenizer.json.

    Raises:
        Failure: it has no such form.
    """
    if not tokenizer.is_fast:
        raise fail("E-MODEL-004", f"{type(tokenizer).__name__} has no tokenizer.json form", key="tokenizer.name")
    return tokenizer.backend_tokenizer.to_str()


def save_tokenizer(tokenizer: Any, folder: Path) -> None:  # noqa: ANN401
    """Write the tokenizer's files into `folder`."""
    with quiet():
        tokenizer.save_pretrained(str(folder))


def save_model(config: Any, weights: Mapping[str, Tensor], folder: Path, *, eos: list[int], pad: int) -> None:  # noqa: ANN401
    """Write `config.json`, `generation_config.json` and safetensors of full weights into `folder`.

    Tied weights are stored once, as the library expects.
    """
    first = next(iter(weights.values()))
    model = empty_model(config, attention="auto")
    nn.Module.to(model, dtype=first.dtype)
    generation = GenerationConfig.from_model_config(config)
    generation.eos_token_id = eos if len(eos) > 1 else eos[0]
    generation.pad_token_id = pad
    model.generation_config = generation
    aliases = tied_names(model)
    kept = {name: tensor for name, tensor in weights.items() if name not in aliases}
    with quiet():
        model.save_pretrained(str(folder), state_dict=kept)


def open_causal(origin: Origin, *, attention: str = "auto") -> PreTrainedModel:
    """Open a model as a user of transformers does, in fp32.

    Raises:
        Failure: it cannot be opened, or is only there as pickle.
    """
    refuse_pickle(origin)
    try:
        with quiet():
            return AutoModelForCausalLM.from_pretrained(
                origin.name, dtype=torch.float32, attn_implementation=ATTENTION[attention],
                use_safetensors=None if origin.gguf else True, **origin.arguments(),
            )  # fmt: skip
    except UNREADABLE as error:
        raise fail("E-MODEL-003", f"{origin.name}: {_one_line(error)}", key="model.name") from error


def open_model(folder: Path) -> PreTrainedModel:
    """Open a finished folder in the format it was written in.

    Raises:
        Failure: it cannot be opened.
    """
    try:
        with quiet():
            return AutoModelForCausalLM.from_pretrained(str(folder), dtype="auto", local_files_only=True)
    except UNREADABLE as error:
        raise fail("E-MODEL-003", f"{folder}: {_one_line(error)}") from error


def hush() -> None:
    """Send the library's own log records nowhere; called once at the start of a run."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
