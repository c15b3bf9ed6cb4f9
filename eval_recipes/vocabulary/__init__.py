"""How near an SAE's decoder rows lie to its model's token embeddings."""
