"""The recipe's sections as frozen dataclasses; the string under each field is its reference text.

Separate from composing so that the schema can be read, printed and checked without loading any file. A key stands here
only when it changes something; keys of later versions are named in `suggest.LATER`.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from llmtrain.recipe.slots import (
    ObjectiveConfig,
    OptimizerConfig,
    ScheduleConfig,
    option,
)

Cadence = Annotated[int | float | str | None, "cadence"]
"""Steps `100`, a share of all steps `0.1`, `1 epoch`, `10 min` (s, h), null = never."""
Duration = Annotated[str | None, "duration"]
"""`90 s`, `10 min`, `2 h`; null = no limit."""
Code = Annotated[str | None, "code"]
"""`pkg.mod:name`; runs only with permission (surface.md 8)."""


@dataclass(frozen=True, kw_only=True)
class RunSection:
    """The run as a whole: its name, place, seed and limits."""

    name: str | None = None
    """Label of the run, part of its id; default: the recipe file's name."""
    root: str = "runs"
    """Folder that holds run folders."""
    dir: str | None = None
    """The run's own folder; default: `root`/<id>."""
    seed: int = option(42, ge=0, lt=2**63)
    """Every random number derives from it."""
    deterministic: bool = False
    """Refuse operations without a deterministic implementation."""
    device: str = "auto"
    """auto | cpu | cuda[:N] | mps | xpu."""
    max_time: Duration = None
    """Training budget in wall-clock time; ends the run normally."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """What a non-finite loss or gradient does: stop with exit code 3, or skip the update."""
    max_skips: int = option(20, ge=0)
    """With `nonfinite: skip`: more skipped updates in a row than this stop the run with exit code 3."""
    max_loss: float | None = option(None, gt=0)
    """A loss above this stops the run with exit code 3."""


@dataclass(frozen=True, kw_only=True)
class ModelSection:
    """Which model: from scratch by `config`, or from files by `name`."""

    name: str | None = None
    """Hugging Face folder, hub id, GGUF file, or a run of ours (its final model, or RUN@STEP)."""
    config: dict[str, Any] | None = None
    """From scratch: transformers' own configuration keys, `model_type` among them."""
    init: Literal["pretrained", "random"] | None = None
    """Start from the files' weights or from random ones; default: pretrained with a name, else random."""
    factory: Code = None
    """`pkg.mod:build`: a function (config: dict) -> torch.nn.Module."""
    attention: Literal["auto", "sdpa", "eager", "flex", "flash"] = "auto"
    """Attention implementation."""
    revision: str | None = None
    """Commit of a hub id."""
    trust_remote_code: bool = False
    """Allow code that comes with a hub id; needs `revision`."""
    resize_embeddings: bool = False
    """Grow the embedding when the tokenizer has more tokens than the model."""


@dataclass(frozen=True, kw_only=True)
class TokenizerTraining:
    """A byte-level BPE trained once on the training data."""

    vocab_size: int = option(4096, ge=257, le=2_000_000)
    """Number of tokens, the 256 bytes and the end-of-text token included."""


@dataclass(frozen=True, kw_only=True)
class TokenizerSection:
    """Which tokenizer: the model's, another one, or one trained from the data."""

    name: str | None = None
    """Folder, hub id or tokenizer.json; default: the model's."""
    train: TokenizerTraining | None = None
    """Train a byte-level BPE on `data.train`, cached by content."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One place rows come from."""

    path: str = option()
    """File, folder, glob, `hf://`, hub name or `builtin:`."""
    name: str | None = None
    """Name in the ledger and in metrics; default: the path's last part."""
    columns: dict[str, str] = option(dict)
    """Rename columns: `{text: TEXT}` reads the file's column TEXT as text."""
    encoding: str | None = None
    """Encoding of text files; default: UTF-8, or detected where the evidence is safe."""
    split: str = "train"
    """Split of a hub data set."""
    documents: Literal["auto", "file", "lines"] = "auto"
    """For plain text: the whole file is one document, or each line is; auto: file for .txt and .md."""
    weight: float = option(1.0, gt=0, le=1000)
    """Multiplies the source's rows in an epoch; 0.5 takes another half each epoch."""
    limit: int | None = option(None, ge=1)
    """Only the first N documents."""


@dataclass(frozen=True, kw_only=True)
class EvalSplit:
    """Held-out documents taken from the training sources by a hash of their content and the seed."""

    fraction: float = option(0.05, ge=0, lt=1)
    """Share of documents held out; 0 = none."""


@dataclass(frozen=True, kw_only=True)
class DataLimits:
    """Shares which, when passed, stop the run before step 1."""

    truncated: float = option(1.0, ge=0, le=1)
    """Largest allowed share of tokens cut off."""
    dropped: float = option(1.0, ge=0, le=1)
    """Largest allowed share of rows dropped."""


