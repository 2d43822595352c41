"""Samplers: how a chain of few network calls goes from noise to an image; each over any model, in gamma."""
