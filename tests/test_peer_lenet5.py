"""LeNet-5, its modern form and Caffe's LeNet against implementations in PyTorch: float64."""
import dataclasses

import jax
import numpy as np
import pytest

from reproductions.lenet5.experiments import EXPERIMENTS
from reproductions.lenet5.model import TABLE_I, build
from tests.peer import maps_first, random_params, same

torch = pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')
torch.set_num_threads(1)        # more of them wait for JAX's on so small arrays
peers = pytest.importorskip('reproductions.lenet5.peer')


def in_torchs_layout(params, connections):
    found = {}
    for layer, kinds in params.items():
        kernel = np.array(kinds['kernel'])
        if kernel.ndim == 3:        # [5, 5, connections]
            dense = np.zeros((5, 5, 6, 16))
            for place, (source, target) in enumerate(connections):
                dense[:, :, source, target] = kernel[:, :, place]
            kernel = dense
        if layer == 'F5':
            kernel = kernel.reshape(4, 4, -1, kernel.shape[1]).transpose(2, 0, 1, 3).reshape(kernel.shape)
        kernel = {1: lambda k: k, 2: lambda k: k.T, 4: lambda k: k.transpose(3, 2, 0, 1)}[kernel.ndim](kernel)
        found |= {f'{layer}.weight': kernel, f'{layer}.bias': np.array(kinds['bias'])}
    return found


@pytest.mark.parametrize('name', ['paper', 'modern', 'caffe'])
def test_every_activation_loss_and_gradient(name):
    experiment = EXPERIMENTS[name]
    if name == 'caffe':
        experiment = dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, widths=(4, 6, 8)))
    task, side = build(experiment), experiment.data.image_size
    params = random_params(task)
    connections = [(source, target) for target, sources in enumerate(TABLE_I) for source in sources]
    x = np.random.default_rng(1).standard_normal((3, side, side, 3))
    labels = np.array([3, 0, 9])
    with jax.enable_x64(True):
        @jax.jit
        def ours(params, x):
            gradient = jax.value_and_grad(task.loss, has_aux=True)
            return task.activations(params, x), gradient(params, x, labels, jax.random.key(0))
        activations, ((loss, _), gradients) = ours(params, x)
    peer = peers.make(experiment).double()
    peer.load_state_dict({key: torch.tensor(a) for key, a in in_torchs_layout(params, connections).items()})
    theirs = peer.outputs(torch.tensor(maps_first(x[..., :1])))
    same({layer: maps_first(array) for layer, array in activations.items()}, theirs, 1e-12)
    their_loss = peer.loss(theirs[list(theirs)[-1]], torch.tensor(labels))
    their_loss.backward()
    same({'loss': loss}, {'loss': their_loss}, 1e-12)
    mine = in_torchs_layout(gradients, connections)
    expected = {key: leaf.grad for key, leaf in peer.named_parameters()}
    assert all(gradient.abs().max() > 1e-8 for gradient in expected.values())
    same({key: mine[key] for key in expected}, expected, 1e-11)
