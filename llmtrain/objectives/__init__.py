"""What is learned, each a slot; importable without torch."""
