"""Recipes: text in, one frozen dataclass and a plan out; nothing here imports torch."""
