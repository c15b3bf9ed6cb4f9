"""Latents for Neuronpedia, as files and by its REST interface."""
