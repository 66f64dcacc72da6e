"""GoogLeNet against an implementation in PyTorch, written for this test from the paper, in float64."""
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
nn, F = torch.nn, torch.nn.functional

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


def pair(*parts):
    return nn.ModuleList(parts)


class Module(nn.Module):
    """Figure 2(b), or 2(a) without `reductions`."""

    def __init__(self, inputs, one, reduce_three, three, reduce_five, five, pool_proj, reductions):
        super().__init__()
        self.reductions, pool = reductions, nn.MaxPool2d(3, 1, padding=1)
        self.branch1 = nn.Conv2d(inputs, one, 1)
        if reductions:
            self.branch2 = pair(nn.Conv2d(inputs, reduce_three, 1), nn.Conv2d(reduce_three, three, 3, padding=1))
            self.branch3 = pair(nn.Conv2d(inputs, reduce_five, 1), nn.Conv2d(reduce_five, five, 5, padding=2))
            self.branch4 = pair(pool, nn.Conv2d(inputs, pool_proj, 1))
        else:
            self.branch2 = pair(nn.Identity(), nn.Conv2d(inputs, three, 3, padding=1))
            self.branch3 = pair(nn.Identity(), nn.Conv2d(inputs, five, 5, padding=2))
            self.branch4 = pair(pool, nn.Identity())

    def forward(self, x, see, name):
        own = {'1x1': F.relu(self.branch1(x))}
        three = five = x
        if self.reductions:
            own['3x3_reduce'] = three = F.relu(self.branch2[0](x))
        own['3x3'] = F.relu(self.branch2[1](three))
        if self.reductions:
            own['5x5_reduce'] = five = F.relu(self.branch3[0](x))
        own['5x5'] = F.relu(self.branch3[1](five))
        own['pool'] = last = self.branch4[0](x)
        if self.reductions:
            own['pool_proj'] = last = F.relu(self.branch4[1](last))
        see |= {f'{name}_{branch}': maps for branch, maps in own.items()}
        see[name] = torch.cat([own['1x1'], own['3x3'], own['5x5'], last], 1)
        return see[name]


class Auxiliary(nn.Module):
    def __init__(self, inputs, maps, units, classes, places):
        super().__init__()
        self.conv = nn.Conv2d(inputs, maps, 1)
        self.fc1, self.fc2 = nn.Linear(places * maps, units), nn.Linear(units, classes)

    def forward(self, x, mask):
        x = F.relu(self.conv(F.avg_pool2d(x, 5, 3))).flatten(1)
        return self.fc2(F.relu(self.fc1(x)) * mask)


class Peer(nn.Module):
    """The variant of the network that `model` describes, on images [n, 3, s, s] whose maps are of `aux_side` places
    after the pooling of an auxiliary classifier, and of `side` at the end."""

    def __init__(self, model, aux_side, side):
        super().__init__()
        self.model, (first, reduced, maps) = model, model.stem
        self.conv1 = nn.Conv2d(3, first, 7, stride=2, padding=3)
        self.conv2, self.conv3 = nn.Conv2d(first, reduced, 1), nn.Conv2d(reduced, maps, 3, padding=1)
        for name, row in model.inception:
            module = Module(maps, *row, model.reductions)
            maps = row[0] + row[2] + row[4] + (row[5] if model.reductions else maps)
            setattr(self, f'inception{name}', module)
            if name in model.heads:
                setattr(self, f'aux{1 + model.heads.index(name)}',
                        Auxiliary(maps, model.heads_maps, model.fc_width, model.classes, aux_side**2))
        if model.last == 'fully_connected':
            self.fc_before, maps = nn.Linear(maps * side**2, model.fc_width), model.fc_width
        self.fc = nn.Linear(maps, model.classes)
        self.double()

    def forward(self, x, masks=None):
        """(Logits, those of the auxiliary classifiers, outputs of all layers): in training with masks for dropout, of
        the network and of each auxiliary classifier; without masks at test time."""
        model, see, others = self.model, {}, []

        def pool(x):
            return F.max_pool2d(x, 3, 2, ceil_mode=True)

        def norm(name, x):
            if model.norm == 'response':       # torch divides alpha by the window
                see[name] = x = F.local_response_norm(x, 5, 5 * model.lrn_alpha, 0.75, model.lrn_k)
            return x

        see['conv1'] = F.relu(self.conv1(x))
        see['pool1'] = pool(see['conv1'])
        see['conv2_reduce'] = F.relu(self.conv2(norm('norm1', see['pool1'])))
        see['conv2'] = F.relu(self.conv3(see['conv2_reduce']))
        see['pool2'] = x = pool(norm('norm2', see['conv2']))
        for name, _ in model.inception:
            x = getattr(self, f'inception{name}')(x, see, f'inception_{name}')
            if masks and name in model.heads:
                number = 1 + model.heads.index(name)
                others.append(getattr(self, f'aux{number}')(x, masks[number]))
            if name in ('3b', '4e'):
                see[{'3b': 'pool3', '4e': 'pool4'}[name]] = x = pool(x)
        if model.last == 'average':
            see['pool5'] = F.adaptive_avg_pool2d(x, 1)
            x = see['pool5'].flatten(1)
        else:
            see['fc'] = x = F.relu(self.fc_before(x.flatten(1)))
        see['linear'] = logits = self.fc(x * masks[0] if masks else x * (1 - model.dropout))
        return logits, others, see


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
    peer = Peer(model, aux_side, side)
    peer.load_state_dict({weight: torch.tensor(array) for weight, array in named(params, flattened).items()})
    images = torch.tensor(maps_first(x))
    with torch.no_grad():
        same({layer: maps_first(array) for layer, array in activations.items()}, peer(images)[2], 1e-12)

    theirs, others, _ = peer(images, [torch.tensor(np.array(mask)) for mask in masks])
    own_loss, *other_losses = (F.cross_entropy(each, torch.tensor(labels)) for each in (theirs, *others))
    their_loss = own_loss + 0.3 * sum(other_losses)
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
    peer = Peer(PAPER.model, 4, 7)
    peer.load_state_dict({weight: torch.tensor(array) for weight, array in named(params, flattened).items()})
    assert sum(leaf.numel() for leaf in peer.parameters()) == 13_378_280
    with torch.no_grad():
        expected = peer(torch.tensor(maps_first(x)))[2]
    same({layer: maps_first(array) for layer, array in found.items()}, expected, 1e-12)
