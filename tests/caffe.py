"""Files of Caffe from one list of layers: the weights in both formats of a caffemodel, and the prototxt; and what
OpenCV makes of them."""
from typing import NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

# V1LayerParameter.LayerType, by the names of the new format.
V1_TYPES = {'Concat': 3, 'Convolution': 4, 'Data': 5, 'Dropout': 6, 'InnerProduct': 14, 'LRN': 15, 'Pooling': 17,
            'ReLU': 18, 'Sigmoid': 19, 'Softmax': 20, 'SoftmaxWithLoss': 21, 'TanH': 23}
IN_PLACE = ('ReLU', 'Dropout', 'TanH', 'Sigmoid')


class Layer(NamedTuple):
    """A layer of a network in Caffe."""
    name: str
    type: str                               # of V1_TYPES
    arrays: tuple[np.ndarray, ...] = ()     # weights [outputs, inputs, height, width] or [outputs, inputs], and biases
    params: str = ''                        # as a prototxt has them: 'pooling_param { kernel_size: 3 stride: 2 }'
    bottoms: tuple[str, ...] = ()           # what it reads, by the layers that wrote it; () for the last one


def convolution(name: str, weight: np.ndarray, bias: np.ndarray, params: str = '', bottoms=()) -> Layer:
    """A square convolution; `params` are 'stride: 4 pad: 2 group: 2' and the like."""
    own = f'num_output: {len(bias)} kernel_size: {weight.shape[-1]} {params}'
    return Layer(name, 'Convolution', (weight, bias), f'convolution_param {{ {own} }}', bottoms)


def inner_product(name: str, weight: np.ndarray, bias: np.ndarray, bottoms=()) -> Layer:
    return Layer(name, 'InnerProduct', (weight, bias), f'inner_product_param {{ num_output: {len(bias)} }}', bottoms)


def pooling(name: str, kind: str, size: int, stride: int, params: str = '', bottoms=()) -> Layer:
    """`kind` is MAX or AVE."""
    return Layer(name, 'Pooling', (), f'pooling_param {{ pool: {kind} kernel_size: {size} stride: {stride} {params} }}',
                 bottoms)


def net_message():
    """An empty NetParameter with the fields that the tests write, as caffe.proto declares them."""
    kinds = {'string': 9, 'float': 2, 'int': 5, 'long': 3, 'message': 11}
    messages = {
        'BlobShape': [('dim', 1, 'long', '')],
        'BlobProto': [('num', 1, 'int'), ('channels', 2, 'int'), ('height', 3, 'int'), ('width', 4, 'int'),
                      ('data', 5, 'float', ''), ('diff', 6, 'float', ''), ('shape', 7, 'message', 'BlobShape', 1)],
        'LRNParameter': [('local_size', 1, 'int'), ('alpha', 2, 'float'), ('beta', 3, 'float'),
                         ('norm_region', 4, 'int'), ('k', 5, 'float')],
        'V1LayerParameter': [('bottom', 2, 'string', ''), ('top', 3, 'string', ''), ('name', 4, 'string'),
                             ('type', 5, 'int'), ('blobs', 6, 'message', 'BlobProto'),
                             ('lrn_param', 18, 'message', 'LRNParameter', 1)],
        'LayerParameter': [('name', 1, 'string'), ('type', 2, 'string'), ('bottom', 3, 'string', ''),
                           ('top', 4, 'string', ''), ('blobs', 7, 'message', 'BlobProto'),
                           ('lrn_param', 118, 'message', 'LRNParameter', 1)],
        'NetParameter': [('name', 1, 'string'), ('layers', 2, 'message', 'V1LayerParameter'),
                         ('layer', 100, 'message', 'LayerParameter')],
    }
    file = descriptor_pb2.FileDescriptorProto(name='caffe.proto', package='caffe', syntax='proto2')
    for message, fields in messages.items():
        declared = file.message_type.add(name=message)
        for name, number, kind, *more in fields:
            field = declared.field.add(name=name, number=number, type=kinds[kind], label=3 if len(more) == 1 else 1)
            if kind == 'message':
                field.type_name = f'.caffe.{more[0]}'
            field.options.packed = len(more) == 1 and kind in ('float', 'long')
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName('caffe.NetParameter'))()


def caffemodel(layers: list[Layer], old: bool, name: str = '') -> bytes:
    """The file of weights, in Caffe's first format with layers of type V1 if `old`. Of the layers' parameters it has
    those of response normalisation only; our reader wants no others."""
    net = net_message()
    net.name = name
    for layer in layers:
        message = (net.layers if old else net.layer).add(name=layer.name)
        message.type = V1_TYPES[layer.type] if old else layer.type
        text_format.Merge(layer.params, message, allow_unknown_field=True)
        for values in layer.arrays:
            blob = message.blobs.add(data=values.ravel())
            if old:
                blob.num, blob.channels, blob.height, blob.width = (1,) * (4 - values.ndim) + values.shape
            else:
                blob.shape.dim.extend(values.shape)
    return net.SerializeToString()


def prototxt(layers: list[Layer], shape: tuple[int, int, int, int]) -> str:
    """The network's description, for images [n, maps, height, width]."""
    text, last = 'input: "data" input_shape { ' + ' '.join(f'dim: {side}' for side in shape) + ' }\n', 'data'
    for layer in layers:
        bottoms = layer.bottoms or (last,)
        last = bottoms[0] if layer.type in IN_PLACE else layer.name
        reads = ' '.join(f'bottom: "{bottom}"' for bottom in bottoms)
        text += f'layer {{ name: "{layer.name}" type: "{layer.type}" {reads} top: "{last}" {layer.params} }}\n'
    return text


def opencv_output(layers: list[Layer], content: bytes, images: np.ndarray, output: str | None = None) -> np.ndarray:
    """The output of the last layer, or of the one named, as OpenCV computes it from the prototxt of `layers` and a
    file's content; images [n, h, w, maps] are in the order of channels that the network wants."""
    import cv2
    maps_first = np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)
    text = prototxt(layers, maps_first.shape).encode()
    network = cv2.dnn.readNetFromCaffe(np.frombuffer(text, np.uint8), np.frombuffer(content, np.uint8))
    network.setInput(maps_first)
    return network.forward() if output is None else network.forward(output)
