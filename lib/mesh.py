"""Where arrays live: a mesh of devices with the axes `data` (images) and `model` (feature maps).

Placement changes nothing but where the arithmetic happens. Parameters are split on their last axis, the feature maps
they produce, over `model` where that divides it, and else are on every device; images are split over `data`.
"""
import contextlib
import math
import os
import re
from collections.abc import Collection

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from lib.experiment import UsageError


def parse(text: str) -> tuple[int, int]:
    """The sizes of the axes `data` and `model` in 'data:4,model:2'; an axis left out has size 1.

    Raises:
      UsageError: if the text is not of that form.
    """
    if not re.fullmatch(r'(data|model):[1-9]\d*(,(data|model):[1-9]\d*)?', text):
        raise UsageError(f'--mesh={text} is not of the form data:N,model:M, as in --mesh=data:1,model:2.')
    sizes = dict(part.split(':') for part in text.split(','))
    if len(sizes) <= text.count(','):
        raise UsageError(f'--mesh={text} names an axis twice: write data:N,model:M.')
    return int(sizes.get('data', 1)), int(sizes.get('model', 1))


def make(text: str) -> Mesh:
    """The mesh of a `--mesh` text. Without an accelerator, a CPU becomes as many devices as the mesh needs, provided
    that this is called before JAX is used.

    Raises:
      UsageError: if the text is malformed, there are too few devices, or they belong to several hosts.
    """
    shape = parse(text)
    # XLA:CPU takes the size of its thread pool from here. A device that waits for another blocks a thread.
    os.environ.setdefault('NPROC', str(os.cpu_count() + math.prod(shape) if math.prod(shape) > 1 else os.cpu_count()))
    try:
        jax.config.update('jax_num_cpu_devices', max(math.prod(shape), jax.config.jax_num_cpu_devices))
    except RuntimeError:
        pass  # JAX runs already, so the devices that there are must do
    if jax.process_count() > 1:
        raise UsageError(f'This program is one of {jax.process_count()} that share devices, as on a TPU of several '
                         'hosts: it trains on the devices of one host only; start it on one.')
    if len(jax.devices()) < math.prod(shape):
        raise UsageError(f'--mesh={text} needs {math.prod(shape)} devices and there are {len(jax.devices())} '
                         f'({jax.devices()[0].device_kind}): make it smaller.')
    return jax.make_mesh(shape, ('data', 'model'), axis_types=(AxisType.Auto,) * 2,
                         devices=jax.devices()[:math.prod(shape)])


def placement(tree, mesh: Mesh | AbstractMesh, over_all: Collection[str] = ()):
    """For each array of a tree (or its shape), its sharding: the last axis over `model` where that divides it. Layers
    named in `over_all` are split over the devices of `data` too: see `model_parallel`."""
    def place(path, array):
        axes = ('data', 'model') if any(getattr(key, 'key', None) in over_all for key in path) else ('model',)
        return NamedSharding(mesh, _split_last(array.shape, math.prod(mesh.shape[axis] for axis in axes), axes))

    return jax.tree_util.tree_map_with_path(place, tree)


def settle(tree, over_all: Collection[str] = ()):
    """Leaves each array of a tree where `placement` puts it. Without a mesh, nothing."""
    devices = jax.sharding.get_abstract_mesh()
    return tree if devices.empty else jax.lax.with_sharding_constraint(tree, placement(tree, devices, over_all))


def images(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its examples over `data`."""
    return NamedSharding(mesh, PartitionSpec('data'))


def everywhere(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def all_maps(x: jax.Array) -> jax.Array:
    """Gives each device of `model` all feature maps of its images: the exchange between the GPUs of AlexNet's Figure 2.
    Without a mesh, nothing."""
    return _constrain(x, PartitionSpec('data'))


def own_maps(x: jax.Array) -> jax.Array:
    """Leaves each device of `model` its own feature maps, the last axis of `x`. Without a mesh, nothing."""
    devices = jax.sharding.get_abstract_mesh()
    if devices.empty:
        return x
    spec = _split_last(x.shape, devices.shape['model'])
    return _constrain(x, PartitionSpec('data', *spec[1:]))


@contextlib.contextmanager
def model_parallel():
    """Within it all devices are of `model`: they work on the same examples, each on its own part of the feature maps
    (Krizhevsky 2014, "One weird trick", for the fully connected layers). Without a mesh, nothing."""
    devices = jax.sharding.get_abstract_mesh()
    if devices.empty:
        yield
    else:
        together = AbstractMesh((1, devices.size), ('data', 'model'), axis_types=(AxisType.Auto,) * 2)
        with jax.sharding.use_abstract_mesh(together):
            yield


def _split_last(shape: tuple[int, ...], parts: int, axes: tuple[str, ...] = ('model',)) -> PartitionSpec:
    if not shape or shape[-1] % parts:
        return PartitionSpec(*[None] * len(shape))
    return PartitionSpec(*[None] * (len(shape) - 1), axes)


def _constrain(x, spec):
    devices = jax.sharding.get_abstract_mesh()
    return x if devices.empty or devices.size == 1 else jax.lax.with_sharding_constraint(x, spec)
