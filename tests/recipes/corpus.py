"""Malformed recipes and command lines with what must be said about them, and valid ones that look wrong.

Separate from the test so that other suites (the command line, the torture tests) run the same corpus.
"""

from dataclasses import dataclass

BASE = """\
model: {config: {model_type: llama}}
tokenizer: {train: {vocab_size: 4096}}
data: {train: a.txt}
budget: {steps: 10}
"""
"""A recipe that composes; four lines, so that what is appended starts at line 5."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A recipe's text or bytes, or command-line arguments over BASE, and the first problem that must be named."""

    text: str | bytes = BASE
    arguments: tuple[str, ...] = ()
    id: str
    line: int | None = None
    column: int | None = None
    key: str | None = None
    says: str = ""
    """Part of the message."""
    hint: str = ""
    """Part of the hint."""


def over(text: str, id: str, key: str | None = None, **more: object) -> Case:
    """BASE with lines appended; the problem stands in line 5 unless said otherwise."""
    return Case(text=BASE + text, id=id, key=key, **{"line": 5, **more})  # type: ignore[arg-type]


def whole(text: str | bytes, id: str, **more: object) -> Case:
    """A recipe of its own."""
    return Case(text=text, id=id, **more)  # type: ignore[arg-type]


def typed(*arguments: str, id: str, **more: object) -> Case:
    """Arguments over BASE; the problem stands on the command line."""
    return Case(arguments=arguments, id=id, **more)  # type: ignore[arg-type]


SYNTAX = [
    over("run:\n\tname: x\n", "E-RECIPE-008", line=6, hint="tabs"),
    over('run: {name: "x}\n', "E-RECIPE-008", line=6, says="not valid YAML"),
    over("run: {name: x\n", "E-RECIPE-008", line=6),
    over("run: [1, 2\n", "E-RECIPE-008", line=6),
    over("run: {name: x}}\n", "E-RECIPE-008", column=15),
    over("run: {seed: 1}\nrun: {seed: 2}\n", "E-RECIPE-007", line=6, column=1, says="first at line 5"),
    over("run: {seed: 1, seed: 2}\n", "E-RECIPE-007", column=16, says="first at line 5"),
    over("run: {name: *nowhere}\n", "E-RECIPE-008", column=13, hint="alias"),
    over("run: {name: @x}\n", "E-RECIPE-008", column=13, hint="quote"),
    over("run: {name: %x}\n", "E-RECIPE-008", column=13, hint="quote"),
    over("run: {name: `x`}\n", "E-RECIPE-008", column=13, hint="quote"),
    over('run: {name: "a\\qb"}\n', "E-RECIPE-008", says="unknown escape"),
    over("---\nrun: {seed: 1}\n", "E-RECIPE-008", line=5, says="second document"),
    over("run: {seed: 1}\n--- \nbatch: {}\n", "E-RECIPE-008", line=6, says="second document"),
    over("run:\n  seed: 1\n name: x\n", "E-RECIPE-008", line=7),
    over("run: seed: 1\n", "E-RECIPE-008", column=10),
    over("run:\n  name: a: b\n", "E-RECIPE-008", line=6),
    over("run: {name: a\x00b}\n", "E-RECIPE-008", column=14, says="U+0000"),
    over("run: {name: a\x1b[31mb}\n", "E-RECIPE-008", column=14, says="U+001B"),
    over("run: {name: a\x07b}\n", "E-RECIPE-008", column=14, says="U+0007"),
    over("? [a, b]\n: 1\n", "E-RECIPE-008", column=3, says="single word"),
    over("<<: 3\n", "E-RECIPE-008", column=1, says="takes a map"),
    over("run: !!python/object/apply:os.system [ls]\n", "E-RECIPE-019", column=6, hint="without a tag"),
    over("run: {seed: !!int 3}\n", "E-RECIPE-019", column=13),
    over("run: {name: !mine x}\n", "E-RECIPE-019", column=13),
    over("budget2: {tokens: ${oc.env:X}}\n", "E-RECIPE-008", hint="quote an interpolation"),
    over("loose words\n", "E-RECIPE-008", says="not valid YAML"),
    over("- item\n", "E-RECIPE-008", says="not valid YAML"),
]

