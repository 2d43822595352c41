"""The theory, formula by formula: forward process, noise schedules, reverse kernels, decoders and the bound."""
