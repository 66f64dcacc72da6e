"""Saliency, guided backpropagation and the deconvnet as one backward pass: against finite differences, against PyTorch
with equal weights, by hand, and its cost."""
import dataclasses
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib import image

from lib import backward, layers
from lib.backward import DECONVNET, GRADIENT, GUIDED
from lib.experiment import UsageError
from lib.visualize import saliency
from tests.random_networks import SMALL, request


def test_each_rule_of_a_relu_by_hand():
    x, signal = jnp.array([-1.0, -1, 2, 2, 0]), jnp.array([3.0, -3, 3, -3, 3])
    for rule, expected in ((GRADIENT, [0, 0, 3, -3, 0]), (DECONVNET, [3, 0, 3, 0, 3]), (GUIDED, [0, 0, 3, 0, 0])):
        with backward.under(rule):
            y, down = jax.vjp(layers.relu, x)
        np.testing.assert_array_equal(y, [0, 0, 2, 2, 0])
        np.testing.assert_array_equal(down(signal)[0], expected)
    _, down = jax.vjp(layers.relu, x)           # the rule ends with its block
    np.testing.assert_array_equal(down(signal)[0], [0, 0, 3, -3, 0])


def test_relus_are_counted_and_nothing_is_computed():
    tanh = (*SMALL, 'model.activation=tanh')
    for paper, name, changes, count in (('alexnet', 'quickstart', SMALL, 7), ('alexnet', 'quickstart', tanh, 0),
                                        ('lenet5', 'paper', (), 0)):
        asked = request(paper, name, changes)
        images = jax.ShapeDtypeStruct((1, asked.size, asked.size, 3), np.float32)
        assert backward.count_relus(asked.network.task.activations, asked.network.params, images) == count


@pytest.mark.parametrize('paper, name, changes, layer, unit', [
    ('lenet5', 'paper', ('model.init=scaled',), 'output', 3), ('lenet5', 'paper', ('model.init=scaled',), 'S4', 7)])