@dataclass(frozen=True, kw_only=True)
class DataSection:
    """Rows: where they come from and how they become batches."""

    train: list[Source] = option(list)
    """Training sources; a bare path is a list of one."""
    eval: EvalSplit | list[Source] = option(EvalSplit)
    """Held-out share, or sources like `train`."""
    seq_len: int = option(1024, ge=2, le=2**24)
    """Tokens in a row."""
    packing: Literal["auto"] | bool = "auto"
    """Several documents in one row, kept apart by the attention mask."""
    padding: Literal["longest", "max_length"] = "longest"
    """Without packing: pad to the longest row of a micro-batch, or to `seq_len`."""
    overflow: Literal["auto", "split", "truncate", "drop", "error"] = "auto"
    """What happens to a document longer than `seq_len`; auto: split for text."""
    limits: DataLimits = option(DataLimits)
    """Shares that stop the run before step 1."""
    on_bad_row: Literal["error", "skip"] = "error"
    """A row that breaks its format: an error, or counted and listed."""
    order: Literal["shuffle", "sequential"] = "shuffle"
    """Order of rows within an epoch."""
    drop_last: bool = False
    """Drop an epoch's last, smaller batch."""
    seed: int | None = option(None, ge=0)
    """Seed of order and split; default: `run.seed`."""
    resume: Literal["continue", "restart"] = "continue"
    """After a resume: go on with the next unseen row, or from the first."""
    skip_steps: list[list[int]] = option(list)
    """`[[first, last]]`: steps whose data is passed over."""
    workers: Literal["auto"] | int = option("auto", ge=1)
    """Processes that read and tokenise; auto: one a core, at most 8."""
    prefetch: int = option(2, ge=0)
    """Batches made ready ahead of the step that needs them."""


@dataclass(frozen=True, kw_only=True)
class BatchSection:
    """Rows of one optimizer step and how they are cut."""

    global_size: int = option(32, ge=1)
    """Rows of an optimizer step over all ranks."""
    micro_size: Literal["auto"] | int = option("auto", ge=1)
    """Rows of one forward on one rank."""
    accumulate: int | None = option(None, ge=1)
    """Forwards of a step on one rank; needs a number in `micro_size`."""


@dataclass(frozen=True, kw_only=True)
class BudgetSection:
    """How long to train; the first one reached ends the run."""

    steps: int | None = option(None, ge=1)
    """Optimizer steps."""
    epochs: float | None = option(None, gt=0)
    """Passes over the data; fractions allowed."""
    tokens: int | None = option(None, ge=1)
    """Tokens that entered the model."""


@dataclass(frozen=True, kw_only=True)
class PrecisionSection:
    """Number formats."""

    compute: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Format of matrix products; auto: bf16 where the device has it, else fp32."""
    params: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Format the model's parameters are kept in."""
    master: Literal["fp32", "none"] = "fp32"
    """Copies the optimizer keeps when `params` is lower than fp32."""
    loss_scale: float = option(32768.0, gt=0)
    """First loss scale of fp16."""
    tf32: Literal["auto"] | bool = "auto"
    """TF32 matrix products on CUDA; auto: on, unless `run.deterministic`."""


@dataclass(frozen=True, kw_only=True)
class MemorySection:
    """Trading compute for memory."""

    recompute: Literal["none", "full"] = "none"
    """Forward again in the backward pass, per block."""
    chunked_loss: Literal["auto"] | bool = "auto"
    """Cross-entropy without full logits; auto: when they would be large and the result is the same."""


@dataclass(frozen=True, kw_only=True)
class SpeedSection:
    """Making it fast."""

    compile: Literal["auto"] | bool | dict[str, str] = "auto"
    """torch.compile per block: auto | true | false | {backend, mode}."""
    threads: Literal["auto"] | int = option("auto", ge=1)
    """Threads of one rank; auto: the cores divided by the local ranks."""
    profile: list[int] | None = None
    """`[first, last]` step written to `profile/` as a trace."""


@dataclass(frozen=True, kw_only=True)
class ParallelSection:
    """The mesh."""

    dp_replicate: Literal["auto"] | int = option("auto", ge=1)
    """Ranks that hold copies."""
    dp_shard: Literal["auto"] | int = option("auto", ge=1)
    """Ranks that share one copy."""
    sharding: Literal["none", "full"] = "full"
    """none: replicas; full: parameters, gradients and optimizer state sharded."""


@dataclass(frozen=True, kw_only=True)
class BestMetric:
    """Which checkpoint is the best one."""

    metric: str = "eval_loss"
    """Name of an evaluation metric."""
    mode: Literal["auto", "min", "max"] = "auto"
    """Which direction is better; auto: losses, perplexity and bits per byte min, else max."""


