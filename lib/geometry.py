"""What a network computes and sees, layer by layer, read off the program that JAX makes of it.

Nothing is declared twice and nothing is computed: the network is traced with an abstract image, and through every
operation it is followed which pixels, along the height, each row of an array can see. Images and windows are square, so
the height stands for both sides. Pixels of borders count: rows above the image have negative numbers.
"""
import collections
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax.extend import core

from lib.task import Params, Task, count

IMAGE = 'image'
# Subsampling is pooling that has weights.
Kind = Literal['convolution', 'locally connected', 'fully connected', 'subsampling', 'max pooling', 'min pooling',
               'average pooling', 'normalisation', 'concatenation', 'elementwise', 'other']
FLOAT32 = 4                             # bytes
PROGRAMS = (core.ClosedJaxpr, core.Jaxpr)
# Operations of which a layer may consist that moves no pixel.
ELEMENTWISE = frozenset(
    'add sub mul div neg max min abs exp log tanh logistic square sqrt integer_pow select_n gt ge lt le eq ne '
    'convert_element_type copy broadcast_in_dim'.split())


class Window(NamedTuple):
    """The windows that a layer slides over the maps it reads, or over the image; sizes are pixels a side."""
    size: int
    stride: int
    padding: tuple[int, int]            # left and top; right and bottom. Negative: pixels that no window reads


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer of a network, for one image."""
    name: str                           # as the network taps it
    kind: Kind
    reads: tuple[str, ...]              # the layers before it, or IMAGE
    input: tuple[int, ...]              # the size of what it reads: height, width and maps, or units
    size: tuple[int, ...]               # of its output
    window: Window | None               # None where each output reads one place only, or the whole
    groups: int                         # of a convolution, else 1
    shapes: Mapping[str, tuple[int, ...]]   # of its trained parameters: {'kernel': (11, 11, 3, 96), 'bias': (96,)}
    multiply_adds: int                  # of convolutions and fully connected layers: places x weights, without biases
    receptive_field: int                # pixels a side of the image, its border included, that an output sees
    jump: int | None                    # pixels between the windows on the image of two neighbours; None without places
    start: int                          # the first row and column that its first output sees

    @property
    def parameters(self) -> int:
        return sum(map(math.prod, self.shapes.values()))

    @property
    def weights(self) -> int:
        """Parameters without biases."""
        return sum(math.prod(shape) for kind, shape in self.shapes.items() if kind != 'bias')

    @property
    def output_bytes(self) -> int:
        return FLOAT32 * math.prod(self.size)

    @property
    def parameter_bytes(self) -> int:
        return FLOAT32 * self.parameters

    @property
    def has_places(self) -> bool:
        """Its output has height and width."""
        return len(self.size) > 1

    @property
    def is_pooling(self) -> bool:
        return self.kind.endswith('pooling')

    @property
    def is_global(self) -> bool:
        """It makes one place of several."""
        return len(self.input) > 1 and math.prod(self.input[:-1]) > 1 == math.prod(self.size[:-1])


@dataclasses.dataclass(frozen=True)
class Geometry:
    """A network for one image of `image_size` pixels a side."""
    image_size: int
    layers: tuple[Layer, ...]           # in the order of the network
    training_only: Mapping[str, int]    # parameters of layers that evaluation leaves out: auxiliary classifiers
    total: int                          # of all parameters

    def __getitem__(self, name: str) -> Layer:
        """The layer of that name.

        Raises:
          KeyError: if there is none.
        """
        return {layer.name: layer for layer in self.layers}[name]

    @property
    def parameters(self) -> dict[str, int]:
        """{layer: weights and biases} of the layers that have any."""
        return {layer.name: layer.parameters for layer in self.layers if layer.shapes} | dict(self.training_only)

    @property
    def sizes(self) -> dict[str, tuple[int, ...]]:
        return {layer.name: layer.size for layer in self.layers}

    @property
    def multiply_adds(self) -> int:
        return sum(layer.multiply_adds for layer in self.layers)

    @property
    def last_maps(self) -> Layer:
        """The last layer with height and width, global pooling left out."""
        return [layer for layer in self.layers if layer.has_places and not (layer.is_pooling and layer.is_global)][-1]

    @property
    def receptive_field(self) -> int:
        """Pixels a side that the last maps see, the border included."""
        return self.last_maps.receptive_field


def measure(task: Task, image_size: int) -> Geometry:
    """The geometry of a task's network, from its activations for an abstract image.

    Raises:
      NotImplementedError: if the network has an operation that this module cannot follow.
    """
    params = jax.eval_shape(task.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.float32)
    program, outputs = jax.make_jaxpr(task.activations, return_shape=True)(params, image)
    tracer = _Tracer(tuple(outputs), params)
    layers = tracer.follow(program.jaxpr)
    unread = {layer: count({layer: arrays}) for layer, arrays in params.items() if layer not in tracer.owners}
    return Geometry(image_size, layers, unread, count(params))


# ------------------------------------------------------------------------------------------- what an array can see

class _Span(NamedTuple):
    """Index i along axis `axis` sees the rows start + i * jump to start + i * jump + width - 1 of something; without an
    axis, every entry sees the rows start to start + width - 1."""
    axis: int | None
    start: int
    jump: int
    width: int

    def moved(self, axis: int | None) -> '_Span':
        return self._replace(axis=axis)

    def windows(self, size: int, stride: int, left: int, axis: int) -> '_Span':
        """Of windows of so many entries, the first beginning `left` entries before the first."""
        return _Span(axis, self.start - left * self.jump, self.jump * stride, self.width + (size - 1) * self.jump)

    def whole(self, length: int) -> '_Span':
        """What all `length` entries see together."""
        return _Span(None, self.start, 0, self.width + (length - 1) * self.jump)

    def union(self, other: '_Span', shape: tuple[int, ...]) -> '_Span':
        """What entries made of one entry of each see, of arrays of one shape."""
        one, two = self, other
        if (one.axis, one.jump) != (two.axis, two.jump):
            one, two = (span if span.axis is None else span.whole(shape[span.axis]) for span in (one, two))
        start = min(one.start, two.start)
        return _Span(one.axis, start, one.jump, max(one.start + one.width, two.start + two.width) - start)

    def through(self, source: '_Span') -> '_Span':
        """The span on what `source` is a span on, if this one is a span on an array that has `source`."""
        return _Span(self.axis, source.start + self.start * source.jump, self.jump * source.jump,
                     source.width + (self.width - 1) * source.jump)


class _Source(NamedTuple):
    """What other arrays see rows of: the image, the product of a layer's weights, or what a layer puts out."""
    layer: str
    shape: tuple[int, ...]              # of one image: height, width and maps, or units
    span: _Span                         # on the image

    @property
    def rows(self) -> int:
        return self.shape[0] if len(self.shape) == 3 else 1


