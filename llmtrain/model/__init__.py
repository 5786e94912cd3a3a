"""Models built from recipes: configuration, weights, sizes."""
