"""Sources of activations: language models, any module, arrays, caches."""