def test_the_gradient_is_that_of_finite_differences(paper, name, changes, layer, unit):
    asked = request(paper, name, changes, images=1, layer=layer, unit=(unit,))
    asked.judged.images[:] //= 8                # where the units are not saturated
    at = np.array([0])
    _, (target,), (signal,) = saliency.maps(asked, GRADIENT, asked.judged, at)
    read = np.asarray(asked.enter(asked.pixels(asked.judged, at).astype(np.float32)), np.float64)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.float64, asked.network.params)
        steps = np.random.default_rng(0).choice(asked.size**2, 40, replace=False)
        moved = np.repeat(read, 80, axis=0)
        for k, step in enumerate(steps):
            moved[2 * k:2 * k + 2, step // asked.size, step % asked.size, 0] += [1e-4, -1e-4]
        outputs = np.asarray(asked.network.task.activations(params, moved)[layer])
    plus, minus = outputs[(slice(None), *target.place, unit)].reshape(40, 2).T
    assert plus.dtype == np.float64
    expected = (plus - minus) / 2e-4 / asked.data.pixel_scale
    found = signal[steps // asked.size, steps % asked.size, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    assert np.abs(expected).max() > 0 and not signal[..., 1:].any()


def test_the_signals_are_pytorchs_with_equal_weights():
    torch = pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')
    from reproductions.alexnet import peer
    from tests.peer import in_torchs_layout, maps_first
    changes = ('data.image_size=80', 'data.resize=80', 'model.widths=[8,16,12,12,8]', 'model.fc_width=24',
               'model.dropout=0', 'model.norm=none')
    asked = request('alexnet', 'quickstart', changes, images=2, unit=(3,))
    rng = np.random.default_rng(1)
    for own in asked.network.params.values():
        own['bias'][:] = 0.3 * rng.standard_normal(own['bias'].shape)
    at = np.arange(2)
    read = maps_first(np.asarray(asked.enter(asked.pixels(asked.judged, at).astype(np.float32))))
    scale = asked.data.pixel_scale
    for rule, passed in ((GRADIENT, None), (GUIDED, lambda own, came: own.clamp(min=0)),
                         (DECONVNET, lambda own, came: came.clamp(min=0))):
        _, _, signals = saliency.maps(asked, rule, asked.judged, at)
        theirs = peer.make(asked.network.experiment).eval()
        state = in_torchs_layout(asked.network.params, {'fc6': 2})
        theirs.load_state_dict({name: torch.tensor(array) for name, array in state.items()})
        for module in theirs.modules():
            if passed and isinstance(module, torch.nn.ReLU):
                module.register_full_backward_hook(
                    lambda module, own, came, passed=passed: (passed(own[0], came[0]),))
        images = torch.tensor(read, requires_grad=True)
        theirs(images)[:, 3].sum().backward()
        expected = images.grad.numpy().transpose(0, 2, 3, 1) / scale
        np.testing.assert_allclose(signals, expected, rtol=0, atol=2e-4 * np.abs(expected).max())
        assert np.abs(expected).max() > 0


def test_a_unit_of_a_layer_is_looked_at_where_it_is_strongest():
    asked = request('alexnet', 'quickstart', SMALL, images=3, layer='conv2', unit=(0, 2))
    asked.network.params['conv2']['bias'] += 50
    layer, targets, signals = saliency.maps(asked, GRADIENT, asked.judged, np.arange(3))
    outputs = np.asarray(asked.activations('conv2', asked.judged.images))
    assert layer == 'conv2' and [(t.image, t.unit) for t in targets] == [(i, u) for i in range(3) for u in (0, 2)]
    for target, signal in zip(targets, signals):
        one = outputs[target.image, ..., target.unit]
        assert target.place == np.unravel_index(one.argmax(), one.shape)
        assert target.value == pytest.approx(one.max(), rel=1e-5) and signal.any()


def test_pictures_are_drawn_and_guided_is_refused_without_relus(tmp_path):
    asked = request('alexnet', 'quickstart', SMALL, images=2)
    found, said = saliency.look(asked, None, tmp_path / 'saliency.png')
    assert found['layer'] == 'fc8' and len(found['table']['rows']) == 2 and said.startswith('Half of the saliency lies')
    _, said = saliency.look_guided(asked, None, tmp_path / 'guided.png')
    assert 'guided signal' in said and 'gradient' in said
    assert min(image.imread(tmp_path / name).std() for name in ('saliency.png', 'guided.png')) > 0.05
    with pytest.raises(UsageError, match='this network has none: choose --method=saliency'):
        saliency.look_guided(request('lenet5', 'paper'), None, tmp_path / 'guided.png')


def test_blank_maps_are_told_and_not_drawn(tmp_path, monkeypatch):
    asked = request('alexnet', 'quickstart', SMALL, images=2, layer='fc6', unit=(1, 2))
    asked.network.params['fc6']['bias'][1:3] = -1e6, 1e6        # silent, and active
    drawn = []
    monkeypatch.setattr(saliency, 'grey', lambda one: drawn.append(one) or np.zeros((*one.shape, 3)))
    found, said = saliency.look(asked, None, tmp_path / 'saliency.png')
    assert len(drawn) == 2 and all(one.any() for one in drawn)
    assert [row[-1] == '' for row in found['table']['rows']] == [True, False, True, False]
    assert 'the mean over 2 maps' in said and said.endswith('Of 4 maps 2 are blank: nothing comes down from the unit.')
    with pytest.raises(UsageError, match='From unit 1 of fc6 nothing comes down .* choose another --unit'):
        saliency.look(dataclasses.replace(asked, unit=(1,)), None, tmp_path / 'saliency.png')


def test_the_scale_of_a_small_map_is_that_of_what_is_not_zero():
    one = np.zeros((100, 100))
    one[:10, :10] = np.arange(1, 101).reshape(10, 10)
    np.testing.assert_allclose(saliency.grey(one)[..., 0], np.minimum(one / (1 + 99 * saliency.QUANTILE), 1))
    assert not saliency.grey(0 * one).any()


def test_half_of_a_map_is_the_smallest_part_that_has_half_its_sum():
    maps = np.array([[[8, 0], [0, 0]], [[1, 1], [1, 1]], [[3, 3], [1, 1]], [[0, 0], [0, 0]]], float)
    np.testing.assert_array_equal(saliency.half(maps), [25, 50, 50, np.nan])


@pytest.mark.slow
def test_100_saliency_maps_of_alexnet_cost_less_than_3_training_steps_of_100():
    asked = request('alexnet', 'paper', ('batch_size=100', 'evaluation.batch_size=100'), images=100, unit=(1,))
    task, params, key = asked.network.task, asked.params, jax.random.key(0)
    step = jax.jit(jax.value_and_grad(lambda params, x, y: task.loss(params, x, y, key)[0]))
    x = asked.enter(asked.judged.images.astype(np.float32))

    def seconds(action):
        action()
        return min(_timed(action) for _ in range(2))

    training = seconds(lambda: jax.block_until_ready(step(params, x, np.zeros(100, np.int32))))
    looking = seconds(lambda: saliency.maps(asked, GRADIENT, asked.judged, np.arange(100)))
    print(f'100 maps {looking:.2f} s, a training step without its update {training:.2f} s')
    assert looking < 3 * training


def _timed(action):
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
