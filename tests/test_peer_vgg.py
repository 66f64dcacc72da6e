"""VGG against an implementation in PyTorch: float64."""
import dataclasses

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
peers = pytest.importorskip('reproductions.vgg.peer')

WIDTHS, UNITS, CLASSES, SIZE = (4, 4, 6, 6, 8), 12, 10, 64      # so that fc6 reads 2x2 places


def experiment(name, **model):
    norm = 'response' if name == 'A_LRN' else 'none'
    model = dict(configuration=name.removesuffix('_LRN'), norm=norm, widths=WIDTHS, fc_width=UNITS,
                 classes=CLASSES) | model
    changed = dataclasses.replace(PAPER, model=dataclasses.replace(PAPER.model, **model))
    return change(changed, 'data.image_size', SIZE)


def make_peer(config, params):
    peer = peers.make(config).double()
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

    peer, images = make_peer(config, params), torch.tensor(maps_first(x))
    same({layer: maps_first(array) for layer, array in activations.items()}, peer.eval().outputs(images), 1e-12)

    peer.train()
    peer.classifier[2].mask, peer.classifier[5].mask = (torch.tensor(mask) for mask in masks)
    theirs = peer(images)
    their_loss = peer.loss(theirs, torch.tensor(labels))
    their_loss.backward()
    same({'logits': logits, 'loss': loss}, {'logits': theirs, 'loss': their_loss}, 1e-12)
    expected = {weight: leaf.grad for weight, leaf in peer.named_parameters()}
    assert all(gradient.abs().max() > 1e-8 for gradient in expected.values())
    mine = torchs(gradients, peer)
    same({weight: mine[weight] for weight in expected}, expected, 1e-12)


def test_dense_evaluation_of_a_larger_image():
    config = experiment('A', dropout=0.3)
    task = build(config)
    params, x = random_params(task), pictures(2, 96, 160)
    with jax.enable_x64(True):
        found = jax.jit(task.dense)(params, x)
    peer = make_peer(config, params).eval()
    expected = peer.dense(torch.tensor(maps_first(x))).softmax(1)
    same({'probabilities': found}, {'probabilities': expected}, 1e-12)
    at_once = peer(torch.tensor(maps_first(x[:, :SIZE, :SIZE]))).softmax(1)
    assert (expected - at_once).abs().max() > 0.01
