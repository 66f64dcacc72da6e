"""Trained weights as others publish them: torch state dicts, safetensors and Caffe's caffemodels, read without torch or
Caffe; and the changes of layout that bring them into our form.

A torch file is a pickle, a program that builds objects. Only state dicts are built here: a file that asks for anything
but ordered dictionaries, tensors and their storages is refused before it gets it.
"""
import collections
import functools
import io
import math
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from lib.experiment import UsageError, require


class ResponseNorm(NamedTuple):
    """Local response normalisation as a caffemodel states it; Caffe divides `alpha` by `n`."""
    n: int
    alpha: float
    beta: float
    k: float
    across: bool                        # over neighbouring maps, not within a map


class Layer(NamedTuple):
    """A layer of a caffemodel, with weights or without."""
    name: str
    type: str                           # 'Convolution', 'InnerProduct', 'LRN', 'Pooling', 'ReLU', ...
    response_norm: ResponseNorm | None  # of an LRN layer


class Saved(NamedTuple):
    """What a file of weights holds."""
    path: Path
    format: str                         # 'torch state dict', 'safetensors' or 'caffemodel'
    # By the file's own names, in a caffemodel 'layer.0' and 'layer.1' for a layer's weights and biases. Floating-point
    # numbers of any width become float32. Shapes are the file's: [outputs, inputs, height, width], [outputs, inputs].
    arrays: dict[str, np.ndarray]
    network: str = ''                   # its name in a caffemodel
    layers: tuple[Layer, ...] = ()      # of a caffemodel, in the order of the file


def read(path: Path) -> Saved:
    """The weights in a file, whose format is found by its content.

    Torch files are read in the zip format and in the one before torch 1.6: a state dict, or one under 'state_dict';
    entries that are no tensors are left out, and so is the prefix 'module.' of DataParallel. Caffemodels are read with
    old (V1) and new layers.

    Raises:
      UsageError: if the file cannot be read, is damaged, is of no known format, or holds more than weights.
    """
    path = Path(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f'{path} cannot be read ({error.strerror or error}): name a file of weights.') from error
    try:
        if content.startswith(b'PK'):
            return Saved(path, 'torch state dict', _read_torch_zip(content, path))
        if content.startswith(TORCH_MAGIC):
            return Saved(path, 'torch state dict', _read_torch_stream(content, path))
        if content[257:262] == b'ustar':
            raise UsageError(f'{path} is a tar file, as torch wrote before 0.1.10: load it with torch and save it '
                             'again, or take a newer file of the same weights.')
        if content[8:9] == b'{' and int.from_bytes(content[:8], 'little') < SAFETENSORS_HEADER_LIMIT:
            return Saved(path, 'safetensors', _float32(safetensors.numpy.load_file(path)))
        return _read_caffemodel(content, path)
    except UsageError:
        raise
    except Exception as error:      # of many kinds, for a file that is cut off, damaged or made to do harm
        raise UsageError(f'{path} cannot be read, it is cut off or damaged ({type(error).__name__}: {error}): get it '
                         'again.') from error


def convolution_kernel(weight: np.ndarray) -> np.ndarray:
    """[outputs, inputs, height, width] -> [height, width, inputs, outputs]."""
    return weight.transpose(2, 3, 1, 0)


def linear_kernel(weight: np.ndarray, size: tuple[int, int] = (1, 1)) -> np.ndarray:
    """[outputs, inputs] -> [inputs, outputs].

    A layer that reads maps of height and width `size` reads them flattened as (maps, height, width) in torch and Caffe;
    here as (height, width, maps).

    Raises:
      ValueError: if maps of that size do not divide the inputs.
    """
    outputs, inputs = weight.shape
    return weight.reshape(outputs, -1, *size).transpose(2, 3, 1, 0).reshape(inputs, outputs)


