"""Optimizers and schedules, each a slot; importable without torch."""
