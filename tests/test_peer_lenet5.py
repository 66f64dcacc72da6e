"""LeNet-5, its modern form and Caffe's LeNet against implementations in PyTorch, written for this test: float64."""
import dataclasses

import jax
import numpy as np
import pytest

from reproductions.lenet5.experiments import EXPERIMENTS
from reproductions.lenet5.model import TABLE_I, build
from reproductions.lenet5.prototypes import PROTOTYPES
from tests.peer import maps_first, random_params, same

torch = pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')
torch.set_num_threads(1)        # more of them wait for JAX's on so small arrays
nn, F = torch.nn, torch.nn.functional


def squash(x):
    return 1.7159 * torch.tanh(x * 2 / 3)


class Subsample(nn.Module):
    """Four times the average of a window is its sum."""

    def __init__(self, maps):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(maps)), nn.Parameter(torch.zeros(maps))

    def forward(self, x):
        return 4 * F.avg_pool2d(x, 2) * self.weight[:, None, None] + self.bias[:, None, None]


class Peer(nn.Module):
    """Images [n, 1, 32, 32]; C3 is dense, and its mask says which connections there are."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.C1, self.C3, self.C5 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5), nn.Conv2d(16, 120, 5)
        if model.subsampling == 'trainable':
            self.S2, self.S4 = Subsample(6), Subsample(16)
        self.F6 = nn.Linear(120, 84)
        if model.output == 'linear':
            self.output = nn.Linear(84, 10)
        self.mask = torch.ones(16, 6, 1, 1)
        if model.connections == 'table':
            self.mask = torch.tensor([[[[float(s in sources)]] for s in range(6)] for sources in TABLE_I])

    def outputs(self, x):
        found = {'C1': squash(self.C1(x))}
        pool = {name: getattr(self, name, None) for name in ('S2', 'S4')}

        def subsample(name, x):
            return squash(pool[name](x)) if pool[name] is not None else F.max_pool2d(x, 2)

        found['S2'] = subsample('S2', found['C1'])
        found['C3'] = squash(F.conv2d(found['S2'], self.C3.weight * self.mask, self.C3.bias))
        found['S4'] = subsample('S4', found['C3'])
        found['C5'] = squash(self.C5(found['S4']))
        found['F6'] = squash(self.F6(found['C5'].flatten(1)))
        if self.model.output == 'linear':
            found['output'] = self.output(found['F6'])
        else:
            drawings = torch.tensor(PROTOTYPES, dtype=torch.float64)
            found['output'] = -self.model.penalty * torch.cdist(found['F6'], drawings)**2
        return found

    def loss(self, logits, labels):
        if self.model.output == 'linear':
            return F.cross_entropy(logits, labels)
        rubbish = torch.full((len(logits), 1), -self.model.rubbish, dtype=torch.float64)
        return F.cross_entropy(torch.cat([logits, rubbish], 1), labels)     # j is the penalty of an eleventh class


class CaffePeer(nn.Module):
    def __init__(self, model):
        super().__init__()
        first, second, units = model.widths
        self.C1, self.C3 = nn.Conv2d(1, first, 5), nn.Conv2d(first, second, 5)
        self.F5, self.F6 = nn.Linear(16 * second, units), nn.Linear(units, 10)

    def outputs(self, x):
        found = {'C1': self.C1(x)}
        found['S2'] = F.max_pool2d(found['C1'], 2)
        found['C3'] = self.C3(found['S2'])
        found['S4'] = F.max_pool2d(found['C3'], 2)
        found['F5'] = F.relu(self.F5(found['S4'].flatten(1)))
        found['F6'] = self.F6(found['F5'])
        return found

    def loss(self, logits, labels):
        return F.cross_entropy(logits, labels)


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
    peer = (CaffePeer if name == 'caffe' else Peer)(experiment.model).double()
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
