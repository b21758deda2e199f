"""The weights of models: cards, cache, safe readers."""