def parameters(path: Path, network: str, wanted: Mapping[str, Mapping[str, Any]],
               weights: Mapping[str, tuple[np.ndarray, np.ndarray]], flattened: Mapping[str, tuple[int, int]],
               kept: Mapping[str, float]) -> dict[str, dict[str, np.ndarray]]:
    """Weights and biases as torch and Caffe have them, by our layers, in our layout and order, float32.

    Args:
      path: of their file, and `network`, the name of what they are expected to be: for the message.
      wanted: {layer: {'kernel', 'bias'}}, of anything with a shape.
      weights: {layer: (weight, bias)}, [outputs, inputs, height, width] or [outputs, inputs].
      flattened: {layer: (height, width)} of the maps that a fully connected layer reads.
      kept: {layer: fraction}, where what a layer reads has been through dropout that keeps this fraction: there outputs
        are divided by it in training, here they are multiplied by it in a test, so that the kernel is divided by it.

    Raises:
      UsageError: if they have other shapes.
    """
    found = {}
    for layer, arrays in wanted.items():
        weight, bias = weights[layer]
        shape = arrays['kernel'].shape
        shape = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]
        require((weight.shape, bias.shape) == (shape, arrays['bias'].shape),
                f'{path} does not fit {network}: the weights and biases of {layer} have the shapes {weight.shape} and '
                f'{bias.shape}, expected {shape} and {arrays["bias"].shape}.')
        if weight.ndim == 4:
            kernel = convolution_kernel(weight)
        else:
            kernel = linear_kernel(weight, flattened.get(layer, (1, 1)))
        found[layer] = {'kernel': np.ascontiguousarray(kernel / kept.get(layer, 1), np.float32),
                        'bias': np.array(bias, np.float32)}
    return found


def some(names: Iterable[str]) -> str:
    """The first six of them, sorted, for a message."""
    names = sorted(names)
    return ', '.join(names[:6]) + ' and so on' * (len(names) > 6) if names else 'none'


def swap_red_and_blue(kernel: np.ndarray) -> np.ndarray:
    """A first kernel [height, width, 3, outputs] that reads BGR images, for RGB ones; and the other way round."""
    return np.ascontiguousarray(kernel[:, :, ::-1])


def divide_channels(kernel: np.ndarray, divisors: tuple[float, ...]) -> np.ndarray:
    """A first kernel [height, width, channels, outputs] that reads images whose channels were divided, for undivided
    ones."""
    return kernel / np.asarray(divisors, kernel.dtype)[:, None]


def _float32(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: array.astype(np.float32, copy=False) if jnp.issubdtype(array.dtype, jnp.floating) else array
            for name, array in arrays.items()}


# torch

# What a file before torch 1.6 begins with: a pickle of the number 0x1950a86a20f9469cfc6c.
TORCH_MAGIC = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'
STORAGES = {'FloatStorage': np.float32, 'DoubleStorage': np.float64, 'HalfStorage': np.float16,
            'BFloat16Storage': jnp.bfloat16, 'LongStorage': np.int64}


class _Storage(NamedTuple):
    """A flat run of numbers that tensors look into."""
    kind: str                           # of STORAGES
    key: str
    count: int


class _Tensor(NamedTuple):
    """A view into a storage, in elements; nothing of it is checked yet."""
    storage: Any
    offset: Any
    size: Any
    stride: Any


# Instances without attributes, because a pickle can set the attributes of whatever it is given.
class _RebuildTensor:
    __slots__ = ()

    def __call__(self, storage, offset, size, stride, *autograd):
        return _Tensor(storage, offset, size, stride)


class _RebuildParameter:
    __slots__ = ()

    def __call__(self, tensor, *autograd):
        return tensor


ALLOWED = {
    ('collections', 'OrderedDict'): collections.OrderedDict,
    ('torch._utils', '_rebuild_tensor_v2'): _RebuildTensor(),
    ('torch._utils', '_rebuild_tensor'): _RebuildTensor(),      # torch before 0.4
    ('torch._utils', '_rebuild_parameter'): _RebuildParameter(),
} | {('torch', kind): kind for kind in STORAGES}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, path: Path):
        super().__init__(file)
        self.path, self.kinds = path, {}        # kinds: of the storages by their keys

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise UsageError(f'{self.path} is refused: it asks for {module}.{name}, which the weights of a network do '
                             'not need; save the state_dict alone.')
        return ALLOWED[module, name]

    def persistent_load(self, identity: Any) -> _Storage:
        word, kind, key, _, count, *view = identity
        if word != 'storage' or any(view):
            raise pickle.UnpicklingError(f'{identity} is no storage')
        self.kinds[key] = kind
        return _Storage(kind, key, count)


