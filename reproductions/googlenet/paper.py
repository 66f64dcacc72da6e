"""What the paper printed: C. Szegedy, W. Liu, Y. Jia, P. Sermanet, S. Reed, D. Anguelov, D. Erhan, V. Vanhoucke,
A. Rabinovich, "Going Deeper with Convolutions", arXiv:1409.4842, 2014.

Error rates are in %, as printed. Every row names the experiment that reproduces it or says why none does.
"""
from typing import NamedTuple

from lib.paper import Counts
from lib.tables import OTHERS, Column, Row, Table

DETECTION = 'detection, with region proposals, is not reproduced here'
Convolution = tuple[int, int, int]      # window, input maps, output maps; a fully connected layer has a window of 1


class Module(NamedTuple):
    """An inception module as Table 1 prints it, and the parameters that follow from its maps."""
    side: int               # height and width
    inputs: int             # maps, as the row above has them
    one: int
    reduce_three: int
    three: int
    reduce_five: int
    five: int
    pool_proj: int
    outputs: int
    thousands: int          # of parameters, as printed
    millions: int           # of operations, as printed: multiply-adds
    parameters: int         # weights and biases

    def convolutions(self, name: str) -> dict[str, Convolution]:
        return {f'inception_{name}_1x1': (1, self.inputs, self.one),
                f'inception_{name}_3x3_reduce': (1, self.inputs, self.reduce_three),
                f'inception_{name}_3x3': (3, self.reduce_three, self.three),
                f'inception_{name}_5x5_reduce': (1, self.inputs, self.reduce_five),
                f'inception_{name}_5x5': (5, self.reduce_five, self.five),
                f'inception_{name}_pool_proj': (1, self.inputs, self.pool_proj)}

    def sizes(self, name: str) -> dict[str, tuple[int, int, int]]:
        maps = {layer: outputs for layer, (_, _, outputs) in self.convolutions(name).items()}
        maps |= {f'inception_{name}_pool': self.inputs, f'inception_{name}': self.outputs}
        return {layer: (self.side, self.side, count) for layer, count in maps.items()}


TABLE_1 = {
    '3a': Module(28, 192, 64, 96, 128, 16, 32, 32, 256, 159, 128, 163_696),
    '3b': Module(28, 256, 128, 128, 192, 32, 96, 64, 480, 380, 304, 388_736),
    '4a': Module(14, 480, 192, 96, 208, 16, 48, 64, 512, 364, 73, 376_176),
    '4b': Module(14, 512, 160, 112, 224, 24, 64, 64, 512, 437, 88, 449_160),
    '4c': Module(14, 512, 128, 128, 256, 24, 64, 64, 512, 463, 100, 510_104),
    '4d': Module(14, 512, 112, 144, 288, 32, 64, 64, 528, 580, 119, 605_376),
    '4e': Module(14, 528, 256, 160, 320, 32, 128, 128, 832, 840, 170, 868_352),
    '5a': Module(7, 832, 256, 160, 320, 32, 128, 128, 832, 1072, 54, 1_043_456),
    '5b': Module(7, 832, 384, 192, 384, 48, 128, 128, 1024, 1388, 71, 1_444_080),
}

CONVOLUTIONS = {'conv1': (7, 3, 64), 'conv2_reduce': (1, 64, 64), 'conv2': (3, 64, 192), 'linear': (1, 1024, 1000)} | {
    layer: shape for name, module in TABLE_1.items() for layer, shape in module.convolutions(name).items()}
# The auxiliary classifiers of section 5: pooling 5x5 at stride 3 leaves 4x4 of 14x14.
HEADS = {
    'aux_4a_conv': (1, 512, 128),
    'aux_4a_fc': (1, 4 * 4 * 128, 1024),
    'aux_4a_linear': (1, 1024, 1000),
    'aux_4d_conv': (1, 528, 128),
    'aux_4d_fc': (1, 4 * 4 * 128, 1024),
    'aux_4d_linear': (1, 1024, 1000),
}

# Weights and biases of the network as published. Table 1 prints 2.7K for conv1, which has 9,472, and for 4c and 5a
# numbers that do not follow from its own maps.
PARAMETERS = {layer: window * window * inputs * outputs + outputs
              for layer, (window, inputs, outputs) in (CONVOLUTIONS | HEADS).items()}
TOTAL = 13_378_280
TOTAL_WITHOUT_HEADS = 6_998_552
HEAD_TOTALS = {'aux_4a': 3_188_840, 'aux_4d': 3_190_888}
MULTIPLY_ADDS = 1_582_671_872           # one image, forward, without the auxiliary classifiers

# Height, width and maps of every layer's output, for a 224x224x3 image.
SIZES = {
    'conv1': (112, 112, 64),
    'pool1': (56, 56, 64),
    'conv2_reduce': (56, 56, 64),
    'conv2': (56, 56, 192),
    'pool2': (28, 28, 192),
    'pool3': (14, 14, 480),
    'pool4': (7, 7, 832),
    'pool5': (1, 1, 1024),
    'linear': (1000,),
} | {layer: size for name, module in TABLE_1.items() for layer, size in module.sizes(name).items()}

COUNTS = {'paper': Counts('GoogLeNet, 224x224x3', PARAMETERS, TOTAL, SIZES, MULTIPLY_ADDS, receptive_field=715)}

VARIANT_TOTALS = {
    'without_auxiliary': TOTAL_WITHOUT_HEADS,
    'no_lrn': TOTAL,
    'caffe': TOTAL,
    # 1,024 units read 7x7x1024 numbers, and the linear layer those
    'fully_connected': TOTAL + 7 * 7 * 1024 * 1024 + 1024,
    'without_reductions': 104_274_376,
}

