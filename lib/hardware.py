"""Devices by the name of what holds them, 'v5e:2x2', 'gpu:h100:8' or 'cpu:8', and the rates that their makers state."""
import dataclasses
import importlib.util
import math
import os
import re
from typing import Literal, NamedTuple

import jax

from lib.experiment import UsageError


class Rates(NamedTuple):
    """What one device has at most, from where `source` says. Nothing reaches these rates; nothing can pass them."""
    memory: float               # bytes
    float32: float              # floating-point operations a second in products of float32 arrays, as JAX computes
    # them by default: on a TPU in one pass of bfloat16, on a GPU of 2020 or later in TF32
    bfloat16: float | None      # of bfloat16 arrays, without sparsity; None if the device has no such products
    bandwidth: float            # bytes a second from and to its memory
    interconnect: float         # bytes a second that it can send to its neighbours, over all links together
    source: str

    def products(self, precision: Literal['float32', 'bfloat16']) -> float:
        """Floating-point operations a second in products of arrays of a precision."""
        return self.bfloat16 if precision == 'bfloat16' and self.bfloat16 else self.float32


GOOGLE, NVIDIA = 'stated by Google, cloud.google.com/tpu/docs/', "NVIDIA's, as others quote them, "
TPUS = {
    'v5e': Rates(16 * 2**30, 197e12, 197e12, 819e9, 200e9, GOOGLE + 'v5e'),
    'v5p': Rates(95 * 2**30, 459e12, 459e12, 2765e9, 600e9, GOOGLE + 'v5p'),
    'v6e': Rates(32 * 2**30, 918e12, 918e12, 1600e9, 400e9, GOOGLE + 'v6e'),
}
FLAT = ('1x1', '1x2', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
SLICES = {'v5e': FLAT, 'v6e': FLAT,
          'v5p': ('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8')}
GPUS = {
    'h200': Rates(141e9, 494.7e12, 989.4e12, 4.8e12, 450e9, NVIDIA + 'H200 SXM, NVLink'),
    'h100': Rates(80e9, 494.7e12, 989.4e12, 3.35e12, 450e9, NVIDIA + 'H100 SXM, NVLink'),
    'a100': Rates(80e9, 156e12, 312e12, 2.039e12, 300e9, NVIDIA + 'A100 80 GB SXM, NVLink'),
    'a100-40gb': Rates(40e9, 156e12, 312e12, 1.555e12, 300e9, NVIDIA + 'A100 40 GB SXM, NVLink'),
    'k20': Rates(5e9, 3.52e12, None, 208e9, 8e9, NVIDIA + 'Tesla K20, PCI Express 2.0 from memory'),
    'gtx580': Rates(3e9, 1.581e12, None, 192.4e9, 8e9,
                    NVIDIA + 'GeForce GTX 580 with 3 GB, its peak from its clock, PCI Express 2.0 from memory'),
}
EXISTING = ('; '.join(f'{name}: with {", ".join(slices)}' for name, slices in SLICES.items())
            + f'; gpu:NAME or gpu:NAME:COUNT with {", ".join(GPUS)}; cpu:COUNT')


@dataclasses.dataclass(frozen=True)
class Topology:
    """Devices of one kind that are connected with each other."""
    text: str
    platform: Literal['tpu', 'gpu', 'cpu']
    count: int
    rates: Rates | None         # None for CPUs, of which nothing is known

    @property
    def memory(self) -> float:
        """Bytes that each device has. CPU devices share the machine's."""
        return self.rates.memory if self.rates else host_memory() / self.count


def host_memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')


def parse(text: str) -> Topology:
    """The topology of a `--topology` text.

    Raises:
      UsageError: if there is no such topology.
    """
    kind, _, rest = text.partition(':')
    if rest in SLICES.get(kind, ()):
        return Topology(text, 'tpu', math.prod(map(int, rest.split('x'))), TPUS[kind])
    if found := re.fullmatch(r'([\w-]+?)(?::([1-9]\d*))?', rest) if kind == 'gpu' else None:
        if found[1] in GPUS:
            return Topology(text, 'gpu', int(found[2] or 1), GPUS[found[1]])
    if kind == 'cpu' and re.fullmatch(r'[1-9]\d{0,3}', rest):
        return Topology(text, 'cpu', int(rest), None)
    raise UsageError(f'--topology={text} does not exist here. Those that do are: {EXISTING}.')


def devices(topology: Topology) -> list[jax.Device]:
    """Devices to compile for, called before JAX is used. Those of a TPU need not be there, but libtpu must; CPU devices
    stand in for GPUs.

    Raises:
      UsageError: if libtpu is missing, or JAX was used with fewer CPU devices before.
    """
    if topology.platform == 'tpu':
        return _tpus(topology)
    try:
        jax.config.update('jax_num_cpu_devices', max(topology.count, jax.config.jax_num_cpu_devices))
    except RuntimeError:
        pass    # JAX runs already, so the devices that there are must do
    found = jax.devices('cpu')
    if len(found) < topology.count:
        raise UsageError(f'--topology={topology.text} needs {topology.count} CPU devices and JAX was started with '
                         f'{len(found)}: set JAX_NUM_CPU_DEVICES={topology.count}.')
    return found[:topology.count]


def _tpus(topology: Topology) -> list[jax.Device]:
    if importlib.util.find_spec('libtpu') is None:
        raise UsageError(f'--topology={topology.text} is compiled for by libtpu, which is not installed: pip install '
                         '-r requirements-tpu.txt (no TPU is needed).')
    kind, sides = topology.text.split(':')
    # On a machine without a TPU libtpu would ask the network what kind of machine this is. Nothing runs on a TPU here,
    # so several processes may load it.
    named = {'v5e': f'v5litepod-{topology.count}', 'v5p': f'v5p-{2 * topology.count}', 'v6e': f'v6e-{topology.count}'}
    os.environ |= {'TPU_SKIP_MDS_QUERY': '1', 'TPU_WORKER_HOSTNAMES': 'localhost',
                   'TPU_ACCELERATOR_TYPE': named[kind], 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}
    from jax.experimental import topologies  # which loads libtpu

    # A host has four chips, unless there are fewer.
    bounds = {'chips_per_host_bounds': tuple(map(int, f'{sides}x1'.split('x')))} if topology.count < 4 else {}
    return list(topologies.get_topology_desc(topology.text, 'tpu', **bounds).devices)
