"""Files of weights: as torch and safetensors write them, written by hand, damaged, and made to do harm."""
import io
import json
import pickle
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from lib import importers
from lib.experiment import UsageError


@pytest.fixture
def torch():
    return pytest.importorskip('torch', reason='needs torch: install requirements-peer.txt')


@pytest.fixture
def read(tmp_path):
    """Writes bytes to a file and reads it as weights. The name has no suffix: the format is found by the content."""
    def read(content: bytes) -> importers.Saved:
        path = tmp_path / 'weights'
        path.write_bytes(content)
        return importers.read(path)
    return read


# torch files written by hand: a pickle in text opcodes, in either container.

def word(text: str) -> bytes:
    return b"S'%s'\n" % text.encode()


def number(value) -> bytes:
    return b'I%d\n' % value if isinstance(value, int) else b'F%r\n' % value


def together(*values) -> bytes:
    return b'(' + b''.join(map(number, values)) + b't'


def storage(kind='FloatStorage', key='0', count=6, view=b'') -> bytes:
    identity = word('storage') + b'ctorch\n%s\n' % kind.encode() + word(key) + word('cpu') + number(count)
    return b'(' + identity + view + b'tQ'


def tensor(offset=0, size=(2, 3), stride=(3, 1), function='_rebuild_tensor_v2', **of) -> bytes:
    autograd = b'' if function == '_rebuild_tensor' else b'I00\nccollections\nOrderedDict\n)R'
    return b'ctorch._utils\n%s\n(' % function.encode() + storage(**of) + number(offset) + together(*size) \
        + together(*stride) + autograd + b'tR'


def dictionary(**values: bytes) -> bytes:
    return b'ccollections\nOrderedDict\n)R(' + b''.join(word(name) + value for name, value in values.items()) + b'u'


VALUES = np.arange(1, 7, dtype=np.float32) / 8


def in_zip(tree: bytes, compression=zipfile.ZIP_STORED, **entries) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', compression) as archive:
        archive.writestr('archive/data.pkl', tree + b'.')
        for name, content in entries.items():
            archive.writestr(f'archive/{name}', content)
        archive.writestr('archive/data/0', VALUES.tobytes())
    return file.getvalue()


def in_stream(tree: bytes, little=True) -> bytes:
    parts = [pickle.dumps(part, 2) for part in (0x1950a86a20f9469cfc6c, 1001, {'little_endian': little})]
    return b''.join(parts) + tree + b'.' + pickle.dumps(['0'], 2) + struct.pack('<q', len(VALUES)) + VALUES.tobytes()


CONTAINERS = pytest.mark.parametrize('container', [in_zip, in_stream])


@CONTAINERS
@pytest.mark.parametrize('function', ['_rebuild_tensor_v2', '_rebuild_tensor'])
def test_torch_file_written_by_hand(read, container, function):
    tree = dictionary(a=tensor(function=function), b=tensor(offset=1, size=(2, 2), stride=(1, 3)), epoch=number(7))
    saved = read(container(tree))
    assert saved.format == 'torch state dict' and list(saved.arrays) == ['a', 'b']
    np.testing.assert_array_equal(saved.arrays['a'], VALUES.reshape(2, 3))
    np.testing.assert_array_equal(saved.arrays['b'], [[VALUES[1], VALUES[4]], [VALUES[2], VALUES[5]]])


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('wrap', ['plain', 'state_dict', 'parallel'])
def test_state_dicts_as_torch_writes_them(torch, tmp_path, legacy, wrap):
    base = torch.randn(5, 4, 3)
    tensors = {'weight': base, 'turned': base.permute(2, 0, 1), 'part': base[1:3, ::2], 'scalar': torch.tensor(2.5),
               'none': torch.zeros(3, 0), 'parameter': torch.nn.Parameter(torch.randn(4)),
               'half': base.half(), 'brain': base.bfloat16(), 'double': base.double(), 'counter': torch.arange(3)}
    module = torch.nn.Linear(3, 2)
    tensors |= {f'linear.{name}': value for name, value in module.state_dict().items()}
    whole = {'plain': module.state_dict() | tensors | {'epoch': 3, 'note': 'text'},
             'state_dict': {'optimizer': [torch.ones(7, dtype=torch.int64)], 'state_dict': tensors, 'best': 1.5},
             'parallel': {f'module.{name}': value for name, value in tensors.items()}}[wrap]
    torch.save(whole, tmp_path / 'file', _use_new_zipfile_serialization=not legacy)
    arrays = importers.read(tmp_path / 'file').arrays
    assert set(arrays) == set(tensors) | ({'weight', 'bias'} if wrap == 'plain' else set())
    for name, value in tensors.items():
        expected = value.detach() if value.dtype == torch.int64 else value.detach().float()
        assert arrays[name].dtype == expected.numpy().dtype, name
        np.testing.assert_array_equal(arrays[name], expected.numpy(), err_msg=name)


