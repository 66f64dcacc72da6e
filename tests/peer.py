"""What comparing a network with PyTorch takes, whatever the paper."""
import jax
import numpy as np


def in_torchs_layout(params, flattened: dict[str, int]):
    """Arrays shaped as our parameters under torch's names, LAYER.weight and so on. `flattened` has the fully connected
    layers that read maps, and the side of those: they read them in the order height, width, map here, map first there.
    """
    found = {}
    for layer, kinds in params.items():
        names = {'kernel': 'weight', 'scale': 'weight', 'bias': 'bias', 'mean': 'running_mean', 'var': 'running_var'}
        for kind, array in kinds.items():
            array = np.array(array)
            if kind == 'kernel':
                if side := flattened.get(layer):
                    array = array.reshape(side, side, -1, array.shape[1]).transpose(2, 0, 1, 3).reshape(array.shape)
                array = array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)
            found[f'{layer}.{names[kind]}'] = array
    return found


def random_params(task, seed=0):
    """Weights that keep the size of a signal, and biases and averages that are nowhere alike; float64."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape)
        return {'kernel': (2 / np.prod(leaf.shape[:-1]))**0.5 * noise, 'bias': 0.3 * noise, 'scale': 1 + 0.2 * noise,
                'mean': noise, 'var': np.exp(noise)}[path[-1].key]

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(task.init, jax.random.key(0)))


def same(ours, theirs, tolerance):
    """Every array, relative to its largest number."""
    assert list(ours) == list(theirs)
    for name in ours:
        mine, other = np.asarray(ours[name]), theirs[name].detach().numpy()
        assert mine.dtype == np.float64 and mine.shape == other.shape, name
        np.testing.assert_allclose(mine, other, rtol=0, atol=tolerance * np.abs(other).max(), err_msg=name)


def maps_first(array):
    return np.asarray(array).transpose(0, 3, 1, 2) if array.ndim == 4 else np.asarray(array)