FILES = [
    whole("", "E-RECIPE-016", hint="llmtrain init demo"),
    whole("# nothing but a remark\n\n", "E-RECIPE-016"),
    whole("---\n", "E-RECIPE-016"),
    whole("- a\n- b\n", "E-RECIPE-016", line=1, says="a list"),
    whole("hello\n", "E-RECIPE-016", line=1, says="a single value"),
    whole("42\n", "E-RECIPE-016", line=1, says="a single value"),
    whole("\ufeff", "E-RECIPE-016"),
    whole(BASE.encode("utf-16"), "E-FILE-003", says="looks like UTF-16", line=1),
    whole(BASE.encode() + "run: {name: caf\xe9}\n".encode("latin-1"), "E-FILE-003", line=5, says="0xe9 at offset 132"),
    whole(b"\x89PNG\r\n\x1a\n\x00\x00", "E-FILE-003", says="0x89 at offset 0"),
    whole(BASE + "#" * 1_000_001, "E-RECIPE-017", says="1,000,000"),
    whole("run: " + "[" * 500 + "]" * 500 + "\n", "E-RECIPE-017", line=1, says="64 levels"),
    whole("run: " + "{a: " * 70 + "1" + "}" * 70 + "\n", "E-RECIPE-017", line=1),
    whole(
        "a: &a [1,1,1,1,1,1,1,1,1]\n"
        + "".join(f"{c}: &{c} [{','.join(['*' + p] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)),
        "E-RECIPE-017",
        says="aliases",
    ),
    whole("run: &r {name: *r}\n", "E-RECIPE-017", line=1),
    whole("1: {}\n2: {}\n", "E-RECIPE-001", line=1, column=1, key="1"),
]

UNKNOWN = [
    over("run: {sed: 1}\n", "E-RECIPE-001", "run.sed", column=7, hint="`seed`"),
    over("run: {Name: x}\n", "E-RECIPE-001", "run.Name", hint="`name`"),
    over("optimizer: {learning_rat: 2e-4}\n", "E-RECIPE-001", "optimizer.learning_rat", column=13, hint="optimizer.lr"),
    over("optimizer: {weight_decy: 0.1}\n", "E-RECIPE-001", "optimizer.weight_decy", hint="`weight_decay`"),
    over("optimzer: {lr: 1e-3}\n", "E-RECIPE-001", "optimzer", column=1, hint="`optimizer`"),
    over("batch: {globalsize: 8}\n", "E-RECIPE-001", "batch.globalsize", hint="`global_size`"),
    over("batch: {micro-size: 8}\n", "E-RECIPE-001", "batch.micro-size", hint="`micro_size`"),
    over("checkpoint: {evry: 10}\n", "E-RECIPE-001", "checkpoint.evry", hint="`every`"),
    over(
        "checkpoint: {best: {metrc: eval_loss}}\n", "E-RECIPE-001", "checkpoint.best.metrc", column=21, hint="`metric`"
    ),
    over(
        "evaluate:\n  samples:\n    promts: [a]\n",
        "E-RECIPE-001",
        "evaluate.samples.promts",
        line=7,
        column=5,
        hint="`prompts`",
    ),
    over("lr: 1e-3\n", "E-RECIPE-001", "lr", column=1, hint="`optimizer.lr`"),
    over("seq_len: 128\n", "E-RECIPE-001", "seq_len", hint="`data.seq_len`"),
    over("seed: 1\n", "E-RECIPE-001", "seed", hint="`run.seed`"),
    over("run: {warmup: 10}\n", "E-RECIPE-001", "run.warmup", hint="`schedule.warmup`"),
    over("optimizer: {warmup: 10}\n", "E-RECIPE-001", "optimizer.warmup", hint="`schedule.warmup`"),
    over("log: {temperature: 1}\n", "E-RECIPE-001", "log.temperature", hint="`predict.temperature`"),
    over("zzzzqqq: 1\n", "E-RECIPE-001", "zzzzqqq", hint="known at the top"),
    over("tests: [{metric: eval_loss, maximum: 3}]\n", "E-RECIPE-001", "tests[0].maximum", column=29),
    over("schedule: {name: cosine, powr: 2}\n", "E-RECIPE-001", "schedule.powr", hint="schedule.power"),
    over(
        "optimizer: {name: sgd, betas: [0.9, 0.95]}\n",
        "E-RECIPE-001",
        "optimizer.betas",
        column=24,
        hint="adamw, lion, muon",
    ),
    whole(
        "model: {config: {model_type: llama}}\ndata:\n  train:\n    - path: a.txt\n      wieght: 2\n",
        "E-RECIPE-001",
        line=5,
        column=7,
        key="data.train[0].wieght",
        hint="`weight`",
    ),
    over(
        "per_device_train_batch_size: 4\n",
        "E-RECIPE-012",
        "per_device_train_batch_size",
        column=1,
        hint="`per_device_train_batch_size` is written `batch.micro_size` here",
    ),
    over("learning_rate: 1e-4\n", "E-RECIPE-012", "learning_rate", hint="`optimizer.lr`"),
    over("optimizer: {learning_rate: 1e-4}\n", "E-RECIPE-012", "optimizer.learning_rate", hint="`optimizer.lr`"),
    over("num_train_epochs: 3\n", "E-RECIPE-012", hint="`budget.epochs`"),
    over("max_steps: 100\n", "E-RECIPE-012", hint="`budget.steps`"),
    over("gradient_accumulation_steps: 2\n", "E-RECIPE-012", hint="`batch.accumulate`"),
    over("warmup_ratio: 0.1\n", "E-RECIPE-012", hint="`schedule.warmup`"),
    over("lr_scheduler_type: cosine\n", "E-RECIPE-012", hint="`schedule.name`"),
    over("save_total_limit: 2\n", "E-RECIPE-012", hint="`checkpoint.keep`"),
    over("output_dir: out\n", "E-RECIPE-012", hint="`run.dir`"),
    over("bf16: true\n", "E-RECIPE-012", hint="`precision.compute: bf16`"),
    over("gradient_checkpointing: true\n", "E-RECIPE-012", hint="`memory.recompute: full`"),
    over("model_name_or_path: x\n", "E-RECIPE-012", hint="`model.name`"),
    over("max-seq-length: 128\n", "E-RECIPE-012", hint="`data.seq_len`"),
    over("deepspeed: ds.json\n", "E-RECIPE-012", hint="no counterpart"),
    over("push_to_hub: true\n", "E-RECIPE-012", hint="uploads nothing"),
    over("lora_rank: 8\n", "E-RECIPE-013", "lora_rank", says="`pet.rank`"),
    over("tensor_parallel_degree: 2\n", "E-RECIPE-013", says="`parallel.tp`"),
    over("pet: {name: lora}\n", "E-RECIPE-013", "pet", column=1),
    over("parallel: {tp: 2}\n", "E-RECIPE-013", "parallel.tp", column=12),
    over("evaluate: {early_stop: {patience: 3}}\n", "E-RECIPE-013", "evaluate.early_stop"),
    over("launch: {nnodes: 2}\n", "E-RECIPE-013", "launch.nnodes"),
    over("pipeline: {stages: []}\n", "E-RECIPE-013", "pipeline"),
    over("run_mode: finetune\n", "E-RECIPE-013", "run_mode", column=11),
    over("objective: sft\n", "E-RECIPE-013", "objective.name", column=12),
    over("memory: {recompute: selective}\n", "E-RECIPE-013", "memory.recompute"),
]

TYPES = [
    over("run: {seed: fast}\n", "E-RECIPE-004", "run.seed", column=13, says='"fast" is not a whole number'),
    over("run: {seed: 2.0}\n", "E-RECIPE-004", "run.seed", says="2.0 is not a whole number", hint="write 2"),
    over("run: {seed: true}\n", "E-RECIPE-004", "run.seed", says="true is not a whole number"),
    over('run: {seed: "8"}\n', "E-RECIPE-004", "run.seed", hint="remove the quotes"),
    over(
        "run: {seed: null}\n", "E-RECIPE-004", "run.seed", says="null is not a whole number", hint="leave the key out"
    ),
    over("run: {seed: [1]}\n", "E-RECIPE-002", "run.seed", says="a list where"),
    over("run: {seed: {a: 1}}\n", "E-RECIPE-002", "run.seed", says="a map where"),
    over("run: 5\n", "E-RECIPE-002", "run", says="a single value where a map"),
    over("run: [a]\n", "E-RECIPE-002", "run", says="a list where a map"),
    over("batch: null\n", "E-RECIPE-004", "batch", says="null is not a map"),
    over("optimizer: [adamw]\n", "E-RECIPE-002", "optimizer", hint="{name: adamw}"),
    over("optimizer: 3\n", "E-RECIPE-002", "optimizer"),
    over("optimizer: {lr: fast}\n", "E-RECIPE-004", "optimizer.lr", column=17, says='"fast" is not a number > 0'),
    over("optimizer: {lr: 1e}\n", "E-RECIPE-004", "optimizer.lr"),
    over('optimizer: {lr: "1e-3"}\n', "E-RECIPE-004", "optimizer.lr", hint="remove the quotes"),
    over("optimizer: {betas: 0.9}\n", "E-RECIPE-002", "optimizer.betas", hint="[0.9]"),
    over("optimizer: {betas: [0.9]}\n", "E-RECIPE-005", "optimizer.betas", says="1 values where 2"),
    over("optimizer: {betas: [0.9, high]}\n", "E-RECIPE-004", "optimizer.betas[1]", column=26),
    over("optimizer: adamww\n", "E-RECIPE-010", "optimizer.name", column=12, hint="`adamw`"),
    over("optimizer: {name: adamw_torch}\n", "E-RECIPE-010", "optimizer.name", hint="`adamw`"),
    over("schedule: cosin\n", "E-RECIPE-010", "schedule.name", hint="`cosine`"),
    over("objective: casual\n", "E-RECIPE-010", "objective.name", hint="`causal`"),
    over("precision: {compute: bfloat16}\n", "E-RECIPE-003", "precision.compute", hint="`bf16`"),
    over("precision: {compute: fp8}\n", "E-RECIPE-003", "precision.compute", says="auto, fp32, bf16, fp16"),
    over("run: {nonfinite: skipp}\n", "E-RECIPE-003", "run.nonfinite", hint="`skip`"),
    over("run: {deterministic: 1}\n", "E-RECIPE-004", "run.deterministic"),
    over('run: {deterministic: "true"}\n', "E-RECIPE-003", "run.deterministic", hint="remove the quotes"),
    over("run: {max_time: 10}\n", "E-RECIPE-004", "run.max_time", says="10 min"),
    over("run: {max_time: 10 fortnights}\n", "E-RECIPE-004", "run.max_time", says="10 min"),
    over("checkpoint: {every: 10 parsecs}\n", "E-RECIPE-004", "checkpoint.every", column=21, says="1 epoch"),
    over("checkpoint: {every: -5}\n", "E-RECIPE-004", "checkpoint.every"),
    over("evaluate: {every: best}\n", "E-RECIPE-004", "evaluate.every"),
    over("evaluate: {every: 1.5}\n", "E-RECIPE-004", "evaluate.every"),
    over("evaluate: {samples: {prompts: hello}}\n", "E-RECIPE-002", "evaluate.samples.prompts", hint="[hello]"),
    over("log: {to: [jsonl, wandb]}\n", "E-RECIPE-013", "log.to[1]", column=19),
    over("log: {to: [json]}\n", "E-RECIPE-003", "log.to[0]", hint="`jsonl`"),
    over("speed: {profile: 3}\n", "E-RECIPE-002", "speed.profile"),
    over("tests: [{max: 3}]\n", "E-RECIPE-006", "tests[0]", says="`metric` is required"),
    over("tests: {metric: x}\n", "E-RECIPE-002", "tests"),
    over("plugins: my.module\n", "E-RECIPE-002", "plugins", hint="[my.module]"),
    whole(
        "model: {config: {model_type: llama}}\ndata: {train: [{name: x}]}\n",
        "E-RECIPE-006",
        line=2,
        column=16,
        key="data.train[0]",
        says="`path` is required",
    ),
    whole("model: {config: {model_type: llama}}\ndata: {train: 5}\n", "E-RECIPE-002", line=2, key="data.train"),
    whole(
        "model: {config: {model_type: llama}}\ndata: {train: a.txt, eval: 0.1}\n",
        "E-RECIPE-002",
        line=2,
        key="data.eval",
        hint="fraction",
    ),
    whole("model: {config: llama}\ndata: {train: a.txt}\n", "E-RECIPE-002", line=1, key="model.config", column=17),
]

IMPLICIT = [
    over(
        "run: {name: off}\n",
        "E-RECIPE-011",
        "run.name",
        column=13,
        says="`off` as false",
        hint='"off" in quotes, or null',
    ),
    over("run: {name: NO}\n", "E-RECIPE-011", "run.name", says="`NO` as false", hint='"NO"'),
    over("run: {name: on}\n", "E-RECIPE-011", "run.name", says="as true"),
    over("run: {name: true}\n", "E-RECIPE-011", "run.name", hint='"true"'),
    over("run: {name: 010}\n", "E-RECIPE-011", "run.name", says="`010` as 8", hint='"010"'),
    over("run: {name: 1_000}\n", "E-RECIPE-011", "run.name", says="as 1000"),
    over("run: {name: 12:30:45}\n", "E-RECIPE-011", "run.name", says="as 45045"),
    over("run: {name: 0x1F}\n", "E-RECIPE-011", "run.name", says="as 31"),
    over("run: {seed: 010}\n", "E-RECIPE-011", "run.seed", says="as 8", hint="write 8"),
    over("run: {seed: 0x10}\n", "E-RECIPE-011", "run.seed", hint="write 16"),
    over("run: {seed: 1_0}\n", "E-RECIPE-011", "run.seed", hint="write 10"),
    over("run: {deterministic: yes}\n", "E-RECIPE-011", "run.deterministic", hint="write true"),
    over("run: {deterministic: Off}\n", "E-RECIPE-011", "run.deterministic", hint="write false"),
    over("data2: 1\nrun: {device: no}\n", "E-RECIPE-001", "data2"),
    over("evaluate: {every: off}\n", "E-RECIPE-011", "evaluate.every", hint="null"),
    over("predict: {input: yes}\n", "E-RECIPE-011", "predict.input"),
    whole(
        "model: {config: {model_type: llama, use_cache: no}}\ndata: {train: a.txt}\n",
        "E-RECIPE-011",
        line=1,
        column=48,
        key="model.config.use_cache",
        hint="write false",
    ),
    whole("model: {config: {model_type: llama, size: 0777}}\ndata: {train: a.txt}\n", "E-RECIPE-011", line=1),
    over("run: {max_time: 12:30:00}\n", "E-RECIPE-011", "run.max_time"),
]

RANGES = [
    over(
        "optimizer: {lr: -1e-3}\n", "E-RECIPE-005", "optimizer.lr", column=17, says="-1e-3 is out of range; must be > 0"
    ),
    over("optimizer: {lr: 0}\n", "E-RECIPE-005", "optimizer.lr", says="must be > 0"),
    over("optimizer: {lr: .nan}\n", "E-RECIPE-005", "optimizer.lr", says="not a finite number"),
    over("optimizer: {lr: .inf}\n", "E-RECIPE-005", "optimizer.lr", says="not a finite number"),
    over("optimizer: {lr: 1e999}\n", "E-RECIPE-005", "optimizer.lr", says="not a finite number"),
    over("optimizer: {betas: [0.9, 1.0]}\n", "E-RECIPE-005", "optimizer.betas[1]", column=26, says="must be < 1"),
    over("optimizer: {weight_decay: 2}\n", "E-RECIPE-005", "optimizer.weight_decay"),
    over("batch: {global_size: 0}\n", "E-RECIPE-005", "batch.global_size", says="must be >= 1"),
    over("batch: {micro_size: -1}\n", "E-RECIPE-005", "batch.micro_size"),
    over("checkpoint: {keep: 0}\n", "E-RECIPE-005", "checkpoint.keep", says="0 is out of range"),
    over("run: {seed: -1}\n", "E-RECIPE-005", "run.seed"),
    over("run: {seed: 99999999999999999999}\n", "E-RECIPE-005", "run.seed"),
    over("run: {seed: " + "9" * 5000 + "}\n", "E-RECIPE-004", "run.seed"),
    over("run: {max_loss: 0}\n", "E-RECIPE-005", "run.max_loss"),
    over("predict: {top_p: 1.5}\n", "E-RECIPE-005", "predict.top_p", says="must be <= 1"),
    over("predict: {temperature: -0.1}\n", "E-RECIPE-005", "predict.temperature"),
    over("launch: {nproc: 0}\n", "E-RECIPE-005", "launch.nproc"),
    over("launch: {nproc: 5000}\n", "E-RECIPE-005", "launch.nproc", says="<= 1024"),
    over("schedule: {warmup: -0.1}\n", "E-RECIPE-005", "schedule.warmup"),
    over("schedule: {warmup: 2.5}\n", "E-RECIPE-005", "schedule.warmup", says="2.5"),
    over("schedule: {min_ratio: 1.5}\n", "E-RECIPE-005", "schedule.min_ratio"),
    over("speed: {profile: [5, 2]}\n", "E-RECIPE-005", "speed.profile", says="[5, 2]"),
    whole(
        "model: {config: {model_type: llama}}\ntokenizer: {train: {vocab_size: 256}}\ndata: {train: a}\n",
        "E-RECIPE-005",
        line=2,
        key="tokenizer.train.vocab_size",
        says="must be >= 257",
    ),
    whole(
        "model: {config: {model_type: llama}}\ndata: {train: a, seq_len: 1, eval: {fraction: 1}}\n",
        "E-RECIPE-005",
        line=2,
        key="data.seq_len",
    ),
    whole("model: {name: m}\ndata: {train: a}\nbudget: {steps: 1e30}\n", "E-RECIPE-004", line=3, key="budget.steps"),
    whole("model: {name: m}\ndata: {train: a}\nbudget: {epochs: 0}\n", "E-RECIPE-005", line=3, key="budget.epochs"),
    whole(
        "model: {name: m}\ndata: {train: a, skip_steps: [[5, 2]]}\nbudget: {epochs: 1}\n",
        "E-RECIPE-005",
        line=2,
        key="data.skip_steps[0]",
    ),
    whole(
        "model: {name: m}\ndata: {train: ''}\nbudget: {epochs: 1}\n",
        "E-RECIPE-005",
        line=2,
        key="data.train[0].path",
        says="empty path",
    ),
]

CONTRADICTIONS = [
    whole("data: {train: a.txt}\nbudget: {steps: 1}\n", "E-RECIPE-006", key="model", says="no model"),
    whole("model: {init: random}\ndata: {train: a.txt}\nbudget: {steps: 1}\n", "E-RECIPE-006", key="model", line=1),
    whole(
        "model: {config: {hidden_size: 8}}\ntokenizer: {name: t}\ndata: {train: a}\nbudget: {steps: 1}\n",
        "E-RECIPE-006",
        line=1,
        key="model.config",
        hint="model_type",
    ),
    whole(
        "model: {name: a, config: {model_type: llama}}\ndata: {train: a}\nbudget: {steps: 1}\n",
        "E-RECIPE-009",
        line=1,
        key="model.config",
    ),
    whole(
        "model: {config: {model_type: llama}, init: pretrained}\ntokenizer: {name: t}\ndata: {train: a}\n"
        "budget: {steps: 1}\n",
        "E-RECIPE-009",
        line=1,
        key="model.init",
    ),
    whole(
        "model: {name: a, trust_remote_code: true}\ndata: {train: a}\nbudget: {steps: 1}\n",
        "E-SEC-003",
        line=1,
        key="model.trust_remote_code",
    ),
    whole(
        "model: {config: {model_type: llama}}\ndata: {train: a}\nbudget: {steps: 1}\n", "E-RECIPE-006", key="tokenizer"
    ),
    whole(
        "model: {name: a}\ntokenizer: {name: b, train: {}}\ndata: {train: a}\nbudget: {steps: 1}\n",
        "E-RECIPE-009",
        line=2,
        key="tokenizer.train",
    ),
    whole("model: {name: a}\nbudget: {steps: 1}\n", "E-RECIPE-006", key="data.train", says="no training data"),
    whole("model: {name: a}\ndata: {train: []}\nbudget: {steps: 1}\n", "E-RECIPE-006", line=2, key="data.train"),
    whole("model: {name: a}\ndata: {train: a}\n", "E-PLAN-005", key="budget", hint="budget.epochs=1"),
    whole(
        "model: {name: a}\ndata: {train: [{path: a, name: x}, {path: b, name: x}]}\nbudget: {steps: 1}\n",
        "E-RECIPE-009",
        line=2,
        key="data.train[1].name",
        says='named "x"',
    ),
    whole(
        "model: {name: a}\ndata: {train: a, packing: true, padding: max_length}\nbudget: {steps: 1}\n",
        "E-RECIPE-009",
        line=2,
        key="data.padding",
    ),
    whole(
        "model: {name: a}\ndata: {train: a, eval: []}\nbudget: {steps: 1}\ncheckpoint: {final: best}\n",
        "E-RECIPE-009",
        line=4,
        key="checkpoint.final",
    ),
    over("batch: {accumulate: 2}\n", "E-RECIPE-009", "batch.accumulate", hint="micro_size"),
    over(
        "batch: {global_size: 4, micro_size: 8}\n", "E-RECIPE-009", "batch.micro_size", says="8 rows a forward, but 4"
    ),
    over("schedule: {warmup: 50}\n", "E-PLAN-004", "schedule.warmup", says="50 warm-up steps in a run of 10"),
    over("schedule: {name: constant, warmup: 5}\n", "E-RECIPE-005", "schedule.warmup", says="only 0"),
    over("precision: {compute: bf16, loss_scale: 1024}\n", "E-RECIPE-009", "precision.loss_scale", says="bf16"),
    over("evaluate: {every: null}\ncheckpoint: {every: best}\n", "E-RECIPE-009", "checkpoint.every", line=6),
    over("predict: {after_train: true}\n", "E-RECIPE-009", "predict.after_train"),
    over("tests: [{metric: eval_loss}]\n", "E-RECIPE-006", "tests[0]", says="`max` and `min`"),
    over("tests: [{metric: eval_loss, min: 3, max: 2}]\n", "E-RECIPE-009", "tests[0]", says="min 3 is above max 2"),
    over("plugins: [my.module]\n", "E-SEC-002", "plugins", hint="allow_code"),
    over("optimizer: {name: custom, class: a.b:C}\n", "E-SEC-002", "optimizer.class", says='"a.b:C"'),
    over("speed: {compile: {bakend: inductor}}\n", "E-RECIPE-001", "speed.compile.bakend"),
]

EVALUATION = [
    whole("run_mode: evaluate\nmodel: {name: m}\n", "E-RECIPE-006", key="data.eval", says="no data"),
    whole("run_mode: evaluate\nmodel: {name: m}\ndata: {eval: []}\n", "E-RECIPE-006", line=3, key="data.eval"),
]

INTERPOLATION = [
    over(
        'run: {name: "${oc.env:LLMTRAIN_NOT_SET}"}\n',
        "E-RECIPE-015",
        "run.name",
        column=13,
        says="environment variable LLMTRAIN_NOT_SET is not set",
    ),
    over('run: {name: "${run.root}", root: "${run.name}"}\n', "E-RECIPE-015", "run.name", says="back to itself"),
    over('run: {name: "${run.name}"}\n', "E-RECIPE-015", "run.name", says="back to itself"),
    over('run: {name: "${nowhere.at_all}"}\n', "E-RECIPE-015", "run.name", says="nowhere.at_all"),
    over('run: {name: "${magic:1}"}\n', "E-RECIPE-015", "run.name", says="resolver"),
    over('run: {name: "${run.seed"}\n', "E-RECIPE-015", "run.name", says="cannot be read"),
    over('run: {seed: "${run.root}"}\n', "E-RECIPE-004", "run.seed", says="the value of"),
    over('batch: {global_size: "${run.seed}", micro_size: "${budget.epochs}"}\n', "E-RECIPE-004", "batch.micro_size"),
    over('optimizer: "${oc.env:LLMTRAIN_NOT_SET}"\n', "E-RECIPE-015", "optimizer"),
]

EXTENDS = [
    over("extends: [_base/model/llama-14]\n", "E-RECIPE-014", "extends", column=11, hint="llama-14m"),
    over("extends: [./nowhere]\n", "E-RECIPE-014", "extends"),
    over("extends: {a: b}\n", "E-RECIPE-014", "extends"),
    over("extends: [[a]]\n", "E-RECIPE-014", "extends"),
    over("extends: [recipe]\n", "E-RECIPE-014", "extends", says="leads back to itself"),
    over('extends: "${run.name}"\n', "E-RECIPE-014", "extends"),
]

COMMANDS = [
    typed("batch.globalsize=8", id="E-CLI-002", key="batch.globalsize", column=1, hint="`batch.global_size`"),
    typed("lr=1e-3", id="E-CLI-002", key="lr", hint="`optimizer.lr`"),
    typed("optimizer.lr", id="E-CLI-003", hint="KEY=VALUE"),
    typed("=5", id="E-CLI-003"),
    typed("a b=5", id="E-CLI-003"),
    typed("data..train=x", id="E-CLI-003"),
    typed("data.train[=x", id="E-CLI-003"),
    typed("run.seed=abc", id="E-RECIPE-004", key="run.seed", column=10),
    typed("run.seed=", id="E-RECIPE-004", key="run.seed"),
    typed("run.seed=1 2", id="E-RECIPE-004", key="run.seed"),
    typed("run.deterministic=yes", id="E-RECIPE-003", key="run.deterministic", says="true, false"),
    typed("run.deterministic=1", id="E-RECIPE-004", key="run.deterministic"),
    typed("data.train[1].weight=5", id="E-CLI-003", says="the list has 1 entry"),
    typed("data.train[0].wieght=5", id="E-CLI-002", key="data.train[0].wieght", hint="weight"),
    typed("predict.stop[0]=x", id="E-CLI-003", says="not set to a list"),
    typed("~budget.epochs", id="E-CLI-003", key="budget.epochs", says="nothing to remove"),
    typed("~budget.epoc", id="E-CLI-002", key="budget.epoc", hint="`budget.epochs`"),
    typed("~", id="E-CLI-003"),
    typed("data.seq_len=-5", id="E-RECIPE-005", key="data.seq_len", column=14),
    typed("optimizer.name=adamww", id="E-RECIPE-010", key="optimizer.name", hint="`adamw`"),
    typed("optimizer.betass=[0.9,0.95]", id="E-CLI-002", key="optimizer.betass", hint="betas"),
    typed("optimizer={lr: 1e-3, lrr: 2}", id="E-CLI-002", key="optimizer.lrr"),
    typed("run.seed.x=1", id="E-CLI-002", key="run.seed.x", hint="single value"),
    typed("per_device_train_batch_size=4", id="E-RECIPE-012", hint="batch.micro_size"),
    typed("parallel.tp=2", id="E-RECIPE-013", key="parallel.tp"),
    typed("pet=lora", id="E-RECIPE-013", key="pet"),
    typed("extends=[a]", id="E-CLI-002", key="extends", hint="--config"),
    typed("run.name=${oc.env:LLMTRAIN_NOT_SET}", id="E-RECIPE-015", key="run.name"),
    typed("budget.steps=null", id="E-PLAN-005", key="budget"),
    typed("model.config=null", id="E-RECIPE-006", key="model"),
    typed("checkpoint.every=sometimes", id="E-RECIPE-004", key="checkpoint.every", column=18),
    typed("tests=[{metric: a]", id="E-RECIPE-002", key="tests"),
    typed("schedule.name=constant_with_warmup", "schedule.min_ratio=0.1", id="E-CLI-002", key="schedule.min_ratio"),
]

MALFORMED = [
    *SYNTAX, *FILES, *UNKNOWN, *TYPES, *IMPLICIT, *RANGES, *CONTRADICTIONS, *EVALUATION,
    *INTERPOLATION, *EXTENDS, *COMMANDS,
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Valid:
    """A recipe, or arguments over BASE, that must compose, and one value it must have."""

    text: str | bytes = BASE
    arguments: tuple[str, ...] = ()
    path: tuple[str | int, ...] = ()
    value: object = None


def fine(text: str, path: str, value: object) -> Valid:
    """BASE with lines appended."""
    return Valid(text=BASE + text, path=tuple(path.split(".")), value=value)


def said(argument: str, path: str, value: object) -> Valid:
    """An argument over BASE."""
    parts = tuple(int(part) if part.isdigit() else part for part in path.split("."))
    return Valid(arguments=(argument,), path=parts, value=value)


VALID = [
    Valid(text="\ufeff" + BASE, path=("budget", "steps"), value=10),
    Valid(text=BASE.replace("\n", "\r\n"), path=("budget", "steps"), value=10),
    Valid(text=BASE.replace("\n", "\r\n") + "run:\r\n  name: a\r\n", path=("run", "name"), value="a"),
    Valid(text="---\n" + BASE + "...\n", path=("budget", "steps"), value=10),
    Valid(text="%YAML 1.1\n---\n" + BASE, path=("budget", "steps"), value=10),
    fine("optimizer: {lr: 1e-4}\n", "optimizer.lr", 1e-4),
    fine("optimizer: {lr: 2E-4}\n", "optimizer.lr", 2e-4),
    fine("optimizer: {lr: 1}\n", "optimizer.lr", 1.0),
    fine("optimizer: {lr: .5}\n", "optimizer.lr", 0.5),
    fine("optimizer: muon\n", "optimizer.name", "muon"),
    fine("run: {name: 12}\n", "run.name", "12"),
    fine("run: {name: 1e10}\n", "run.name", "1e10"),
    fine("run: {name: 2024-01-01}\n", "run.name", "2024-01-01"),
    fine('run: {name: "off"}\n', "run.name", "off"),
    fine("run: {name: 'null'}\n", "run.name", "null"),
    fine("run: {name: ~}\n", "run.name", None),
    fine("run: {name: }\n", "run.name", None),
    fine('run: {name: ""}\n', "run.name", ""),
    fine("run: {name: été-模型}\n", "run.name", "été-模型"),
    fine("run: {seed: 0}\n", "run.seed", 0),
    fine("run: {seed: 1_000}\n", "run.seed", 1000),
    fine("run:\n", "run.seed", 42),
    fine("run: # later\nbatch: {}\n", "run.root", "runs"),
    fine("run: {device: cuda:1}\n", "run.device", "cuda:1"),
    fine("predict: {stop: []}\n", "predict.stop", []),
    fine("predict:\n  input: |\n    two\n    lines\n", "predict.input", "two\nlines\n"),
    fine("predict: {temperature: 0}\n", "predict.temperature", 0.0),
    fine("checkpoint: {async: false}\n", "checkpoint.async", value=False),
    fine("checkpoint: {every: best, keep: null}\n", "checkpoint.keep", None),
    fine("checkpoint: {every: 10min}\n", "checkpoint.every", "10min"),
    fine("checkpoint: {every: 0.1}\n", "checkpoint.every", 0.1),
    fine("log: {every: 1 epoch}\n", "log.every", "1 epoch"),
    fine("evaluate: &e {delay: 3}\nlog: {every: 5}\n", "evaluate.delay", 3),
    fine("evaluate: {samples: &s {every: 7}}\npredict:\n  stop: [a]\n", "evaluate.samples.every", 7),
    fine('run: {name: "${run.root}-x"}\n', "run.name", "runs-x"),
    fine('run: {name: "${oc.env:LLMTRAIN_NOT_SET,fallback}"}\n', "run.name", "fallback"),
    fine('run: {seed: "${oc.env:LLMTRAIN_TEST_SEED}"}\n', "run.seed", 7),
    fine('run: {seed: "${batch.global_size}"}\n', "run.seed", 32),
    fine('run: {name: "\\\\${x}"}\n', "run.name", "${x}"),
    fine("speed: {compile: {backend: inductor}}\n", "speed.compile.backend", "inductor"),
    said("run.name=a b = 'c' \"d\"", "run.name", "a b = 'c' \"d\""),
    said("run.name=off", "run.name", "off"),
    said("run.name=", "run.name", ""),
    said("run.name=null", "run.name", None),
    said("predict.input=[intro] says {hi}", "predict.input", "[intro] says {hi}"),
    said("predict.input=[a, b]", "predict.input", ["a", "b"]),
    said("predict.stop=[\"a b\", 'c=d']", "predict.stop", ["a b", "c=d"]),
    said("run.name=[x]", "run.name", "[x]"),
    said("data.train[0].weight=5", "data.train.0.weight", 5.0),
    said("data.train=b c.txt", "data.train.0.path", "b c.txt"),
    said("data.train=[a.txt, b.txt]", "data.train.1.path", "b.txt"),
    said("run.deterministic=true", "run.deterministic", value=True),
    said("optimizer=lion", "optimizer.name", "lion"),
    said("optimizer={name: muon, momentum: 0.9}", "optimizer.momentum", 0.9),
    said("model.config.hidden_size=64", "model.config.hidden_size", 64),
    said("checkpoint.every=10 min", "checkpoint.every", "10 min"),
    said("model.config.rope_scaling={type: linear, factor: 2.0}", "model.config.rope_scaling.factor", 2.0),
]