HARM = {
    'posix.system': b'cposix\nsystem\n(%st' + b'R',
    'os.system': b'cos\nsystem\n(%st' + b'R',
    'subprocess.call': b'(isubprocess\ncall\n%s',       # another opcode for the same, left without its mark
    'builtins.eval': b'cbuiltins\neval\n(%st' + b'R',
    'builtins.getattr': b'cbuiltins\ngetattr\n(%st' + b'R',
    '__builtin__.apply': b'c__builtin__\napply\n(%st' + b'R',
    'torch.load': b'ctorch\nload\n(%st' + b'R',
    'torch.nn.modules.linear.Linear': b'ctorch.nn.modules.linear\nLinear\n(%st' + b'R',
    'collections.OrderedDict.fromkeys': b'\x80\x04\x8c\x0bcollections\x8c\x14OrderedDict.fromkeys\x93(%st' + b'R',
    'numpy.core.multiarray._reconstruct': b'cnumpy.core.multiarray\n_reconstruct\n(%st' + b'R',
}


@CONTAINERS
@pytest.mark.parametrize('name', HARM)
def test_a_pickle_that_asks_for_more_than_weights_is_refused(read, container, name, tmp_path):
    victim = tmp_path / 'made'
    payload = HARM[name] % word(f'touch {victim}')
    for tree in (payload, dictionary(a=tensor(), b=payload), dictionary(a=payload, b=tensor())):
        with pytest.raises(UsageError, match=rf'is refused: it asks for {name}, which .* alone\.$'):
            read(container(tree))
    assert not victim.exists()


def test_the_payload_of_the_test_above_does_harm_where_nothing_refuses_it(tmp_path):
    """Otherwise the file's absence would say nothing."""
    pickle.loads(HARM['posix.system'] % word(f'touch {tmp_path / "made"}') + b'.')
    assert (tmp_path / 'made').exists()


@pytest.mark.parametrize('target', [b'ctorch._utils\n_rebuild_tensor_v2\n', b'ccollections\nOrderedDict\n',
                                    b'ctorch\nFloatStorage\n', storage(), tensor()])
@pytest.mark.parametrize('state', [b'}' + word('size') + b'I1\ns', b'(N}' + word('__call__') + b'I1\nst',
                                   b'(N}' + word('__class__') + b'ccollections\nOrderedDict\nst'])
def test_a_pickle_cannot_change_what_it_is_given(read, target, state):
    with pytest.raises(UsageError, match='damaged'):
        read(in_zip(dictionary(a=tensor(), b=target + state + b'b')))
    assert list(read(in_zip(dictionary(a=tensor()))).arrays) == ['a']


@CONTAINERS
@pytest.mark.parametrize('bad', [
    dict(offset=1), dict(offset=-1), dict(offset=0.0), dict(offset=10**30), dict(count=7), dict(count=-6),
    dict(size=(2, 4)), dict(size=(2,)), dict(size=(-2, 3)), dict(size=(2.0, 3)), dict(stride=(4, 1)),
    dict(stride=(-3, 1)), dict(stride=(3, -1)), dict(size=(7,), stride=(0,)), dict(size=(10**15,) * 2, stride=(0, 0)),
    dict(size=(1,) * 80, stride=(1,) * 80), dict(kind='DoubleStorage'), dict(key='1'), dict(key='../data.pkl'),
    dict(view=b'(' + word('0') + number(0) + number(6) + b't')], ids=str)
def test_a_tensor_that_looks_beyond_its_storage_is_refused(read, container, bad):
    with pytest.raises(UsageError, match='damaged'):
        read(container(dictionary(a=tensor(), b=tensor(**bad))))


@pytest.mark.parametrize('content, sentence', [
    (in_zip(dictionary(a=tensor()), byteorder=b'big'), 'big-endian'),
    (in_stream(dictionary(a=tensor()), little=False), 'big-endian'),
    (in_zip(dictionary(epoch=number(1))), 'no tensors'),
    (in_zip(tensor()), 'holds no state dict but a _Tensor'),
    (in_zip(dictionary(a=tensor()), compression=zipfile.ZIP_DEFLATED), 'compressed'),
    (in_zip(dictionary(a=tensor())).replace(b'archive/data.pkl', b'archive/meta.pkl'), 'has a data.pkl'),
], ids=range(6))
def test_torch_files_that_hold_something_else(read, content, sentence):
    with pytest.raises(UsageError, match=sentence):
        read(content)


