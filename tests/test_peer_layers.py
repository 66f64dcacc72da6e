"""Every layer and the optimiser, alone, against PyTorch's: values and gradients in float64."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

from lib import layers, optimizers
from lib.experiment import Optimizer
from lib.task import LOSSES

torch = pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')
torch.set_num_threads(1)        # more of them wait for JAX's on so small arrays
F = torch.nn.functional


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def images_first(x):
    """[n, h, w, c] to torch's [n, c, h, w]."""
    return x.permute(0, 3, 1, 2).contiguous()


def maps_last(x):
    return x.permute(0, 2, 3, 1)


def agree(ours, theirs, *arrays):
    """Both functions give the same value and, for one random cotangent, the same gradient of every argument. Arrays are
    NHWC for both; differences are relative to the largest number of an array."""
    leaves = [torch.tensor(array, requires_grad=True) for array in arrays]
    expected = theirs(*leaves)
    cotangent = random(*expected.shape, seed=99)
    expected.backward(torch.tensor(cotangent))

    @jax.jit
    def value_and_gradients(cotangent, *arrays):
        value, pull = jax.vjp(ours, *arrays)
        return value, *pull(cotangent)

    with jax.enable_x64(True):
        found = value_and_gradients(cotangent, *arrays)
    for mine, other in zip(found, [expected.detach(), *(leaf.grad for leaf in leaves)]):
        assert mine.dtype == np.float64 and mine.shape == other.shape
        np.testing.assert_allclose(mine, other, rtol=0, atol=1e-13 * float(other.abs().max()))


@pytest.fixture(params=['cpu', 'native'])
def path(request, monkeypatch):
    """The two ways to pool and to convolve groups: XLA:CPU's, and the one of every other platform, run on the CPU."""
    if request.param == 'native':
        monkeypatch.setattr(lax, 'platform_dependent', lambda *operands, cpu, default: default(*operands))
    return request.param


@pytest.mark.parametrize('maps, groups', [(8, 1), (8, 2), (9, 3), (3, 1)])
@pytest.mark.parametrize('n, k, beta', [(5, 2.0, 0.75), (3, 1.0, 0.75), (4, 2.0, 0.5)])
def test_local_response_norm(maps, groups, n, k, beta):
    alpha, x = 0.02, 3 * random(2, 4, 5, maps)

    def theirs(x):
        own = images_first(x).chunk(groups, 1)
        return maps_last(torch.cat([F.local_response_norm(maps, n, alpha * n, beta, k) for maps in own], 1))

    agree(lambda x: layers.local_response_norm(x, n, k, alpha, beta, groups), theirs, x)


def test_local_response_norm_with_the_papers_constants_as_defaults():
    agree(layers.local_response_norm,
          lambda x: maps_last(F.local_response_norm(images_first(x), 5, alpha=5e-4, beta=0.75, k=2.0)),
          100 * random(2, 3, 3, 16))


@pytest.mark.parametrize('n', [2, 3, 5])
@pytest.mark.parametrize('shape, beta', [((2, 6, 6, 3), 0.75), ((1, 5, 7, 2), 0.6)])
def test_same_map_response_norm(n, shape, beta):
    k, alpha = 1.0, 0.02

    def theirs(x):
        x = images_first(x)
        before, after = n // 2, (n - 1) // 2
        mean = F.avg_pool2d(F.pad(x * x, (before, after, before, after)), n, stride=1)
        return maps_last(x / (k + alpha * n**2 * mean)**beta)

    agree(lambda x: layers.same_map_response_norm(x, n, k, alpha, beta), theirs, 3 * random(*shape))


WINDOWS = [(3, 2, 0), (2, 2, 0), (3, 1, 1), (3, 3, 1), (2, 3, 1), (5, 3, 2), (4, 3, 2)]    # size, stride, padding
SHAPE = (2, 7, 8, 2)
ROUNDINGS = ['ceil', 'floor']


def with_ties():
    """Images whose values are all different, others with many equal ones, and constant ones."""
    return np.concatenate([random(*SHAPE), np.round(random(*SHAPE)), np.zeros(SHAPE), -np.ones(SHAPE)])


@pytest.mark.parametrize('rounding', ROUNDINGS)
@pytest.mark.parametrize('window', WINDOWS)
def test_max_pool(path, window, rounding):
    agree(lambda x: layers.max_pool(x, *window, rounding),
          lambda x: maps_last(F.max_pool2d(images_first(x), *window, ceil_mode=rounding == 'ceil')), with_ties())


