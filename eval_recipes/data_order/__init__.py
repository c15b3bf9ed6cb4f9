"""Order of texts by clusters, difficulty and quality that an SAE tells."""
