"""The entropy coder: a stack of words, distributions of symbols in integers, and lanes that code side by side."""