@pytest.mark.parametrize('rounding', ROUNDINGS)
@pytest.mark.parametrize('window', WINDOWS[:3])
def test_min_pool(path, window, rounding):
    agree(lambda x: layers.min_pool(x, *window, rounding),
          lambda x: -maps_last(F.max_pool2d(images_first(-x), *window, ceil_mode=rounding == 'ceil')),
          with_ties())


@pytest.mark.parametrize('rounding', ROUNDINGS)
@pytest.mark.parametrize('window', WINDOWS)
def test_average_pool(window, rounding):
    agree(lambda x: layers.average_pool(x, *window, rounding),
          lambda x: maps_last(F.avg_pool2d(images_first(x), *window, ceil_mode=rounding == 'ceil',
                                           count_include_pad=False)), random(*SHAPE))


def convolve(x, weight, bias, stride, padding, groups, rounding):
    """torch's convolution, its border widened at the right and bottom where the last window overhangs."""
    size = weight.shape[-1]

    def overhang(side):
        return -(side + 2 * padding - size) % stride if rounding == 'ceil' else 0

    wide = F.pad(x, (padding, padding + overhang(x.shape[3]), padding, padding + overhang(x.shape[2])))
    return F.conv2d(wide, weight, bias, stride, groups=groups)


@pytest.mark.parametrize('groups', [1, 2, 3])
@pytest.mark.parametrize('size, stride, padding, rounding', [
    (3, 1, 1, 'ceil'), (5, 1, 2, 'ceil'), (5, 4, 0, 'ceil'), (5, 4, 0, 'floor'), (4, 3, 1, 'ceil'), (3, 2, 0, 'floor')])
def test_convolution(path, size, stride, padding, groups, rounding):
    module = layers.Conv(6, 12, size, stride=stride, padding=padding, groups=groups, rounding=rounding, bias=1.0,
                         rngs=nnx.Rngs(params=0))
    weight = torch.nn.Conv2d(6, 12, size, groups=groups).weight
    assert module.kernel.shape == tuple(weight.permute(2, 3, 1, 0).shape) and module.bias.shape == (12,)
    graph, _ = nnx.split(module)
    agree(lambda x, kernel, bias: nnx.merge(graph, {'kernel': kernel, 'bias': bias})(x),
          lambda x, kernel, bias: maps_last(convolve(images_first(x), kernel.permute(3, 2, 0, 1), bias, stride, padding,
                                                     groups, rounding)),
          random(2, 10, 11, 6), random(*module.kernel.shape, seed=1), random(12, seed=2))


def test_first_layer_of_alexnet_on_its_own_sizes():
    """224 pixels: 55 windows, of which the last overhangs by three."""
    graph, _ = nnx.split(layers.Conv(3, 4, 11, stride=4, rngs=nnx.Rngs(params=0)))
    agree(lambda x, kernel, bias: nnx.merge(graph, {'kernel': kernel, 'bias': bias})(x),
          lambda x, kernel, bias: maps_last(F.conv2d(F.pad(images_first(x), (0, 3, 0, 3)),
                                                     kernel.permute(3, 2, 0, 1), bias, 4)),
          random(1, 224, 224, 3), random(11, 11, 3, 4, seed=1), random(4, seed=2))


@pytest.mark.parametrize('size, padding', [(3, 1), (3, 0), (2, 1), (5, 2)])
def test_locally_connected(size, padding):
    side, maps, outputs = 6, 2, 3
    module = layers.Local(side, maps, outputs, size, padding=padding, rngs=nnx.Rngs(params=0))
    places = side + 2 * padding - size + 1
    assert module.kernel.shape == (places, places, size * size * maps, outputs)
    graph, _ = nnx.split(module)

    def theirs(x, kernel, bias):
        windows = F.unfold(images_first(x), size, padding=padding)              # map, row, column; place
        weight = kernel.reshape(places**2, size**2, maps, outputs).permute(2, 1, 0, 3).reshape(-1, places**2, outputs)
        return torch.einsum('nwp,wpo->npo', windows, weight).reshape(-1, places, places, outputs) + bias

    agree(lambda x, kernel, bias: nnx.merge(graph, {'kernel': kernel, 'bias': bias})(x), theirs,
          random(2, side, side, maps), random(*module.kernel.shape, seed=1), random(*module.bias.shape, seed=2))


def test_fully_connected():
    module = layers.Linear(2 * 3 * 4, 5, rngs=nnx.Rngs(params=0))
    assert module.kernel.shape == tuple(torch.nn.Linear(24, 5).weight.T.shape)
    graph, _ = nnx.split(module)
    agree(lambda x, kernel, bias: nnx.merge(graph, {'kernel': kernel, 'bias': bias})(x),
          lambda x, kernel, bias: F.linear(x.flatten(1), kernel.T, bias),
          random(3, 2, 3, 4), random(24, 5, seed=1), random(5, seed=2))


