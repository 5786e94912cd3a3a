"""Baselines and judgements of a finished run."""
