"""Networks: maps from a latent and its gamma to a prediction."""