@pytest.mark.parametrize('rate', [0.5, 0.3])
def test_dropout_is_torchs_times_the_fraction_kept(rate):
    """torch divides by the fraction kept in training; the paper multiplies by it at test time instead."""
    x, key = random(50, 40), jax.random.key(0)
    agree(lambda x: layers.dropout(x, rate, None), lambda x: (1 - rate) * F.dropout(x, rate, training=False), x)
    with jax.enable_x64(True):
        kept = np.array(layers.dropout(jnp.ones(x.shape), rate, key))
    torch.manual_seed(0)
    theirs = (1 - rate) * F.dropout(torch.ones(400, 400, dtype=torch.float64), rate)
    np.testing.assert_allclose(np.unique(kept), theirs.unique(), rtol=1e-12)
    assert abs(kept.mean() - float(theirs.mean())) < 0.03
    agree(lambda x: layers.dropout(x, rate, key), lambda x: x * torch.tensor(kept), x)


def test_losses_also_of_large_logits():
    labels, logits = np.array([0, 2, 1, 2]), random(4, 3) * np.array([[1], [10], [1e3], [0]])
    targets = torch.eye(3, dtype=torch.float64)[labels]
    agree(lambda logits: LOSSES['softmax'][0](logits, labels),
          lambda logits: F.cross_entropy(logits, torch.tensor(labels), reduction='none'), logits)
    agree(lambda logits: LOSSES['logistic'][0](logits, labels),
          lambda logits: F.binary_cross_entropy_with_logits(logits, targets, reduction='none').sum(1), logits)


STEPS, DROP = 30, 15


def rate_at(step):
    return 0.1 if step < DROP else 0.01


@pytest.mark.parametrize('bias_rate', [1.0, 2.0])
def test_thirty_steps_of_sgd_are_the_papers_rule_and_torchs_only_until_the_rate_drops(bias_rate):
    """v <- 0.9 v - decay rate w - rate g; w <- w + v, on gradients that depend on the weights; biases do not decay."""
    recipe = Optimizer(learning_rate=0.1, momentum=0.9, weight_decay=0.01, bias_learning_rate=bias_rate)
    start = {'kernel': random(4, 3), 'bias': random(3, seed=1)}
    pull = {'kernel': np.abs(random(4, 3, seed=2)), 'bias': np.abs(random(3, seed=3))}
    noise = {'kernel': random(STEPS, 4, 3, seed=4), 'bias': random(STEPS, 3, seed=5)}
    decay, factor = {'kernel': 0.01, 'bias': 0.0}, {'kernel': 1.0, 'bias': bias_rate}

    plain = {kind: array.copy() for kind, array in start.items()}
    velocity = {kind: np.zeros_like(array) for kind, array in start.items()}
    leaves = {kind: torch.nn.Parameter(torch.tensor(array)) for kind, array in start.items()}
    groups = [{'params': [leaves[kind]], 'lr': 0.1 * factor[kind], 'weight_decay': decay[kind]} for kind in leaves]
    other = torch.optim.SGD(groups, momentum=0.9)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, {'fc': start})
        state = optimizers.sgd(recipe, 0.1).init(params)

        @jax.jit
        def step(params, state, noise, rate):
            gradients = {'fc': {kind: pull[kind] * params['fc'][kind] + noise[kind] for kind in noise}}
            updates, state = optimizers.sgd(recipe, rate).update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        for number in range(STEPS):
            rate = rate_at(number)
            for kind, w in plain.items():
                g = pull[kind] * w + noise[kind][number]
                own = rate * factor[kind]
                velocity[kind] = 0.9 * velocity[kind] - decay[kind] * own * w - own * g
                plain[kind] = w + velocity[kind]
            for group, kind in zip(other.param_groups, leaves):
                group['lr'] = rate * factor[kind]
                leaves[kind].grad = torch.tensor(pull[kind] * leaves[kind].detach().numpy() + noise[kind][number])
            other.step()
            params, state = step(params, state, {kind: noise[kind][number] for kind in noise}, rate)
            for kind in plain:
                assert params['fc'][kind].dtype == jnp.float64
                np.testing.assert_allclose(params['fc'][kind], plain[kind], rtol=1e-11, atol=1e-13)
                theirs = leaves[kind].detach().numpy()
                if number < DROP:
                    np.testing.assert_allclose(params['fc'][kind], theirs, rtol=1e-11, atol=1e-13)
                elif number == DROP + 3:
                    assert np.abs(theirs - params['fc'][kind]).min() > 1e-3
