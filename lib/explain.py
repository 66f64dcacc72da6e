"""The arithmetic behind a network's sizes, parameters and receptive fields, written out in words and numbers.

What is said of a layer or a network follows from its geometry; what is known of one paper only, its `lessons` say.
"""
import math
from collections.abc import Iterator, Sequence

from lib.geometry import IMAGE, Geometry, Layer, Window


def by(numbers: Sequence[int]) -> str:
    """55x55x96."""
    return 'x'.join(map(str, numbers))


def layer(network: Geometry, name: str) -> list[str]:
    """Of one layer, the sentences about its size, parameters, multiply-adds, memory and receptive field, and what its
    groups and 1x1 windows save.

    Raises:
      KeyError: if the network has no such layer.
    """
    here = network[name]
    sizes = f'{by(here.input)} to {by(here.size)}' if len(here.reads) == 1 else f'to {by(here.size)}'
    kind = f' ({here.kind})' if here.kind != 'other' else ''
    return [f'{name}{kind} reads {", ".join(here.reads)}: {sizes}.', *_size(here), _parameters(here), *_work(here),
            _memory(here), *_receptive_field(network, here), *_connections(here), *_groups(here), *_one(here),
            *_reduction(network, here)]


def lessons(network: Geometry) -> list[str]:
    """What the network as a whole shows: stacks of small windows, groups, 1x1 reductions."""
    return [*_stacks(network), *_all_groups(network), *_all_reductions(network)]


# --------------------------------------------------------------------------------------------------------- one layer

def _size(here: Layer) -> Iterator[str]:
    if here.window is None:
        return
    if here.is_pooling and here.is_global:
        yield f'Size: one window of {by(here.input[:2])} places, all there are, leaves one number a map.'
        return
    window, length, count = here.window, here.input[0], here.size[0]
    (size, stride, (left, right)) = window
    both = f'{length} + 2 * {left}' if left else f'{length}'
    steps = (length + 2 * left - size) / stride
    if count == 1 + steps:
        yield f'Size: 1 + ({both} - {size}) / {stride} = {count}.'
    elif count in (1 + math.ceil(steps), 1 + math.floor(steps)):
        rounding = 'ceil' if count == 1 + math.ceil(steps) else 'floor'
        yield f'Size: 1 + {rounding}(({both} - {size}) / {stride}) = {count}; the quotient is {steps:g}.'
    else:
        yield (f'Size: a last window that would lie beyond the image is dropped: 1 + ({length} + {left} + {right} - '
               f'{size}) / {stride} = {count}.')
    if stride == 1 and size > 1 and count == length:
        yield f'A border of ({size} - 1) / 2 = {left} on all sides keeps the size.'
    if right != left:
        yield _border(here, window)
    if here.reads == (IMAGE,) and stride > 1:
        exact = length + left + right - 2 * left
        first, last = (exact - stride + 1, exact) if right >= left else (exact, exact + stride - 1)
        way = 'up' if right >= left else 'down'
        yield f'Rounded {way}, any image of {first} to {last} pixels gives {count} places; {exact} is exact.'


def _border(here: Layer, window: Window) -> str:
    """What happens at the right and bottom where the stride does not divide."""
    size, stride, (left, right) = window
    span = here.input[0] + 2 * left - size
    text = f'The stride of {stride} does not divide {span}: '
    if right > left:
        filled = {'max pooling': 'there is nothing: only the part on the image counts for the largest value',
                  'min pooling': 'there is nothing: only the part on the image counts for the smallest value',
                  'average pooling': 'there is nothing: the mean is over the part on the image'}
        where = f'by {_pixels(right)}' + (f' of zeros at the right and bottom{" in all" * bool(left)}.'
                                          if here.kind not in filled else
                                          f' at the right and bottom, where {filled[here.kind]}.')
        return f'{text}rounded up, the last window overhangs {where}'
    if right >= 0:
        return f'{text}rounded down, the border of {left} is {right} wide at the right and bottom.'
    return f'{text}rounded down, no window reads the last {_pixels(-right)} at the right and bottom.'


def _pixels(count: int) -> str:
    return f'{count} pixel{"s" * (count != 1)}'


