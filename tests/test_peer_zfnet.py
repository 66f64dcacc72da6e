"""ZFNet and its training against an implementation in PyTorch, and imgclsmob's: float64."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lib import importers, layers, train
from lib.data.statistics import Statistics
from lib.experiment import change_all
from reproductions.zfnet.experiments import EXPERIMENTS
from reproductions.zfnet.model import Conv, Dense, build, changed
from reproductions.zfnet.weights import DEVIATION, MEAN, NAMES, convert
from tests.peer import in_torchs_layout, maps_first, random_params, same

torch = pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')
torch.set_num_threads(1)        # more of them wait for JAX's on so small arrays
peers = pytest.importorskip('reproductions.zfnet.peer')
nn, F = torch.nn, torch.nn.functional


def narrow(name, size, widths):
    experiment = EXPERIMENTS[name]
    names = [layer.name for layer in experiment.model.layers if isinstance(layer, (Conv, Dense))]
    return change_all(experiment, {
        'model.layers': changed(experiment.model.layers, 'width', **dict(zip(names, widths))), 'model.classes': 10,
        'data.image_size': size})


def make_peer(experiment, params, side):
    peer = peers.make(experiment).double()
    peer.load_state_dict({name: torch.tensor(array) for name, array in in_torchs_layout(params, {'fc6': side}).items()})
    return peer


def set_masks(peer, kept):
    for name, mask in kept.items():
        peer.dropout[name].mask = mask


def masks(key, experiment, n):
    """Which outputs a dropout key keeps."""
    kept = {}
    for number, layer in enumerate(experiment.model.layers):
        if isinstance(layer, Dense):
            mask = layers.dropout(jnp.ones((n, layer.width)), 0.5, jax.random.fold_in(key, number))
            kept[layer.name] = torch.tensor(np.array(mask))
    return kept


WIDTHS = (8, 12, 10, 12, 8, 24, 20)


@pytest.mark.parametrize('name, kind', [('paper', 'Figure3'), ('krizhevsky', 'Krizhevsky')])
def test_every_activation_loss_and_gradient(name, kind):
    size, side, n = 80, 2, 3
    experiment = narrow(name, size, WIDTHS)
    task = build(experiment)
    params = random_params(task)
    x = 60 * np.random.default_rng(1).standard_normal((n, size, size, 3))
    labels = np.array([3, 0, 9])

    @jax.jit
    def ours(params, x, key):
        return task.activations(params, x), jax.value_and_grad(task.loss, has_aux=True)(params, x, labels, key)

    with jax.enable_x64(True):
        key = jax.random.key(5)
        activations, ((loss, (logits, moved)), gradients) = ours(params, x, key)
        kept = masks(key, experiment, n)

    peer, images = make_peer(experiment, params, side), torch.tensor(maps_first(x))
    assert type(peer).__name__ == kind
    same({layer: maps_first(array) for layer, array in activations.items()}, peer.eval().outputs(images), 1e-12)
    set_masks(peer.train(), kept)
    theirs = peer(images)
    their_loss = peer.loss(theirs, torch.tensor(labels))
    their_loss.backward()
    same({'logits': logits, 'loss': loss}, {'logits': theirs, 'loss': their_loss}, 1e-12)
    expected = {weight: leaf.grad for weight, leaf in peer.named_parameters()}
    assert moved == {} and all(gradient.abs().max() > 1e-8 for gradient in expected.values())
    mine = in_torchs_layout(gradients, {'fc6': side})
    same({weight: mine[weight] for weight in expected}, expected, 1e-12)


def test_steps_of_training_with_limited_filters_stay_together():
    """The compiled step as `fit` calls it; torch does v <- 0.9 v - rate g; w <- w + v, and then scales every filter
    whose root mean square is above the limit down to it."""
    size, limit, steps, rate = 64, 0.1, 8, 0.003
    experiment = narrow('paper', size, WIDTHS)
    experiment = dataclasses.replace(experiment, batch_size=8, data=dataclasses.replace(
        experiment.data, crop='centre', reflect=False, pixel_scale=64.0))
    task = build(experiment)
    start = random_params(task)
    rng = np.random.default_rng(7)
    images, labels = rng.integers(0, 256, (8, size, size, 3), np.uint8), rng.integers(0, 10, 8)
    mean = np.full((size, size, 3), 120, np.float32)
    statistics = Statistics(mean, np.ones(3, np.float32), np.eye(3, dtype=np.float32))

    def loss_of_float64(params, images, labels, key):       # the step hands out float32 images
        return task.loss(params, images.astype(jnp.float64), labels, key)

    peer = make_peer(experiment, start, 1).train()
    pixels = torch.tensor((images.astype(np.float64) - 120) / 64).permute(0, 3, 1, 2)
    velocity = {weight: torch.zeros_like(leaf) for weight, leaf in peer.named_parameters()}
    limited = 0
    with jax.enable_x64(True):
        step = train.make_step(task._replace(loss=loss_of_float64), experiment)
        state = jax.tree.map(jnp.array, {'params': start, 'velocity': jax.tree.map(np.zeros_like, start)})
        for number in range(steps):
            state, _, _ = step(state, images, labels, statistics, np.uint32(number), np.float64(rate))
            key = jax.random.split(jax.random.fold_in(jax.random.key(experiment.seed), number))[1]
            set_masks(peer, masks(key, experiment, 8))
            peer.zero_grad()
            peer.loss(peer(pixels), torch.tensor(labels)).backward()
            with torch.no_grad():
                for weight, leaf in peer.named_parameters():
                    velocity[weight] = 0.9 * velocity[weight] - rate * leaf.grad
                    leaf += velocity[weight]
                    if leaf.ndim == 4:
                        for kernel in leaf:
                            rms = float((kernel**2).mean().sqrt())
                            if rms > limit:
                                kernel *= limit / rms
                                limited += 1
    assert 0 < limited < steps * sum(WIDTHS[:5])
    before, after = in_torchs_layout(start, {'fc6': 1}), in_torchs_layout(state['params'], {'fc6': 1})
    expected = {weight: leaf - torch.tensor(before[weight]) for weight, leaf in peer.named_parameters()}
    same({weight: after[weight] - before[weight] for weight in expected}, expected, 1e-11)


class Imgclsmob(nn.Module):
    """imgclsmob's zfnet as its definition reads: a border of 1 around conv1, rounded down; normalisation with torch's
    default alpha before pooling."""

    def __init__(self, widths, classes):
        super().__init__()
        w1, w2, w3, w4, w5, w6, w7 = widths
        shapes = ((3, w1, 7, 2, 1), (w1, w2, 5, 2, 0), (w2, w3, 3, 1, 1), (w3, w4, 3, 1, 1), (w4, w5, 3, 1, 1))
        modules = [nn.Conv2d(*shape) for shape in shapes]
        modules += [nn.Linear(36 * w5, w6), nn.Linear(w6, w7), nn.Linear(w7, classes)]
        for path, module in zip(NAMES.values(), modules):
            *folders, name = path.split('.')
            place = self
            for folder in folders:
                if not hasattr(place, folder):
                    place.add_module(folder, nn.Module())
                place = getattr(place, folder)
            place.add_module(name, module)
        self.order = modules

    def forward(self, x):
        *convs, fc1, fc2, fc3 = self.order
        for number, conv in enumerate(convs):
            x = F.relu(conv(x))
            if number < 2:
                x = F.local_response_norm(x, size=5, k=2.0)
            if number in (0, 1, 4):
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        return fc3(F.relu(fc2(F.relu(fc1(x.flatten(1))))))


@pytest.mark.parametrize('name, middle', [('imgclsmob', (6, 8, 4)), ('imgclsmob_b', (512, 1024, 512))])
def test_imgclsmobs_weights_give_its_logits(name, middle, tmp_path):
    torch.manual_seed(0)
    peer = Imgclsmob((4, 6, *middle, 12, 10), 7).eval()
    with torch.no_grad():
        peer.order[0].weight *= 100         # so that normalisation matters
    torch.save({weight: leaf for weight, leaf in peer.state_dict().items() if not weight.startswith('order')},
               tmp_path / 'zfnet.pth')
    found, experiment, params = convert(importers.read(tmp_path / 'zfnet.pth'))
    assert found == name
    x = np.random.default_rng(0).uniform(0, 255, (2, 224, 224, 3))
    task = build(experiment)
    images = (x - np.array(experiment.data.mean)).astype(np.float32)
    logits = jax.jit(lambda params, images: task.activations(params, images)['fc8'])(params, images)
    theirs = peer(torch.tensor(maps_first((x / 255 - MEAN) / DEVIATION)).float()).detach().numpy()
    np.testing.assert_allclose(logits, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max())
