"""VGG against an implementation in PyTorch, written for this test from the paper: float64."""
import dataclasses
from collections import OrderedDict

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lib import layers
from lib.experiment import change
from reproductions.vgg.experiments import PAPER
from reproductions.vgg.model import build
from tests.peer import in_torchs_layout, maps_first, random_params, same

torch = pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')
torch.set_num_threads(1)        # more of them wait for JAX's on so small arrays
nn, F = torch.nn, torch.nn.functional

WIDTHS, UNITS, CLASSES, SIZE = (4, 4, 6, 6, 8), 12, 10, 64      # so that fc6 reads 2x2 places
# The places of torchvision's features: a letter for a convolution of that window with its unit, c3 or c1 or c5, M for
# pooling, L for the response normalisation that torchvision does not have.
PLANS = {
    'A': 'c3 M c3 M c3 c3 M c3 c3 M c3 c3 M',
    'A_LRN': 'c3 L M c3 M c3 c3 M c3 c3 M c3 c3 M',
    'B_5x5': 'c5 M c5 M c5 M c5 M c5 M',
    'C': 'c3 c3 M c3 c3 M c3 c3 c1 M c3 c3 c1 M c3 c3 c1 M',
    'E': 'c3 c3 M c3 c3 M c3 c3 c3 c3 M c3 c3 c3 c3 M c3 c3 c3 c3 M',
}


class Dropout(nn.Module):
    """Outputs are zeroed in training, by `mask`, and multiplied by the fraction kept at test time."""

    def __init__(self, rate):
        super().__init__()
        self.rate, self.mask = rate, None

    def forward(self, x):
        return x * self.mask if self.training else x * (1 - self.rate)