class _Value(NamedTuple):
    """What is known of an array: the sources that it sees, by number, and how many weights it holds, by layer."""
    reads: Mapping[int, _Span] = {}
    weights: Mapping[str, int] = {}


class _Product(NamedTuple):
    """A convolution or matrix product of the weights of a layer."""
    kind: str
    reads: Mapping[int, _Span]
    rows: int                           # of its output
    groups: int
    multiply_adds: int


class _Tracer:
    """Follows a program from the image to the outputs of the layers."""

    def __init__(self, names: Sequence[str], params: Params):
        self.names, self.params = names, params
        self.sources: list[_Source] = []
        self.owners = {layer: layer for layer in params if layer in names}  # {layer of parameters: the one tapped}
        self.products: dict[str, list[_Product]] = collections.defaultdict(list)    # by layer of parameters
        self.operations: set[str] = set()       # since the last tap
        self.touched: set[str] = set()          # layers whose parameters were read since then

    def follow(self, program: core.Jaxpr) -> tuple[Layer, ...]:
        """The layers of a program of the parameters and an image, whose outputs are theirs, in that order."""
        taps = collections.defaultdict(list)
        for name, variable in zip(self.names, program.outvars):
            taps[variable].append(name)
        *variables, image = program.invars
        paths = [path[0].key for path, _ in jax.tree_util.tree_leaves_with_path(self.params)]
        known = {variable: _Value(weights={layer: variable.aval.size}) for variable, layer in zip(variables, paths)}
        known[image] = self._source(IMAGE, image.aval.shape, _Span(None, 0, 1, 1))
        layers = {}
        for equation in program.eqns:
            self._run(equation, known)
            for variable in equation.outvars:
                for name in taps[variable]:
                    layers[name], span = self._layer(name, variable.aval.shape, known[variable].reads)
                    known[variable] = self._source(name, variable.aval.shape, span)
        return tuple(layers[name] for name in self.names)

    def _source(self, layer: str, shape: tuple[int, ...], span: _Span) -> _Value:
        self.sources.append(_Source(layer, _ints(shape[1:]), span))
        return _Value({len(self.sources) - 1: _Span(1 if len(shape) == 4 else None, 0, 1, 1)})

    def _on_image(self, reads: Mapping[int, _Span], shape: tuple[int, ...]) -> _Span:
        spans = [span.through(self.sources[number].span) for number, span in reads.items()]
        return functools.reduce(lambda one, other: one.union(other, shape), spans)

    def _layer(self, name: str, shape: tuple[int, ...], reads: Mapping[int, _Span]) -> tuple[Layer, _Span]:
        """The layer that ends with an array which sees `reads`."""
        for layer in self.touched:
            self.owners.setdefault(layer, name)
        own = [layer for layer in self.params if self.owners.get(layer) == name]
        products = [product for layer in own for product in self.products[layer]]
        span, rows = self._on_image(reads, shape), shape[1] if len(shape) == 4 else 1
        kind, inputs = self._kind(reads, rows, bool(own)), reads
        if products:
            kind, inputs, rows = products[-1].kind, products[-1].reads, products[-1].rows
        first = self.sources[min(inputs)]
        layer = Layer(
            name, kind, tuple(dict.fromkeys(self.sources[number].layer for number in sorted(inputs))), first.shape,
            _ints(shape[1:]), self._window(kind, inputs, rows), products[-1].groups if products else 1,
            {kind if layer == name else f'{layer}.{kind}': _ints(array.shape) for layer in own
             for kind, array in self.params[layer].items() if kind not in ('mean', 'var')},
            sum(product.multiply_adds for product in products), int(span.width),
            int(span.jump) if rows > 1 else None, int(span.start))
        self.operations, self.touched = set(), set()
        return layer, span

    def _kind(self, reads: Mapping[int, _Span], rows: int, has_parameters: bool) -> str:
        """What a layer without products of weights does, by the operations in it."""
        done = self.operations
        if len(reads) > 1:
            return 'concatenation' if 'concatenate' in done else 'other'
        (number, span), = reads.items()
        places = len(self.sources[number].shape) == 3
        if done & {'rsqrt', 'pow'}:
            return 'normalisation'
        if span.width > 1 or rows < self.sources[number].rows or {'reduce_sum', 'reduce_max'} & done and places:
            if has_parameters:
                return 'subsampling'
            if done & {'reduce_window_max', 'reduce_max'}:
                return 'min pooling' if 'neg' in done else 'max pooling'
            return 'average pooling' if done & {'reduce_window_sum', 'reduce_sum', 'add'} else 'other'
        return 'elementwise' if not done - ELEMENTWISE else 'other'

    def _window(self, kind: str, reads: Mapping[int, _Span], rows: int) -> Window | None:
        """The windows of a layer on what it reads; None for what reads single places, the whole, or several layers."""
        if len(reads) > 1 or kind in ('fully connected', 'elementwise', 'other'):
            return None
        (number, span), = reads.items()
        if kind == 'normalisation' and span.width == 1:
            return None
        stride = span.jump or 1
        overhang = (rows - 1) * stride + span.width + span.start - self.sources[number].rows
        return Window(*_ints((span.width, stride)), _ints((-span.start, overhang)))

    # ------------------------------------------------------------------------------------------------- operations

    def _run(self, equation, known: dict[Any, _Value]) -> None:
        """Adds what is known of an operation's outputs."""
        name = equation.primitive.name
        inputs = [_Value() if isinstance(v, core.Literal) else known.get(v, _Value()) for v in equation.invars]
        program = next((value for value in equation.params.values() if isinstance(value, PROGRAMS)), None)
        if name == 'cond':      # platform_dependent: the branches compute the same, and the last is the default
            program, inputs = equation.params['branches'][-1], inputs[1:]
        if program is not None:
            if name in ('scan', 'while'):
                raise NotImplementedError(f'geometry cannot follow {name}')
            outputs = self._call(getattr(program, 'jaxpr', program), inputs)
        else:
            self.operations.add(name)
            outputs = self._apply(equation, inputs)
        known.update(zip(equation.outvars, outputs))

    def _call(self, program: core.Jaxpr, inputs: Sequence[_Value]) -> list[_Value]:
        known = dict(zip(program.invars, inputs))
        for equation in program.eqns:
            self._run(equation, known)
        return [_Value() if isinstance(v, core.Literal) else known.get(v, _Value()) for v in program.outvars]

    def _apply(self, equation, inputs: Sequence[_Value]) -> list[_Value]:
        if not any(value.reads for value in inputs):
            return [_weights(equation, inputs, output.aval.size) for output in equation.outvars]
        for value in inputs:
            self.touched |= set(value.weights)
        outputs = []
        for number in range(len(equation.outvars)):
            shape, reads = equation.outvars[number].aval.shape, {}
            for i, value in enumerate(inputs):
                for source, span in value.reads.items():
                    moved = _move(equation, i, span, number)
                    reads[source] = reads[source].union(moved, shape) if source in reads else moved
            outputs.append(_Value(reads))
        weights = [(i, value.weights) for i, value in enumerate(inputs) if value.weights and not value.reads]
        if equation.primitive.name in ('conv_general_dilated', 'dot_general') and weights:
            (operand, held), = weights
            return [self._product(equation, operand, held, outputs[0].reads)]
        return outputs

    def _product(self, equation, operand: int, held: Mapping[str, int], reads: Mapping[int, _Span]) -> _Value:
        """What is known of a product with weights: a source of its own, as what follows reads its places."""
        shape, axis = equation.outvars[0].aval.shape, next(iter(reads.values())).axis
        if equation.primitive.name == 'conv_general_dilated':
            numbers = equation.params['dimension_numbers']
            kind, groups = 'convolution', equation.params['feature_group_count']
            uses = math.prod(shape) // shape[numbers.out_spec[1]]
        else:
            summed, shared = (numbers[operand] for numbers in equation.params['dimension_numbers'])
            weights = equation.invars[operand].aval
            uses = math.prod(shape) * math.prod(weights.shape[i] for i in summed) // weights.size
            kind = 'fully connected' if axis is None else 'locally connected' if shared else 'convolution'
            groups = 1
        rows = 1 if axis is None else shape[axis]
        for layer, weights in held.items():
            self.products[layer].append(_Product(kind, reads, rows, groups, uses * weights))
        layer = next(iter(held))
        self.sources.append(_Source(layer, _ints(shape[1:]), self._on_image(reads, shape)))
        return _Value({len(self.sources) - 1: _Span(axis, 0, 1, 1)})