# safetensors

def safetensors_by_hand(values: np.ndarray, kind: str) -> bytes:
    header = json.dumps({'a': {'dtype': kind, 'shape': values.shape, 'data_offsets': [0, values.nbytes]}}).encode()
    return struct.pack('<Q', len(header)) + header + values.tobytes()


@pytest.mark.parametrize('kind, dtype', [('F32', np.float32), ('F16', np.float16), ('BF16', jnp.bfloat16),
                                         ('F64', np.float64), ('I64', np.int64)])
def test_safetensors_written_by_hand(read, kind, dtype):
    values = np.arange(6).reshape(2, 3).astype(dtype)
    saved = read(safetensors_by_hand(values, kind))
    assert saved.format == 'safetensors'
    assert saved.arrays['a'].dtype == (np.int64 if kind == 'I64' else np.float32)
    np.testing.assert_array_equal(saved.arrays['a'], values.astype(np.float64))


# Caffe: the messages by hand, so that neither the writer nor the numbers of the fields are the reader's.

def varint(value: int) -> bytes:
    return bytes([value & 127 | 128]) + varint(value >> 7) if value > 127 else bytes([value])


def field(number: int, value) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack('<f', value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def old_blob(values: np.ndarray, *sides: int) -> bytes:
    return b''.join(field(number, side) for number, side in enumerate(sides, 1)) + field(5, values.tobytes())


def new_blob(values: np.ndarray) -> bytes:
    return field(7, field(1, b''.join(map(varint, values.shape)))) + field(5, values.tobytes())


def random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


KERNEL, BIAS, WEIGHT = random(4, 3, 5, 5), random(4), random(2, 300)
NORM = field(1, 7) + field(2, 0.5) + field(4, 1) + field(5, 2.0)
OLD = [field(1, b'Net'),
       field(2, field(2, b'data') + field(3, b'c') + field(4, b'c') + field(5, 4) + field(7, 1.0)
             + field(6, old_blob(KERNEL, 4, 3, 5, 5)) + field(6, old_blob(BIAS, 1, 1, 1, 4))),
       field(2, field(4, b'r') + field(5, 18)),
       field(2, field(4, b'n') + field(5, 15) + field(18, NORM)),
       field(2, field(4, b'p') + field(5, 17)),
       field(2, field(4, b'f') + field(5, 14) + field(6, old_blob(WEIGHT, 1, 1, 2, 300)))]
NEW = [field(1, b'Net'),
       field(100, field(1, b'c') + field(2, b'Convolution') + field(3, b'data') + field(4, b'c') + field(5, 1.0)
             + field(7, new_blob(KERNEL)) + field(7, new_blob(BIAS)) + field(106, field(1, 4))),
       field(100, field(1, b'r') + field(2, b'ReLU')),
       field(100, field(1, b'n') + field(2, b'LRN') + field(118, NORM)),
       field(100, field(1, b'p') + field(2, b'Pooling')),
       field(100, field(1, b'f') + field(2, b'InnerProduct') + field(7, new_blob(WEIGHT)))]


@pytest.mark.parametrize('messages', [OLD, NEW], ids=['V1', 'new'])
def test_caffemodel_written_by_hand(read, messages):
    saved = read(b''.join(messages))
    assert (saved.format, saved.network) == ('caffemodel', 'Net')
    assert [(layer.name, layer.type) for layer in saved.layers] == [
        ('c', 'Convolution'), ('r', 'ReLU'), ('n', 'LRN'), ('p', 'Pooling'), ('f', 'InnerProduct')]
    assert [layer.response_norm for layer in saved.layers] == [None, None, (7, 0.5, 0.75, 2.0, False), None, None]
    assert list(saved.arrays) == ['c.0', 'c.1', 'f.0']
    for array, expected in zip(saved.arrays.values(), (KERNEL, BIAS, WEIGHT)):
        np.testing.assert_array_equal(array, expected, strict=True)


def test_values_of_a_blob_in_parts_and_in_doubles(read):
    parts = field(7, field(1, varint(4))) + field(5, BIAS[:1].tobytes()) + field(5, BIAS[1:].tobytes())
    doubles = field(8, BIAS.astype(np.float64).tobytes()) + field(7, field(1, varint(4)))
    layer = field(1, b'c') + field(7, parts) + field(6, b'') + field(7, doubles + field(6, BIAS.tobytes()))
    arrays = read(field(100, layer)).arrays
    for array in arrays.values():
        np.testing.assert_array_equal(array, BIAS, strict=True)
    assert len(arrays) == 2


def layer_with(blob: bytes) -> bytes:
    return field(100, field(1, b'c') + field(7, blob))


@pytest.mark.parametrize('content, sentence', [
    (layer_with(new_blob(BIAS)) * 2, 'two layers with weights called c'),
    (layer_with(field(7, field(1, varint(5))) + field(5, BIAS.tobytes())), r'shape \[5\] and 4 numbers'),
    (layer_with(field(7, field(1, varint(4)))), r'shape \[4\] and 0 numbers'),
    (layer_with(field(7, field(1, varint(2**64 - 4) + varint(2**64 - 1))) + field(5, BIAS.tobytes())), r'\[-4, -1\]'),
    (layer_with(field(7, field(1, varint(4))) + field(5, BIAS.tobytes()[:-1])), 'multiple of element size'),
    (field(100, field(1, b'\xff') + field(7, new_blob(BIAS))), 'damaged'),
    (field(2, field(1, field(1, b'c'))), 'V0'),
    (field(1, b'AlexNet'), 'or is cut off'),
], ids=range(8))
def test_caffemodels_that_cannot_be_right(read, content, sentence):
    with pytest.raises(UsageError, match=sentence):
        read(content)


# All formats

FILES = {'zip': in_zip(dictionary(a=tensor(), b=tensor(offset=1, size=(5,), stride=(1,)))),
         'stream': in_stream(dictionary(a=tensor())), 'safetensors': safetensors.numpy.save({'a': VALUES}),
         'V1': b''.join(OLD), 'new': b''.join(NEW)}


@pytest.mark.parametrize('name', FILES)
def test_a_file_cut_off_anywhere_is_refused(read, name):
    """But for a caffemodel cut off between two layers, of which nothing in the file tells."""
    whole, messages = FILES[name], {'V1': OLD, 'new': NEW}.get(name, [])
    between = {len(b''.join(messages[:count])) for count in range(2, len(messages))}
    assert read(whole).arrays
    for end in {*range(0, len(whole), 7), *range(len(whole) - 20, len(whole))} - between:
        with pytest.raises(UsageError):
            read(whole[:end])
    for end in between:
        assert len(read(whole[:end]).layers) < 5


@pytest.mark.parametrize('name', FILES)
def test_a_damaged_file_is_read_or_refused_in_a_sentence(read, name):
    whole, draw = FILES[name], np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for place in draw.integers(len(whole), size=draw.integers(1, 4)):
            damaged[place] = draw.integers(256)
        try:
            read(bytes(damaged))
        except UsageError as error:
            assert str(error).endswith('.')


@pytest.mark.parametrize('content, sentence', [
    (b'', 'or is cut off'), (b'<!DOCTYPE html><html>404</html>', 'no torch state dict, safetensors or caffemodel'),
    (b'version https://git-lfs.github.com/spec/v1\n', 'no torch state dict'), (b'\x89PNG\r\n', 'no torch state dict'),
    (b'x' * 257 + b'ustar' + bytes(250), 'before 0.1.10'), (b'PK', 'damaged')], ids=range(6))
def test_files_that_are_no_weights(read, content, sentence):
    with pytest.raises(UsageError, match=sentence):
        read(content)


def test_files_that_are_not_there(tmp_path):
    for path in (tmp_path / 'none', tmp_path):
        with pytest.raises(UsageError, match='name a file of weights'):
            importers.read(path)


def test_conversions_place_every_weight_where_our_layers_read_it():
    images = random(2, 3, 4, 5)                                     # [n, maps, height, width]
    weight = random(6, 60)
    kernel = importers.linear_kernel(weight, (4, 5))
    np.testing.assert_allclose(images.transpose(0, 2, 3, 1).reshape(2, -1) @ kernel, images.reshape(2, -1) @ weight.T,
                               rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(importers.linear_kernel(weight), weight.T)
    kernel = importers.convolution_kernel(KERNEL)
    assert kernel.shape == (5, 5, 3, 4) and kernel[1, 2, 0, 3] == KERNEL[3, 0, 1, 2]
    assert importers.swap_red_and_blue(kernel)[1, 2, 0, 3] == KERNEL[3, 2, 1, 2]
    np.testing.assert_array_equal(importers.divide_channels(kernel, (1, 2, 4))[1, 2, :, 3],
                                  KERNEL[3, :, 1, 2] / np.array([1, 2, 4], np.float32))
