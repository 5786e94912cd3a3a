"""What a run writes down: its folder, states, events, metrics and the list of its checkpoints; no torch anywhere."""