def _parameters(here: Layer) -> str:
    if not here.shapes:
        what = 'pooling has' if here.is_pooling else f'{here.kind} has'
        return f'Parameters: {what} none.' if here.kind != 'other' else 'Parameters: none.'
    shapes = sorted(here.shapes.items(), key=lambda item: item[0].endswith('bias'))
    shown = ' + '.join(by(_as_read(here, shape) if kind == 'kernel' else shape) for kind, shape in shapes)
    text = f'Parameters: {shown} = {here.parameters:,}'
    if here.kind == 'convolution' and math.prod(here.size[:2]) > 1:
        if here.reads == (IMAGE,) and len(here.shapes['kernel']) == 4:
            text += f' (not {by(here.size)}x{here.shapes["kernel"][2]}, as study notes have it)'
        return f'{text}; all {by(here.size[:2])} places share them.'
    if here.kind == 'locally connected':
        return f'{text}; a convolution would share the weights of one place among all: 1/{math.prod(here.size[:2])}.'
    if here.kind == 'subsampling':
        return f'{text}: a coefficient and a bias a map.'
    return f'{text}.'


def _as_read(here: Layer, kernel: tuple[int, ...]) -> tuple[int, ...]:
    """A fully connected layer's kernel by the height, width and maps that it reads."""
    return (*here.input, kernel[-1]) if here.kind == 'fully connected' else kernel


def _work(here: Layer) -> Iterator[str]:
    if not here.multiply_adds:
        return
    if here.kind == 'convolution':
        yield (f'Multiply-adds: {by(here.size[:2])} places x {here.weights:,} weights = {here.multiply_adds:,}.')
    else:
        yield f'Multiply-adds: each weight is used once, {here.multiply_adds:,}.'


def _memory(here: Layer) -> str:
    parameters = f', and of its parameters {here.parameter_bytes:,}' if here.shapes else ''
    return f'Memory in float32: 4 x {by(here.size)} = {here.output_bytes:,} bytes of its output{parameters}.'


def _receptive_field(network: Geometry, here: Layer) -> Iterator[str]:
    side = network.image_size
    if not here.has_places and here.kind != 'average pooling':
        if here.start <= 0 and here.start + here.receptive_field >= side:
            yield 'Receptive field: the whole image.'
        return
    before = network[here.reads[0]] if here.reads[0] != IMAGE else None
    field, jump = (before.receptive_field, before.jump or 1) if before else (1, 1)
    text = f'Receptive field: {here.receptive_field} pixels a side'
    if len(here.reads) > 1:
        fields = [network[name].receptive_field for name in here.reads]
        text = f'Receptive field: the largest of {", ".join(map(str, fields))} pixels'
    elif here.window and here.window.size > 1:
        text = f'Receptive field: {field} + ({here.window.size} - 1) x {jump} = {here.receptive_field} pixels a side'
    if here.jump:
        stride = here.window.stride if here.window else 1
        apart = f'{jump} x {stride} = {here.jump}' if stride > 1 and jump > 1 else str(here.jump)
        text += f', {apart} apart'
    start = f'begins {_pixels(-here.start)} before the image' if here.start < 0 else \
        f'begins at pixel {here.start}'
    yield f'{text}; the first {start}.'
    if here.receptive_field > side:
        yield f'That is more than the {side} of the image: the rest is border.'


def _groups(here: Layer) -> Iterator[str]:
    if here.groups == 1:
        return
    kernel = here.shapes['kernel']
    whole = (*kernel[:2], kernel[2] * here.groups, kernel[3])
    yield (f'Groups: each of the {here.groups} reads {kernel[2]} of the {whole[2]} maps, so {by(kernel)} = '
           f'{math.prod(kernel):,} weights instead of {by(whole)} = {math.prod(whole):,} with groups=1, and '
           f'{here.multiply_adds:,} multiply-adds instead of {here.multiply_adds * here.groups:,}.')


def _connections(here: Layer) -> Iterator[str]:
    kernel = here.shapes.get('kernel', ())
    if here.kind == 'convolution' and len(kernel) == 3:
        pairs = (here.input[-1], here.size[-1])
        yield (f'Connections: {kernel[-1]} of the {by(pairs)} = {math.prod(pairs)} pairs of maps have a kernel; with '
               f'all of them it would be {by(kernel[:2])}x{by(pairs)} = {math.prod(kernel[:2] + pairs):,} weights.')


def _one(here: Layer) -> Iterator[str]:
    if here.kind == 'convolution' and here.window.size == 1 and here.has_places:
        yield 'A 1x1 window mixes the maps of one place and widens no receptive field.'


# --------------------------------------------------------------------------------------------------- several layers

def reductions(network: Geometry) -> list[tuple[Layer, Layer]]:
    """Pairs of a 1x1 convolution to fewer maps, and the larger convolution that alone reads it."""
    pairs = []
    for after in network.layers:
        if after.kind == 'convolution' and after.window.size > 1 and after.reads[0] != IMAGE and after.groups == 1:
            before = network[after.reads[0]]
            alone = sum(before.name in other.reads for other in network.layers) == 1
            if before.kind == 'convolution' and before.window.size == 1 and alone and before.size[2] < before.input[2]:
                pairs.append((before, after))
    return pairs


