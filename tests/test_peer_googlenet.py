"""GoogLeNet against an implementation in PyTorch, in float64."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lib import layers
from lib.experiment import change
from reproductions.googlenet.experiments import PAPER
from reproductions.googlenet.model import INCEPTION, Inception, build
from tests.peer import in_torchs_layout, maps_first, random_params, same

torch = pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')
torch.set_num_threads(1)        # more of them wait for JAX's on so small arrays
peers = pytest.importorskip('reproductions.googlenet.peer')

# torchvision's names, without the `conv` of its blocks of convolution and batch normalisation.
STEM = {'conv1': 'conv1', 'conv2_reduce': 'conv2', 'conv2': 'conv3', 'linear': 'fc', 'fc': 'fc_before'}
BRANCHES = {'1x1': 'branch1', '3x3_reduce': 'branch2.0', '3x3': 'branch2.1', '5x5_reduce': 'branch3.0',
            '5x5': 'branch3.1', 'pool_proj': 'branch4.1'}
HEAD = {'conv': 'conv', 'fc': 'fc1', 'linear': 'fc2'}


def torchs_name(layer):
    """Of one of our layers, without its 'weight' or 'bias'."""
    if layer.startswith('inception'):
        _, module, branch = layer.split('_', 2)
        return f'inception{module}.{BRANCHES[branch]}'
    if layer.startswith('aux'):
        _, module, part = layer.split('_')
        return f'aux{1 if module == "4a" else 2}.{HEAD[part]}'
    return STEM[layer]


def named(params, flattened):
    """Our parameters, or their gradients, in torch's layout under torchvision's names."""
    found = {}
    for name, array in in_torchs_layout(params, flattened).items():
        layer, kind = name.rsplit('.', 1)
        found[f'{torchs_name(layer)}.{kind}'] = array
    return found


def narrow(modules, **changes):
    rows = tuple((name, Inception(*(max(3, width // 40) for width in INCEPTION[name]))) for name in modules)
    model = dataclasses.replace(PAPER.model, classes=10, stem=(5, 4, 6), inception=rows, heads_maps=4, fc_width=9,
                                lrn_alpha=0.02, **changes)
    return dataclasses.replace(PAPER, model=model)


VARIANTS = {        # image size, side of an auxiliary classifier's maps, side of the last maps; modules; changes
    'paper': (64, 2, 4, ('4a', '4d', '4e', '5b'), {}),
    'without_reductions_fully_connected': (40, 1, 5, ('4a', '4b'),
                                           dict(reductions=False, last='fully_connected', norm='none', heads=())),
}


@pytest.mark.parametrize('name', VARIANTS)
def test_every_activation_loss_and_gradient(name):
    size, aux_side, side, modules, changes = VARIANTS[name]
    config = change(narrow(modules, **changes), 'data.image_size', size)
    model, task, n = config.model, build(config), 3
    params = random_params(task)
    x = 60 * np.random.default_rng(1).standard_normal((n, size, size, 3))
    labels = np.array([3, 0, 9])

    @jax.jit
    def ours(params, x, key):
        gradient = jax.value_and_grad(task.loss, has_aux=True)
        return task.activations(params, x), gradient(params, x, labels, key)

    with jax.enable_x64(True):
        key = jax.random.key(5)
        activations, ((loss, (logits, _)), gradients) = ours(params, x, key)
        keys = jax.random.split(key, 1 + len(model.heads))
        widths = [len(params['linear']['kernel']), *[model.fc_width] * len(model.heads)]
        shapes = [(n, 1, 1, widths[0]) if model.last == 'average' else (n, widths[0]), *((n, w) for w in widths[1:])]
        rates = [model.dropout, *[model.heads_dropout] * len(model.heads)]
        masks = [layers.dropout(jnp.ones(shape), rate, key).reshape(n, -1)
                 for shape, rate, key in zip(shapes, rates, keys)]

    flattened = {f'aux_{module}_fc': aux_side for module in model.heads} | {'fc': side}
    peer = peers.make(config).double()
    peer.load_state_dict({weight: torch.tensor(array) for weight, array in named(params, flattened).items()})
    images = torch.tensor(maps_first(x))
    with torch.no_grad():
        same({layer: maps_first(array) for layer, array in activations.items()}, peer.eval().outputs(images)[1], 1e-12)

    drops = [peer.dropout, *(getattr(peer, f'aux{number + 1}').dropout for number in range(len(model.heads)))]
    for drop, mask in zip(drops, masks, strict=True):
        drop.mask = torch.tensor(np.array(mask))
    theirs, *others = peer.train()(images)
    their_loss = peer.loss([theirs, *others], torch.tensor(labels))
    their_loss.backward()
    assert len(others) == len(model.heads)
    same({'logits': logits, 'loss': loss}, {'logits': theirs, 'loss': their_loss}, 1e-12)
    mine, expected = named(gradients, flattened), {weight: leaf.grad for weight, leaf in peer.named_parameters()}
    assert mine.keys() == expected.keys()
    assert all(gradient.abs().max() > 1e-8 for gradient in expected.values())
    same({weight: mine[weight] for weight in expected}, expected, 1e-12)


@pytest.mark.slow
def test_network_of_full_size():
    """224 pixels, 64 to 1024 maps, 13,378,280 parameters: the activation of every layer."""
    task = build(PAPER)
    params = random_params(task)
    x = 60 * np.random.default_rng(1).standard_normal((1, 224, 224, 3))
    with jax.enable_x64(True):
        found = jax.jit(task.activations)(params, x)
    flattened = {'aux_4a_fc': 4, 'aux_4d_fc': 4}
    peer = peers.make(PAPER).double().eval()
    peer.load_state_dict({weight: torch.tensor(array) for weight, array in named(params, flattened).items()})
    assert sum(leaf.numel() for leaf in peer.parameters()) == 13_378_280
    with torch.no_grad():
        expected = peer.outputs(torch.tensor(maps_first(x)))[1]
    same({layer: maps_first(array) for layer, array in found.items()}, expected, 1e-12)