@dataclass(frozen=True, kw_only=True)
class CheckpointSection:
    """Saving the run."""

    every: Cadence = option(100, best=True)
    """Steps 100, a share 0.1, `1 epoch`, `10 min`, `best`, null = never."""
    keep: int | None = option(2, ge=1)
    """Newest checkpoints that stay; null = all. The best, pinned and only good one stay in any case."""
    pin: Cadence = None
    """Checkpoints of this cadence always stay."""
    best: BestMetric = option(BestMetric)
    """Which evaluation metric decides the best checkpoint."""
    async_: bool = option(default=True, key="async")
    """Write while training goes on."""
    final: Literal["best"] | bool = True
    """Write the final model: the last state, the best one, or none."""
    on_error: Literal["stop", "warn"] = "stop"
    """When a checkpoint cannot be written."""
    weights_only: bool = False
    """Leave the optimizer out; such a checkpoint cannot be resumed."""


@dataclass(frozen=True, kw_only=True)
class SamplesSection:
    """Text generated while training."""

    prompts: list[str] = option(list)
    """Prompts to continue."""
    every: Cadence = 100
    """How often."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSection:
    """Held-out evaluation."""

    every: Cadence = 100
    """Steps, a share, epochs, a time, null = never."""
    min_times: int | None = option(None, ge=1)
    """Evaluate at least this often in the run."""
    at_start: bool = False
    """Evaluate before the first step."""
    delay: int = option(0, ge=0)
    """No evaluation before this step."""
    batch_size: Literal["auto"] | int = option("auto", ge=1)
    """Rows of an evaluation forward; never changes a number."""
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    """Compute format of evaluation; default: that of training."""
    samples: SamplesSection = option(SamplesSection)
    """Text generated while training."""


@dataclass(frozen=True, kw_only=True)
class PredictSection:
    """Generating text."""

    input: str | list[str] | None = None
    """Text, list of texts, or a .txt or .jsonl file."""
    max_new_tokens: int = option(128, ge=1)
    """Longest continuation."""
    temperature: float = option(0.0, ge=0)
    """0 = greedy."""
    top_p: float = option(1.0, gt=0, le=1)
    """Sample from the smallest set of tokens with this probability."""
    stop: list[str] = option(list)
    """Strings that end a continuation."""
    batch_size: Literal["auto"] | int = option("auto", ge=1)
    """Prompts of one forward."""
    after_train: bool = False
    """Predict `input` when training ends."""


@dataclass(frozen=True, kw_only=True)
class LogSection:
    """What is written down."""

    every: Cadence = 10
    """Screen lines; metrics.jsonl keeps every step."""
    first_step: bool = False
    """A line for step 1, and an evaluation where evaluation is on."""
    to: list[Literal["jsonl", "tensorboard"]] = option(lambda: ["jsonl", "tensorboard"])
    """Sinks; jsonl is always written."""
    dir: str | None = None
    """Folder of TensorBoard files; default: `tb/` of the run."""
    progress: Literal["auto", "lines", "none"] = "auto"
    """Live line on a terminal, plain lines, or nothing."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Level of logs/rank_N.log."""


@dataclass(frozen=True, kw_only=True)
class LaunchSection:
    """Starting processes."""

    nproc: Literal["auto"] | int = option("auto", ge=1, le=1024)
    """Local processes; auto: one a GPU, else 1."""
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """Collective backend; auto: nccl on CUDA, else gloo."""
    timeout: int = option(600, ge=1)
    """Seconds any collective may take."""
    grace: int = option(30, ge=1)
    """Seconds ranks get to save and leave after a signal."""
    deadline: Duration = None
    """Wall clock of the job: save and exit 75 when it is reached."""


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What a run of this recipe must reach, else exit code 3."""

    metric: str = option()
    """Metric of result.json."""
    max: float | None = None
    """Largest allowed value."""
    min: float | None = None
    """Smallest allowed value."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole recipe."""

    run_mode: Literal["train", "evaluate", "predict"] = "train"
    """What `llmtrain run` does; the verb writes it."""
    plugins: list[str] = option(list, code=True)
    """Modules to import, which register slots of their own."""
    allow_code: bool = False
    """Permission to run the code this recipe names; counts only in the recipe itself."""
    offline: bool = False
    """No connection but to this machine."""
    run: RunSection = option(RunSection)
    model: ModelSection = option(ModelSection)
    tokenizer: TokenizerSection = option(TokenizerSection)
    data: DataSection = option(DataSection)
    objective: ObjectiveConfig = option(slot="objective", default_name="causal")
    optimizer: OptimizerConfig = option(slot="optimizer", default_name="adamw")
    schedule: ScheduleConfig = option(slot="schedule", default_name="cosine")
    batch: BatchSection = option(BatchSection)
    budget: BudgetSection = option(BudgetSection)
    precision: PrecisionSection = option(PrecisionSection)
    memory: MemorySection = option(MemorySection)
    speed: SpeedSection = option(SpeedSection)
    parallel: ParallelSection = option(ParallelSection)
    checkpoint: CheckpointSection = option(CheckpointSection)
    evaluate: EvaluateSection = option(EvaluateSection)
    predict: PredictSection = option(PredictSection)
    log: LogSection = option(LogSection)
    launch: LaunchSection = option(LaunchSection)
    tests: list[Expectation] = option(list)
    """What a run of this recipe must reach, else exit code 3."""
