"""`python -m llmtrain`: the same program as `llmtrain`, and what each launched rank runs."""

from llmtrain.launch.rank import bind_to_launcher

bind_to_launcher()

from llmtrain.cli.app import entry  # noqa: E402 - the rank must be bound to its launcher before anything slow

entry()
