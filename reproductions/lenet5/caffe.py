"""LeNet as Caffe ships it (examples/mnist/lenet_train_test.prototxt): another network under the old name.

Its layers are called as LeNet-5's are; Caffe calls them conv1, pool1, conv2, pool2, ip1 and ip2.
"""
import dataclasses

import jax
from flax import nnx

from lib import layers
from lib.experiment import require
from lib.layers import Conv, Linear
from lib.task import untapped


@dataclasses.dataclass(frozen=True)
class CaffeModel:
    """Maps of C1 and C3, units of F5; outputs."""
    widths: tuple[int, int, int] = (20, 50, 500)
    classes: int = 10

    def __post_init__(self):
        require(min(*self.widths, self.classes) >= 1, 'model.widths and model.classes must be at least 1.')


class CaffeNet(nnx.Module):
    """Images [n, 28, 28, 3], of which the first channel is read, from 0 to 1, to logits [n, classes]."""

    def __init__(self, model: CaffeModel, image_size: int, rngs: nnx.Rngs):
        first, second, units = model.widths
        how = dict(init=xavier, rngs=rngs)
        self.C1 = Conv(1, first, 5, **how)
        self.C3 = Conv(first, second, 5, **how)
        side = layers.output_size(layers.output_size(image_size - 4, 2, 2) - 4, 2, 2)
        self.F5 = Linear(side * side * second, units, **how)
        self.F6 = Linear(units, model.classes, **how)

    def __call__(self, x: jax.Array, key: jax.Array | None = None, tap=untapped) -> jax.Array:
        """There is no dropout, so a key makes no difference. The only unit that is not linear follows F5."""
        x = tap('C1', self.C1(x[..., :1]))
        x = tap('S2', layers.max_pool(x, 2, 2))
        x = tap('C3', self.C3(x))
        x = tap('S4', layers.max_pool(x, 2, 2))
        x = tap('F5', layers.relu(self.F5(x)))
        return tap('F6', self.F6(x))


def xavier(key, shape, fan_in):
    """Caffe's initial weights of that name: uniform, with variance 1 / fan-in."""
    return jax.random.uniform(key, shape, minval=-(3 / fan_in)**0.5, maxval=(3 / fan_in)**0.5)
