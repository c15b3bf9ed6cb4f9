"""Distance of decoder rows to the model's token embeddings."""
