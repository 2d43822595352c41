"""Training: from a configuration and images to a model folder."""
