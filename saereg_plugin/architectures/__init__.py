"""SAELens' architectures with regularisers and mechanics."""
