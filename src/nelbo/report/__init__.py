"""A model's report: one page that shows what the model is worth, and where its bits go."""
