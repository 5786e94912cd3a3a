"""Final models in the layout of other tools."""