def _read_torch_zip(content: bytes, path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        entries = {entry.filename: entry for entry in file.infolist()}
        found = [name for name in entries if name.endswith('/data.pkl')]
        require(len(found) == 1, f'{path} is a zip file but no torch state dict, which has a data.pkl.')
        root = found[0].removesuffix('data.pkl')

        # torch never compresses, and what is not compressed cannot grow.
        def entry(name: str) -> bytes:
            if entries[root + name].compress_type != zipfile.ZIP_STORED:
                raise zipfile.BadZipFile(f'{name} is compressed')
            return file.read(root + name)

        if root + 'byteorder' in entries:
            _require_little_endian(entry('byteorder') == b'little', path)
        tree = _Unpickler(io.BytesIO(entry('data.pkl')), path).load()
        return _state_dict(tree, functools.cache(lambda storage: entry(f'data/{storage.key}')), path)


def _read_torch_stream(content: bytes, path: Path) -> dict[str, np.ndarray]:
    """Pickles one after the other (magic number, version, machine, objects, keys of the storages), then the storages,
    each its number of elements in eight bytes and the elements."""
    file = io.BytesIO(content)
    parts = [_Unpickler(file, path) for _ in range(5)]
    _, _, machine, tree, keys = (part.load() for part in parts)
    _require_little_endian(machine['little_endian'], path)
    storages = {}
    for key in keys:
        count, size = int.from_bytes(file.read(8), 'little'), np.dtype(STORAGES[parts[3].kinds[key]]).itemsize
        storages[key] = file.read(count * size)
    return _state_dict(tree, lambda storage: storages[storage.key], path)


def _require_little_endian(little: bool, path: Path) -> None:
    require(little, f'{path} was written on a big-endian machine: load it there and save it as safetensors.')


def _tensors(tree: Any, path: Path) -> dict[str, _Tensor]:
    """The tensors of a state dict by name, or of the one under 'state_dict'."""
    if isinstance(tree, dict) and isinstance(dict.get(tree, 'state_dict'), dict):
        tree = dict.get(tree, 'state_dict')
    require(isinstance(tree, dict), f'{path} holds no state dict but a {type(tree).__name__}: save model.state_dict().')
    return {name: value for name, value in dict.items(tree)
            if isinstance(name, str) and isinstance(value, _Tensor)}


def _state_dict(tree: Any, content_of, path: Path) -> dict[str, np.ndarray]:
    tensors = _tensors(tree, path)
    require(bool(tensors), f'{path} holds no tensors by name: save model.state_dict().')
    arrays = {name: _view(name, tensor, content_of) for name, tensor in tensors.items()}
    if all(name.startswith('module.') for name in arrays):
        arrays = {name.removeprefix('module.'): array for name, array in arrays.items()}
    return _float32(arrays)


def _view(name: str, tensor: _Tensor, content_of) -> np.ndarray:
    """The array that a tensor shows of its storage, without a copy.

    Raises:
      ValueError: if it would look beyond the storage, or show more numbers than are there.
    """
    storage, offset, size, stride = tensor
    dtype = np.dtype(STORAGES[storage.kind])
    if min(offset, storage.count, *size, *stride) < 0:
        raise ValueError(f'{name} has offset {offset}, size {size} and stride {stride}')
    count = math.prod(size)
    end = offset + 1 + sum((length - 1) * step for length, step in zip(size, stride, strict=True)) if count else offset
    if max(end, count) > storage.count:
        raise ValueError(f'{name} needs {max(end, count)} numbers of a storage of {storage.count}')
    numbers = np.frombuffer(content_of(storage), dtype, storage.count)[offset:]
    return np.lib.stride_tricks.as_strided(numbers, size, [step * dtype.itemsize for step in stride], writeable=False)


# safetensors

SAFETENSORS_HEADER_LIMIT = 100_000_000      # bytes, of the format


# Caffe

# Field numbers of caffe.proto. Values are declared as bytes, which a packed field of floats is on the wire: so none of
# 60 million becomes a Python number.
FIELDS = {
    'Net': {'name': (1, 'bytes'), 'layers': (2, '*OldLayer'), 'layer': (100, '*Layer')},
    'OldLayer': {'older': (1, 'bytes'), 'name': (4, 'bytes'), 'type': (5, 'int64'), 'blobs': (6, '*Blob'),
                 'lrn_param': (18, 'ResponseNorm')},
    'Layer': {'name': (1, 'bytes'), 'type': (2, 'bytes'), 'blobs': (7, '*Blob'), 'lrn_param': (118, 'ResponseNorm')},
    'Blob': {'num': (1, 'int64'), 'channels': (2, 'int64'), 'height': (3, 'int64'), 'width': (4, 'int64'),
             'data': (5, '*bytes'), 'shape': (7, 'Shape'), 'double_data': (8, '*bytes')},
    'Shape': {'dim': (1, '*int64')},
    'ResponseNorm': {'local_size': (1, 'int64', '5'), 'alpha': (2, 'float', '1'), 'beta': (3, 'float', '0.75'),
                     'norm_region': (4, 'int64'), 'k': (5, 'float', '1')},
}
# Of V1LayerParameter.LayerType, by the names that the new format has for them.
OLD_TYPES = {4: 'Convolution', 14: 'InnerProduct', 15: 'LRN', 17: 'Pooling', 18: 'ReLU'}
# Old blobs have four sides whatever they hold: how many of them are meant, by the layer's type and the blob's number.
SIDES = {('Convolution', 1): 1, ('InnerProduct', 0): 2, ('InnerProduct', 1): 1}


@functools.cache
def _net_message() -> type:
    """The class of Caffe's NetParameter, with the fields that are read here."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name='caffemodel.proto', package='caffemodel', syntax='proto2')
    for message, fields in FIELDS.items():
        declared = file.message_type.add(name=message)
        for name, (number, kind, *default) in fields.items():
            field = declared.field.add(name=name, number=number, label=kinds.LABEL_OPTIONAL)
            if kind.startswith('*'):
                field.label = kinds.LABEL_REPEATED
            kind = kind.removeprefix('*')
            if kind in FIELDS:
                field.type, field.type_name = kinds.TYPE_MESSAGE, f'.caffemodel.{kind}'
            else:
                field.type = kinds.Type.Value(f'TYPE_{kind.upper()}')
            if default:
                field.default_value = default[0]
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName('caffemodel.Net'))


def _read_caffemodel(content: bytes, path: Path) -> Saved:
    net = _net_message()()
    try:
        net.ParseFromString(content)
    except DecodeError:
        net.Clear()
    if not net.layers and not net.layer:
        raise UsageError(f'{path} is no torch state dict, safetensors or caffemodel, or is cut off: name a file of '
                         'weights, or get it again.')
    require(not any(layer.older for layer in net.layers),
            f'{path} has layers of the oldest kind (V0): bring it up to date with upgrade_net_proto_binary of Caffe.')
    arrays, layers = {}, []
    for layer in net.layer or net.layers:
        kind = layer.type.decode() if net.layer else OLD_TYPES.get(layer.type, f'V1 type {layer.type}')
        name, norm = layer.name.decode(), layer.lrn_param
        layers.append(Layer(name, kind, ResponseNorm(norm.local_size, norm.alpha, norm.beta, norm.k,
                                                     norm.norm_region == 0) if kind == 'LRN' else None))
        for number, blob in enumerate(layer.blobs):
            require(f'{name}.{number}' not in arrays, f'{path} has two layers with weights called {name}.')
            arrays[f'{name}.{number}'] = _blob(f'{name}.{number}', blob, SIDES.get((kind, number), 4))
    return Saved(path, 'caffemodel', _float32(arrays), net.name.decode(), tuple(layers))


def _blob(name: str, blob: Any, sides: int) -> np.ndarray:
    """The array of a blob; of an old one the last `sides`.

    Raises:
      ValueError: if its sides do not fit its numbers.
    """
    shape = list(blob.shape.dim)
    if any(blob.HasField(side) for side in ('num', 'channels', 'height', 'width')):
        shape = [blob.num, blob.channels, blob.height, blob.width][-sides:]
    values, dtype = (blob.double_data, '<f8') if blob.double_data else (blob.data, '<f4')
    numbers = np.frombuffer(b''.join(values), dtype)
    if min(shape, default=0) < 0 or math.prod(shape) != numbers.size:
        raise ValueError(f'{name} has the shape {shape} and {numbers.size} numbers')
    return numbers.reshape(shape)
