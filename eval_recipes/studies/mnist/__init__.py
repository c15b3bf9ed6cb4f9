"""The MNIST study of arXiv 2603.04198: are latents of SAEs on pixels the same in every seed?"""