class Peer(nn.Module):
    """Modules in torchvision's places: features.0, classifier.0, classifier.3, classifier.6. `names` has the paper's
    for the outputs of those that end a layer."""

    def __init__(self, plan, rate):
        super().__init__()
        steps, maps, block, number, self.names, self.weights = [], 3, 1, 1, OrderedDict(), OrderedDict()
        for step in plan.split():
            if step == 'M':
                steps.append(nn.MaxPool2d(2, 2))
                self.names[f'features.{len(steps) - 1}'] = f'pool{block}'
                block, number = block + 1, 1
            elif step == 'L':           # torch divides alpha by the window
                steps.append(nn.LocalResponseNorm(5, alpha=5 * 1e-4, beta=0.75, k=2.0))
                self.names[f'features.{len(steps) - 1}'] = 'norm1'
            else:
                window, width = int(step[1:]), WIDTHS[block - 1]
                self.weights[f'conv{block}_{number}'] = f'features.{len(steps)}'
                steps += [nn.Conv2d(maps, width, window, padding=window // 2), nn.ReLU()]
                self.names[f'features.{len(steps) - 1}'] = f'conv{block}_{number}'
                maps, number = width, number + 1
        self.features = nn.Sequential(*steps)
        side = SIZE // 32
        self.classifier = nn.Sequential(
            nn.Linear(maps * side * side, UNITS), nn.ReLU(), Dropout(rate), nn.Linear(UNITS, UNITS), nn.ReLU(),
            Dropout(rate), nn.Linear(UNITS, CLASSES))
        self.weights |= {'fc6': 'classifier.0', 'fc7': 'classifier.3', 'fc8': 'classifier.6'}
        self.names |= {'classifier.2': 'fc6', 'classifier.5': 'fc7', 'classifier.6': 'fc8'}
        self.double()

    def forward(self, x):
        return self.classifier(self.features(x).flatten(1))

    def outputs(self, x):
        found = {}
        for part in ('features', 'classifier'):
            for place, module in getattr(self, part).named_children():
                x = module(x)
                if name := self.names.get(f'{part}.{place}'):
                    found[name] = x
            x = x.flatten(1)
        return found

    def dense(self, x):
        """The fully connected layers as convolutions, their scores averaged over all places."""
        kept = 1 - self.classifier[2].rate
        fc6, fc7, fc8 = (self.classifier[place] for place in (0, 3, 6))
        side = SIZE // 32
        x = self.features(x)
        x = F.conv2d(x, fc6.weight.reshape(UNITS, -1, side, side), fc6.bias).relu() * kept
        x = F.conv2d(x, fc7.weight[:, :, None, None], fc7.bias).relu() * kept
        x = F.conv2d(x, fc8.weight[:, :, None, None], fc8.bias)
        return x.sum((2, 3)) / (x.shape[2] * x.shape[3])


def experiment(name, **model):
    norm = 'response' if name == 'A_LRN' else 'none'
    model = dict(configuration=name.removesuffix('_LRN'), norm=norm, widths=WIDTHS, fc_width=UNITS,
                 classes=CLASSES) | model
    changed = dataclasses.replace(PAPER, model=dataclasses.replace(PAPER.model, **model))
    return change(changed, 'data.image_size', SIZE)


def make_peer(name, params, rate=0.5):
    peer = Peer(PLANS[name], rate)
    peer.load_state_dict({weight: torch.tensor(array) for weight, array in torchs(params, peer).items()})
    return peer


def torchs(params, peer):
    """Arrays shaped as our parameters, in torch's layout and under its names."""
    ours = in_torchs_layout(params, {'fc6': SIZE // 32})
    return {f'{place}.{kind}': ours[f'{layer}.{kind}'] for layer, place in peer.weights.items()
            for kind in ('weight', 'bias')}


def pictures(n, height=SIZE, width=SIZE):
    return 60 * np.random.default_rng(1).standard_normal((n, height, width, 3))


@pytest.mark.parametrize('name', ['A_LRN', 'B_5x5', 'C', 'E'])
def test_every_activation_loss_and_gradient(name):
    config = experiment(name, dropout=0.3 if name == 'E' else 0.5)
    rate, task, n = config.model.dropout, build(config), 3
    params, x, labels = random_params(task), pictures(n), np.array([3, 0, 9])

    @jax.jit
    def ours(params, x, key):
        gradient = jax.value_and_grad(task.loss, has_aux=True)
        return task.activations(params, x), gradient(params, x, labels, key)

    with jax.enable_x64(True):
        key = jax.random.key(5)
        activations, ((loss, (logits, moved)), gradients) = ours(params, x, key)
        masks = [np.array(layers.dropout(jnp.ones((n, UNITS)), rate, half)) for half in jax.random.split(key)]
    assert moved == {}

    peer, images = make_peer(name, params, rate), torch.tensor(maps_first(x))
    same({layer: maps_first(array) for layer, array in activations.items()}, peer.eval().outputs(images), 1e-12)

    peer.train()
    peer.classifier[2].mask, peer.classifier[5].mask = (torch.tensor(mask) for mask in masks)
    theirs = peer(images)
    their_loss = F.cross_entropy(theirs, torch.tensor(labels))
    their_loss.backward()
    same({'logits': logits, 'loss': loss}, {'logits': theirs, 'loss': their_loss}, 1e-12)
    expected = {weight: leaf.grad for weight, leaf in peer.named_parameters()}
    assert all(gradient.abs().max() > 1e-8 for gradient in expected.values())
    mine = torchs(gradients, peer)
    same({weight: mine[weight] for weight in expected}, expected, 1e-12)


def test_dense_evaluation_of_a_larger_image():
    task = build(experiment('A', dropout=0.3))
    params, x = random_params(task), pictures(2, 96, 160)
    with jax.enable_x64(True):
        found = jax.jit(task.dense)(params, x)
    peer = make_peer('A', params, 0.3).eval()
    expected = peer.dense(torch.tensor(maps_first(x))).softmax(1)
    same({'probabilities': found}, {'probabilities': expected}, 1e-12)
    at_once = peer(torch.tensor(maps_first(x[:, :SIZE, :SIZE]))).softmax(1)
    assert (expected - at_once).abs().max() > 0.01
