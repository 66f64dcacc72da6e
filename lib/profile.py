"""Where the time of a compiled program goes, by the layers of the network."""
import collections
import re
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import jax

PRODUCTS = re.compile(r'ynn|dot|conv|gemm|cudnn|cublas', re.IGNORECASE)     # in names of operations that are products


class Share(NamedTuple):
    """Of a program's time."""
    layer: str | None           # None: of the loss, or of an operation without a name
    backward: bool
    products: float             # seconds in products of matrices and convolutions
    others: float               # seconds in everything else


def spans(work: Callable[[], Any], times: int = 3) -> dict[str, float]:
    """Seconds that each operation of the compiled programs in `work` takes, by its name there: the mean of so many
    calls. Operations run beside each other, so that their sum may be more than the time of a call."""
    work()
    found = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(times):
                work()
        path, = Path(folder).rglob('*.xplane.pb')
        for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                for event in line.events:
                    if name := dict(event.stats).get('hlo_op'):
                        found[name] += event.duration_ns / 1e9 / times
    return dict(found)


def by_layer(seconds: dict[str, float], text: str, layers: Collection[str]) -> list[Share]:
    """The seconds of operations by layer and pass, most of them first.

    Args:
      seconds: of `spans`.
      text: of the compiled program, `compiled.as_text()`.
      layers: names of the network's layers, which its operations carry.
    """
    names = '|'.join(map(re.escape, layers)) or '(?!)'
    of_layer = re.compile(rf'op_name="[^"]*?(transpose\()?jvp\(({names})\)')
    body, lines, bodies = '', {}, collections.defaultdict(str)
    for line in text.splitlines():
        if head := re.match(r'(?:ENTRY )?%?([\w.\-]+) .*\{$', line):
            body = head[1]
        elif operation := re.match(r'\s*(?:ROOT )?%?([\w.\-]+) = ', line):
            lines[operation[1]] = line
            bodies[body] += line + '\n'
    found = collections.defaultdict(lambda: [0.0, 0.0])
    for name, value in seconds.items():
        line = lines.get(name, '')
        inside = ''.join(bodies[called] for called in re.findall(r'calls=%?([\w.\-]+)', line))
        owner = of_layer.search(line) or of_layer.search(inside)
        key = (owner[2], owner[1] is not None) if owner else (None, 'transpose(' in line)
        found[key][0 if PRODUCTS.search(name) else 1] += value
    return sorted((Share(*key, *value) for key, value in found.items()), key=lambda s: -(s.products + s.others))
