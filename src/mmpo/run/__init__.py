"""A run, from data and a model to a trained model: what it is made of, how it goes on, and what it leaves behind."""
