"""The one loop, its executor, control, checkpoints and metrics."""