CROPS_144 = 'twelve@256+288+320+352'


def _averaged(models: int, crops: int, protocol: str, top5: float) -> Row:
    cost = f'{models * crops} times the work of one crop through one network.'
    if models == 1:
        return Row(f'1 model, {crops} crop' + 's' * (crops > 1), (top5,), 'paper', protocol=protocol, parameters=TOTAL,
                   note=cost)
    return Row(f'{models} models, {crops} crop' + 's' * (crops > 1), (top5,), members=('paper',) * models,
               protocol=protocol, note=cost)


# Section 7. The seven models differ in how images are sampled, and one of them is wider; the paper does not say how
# wide. Here they differ in their seeds, initial weights included, which the paper's shared by an oversight. 144 crops
# are 48 distinct ones of the stored squares: see the README.
TABLE_3 = Table(
    title='Table 3',
    data='ILSVRC-2012',         # whose images are those of 2014
    source='imagenet2012',
    columns=(Column('Top-5 (val)', 'top5', 'validation', decimals=2),),
    rows=(
        _averaged(1, 1, 'centre', 10.07),
        _averaged(1, 10, 'ten', 9.15),
        _averaged(1, 144, CROPS_144, 7.89),
        _averaged(7, 1, 'centre', 8.09),
        _averaged(7, 10, 'ten', 7.62),
        _averaged(7, 144, CROPS_144, 6.67),
    ),
    examples=50_000,
    train_examples=1_281_167,
)

TABLE_2 = Table(
    title='Table 2',
    data='ILSVRC-2014 test',
    source=None,
    columns=(Column('Top-5', 'top5', 'test', decimals=2),),
    rows=(
        Row('SuperVision, 2012', (16.4,), why=OTHERS),
        Row('SuperVision, 2012, with other data', (15.3,), why=OTHERS, note='ImageNet of 22,000 classes.'),
        Row('Clarifai, 2013', (11.7,), why=OTHERS),
        Row('Clarifai, 2013, with other data', (11.2,), why=OTHERS, note='ImageNet of 22,000 classes.'),
        Row('MSRA, 2014', (7.35,), why=OTHERS),
        Row('VGG, 2014', (7.32,), why=OTHERS),
        Row('GoogLeNet, 2014', (6.67,), why='the test labels are not public; Table 3 has the validation images'),
    ),
)

# Percentage points by which the network is worse without the thing. A row is a difference between two runs.
DIFFERENCES = Table(
    title='Differences stated in the text',
    data='ImageNet',
    source=None,
    columns=(Column('Top-1', 'top1', 'validation'), Column('Top-5', 'top5', 'validation')),
    train_examples=1_281_167,
    rows=(
        Row('Fully connected instead of average pooling (5)', (0.6, None), 'fully_connected', minus='paper',
            words='about 0.6'),
        Row('No dropout (5)', (None, None), 'no_dropout', minus='paper', note='no number: it "remained essential".'),
        Row('No auxiliary classifiers (5)', (None, None), 'without_auxiliary', minus='paper', note='no number.'),
        Row('No 1x1 reductions (4)', (None, None), 'without_reductions', minus='paper',
            note='no number: they are there for the cost.'),
    ),
)

# Tables 4 and 5 print mean average precision in %, higher is better; here 100 minus that.
TABLE_4 = Table(
    title='Table 4, detection, ensembles: 100 - mean average precision',
    data='ILSVRC-2014 detection',
    source=None,
    columns=(Column('100 - mAP', 'top1', 'test'),),
    rows=(
        Row('UvA-Euvision, 2013', (77.4,), why=OTHERS),
        Row('Deep Insight, 2014', (59.5,), why=OTHERS),
        Row('CUHK DeepID-Net, 2014', (59.3,), why=OTHERS),
        Row('GoogLeNet, 2014', (56.1,), why=DETECTION, note='six networks.'),
    ),
)
TABLE_5 = Table(
    title='Table 5, detection, single networks: 100 - mean average precision',
    data='ILSVRC-2014 detection',
    source=None,
    columns=(Column('100 - mAP', 'top1', 'test', decimals=2),),
    rows=(
        Row('UvA-Euvision', (64.6,), why=OTHERS),
        Row('CUHK DeepID-Net', (62.3,), why=OTHERS),
        Row('GoogLeNet', (61.98,), why=DETECTION),
        Row('Deep Insight', (59.8,), why=OTHERS),
    ),
)

# What the publishers of trained weights say of them: 100 minus their accuracies.
PUBLISHED_WEIGHTS = Table(
    title='Published weights',
    data='ILSVRC-2012',
    source='imagenet2012',
    columns=(Column('Top-1 (val)', 'top1', 'validation', decimals=1),
             Column('Top-5 (val)', 'top5', 'validation', decimals=1)),
    rows=(
        Row('Caffe bvlc_googlenet, iteration 2,400,000', (31.3, 11.1), 'caffe', protocol='centre', parameters=TOTAL),
        Row('MatConvNet googlenet-dag (Princeton)', (34.2, 12.9), why='in a format that is not read here'),
        Row('torchvision googlenet', (30.222, 10.47),
            why='another network: batch normalisation, and 3x3 convolutions where the paper has 5x5'),
    ),
    examples=50_000,
    train_examples=1_281_167,
)

TABLES = (TABLE_2, TABLE_3, TABLE_4, TABLE_5, DIFFERENCES, PUBLISHED_WEIGHTS)

# What has been seen of an experiment short of its number, for the table of claims, beside two steps in small.
SEEN = {
    'paper': 'counts, sizes, PyTorch, devices: see below',
    'caffe': "weights in Caffe's format give the logits of OpenCV's reader",
}
