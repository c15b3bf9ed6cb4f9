def test_x(activations):
    print(activations.shape, activations.dtype, activations.norm(dim=1).median(), activations.norm(dim=1).max())
