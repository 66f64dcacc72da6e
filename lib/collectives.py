"""What devices exchange in a compiled program: its collectives, read off the text of the program (XLA's HLO).

The operations of a layer carry its name (lib/task.py), and so does a collective that was made for one of them. Where
the compiler has merged several into one, or moved data without a name, the operation that makes what is sent, or the
one that reads what arrives, says whose it is.
"""
import collections
import math
import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
# Operations that compute nothing, through which data is followed.
MOVES = frozenset(
    'bitcast bitcast-convert broadcast call concatenate convert copy copy-done copy-start custom-call dynamic-slice '
    'fusion get-tuple-element optimization-barrier pad reshape slice slice-done slice-start transpose tuple'.split())
SCATTERING = 'all-reduce-scatter'       # on TPUs, a computation whose all-reduce leaves each device a part of the sum
NAMED = re.compile(r'op_name="([^"]*)"')


class Collective(NamedTuple):
    """One array that devices exchange, in every step of training `times` times."""
    kind: str                   # of KINDS
    layer: str | None           # None: of the loss, or of what is counted
    backward: bool              # in the backward pass
    payload: int                # bytes of the whole array, once: what is summed, or what every device has in the end
    devices: int                # that exchange it with each other
    times: int = 1              # in a loop

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step, if the devices stand in a ring: a sum passes there twice, once to be
        added up and once to be told, everything else once."""
        passes = {'all-reduce': 2, 'collective-permute': self.devices / (self.devices - 1)}.get(self.kind, 1)
        return self.times * self.payload * passes * (self.devices - 1) / self.devices


class _Operation(NamedTuple):
    name: str
    is_root: bool
    result: str                 # its type: 'f32[8,16]{1,0}', or several of them
    kind: str
    operands: tuple[str, ...]
    attributes: str

    @property
    def path(self) -> str:
        """Where it stands in the program that was traced: 'jit(step)/transpose(jvp(conv3))/dot_general', or ''."""
        found = NAMED.search(self.attributes)
        return found[1] if found else ''

    @property
    def index(self) -> int:
        """Of a get-tuple-element."""
        return int(re.search(r'index=(\d+)', self.attributes)[1])


def read(text: str, layers: Collection[str], devices: int) -> list[Collective]:
    """The collectives of a compiled program, in the order of the text; an exchange of several arrays counts as many.

    Args:
      text: `compiled.as_text()`.
      layers: names of the network's layers.
      devices: all of them.
    """
    return list(_Program(text, layers, devices).collectives())


class _Program:
    def __init__(self, text: str, layers: Collection[str], devices: int):
        self.devices, self.computations = devices, {}
        names = '|'.join(map(re.escape, layers)) or '(?!)'
        self.of_layer = re.compile(rf'(?:^|[/(:])({names})(?=[/):]|$)')
        for line in text.splitlines():
            head = re.match(r'(ENTRY )?%?([\w.\-]+) .*\{$', line)
            if head:
                operations = self.computations[head[2]] = {}
                self.entry = head[2] if head[1] else getattr(self, 'entry', None)
            elif operation := _operation(line):
                operations[operation.name] = operation
        self.readers = collections.defaultdict(list)    # by computation and name of what they read
        for computation, operations in self.computations.items():
            for operation in operations.values():
                for operand in dict.fromkeys(operation.operands):
                    self.readers[computation, operand].append(operation)

    def collectives(self) -> Iterator[Collective]:
        for computation, operation, times, path in self._walk(self.entry, 1, ''):
            kind = operation.kind.removesuffix('-start')
            if kind == 'all-reduce' and computation.startswith(SCATTERING):
                kind = 'reduce-scatter'
            group = self._group(operation) if kind in KINDS else 1
            if group == 1:
                continue
            for sent in operation.operands:
                size = _bytes(self.computations[computation][sent].result)
                layer, backward = self._owner(computation, operation, kind, sent, path)
                yield Collective(kind, layer, backward, size * (group if kind == 'all-gather' else 1), group, times)

    def _walk(self, name: str, times: int, path: str) -> Iterator[tuple[str, _Operation, int, str]]:
        """Every operation that runs, the computation it is in, how often, and its path, or that of who called it."""
        for operation in self.computations[name].values():
            yield name, operation, times, operation.path or path
            if operation.kind not in ('async-update', 'async-done'):    # they name the computation of their start
                for called in self._called(operation):
                    trips = self._trips(operation) if operation.kind == 'while' else 1
                    yield from self._walk(called, times * trips, operation.path or path)

    def _called(self, operation: _Operation) -> list[str]:
        return [name for name in re.findall(r'%([\w.\-]+)', operation.attributes) if name in self.computations]

    def _trips(self, loop: _Operation) -> int:
        """How often a loop runs, as the compiler says, or as its condition's only constant does."""
        if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes):
            return int(known[1])
        condition = self.computations[re.search(r'condition=%([\w.\-]+)', loop.attributes)[1]]
        limits = [operation.attributes for operation in condition.values() if operation.kind == 'constant']
        if len(limits) != 1:
            raise NotImplementedError(f'the loop {loop.name} does not say how often it runs')
        return int(re.match(r'\d+', limits[0])[0])

    def _group(self, operation: _Operation) -> int:
        """The number of devices that exchange with each other."""
        if 'source_target_pairs=' in operation.attributes:
            pairs = re.search(r'source_target_pairs=\{(.*?)\}\}', operation.attributes)[1]
            return 2 if any(one != other for one, other in re.findall(r'(\d+),(\d+)', pairs)) else 1
        groups = re.search(r'replica_groups=(.*)', operation.attributes)[1]
        if axes := re.match(r'mesh\[(.*?)\] \{(.*?)\}', groups):
            sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
            # An axis of the mesh, or a part of it: 'axis_0':(2)4 has 4 devices.
            return math.prod(int(part or sizes[name]) for name, part in re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?",
                                                                                   axes[2]))
        if counts := re.match(r'\[\d+,(\d+)\]<=', groups):
            return int(counts[1])
        first = re.match(r'\{\{([\d,]+)\}', groups)
        return len(first[1].split(',')) if first else self.devices

    # ------------------------------------------------------------------------------------------------- whose it is

    def _owner(self, computation: str, operation: _Operation, kind: str, sent: str,
               path: str) -> tuple[str | None, bool]:
        """The layer that an exchanged array belongs to, and whether it is of the backward pass."""
        if not re.match(r'b?f\d', self.computations[computation][sent].result):
            return None, False      # whole numbers are labels and counts
        if len(set(self.of_layer.findall(path))) == 1 and len(operation.operands) == 1:
            paths = [path]
        elif kind in ('all-reduce', 'reduce-scatter'):
            paths = [] if operation.path and len(operation.operands) == 1 else self._made_by(computation, sent)
        else:
            paths = self._read_by(computation, operation.name, set())
        # What both passes read is fetched in the first.
        paths = sorted(filter(self.of_layer.search, paths), key=lambda path: 'transpose(' in path)
        return (self.of_layer.search(paths[0])[1], 'transpose(' in paths[0]) if paths else (None, False)

    def _made_by(self, computation: str, name: str) -> list[str]:
        """The path of the operation that makes a value: one of several results of a fusion by what it is inside."""
        operation = self.computations[computation][name]
        if operation.kind == 'get-tuple-element':
            whole = self.computations[computation][operation.operands[0]]
            called = [name for name in self._called(whole) if whole.kind in ('fusion', 'call')]
            inside = called[0] if called else computation
            whole = self._root(inside) if called else whole
            if whole.kind == 'tuple' and any(paths := self._made_by(inside, whole.operands[operation.index])):
                return paths
        if operation.path or operation.kind not in MOVES:
            return [operation.path]
        return [path for source in operation.operands for path in self._made_by(computation, source)]

    def _read_by(self, computation: str, name: str, seen: set[str]) -> list[str]:
        """The paths of the operations of layers that read a value."""
        found = []
        for reader in self.readers[computation, name]:
            if reader.name in seen:
                continue
            seen.add(reader.name)
            if self.of_layer.search(reader.path):
                found.append(reader.path)
            elif reader.kind == 'tuple':
                places = [i for i, operand in enumerate(reader.operands) if operand == name]
                for loop in self.readers[computation, reader.name]:
                    bodies = self._called(loop) if loop.kind == 'while' else []
                    for inside in bodies:
                        parameter = next(o for o in self.computations[inside].values() if o.kind == 'parameter')
                        for element in self.readers[inside, parameter.name]:
                            if element.kind == 'get-tuple-element' and element.index in places:
                                found += self._read_by(inside, element.name, seen)
            elif reader.kind in MOVES:
                found += self._read_by(computation, reader.name, seen)
        return found

    def _root(self, computation: str) -> _Operation:
        return next(operation for operation in self.computations[computation].values() if operation.is_root)


def _operation(line: str) -> _Operation | None:
    """An operation from its line, 'ROOT %name = type kind(operands), attributes'; None if it is another line."""
    head = re.match(r'\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\(', line)
    if not head:
        return None
    depth, end = 1, head.end()
    while depth and end < len(line):
        depth += {'(': 1, ')': -1}.get(line[end], 0)
        end += 1
    inside, rest = line[head.end():end - 1], line[end:]
    # A constant has its value where others have operands.
    operands = tuple(re.findall(r'%([\w.\-]+)', inside))
    return _Operation(head[2], bool(head[1]), head[3], head[4], operands, rest if operands else inside + rest)


def _bytes(result: str) -> int:
    """Of all arrays in a type, without what a device pads them with."""
    sizes = ((re.search(r'\d+', kind), math.prod(map(int, filter(None, shape.split(',')))))
             for kind, shape in re.findall(r'([a-z]\w*)\[([\d,]*)\]', result))
    return sum(count * (int(bits[0]) if bits else 8) // 8 for bits, count in sizes)