def _without(before: Layer, after: Layer) -> tuple[int, int]:
    """Weights and multiply-adds of the larger convolution if it read what its reduction reads."""
    weights = after.window.size**2 * before.input[2] * after.size[2]
    return weights, math.prod(after.size[:2]) * weights


def _reduction(network: Geometry, here: Layer) -> Iterator[str]:
    for before, after in reductions(network):
        if here.name in (before.name, after.name):
            weights, work = _without(before, after)
            size, inputs, outputs = after.window.size, before.input[2], after.size[2]
            with_it = before.weights + after.weights
            yield (f'1x1 reduction: {inputs}x{before.size[2]} + {size}x{size}x{before.size[2]}x{outputs} = {with_it:,} '
                   f'weights and {before.multiply_adds + after.multiply_adds:,} multiply-adds; {size}x{size} without '
                   f'its reduction would take {size}x{size}x{inputs}x{outputs} = {weights:,} and {work:,}, '
                   f'{work / (before.multiply_adds + after.multiply_adds):.1f} times as many.')


def _all_reductions(network: Geometry) -> Iterator[str]:
    pairs = reductions(network)
    if pairs:
        weights, work = (sum(numbers) for numbers in zip(*(_without(*pair) for pair in pairs)))
        less_weights = sum(layer.weights for pair in pairs for layer in pair)
        less_work = sum(layer.multiply_adds for pair in pairs for layer in pair)
        yield (f'1x1 reductions: {len(pairs)} convolutions read fewer maps through one. With them they take '
               f'{less_weights:,} weights and {less_work:,} multiply-adds; without, on the same maps, {weights:,} and '
               f'{work:,}: {work / less_work:.1f} times the work.')


def _all_groups(network: Geometry) -> Iterator[str]:
    grouped = [layer for layer in network.layers if layer.groups > 1]
    if grouped:
        weights = sum((layer.groups - 1) * layer.weights for layer in grouped)
        work = sum((layer.groups - 1) * layer.multiply_adds for layer in grouped)
        yield (f'Groups in {", ".join(layer.name for layer in grouped)}: {network.total:,} parameters instead of '
               f'{network.total + weights:,} with groups=1, and {network.multiply_adds:,} multiply-adds instead of '
               f'{network.multiply_adds + work:,}.')


def stacks(network: Geometry) -> list[list[Layer]]:
    """Convolutions of one size, larger than 1x1, at stride 1 that read one another with nothing but units between."""
    found: list[list[Layer]] = []
    origin = {}             # of what only units lie between
    for layer in network.layers:
        before = origin.get(layer.reads[0], layer.reads[0])
        if layer.kind == 'elementwise' or layer.kind == 'normalisation' and layer.window is None:
            origin[layer.name] = before
        elif layer.kind == 'convolution' and layer.window.stride == 1 and layer.window.size > 1:
            if found and found[-1][-1].name == before and found[-1][-1].window.size == layer.window.size:
                found[-1].append(layer)
            else:
                found.append([layer])
    return [stack for stack in found if len(stack) > 1]


def _stacks(network: Geometry) -> Iterator[str]:
    found = stacks(network)
    if not found:
        return
    stack = max(found, key=len)
    count, size = len(stack), stack[0].window.size
    seen = 1 + count * (size - 1)
    below = stack[0].reads[0]
    yield (f'{stack[0].name} to {stack[-1].name}: {count} layers of {size}x{size} at stride 1 see 1 + L(K - 1) = 1 + '
           f'{count} x {size - 1} = {seen} places a side of {below}, as one {seen}x{seen} would; for C maps in and '
           f'out, without groups, with {count * size**2} C^2 weights instead of {seen**2} C^2.')
    if size == 3:
        yield ('Three 3x3 layers, not two, see as far as one 7x7: 27 C^2 weights against 49 C^2. Two see as far as one '
               '5x5: 18 C^2 against 25 C^2.')
    if below != IMAGE and network[below].jump != 1:
        first = network[below]
        yield (f'1 + L(K - 1) holds for stride 1 only: on the image, where the places of {below} lie {first.jump} '
               f'pixels apart and see {first.receptive_field}, {stack[-1].name} sees {first.receptive_field} + '
               f'{count} x {size - 1} x {first.jump} = {stack[-1].receptive_field}.')
