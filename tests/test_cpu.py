"""The forms of operations for a CPU against JAX's own, in float64: values and every gradient."""
import ctypes
import subprocess
import sys

import jax
import numpy as np
import pytest
from jax import lax

from lib import cpu, layers


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def same(ours, own, *arguments, tolerance=1e-13):
    """Values of both functions, and what their backward passes make of one random gradient."""
    values, back = jax.vjp(jax.jit(ours), *arguments)
    expected, expected_back = jax.vjp(jax.jit(own), *arguments)
    gradient = random(*expected.shape, seed=9)
    assert values.dtype == expected.dtype == np.float64
    for found, wanted in zip((values, *back(gradient)), (expected, *expected_back(gradient)), strict=True):
        wanted = np.asarray(wanted)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


CONVOLUTIONS = [        # image [h, w, c], kernel [h, w, outputs], stride, padding
    ((11, 9, 3), (5, 5, 4), 1, ((2, 2), (2, 2))),
    ((10, 8, 3), (5, 4, 6), 1, ((2, 2), (2, 1))),       # whole blocks of places in a row
    ((9, 8, 1), (3, 3, 70), 1, ((0, -1), (2, 0))),      # many output maps
    ((23, 20, 3), (7, 7, 6), 3, ((0, 3), (1, 2))),
    ((19, 19, 1), (11, 11, 2), 4, ((0, 0), (0, -4))),
    ((9, 8, 7), (3, 3, 5), 1, ((1, 1), (1, 1))),
    ((12, 13, 6), (5, 3, 4), 2, ((2, 1), (0, -1))),
    ((10, 11, 5), (2, 2, 3), 3, ((0, -1), (0, 0))),
    ((7, 6, 8), (1, 1, 5), 1, ((0, 0), (0, 0))),
    ((7, 6, 8), (1, 1, 5), 1, ((0, -1), (2, 1))),
    ((128, 128, 2), (1, 1, 3), 1, ((0, 0), (0, 0))),    # as many places as are summed in shares
    ((9, 8, 3), (1, 1, 5), 2, ((0, 0), (0, -1))),
    ((6, 6, 16), (6, 6, 4), 1, ((0, 0), (0, 0))),
    ((7, 8, 96), (3, 3, 5), 1, ((1, 1), (1, 1))),
    ((9, 7, 98), (3, 2, 4), 2, ((1, 0), (0, -1))),
    ((60, 64, 5), (3, 3, 2), 1, ((1, 1), (2, 0))),      # each image of the batch apart
]


@pytest.mark.parametrize('image, window, stride, padding', CONVOLUTIONS)
def test_convolution(image, window, stride, padding):
    height, width, outputs = window

    def own(x, kernel):
        return lax.conv_general_dilated(x, kernel, (stride, stride), padding,
                                        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

    x, kernel = random(2, *image), random(height, width, image[-1], outputs, seed=1)
    same(lambda x, kernel: cpu.convolution(x, kernel, stride, padding), own, x, kernel)


@pytest.mark.parametrize('inputs', [4, 16])     # few maps a group, and more
def test_grouped_convolution(inputs):
    def own(x, kernel):
        return lax.conv_general_dilated(x, kernel, (2, 2), ((1, 0), (2, 2)), feature_group_count=2,
                                        dimension_numbers=('NHWC', 'HWIO', 'NHWC'))

    x, kernel = random(2, 9, 8, inputs), random(3, 5, inputs // 2, 6, seed=1)
    same(lambda x, kernel: layers.grouped_convolution(x, kernel, 2, ((1, 0), (2, 2)), 2), own, x, kernel)


POOLS = [(3, 2), (2, 2), (3, 1), (5, 3), (2, 3), (3, 3), (1, 2)]


@pytest.mark.parametrize('size, stride', POOLS)
@pytest.mark.parametrize('kind', ['different', 'ties', 'constant'])
def test_max_pool(size, stride, kind):
    """JAX's own gives the gradient to the first of equal entries."""
    x = {'different': random(2, 9, 12, 3), 'ties': np.round(random(2, 9, 12, 3)), 'constant': np.ones((2, 9, 12, 3))}

    def own(x):
        return lax.reduce_window(x, -np.inf, lax.max, (1, size, size, 1), (1, stride, stride, 1), 'VALID')

    same(lambda x: cpu.max_pool(x, size, stride), own, x[kind])


def test_max_pool_of_windows_with_more_places_than_a_byte_counts():
    def own(x):
        return lax.reduce_window(x, -np.inf, lax.max, (1, 17, 17, 1), (1, 5, 5, 1), 'VALID')

    same(lambda x: cpu.max_pool(x, 17, 5), own, random(1, 23, 22, 2))


@pytest.mark.parametrize('size, stride', POOLS)
def test_sum_pool(size, stride):
    def own(x):
        return lax.reduce_window(x, 0.0, lax.add, (1, size, size, 1), (1, stride, stride, 1), 'VALID')

    same(lambda x: cpu.sum_pool(x, size, stride), own, random(2, 9, 12, 3))


def test_the_forms_are_chosen_on_a_cpu_only():
    """Elsewhere an operation is JAX's own, which the program for a GPU says."""
    shapes = jax.ShapeDtypeStruct((2, 9, 9, 8), np.float32), jax.ShapeDtypeStruct((3, 3, 4, 6), np.float32)

    def network(x, kernel):
        y = layers.grouped_convolution(x, kernel, 1, ((1, 1), (1, 1)), 2)
        return layers.average_pool(layers.max_pool(y, 3, 2), 3, 2).sum()

    text = {platform: jax.export.export(jax.jit(jax.grad(network, 1)), platforms=[platform])(*shapes).mlir_module()
            for platform in ('cpu', 'cuda', 'tpu')}
    for platform in ('cuda', 'tpu'):
        assert 'feature_group_count = 2' in text[platform] and 'select_and_scatter' in text[platform]
    assert 'feature_group_count = 2' not in text['cpu'] and 'select_and_scatter' not in text['cpu']


WORK = """
import resource
from lib import cpu
{keep}
import jax, jax.numpy as jnp
work = jax.jit(lambda x: jnp.cumsum(x + 1, 0).sum(1) @ x)
x = jnp.ones((2048, 2048))
faults = []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    work(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(faults))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), 'gnu_get_libc_version'), reason='needs glibc')
def test_memory_is_kept():
    """A program that runs again is not given its pages by the kernel again, one by one."""
    def faults(keep):
        ran = subprocess.run([sys.executable, '-c', WORK.format(keep=keep)], capture_output=True, text=True, check=True)
        return int(ran.stdout)

    assert faults('cpu.keep_memory()') < 500 < faults('')
