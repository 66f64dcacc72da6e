"""AlexNet, cuda-convnet's networks and their training against implementations in PyTorch: float64."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lib import layers, optimizers, train
from lib.data.statistics import Statistics
from lib.experiment import change
from reproductions.alexnet.cifar import Dropout
from reproductions.alexnet.cifar_experiments import CIFAR_PAIRED
from reproductions.alexnet.experiments import EXPERIMENTS, PAPER
from reproductions.alexnet.model import build
from tests.peer import in_torchs_layout, maps_first, random_params, same

torch = pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')
torch.set_num_threads(1)        # more of them wait for JAX's on so small arrays
peers = pytest.importorskip('reproductions.alexnet.peer')


def make_peer(config, params, side):
    peer = peers.make(config).double()
    state = {name: torch.tensor(array) for name, array in in_torchs_layout(params, {'fc6': side}).items()}
    left = peer.load_state_dict(state, strict=False)
    assert not left.unexpected_keys and all(name.endswith('num_batches_tracked') for name in left.missing_keys)
    return peer


def set_masks(peer, mask6, mask7):
    peer.dropout6.mask, peer.dropout7.mask = torch.tensor(np.array(mask6)), torch.tensor(np.array(mask7))


def experiment(image_size, **model):
    small = dict(widths=(8, 16, 12, 12, 8), fc_width=24, classes=10) | model
    changed = dataclasses.replace(PAPER, model=dataclasses.replace(PAPER.model, **small))
    return change(changed, 'data.image_size', image_size)


def masks(key, rate, n, width):
    """Which outputs of fc6 and fc7 a dropout key keeps."""
    return [layers.dropout(jnp.ones((n, width)), rate, half) for half in jax.random.split(key)]


VARIANTS = {                # image size, side of the maps that fc6 reads, then what differs from the paper's model
    'paper': (80, 2, {}),
    'ungrouped': (80, 2, dict(groups=1)),
    'batch_norm': (80, 2, dict(norm='batch')),
    'tanh_average_pool': (64, 1, dict(activation='tanh', pool='average')),
    'pool_of_two_norm_of_sums': (64, 2, dict(pool_size=2, lrn_after=('conv', 'unit'))),
    'min_pool_then_norm': (64, 1, dict(pool='min', lrn_after=('pool', 'pool'))),
    'norm_across_groups': (64, 1, dict(lrn_own_group=False, lrn_k=1.0, lrn_alpha=2e-5)),
    'torchvision': (96, 2, dict(padding=2, rounding='floor', norm='none', groups=1)),
    'conv6_logistic': (80, 2, dict(conv6=6, loss='logistic')),
    'without_conv3': (64, 1, dict(without='conv3', norm='none')),
    'without_conv5': (64, 1, dict(without='conv5', dropout=0.3)),
    'input_227': (227, 6, {}),
}


@pytest.mark.parametrize('name', VARIANTS)
def test_every_activation_loss_and_gradient(name):
    size, side, changes = VARIANTS[name]
    config = experiment(size, **changes)
    model, task, n = config.model, build(config), 3
    tolerance = 2e-11 if model.norm == 'batch' else 1e-12
    params = random_params(task)
    x = (1 if model.activation == 'tanh' else 60) * np.random.default_rng(1).standard_normal((n, size, size, 3))
    labels = np.array([3, 0, 9])

    @jax.jit
    def ours(params, x, key):
        gradient = jax.value_and_grad(task.loss, has_aux=True)
        return task.activations(params, x), gradient(params, x, labels, key)

    with jax.enable_x64(True):
        key = jax.random.key(5)
        activations, ((loss, (logits, moved)), gradients) = ours(params, x, key)
        kept = masks(key, model.dropout, n, model.fc_width)

    peer, images = make_peer(config, params, side), torch.tensor(maps_first(x))
    seen = peer.eval().outputs(images)
    same({layer: maps_first(array) for layer, array in activations.items()}, seen, 1e-12)     # in the same order too

    set_masks(peer.train(), *kept)
    theirs = peer(images)
    their_loss = peer.loss(theirs, torch.tensor(labels))
    their_loss.backward()
    same({'logits': logits, 'loss': loss}, {'logits': theirs, 'loss': their_loss}, 1e-12)
    mine = in_torchs_layout(gradients, {'fc6': side})
    expected = {weight: leaf.grad for weight, leaf in peer.named_parameters()}
    assert all(gradient.abs().max() > 1e-8 for gradient in expected.values())
    same({weight: mine[weight] for weight in expected}, expected, tolerance)
    if model.norm == 'batch':
        same_averages(moved, params, peer, {layer: n * array[0, 0].numel() for layer, array in seen.items()}, 1)
    else:
        assert moved == {}


def same_averages(params, start, peer, counts, steps):
    """Both keep 0.9 of the old averages at each step. torch adds 0.1 of the unbiased variance, as the paper of batch
    normalisation has it; flax 0.1 of the plain one, smaller by (count - 1) / count for the mean of `count` numbers."""
    for layer in (name.removesuffix('_norm') for name in start if name.endswith('_norm')):
        found, before, theirs = params[f'{layer}_norm'], start[f'{layer}_norm'], getattr(peer, f'{layer}_norm')
        np.testing.assert_allclose(found['mean'], theirs.running_mean, rtol=1e-10, atol=1e-12, err_msg=layer)
        kept = 0.9**steps * before['var']
        added = (theirs.running_var.numpy() - kept) * (counts[layer] - 1) / counts[layer]
        np.testing.assert_allclose(found['var'], kept + added, rtol=1e-10, err_msg=layer)


STEPS, DROP, BATCH, SIZE = 50, 25, 8, 48
RECIPES = {         # what differs from the paper in the model, then in the optimiser; 200 times the measured difference
    'paper': ({}, {}, 1e-12),
    'logistic': (dict(loss='logistic', dropout=0.0), dict(bias_learning_rate=2.0), 1e-12),
    'batch_norm': (dict(norm='batch', dropout=0.0, pool_size=2), {}, 2e-11),
}


@pytest.mark.parametrize('name', RECIPES)
def test_fifty_steps_of_training_stay_together(name):
    """The compiled step as `fit` calls it, on uint8 images, with the paper's dropout and a drop of the rate half way;
    torch does v <- 0.9 v - 0.0005 rate w - rate g; w <- w + v, without decay but for weights."""
    own_model, own_optimizer, tolerance = RECIPES[name]
    config = experiment(SIZE, widths=(6, 8, 6, 6, 4), lrn_alpha=0.02, **own_model)
    config = dataclasses.replace(
        config, batch_size=BATCH, seed=3,
        data=dataclasses.replace(config.data, crop='centre', reflect=False, color_noise=0.0, pixel_scale=64.0),
        optimizer=dataclasses.replace(config.optimizer, learning_rate=0.01, schedule='steps', drop_epochs=(1,),
                                      **own_optimizer))
    model, task = config.model, build(config)
    rng = np.random.default_rng(7)
    images = rng.integers(0, 256, (3, BATCH, SIZE, SIZE, 3), np.uint8)
    labels = rng.integers(0, 10, (3, BATCH))
    mean = rng.integers(100, 150, (SIZE, SIZE, 3)).astype(np.float32)   # whole numbers, exact in float32
    statistics = Statistics(mean, np.ones(3, np.float32), np.eye(3, dtype=np.float32))
    start = random_params(task)

    def loss_of_float64(params, images, labels, key):       # the step hands out float32 images
        return task.loss(params, images.astype(jnp.float64), labels, key)

    side = 2 if model.pool_size == 2 else 1
    peer = make_peer(config, start, side).train()
    velocity = {weight: torch.zeros_like(leaf) for weight, leaf in peer.named_parameters()}
    losses, their_losses = [], []
    with jax.enable_x64(True):
        step = train.make_step(task._replace(loss=loss_of_float64), config)
        state = jax.tree.map(jnp.array, {'params': start, 'velocity': jax.tree.map(np.zeros_like, start)})
        for number in range(STEPS):
            batch, classes = images[number % 3], labels[number % 3]
            rate = optimizers.learning_rate(config, DROP * BATCH, number, [])
            state, loss, _ = step(state, batch, classes, statistics, np.uint32(number), np.float64(rate))
            losses.append(loss)
            key = jax.random.split(jax.random.fold_in(jax.random.key(config.seed), number))[1]
            set_masks(peer, *masks(key, model.dropout, BATCH, model.fc_width))
            pixels = torch.tensor((batch.astype(np.float64) - mean) / 64).permute(0, 3, 1, 2)
            their_loss = peer.loss(peer(pixels), torch.tensor(classes))
            peer.zero_grad()
            their_loss.backward()
            their_losses.append(their_loss.detach())
            with torch.no_grad():
                for weight, leaf in peer.named_parameters():
                    own_rate, decay = 0.01 if number < DROP else 0.001, 0.0005
                    if weight.endswith('bias'):
                        own_rate *= config.optimizer.bias_learning_rate
                    if leaf.ndim == 1:
                        decay = 0.0
                    velocity[weight] = 0.9 * velocity[weight] - decay * own_rate * leaf - own_rate * leaf.grad
                    leaf += velocity[weight]
    assert np.mean(losses[-3:]) < 0.95 * np.mean(losses[:3])
    same({'losses': jnp.stack(losses)}, {'losses': torch.stack(their_losses)}, tolerance)
    before, after = in_torchs_layout(start, {'fc6': side}), in_torchs_layout(state['params'], {'fc6': side})
    expected = {weight: leaf - torch.tensor(before[weight]) for weight, leaf in peer.named_parameters()}
    same({weight: after[weight] - before[weight] for weight in expected}, expected, tolerance)
    if model.norm == 'batch':
        counts = {layer: BATCH * array[0, 0].numel() for layer, array in peer.eval().outputs(pixels).items()}
        same_averages(state['params'], start, peer, counts, STEPS)


@pytest.mark.parametrize('loss', ['softmax', 'logistic'])
def test_probabilities(loss):
    config = experiment(64, loss=loss)
    task = build(config)
    params, x = random_params(task), 60 * np.random.default_rng(1).standard_normal((2, 64, 64, 3))
    with jax.enable_x64(True):
        found = jax.jit(task.predict)(params, x)
    logits = make_peer(config, params, 1).eval()(torch.tensor(maps_first(x)))
    expected = {'softmax': logits.softmax(1), 'logistic': logits.sigmoid()}[loss]
    same({'probabilities': found}, {'probabilities': expected}, 1e-12)


def cifar_in_torchs_layout(params, side):
    """`side` is that of the maps that the largest of the fully connected layers reads; another one reads units."""
    dense = max((layer for layer in params if layer.startswith('fc')), key=lambda fc: len(params[fc]['kernel']))
    found = {}
    for name, array in in_torchs_layout({layer: kinds for layer, kinds in params.items() if 'local' not in layer},
                                        {dense: side}).items():
        layer, kind = name.split('.')
        found[f'{layer}.1.{kind}' if layer.startswith('fc') else name] = array
    for layer in (layer for layer in params if 'local' in layer):
        kernel, bias = (np.array(params[layer][kind]) for kind in ('kernel', 'bias'))
        height, width, window, maps = kernel.shape          # a window is 3x3 places of all maps
        kernel = kernel.reshape(height * width, 9, window // 9, maps).transpose(0, 3, 2, 1)
        found |= {f'{layer}.weight': kernel.reshape(height * width, maps, window),
                  f'{layer}.bias': bias.transpose(2, 0, 1)}
    return found


CUDA_CONVNETS = {name: EXPERIMENTS[f'cifar_{name}'] for name in ('80sec', '19pct', '18pct', '13pct', '11pct')} | {
    arm.name: CIFAR_PAIRED.experiment(arm) for arm in CIFAR_PAIRED.arms if dict(arm.changes).keys() & {
        'model.layers', 'model.activation'}}


@pytest.mark.parametrize('name', CUDA_CONVNETS)
def test_every_activation_loss_and_gradient_of_cuda_convnets(name):
    config = CUDA_CONVNETS[name]
    size = config.data.image_size
    task, params, n = build(config), random_params(build(config)), 2
    x = (60 if config.model.activation == 'relu' else 1) * np.random.default_rng(1).standard_normal((n, size, size, 3))
    labels = np.array([3, 9])

    @jax.jit
    def ours(params, x):
        gradient = jax.value_and_grad(task.loss, has_aux=True)
        return task.activations(params, x), gradient(params, x, labels, jax.random.key(0))

    places = [place for place, layer in enumerate(config.model.layers) if isinstance(layer, Dropout)]
    with jax.enable_x64(True):
        activations, ((loss, (logits, _)), gradients) = ours(params, x)
        kept = [layers.dropout(jnp.ones((n, 4, 4, 64)), 0.5, jax.random.fold_in(jax.random.key(0), place))
                for place in places]
    side = 1 if 'global_average' in activations else size // (8 if size == 32 else 4)
    peer = peers.make(config).double()
    peer.load_state_dict({name: torch.tensor(array) for name, array in cifar_in_torchs_layout(params, side).items()})
    images = torch.tensor(maps_first(x))
    seen = peer.eval().outputs(images)
    same({layer: maps_first(array) for layer, array in activations.items()}, seen, 1e-12)
    for number, mask in enumerate(kept, 1):
        getattr(peer, f'dropout{number}').mask = torch.tensor(maps_first(mask))
    theirs = peer.train()(images)
    their_loss = peer.loss(theirs, torch.tensor(labels))
    their_loss.backward()
    same({'logits': logits, 'loss': loss}, {'logits': theirs, 'loss': their_loss}, 1e-12)
    expected = {weight: leaf.grad for weight, leaf in peer.named_parameters()}
    assert all(gradient.abs().max() > 1e-8 for gradient in expected.values())
    mine = cifar_in_torchs_layout(gradients, side)
    same({weight: mine[weight] for weight in expected}, expected, 1e-12)


@pytest.mark.slow
def test_network_of_full_size():
    """224 pixels, 96 to 4096 maps, 60,965,224 parameters: the activation of every layer."""
    task = build(PAPER)
    params = random_params(task)
    x = 60 * np.random.default_rng(1).standard_normal((1, 224, 224, 3))
    with jax.enable_x64(True):
        found = jax.jit(task.activations)(params, x)
    peer = make_peer(PAPER, params, 6).eval()
    assert sum(leaf.numel() for leaf in peer.parameters()) == 60_965_224
    with torch.no_grad():
        expected = peer.outputs(torch.tensor(maps_first(x)))
    same({layer: maps_first(array) for layer, array in found.items()}, expected, 1e-12)