def _ints(numbers: Sequence[int]) -> tuple[int, ...]:
    """NumPy's whole numbers, which a network may compute its sizes with, are no JSON."""
    return tuple(map(int, numbers))


def _weights(equation, inputs: Sequence[_Value], size: int) -> _Value:
    """How many weights an array made of parameters holds: a part of one holds a part of its weights."""
    found = collections.Counter()
    for variable, value in zip(equation.invars, inputs):
        for layer, weights in value.weights.items():
            found[layer] += weights * min(size, variable.aval.size) // variable.aval.size
    return _Value(weights=found)


def _move(equation, operand: int, span: _Span, output: int) -> _Span:
    """What entries of an output see through one of the operands.

    Raises:
      NotImplementedError: for an operation that is not known here and does not work entry by entry.
    """
    name, params, axis = equation.primitive.name, equation.params, span.axis
    shape, result = equation.invars[operand].aval.shape, equation.outvars[output].aval.shape
    if axis is None:
        return span
    whole = span.whole(shape[axis])
    match name:
        case 'conv_general_dilated':
            numbers = params['dimension_numbers']
            place = numbers.lhs_spec[2:].index(axis)
            size = equation.invars[1].aval.shape[numbers.rhs_spec[2 + place]]
            reach = (size - 1) * params['rhs_dilation'][place] + 1
            return span.windows(reach, params['window_strides'][place], params['padding'][place][0],
                                numbers.out_spec[2 + place])
        case 'dot_general':
            contracted, batch = (numbers[operand] for numbers in params['dimension_numbers'])
            if axis in contracted:
                return whole
            if axis in batch:
                return span.moved(batch.index(axis))
            free = [[i for i in range(variable.aval.ndim) if i not in summed and i not in shared] for
                    variable, summed, shared in zip(equation.invars, *params['dimension_numbers'])]
            return span.moved(len(batch) + operand * len(free[0]) + free[operand].index(axis))
        case 'reduce_window_max' | 'reduce_window_min' | 'reduce_window_sum' | 'reduce_window':
            reach = (params['window_dimensions'][axis] - 1) * params['window_dilation'][axis] + 1
            return span.windows(reach, params['window_strides'][axis], params['padding'][axis][0], axis)
        case 'reduce_sum' | 'reduce_max' | 'reduce_min' | 'reduce_prod' | 'argmax' | 'argmin':
            return whole if axis in params['axes'] else span.moved(axis - sum(i < axis for i in params['axes']))
        case 'squeeze':
            return whole if axis in params['dimensions'] else \
                span.moved(axis - sum(i < axis for i in params['dimensions']))
        case 'pad' if not params['padding_config'][axis][2]:
            return span.windows(1, 1, params['padding_config'][axis][0], axis)
        case 'slice':
            strides = params['strides'] or (1,) * len(shape)
            return span.windows(1, strides[axis], -params['start_indices'][axis], axis)
        case 'split':
            before = sum(params['sizes'][:output]) if params['axis'] == axis else 0
            return span.windows(1, 1, -before, axis)
        case 'concatenate':
            return whole if params['dimension'] == axis else span
        case 'transpose':
            return span.moved(params['permutation'].index(axis))
        case 'broadcast_in_dim':
            to = params['broadcast_dimensions'][axis]
            return span.moved(to) if result[to] == shape[axis] else whole
        case 'reshape':
            same = [i for i, length in enumerate(result) if i and length == shape[axis] and
                    math.prod(result[:i]) == math.prod(shape[:axis])]
            return span.moved(same[0]) if same else whole
    if shape != result or name.startswith(('cum', 'sort', 'rev', 'gather', 'scatter', 'dynamic')):
        raise NotImplementedError(f'geometry cannot follow {name}')
    return span
