"""What the paper printed: M. Lin, Q. Chen, S. Yan, "Network In Network", ICLR 2014 (arXiv:1312.4400); and what its
author says of his network for ImageNet.

Error rates are in %, as printed. Every row names the experiment that reproduces it or says why none does. The paper has
no sizes of layers: the counts are those of its author's definition files.
"""
from lib.effects import Effect, Effects
from lib.paper import Counts
from lib.tables import OTHERS, Column, Row, Table

# Weights and biases of every layer, from the author's files. A 1x1 layer has inputs x maps weights.
CIFAR10 = {
    'conv1': 14_592, 'cccp1': 30_880, 'cccp2': 15_456,
    'conv2': 460_992, 'cccp3': 37_056, 'cccp4': 37_056,
    'conv3': 331_968, 'cccp5': 37_056, 'cccp6': 1_930,
}
CIFAR100 = CIFAR10 | {'cccp6': 19_300}
SVHN = {
    'conv1': 9_728, 'cccp1': 12_384, 'cccp2': 6_208,
    'conv2': 512_320, 'cccp3': 82_176, 'cccp4': 32_896,
    'conv3': 1_229_184, 'cccp5': 98_560, 'cccp6': 2_570,
}
MNIST = {
    'conv1': 2_496, 'cccp1': 6_208, 'cccp2': 3_120,
    'conv2': 153_728, 'cccp3': 12_384, 'cccp4': 4_656,
    'conv3': 153_728, 'cccp5': 12_384, 'cccp6': 970,
}
IMAGENET = {
    'conv1': 34_944, 'cccp1': 9_312, 'cccp2': 9_312,
    'conv2': 614_656, 'cccp3': 65_792, 'cccp4': 65_792,
    'conv3': 885_120, 'cccp5': 147_840, 'cccp6': 147_840,
    'conv4': 3_539_968, 'cccp7': 1_049_600, 'cccp8': 1_025_000,
}
# The pair: from the second convolution on they differ in what follows the maps.
CONVOLUTIONS = {'conv1': 34_944, 'conv2': 614_656, 'conv3': 885_120, 'conv4': 1_327_488, 'conv5': 884_992}
FLATTEN = CONVOLUTIONS | {'fc1': 9_441_280, 'fc2': 16_781_312, 'fc3': 4_097_000}
GLOBAL_AVERAGE_POOLING = CONVOLUTIONS | {'conv6': 2_305_000, 'fc1': 1_001_000}

# Height, width and maps of every layer's output. Pooling rounds up: 32 -> 16 -> 8 and 28 -> 14 -> 7.
CIFAR10_SIZES = {
    'conv1': (32, 32, 192), 'cccp1': (32, 32, 160), 'cccp2': (32, 32, 96), 'pool1': (16, 16, 96),
    'conv2': (16, 16, 192), 'cccp3': (16, 16, 192), 'cccp4': (16, 16, 192), 'pool2': (8, 8, 192),
    'conv3': (8, 8, 192), 'cccp5': (8, 8, 192), 'cccp6': (8, 8, 10), 'poolg': (10,),
}
CIFAR100_SIZES = CIFAR10_SIZES | {'cccp6': (8, 8, 100), 'poolg': (100,)}
SVHN_SIZES = {
    'conv1': (32, 32, 128), 'cccp1': (32, 32, 96), 'cccp2': (32, 32, 64), 'pool1': (16, 16, 64),
    'conv2': (16, 16, 320), 'cccp3': (16, 16, 256), 'cccp4': (16, 16, 128), 'pool2': (8, 8, 128),
    'conv3': (8, 8, 384), 'cccp5': (8, 8, 256), 'cccp6': (8, 8, 10), 'poolg': (10,),
}
MNIST_SIZES = {
    'conv1': (28, 28, 96), 'cccp1': (28, 28, 64), 'cccp2': (28, 28, 48), 'pool1': (14, 14, 48),
    'conv2': (14, 14, 128), 'cccp3': (14, 14, 96), 'cccp4': (14, 14, 48), 'pool2': (7, 7, 48),
    'conv3': (7, 7, 128), 'cccp5': (7, 7, 96), 'cccp6': (7, 7, 10), 'poolg': (10,),
}
# conv1 reads 223 of the 224 pixels: 1 + (224 - 11) // 4 = 54.
IMAGENET_SIZES = {
    'conv1': (54, 54, 96), 'cccp1': (54, 54, 96), 'cccp2': (54, 54, 96), 'pool1': (27, 27, 96),
    'conv2': (27, 27, 256), 'cccp3': (27, 27, 256), 'cccp4': (27, 27, 256), 'pool2': (13, 13, 256),
    'conv3': (13, 13, 384), 'cccp5': (13, 13, 384), 'cccp6': (13, 13, 384), 'pool3': (6, 6, 384),
    'conv4': (6, 6, 1024), 'cccp7': (6, 6, 1024), 'cccp8': (6, 6, 1000), 'poolg': (1000,),
}
# Rounded down, also in pooling: 54 -> 26, 24 -> 11, 7 -> 3. Rounded up, 4x4 maps would be flattened, in all 41,406,824
# parameters.
CONVOLUTION_SIZES = {
    'conv1': (54, 54, 96), 'conv2': (54, 54, 256), 'pool1': (26, 26, 256), 'conv3': (24, 24, 384),
    'pool2': (11, 11, 384), 'conv4': (9, 9, 384), 'conv5': (7, 7, 256), 'pool3': (3, 3, 256),
}
FLATTEN_SIZES = CONVOLUTION_SIZES | {'fc1': (4096,), 'fc2': (4096,), 'fc3': (1000,)}
GLOBAL_AVERAGE_POOLING_SIZES = CONVOLUTION_SIZES | {'conv6': (1, 1, 1000), 'poolg': (1000,), 'fc1': (1000,)}

COUNTS = {
    'paper': Counts('NIN for CIFAR-10, 32x32x3', CIFAR10, 966_986, CIFAR10_SIZES, 222_486_528, receptive_field=27),
    'cifar100': Counts('NIN for CIFAR-100, 32x32x3', CIFAR100, 984_356, CIFAR100_SIZES, 223_592_448,
                       receptive_field=27),
    'svhn': Counts('NIN for SVHN, 32x32x3', SVHN, 1_986_026, SVHN_SIZES, 274_235_392, receptive_field=35),
    'mnist': Counts('NIN for MNIST, 28x28x1', MNIST, 349_674, MNIST_SIZES, 50_699_712, receptive_field=35),
    'imagenet': Counts('NIN for ImageNet, 224x224x3', IMAGENET, 7_595_176, IMAGENET_SIZES, 1_100_188_800,
                       receptive_field=195),
    'flatten': Counts('flattening, 224x224x3', FLATTEN, 34_066_792, FLATTEN_SIZES, 2_583_972_992, receptive_field=163),
    'global_average_pooling': Counts('global average pooling, 224x224x3', GLOBAL_AVERAGE_POOLING, 7_053_200,
                                     GLOBAL_AVERAGE_POOLING_SIZES, 2_556_966_592, receptive_field=227),
}

# Parameters of the ablations that change them: Table 5 adds 8 x 8 x 10 x 10 weights and 10 biases.
VARIANT_TOTALS = {'fully_connected': 973_396, 'fully_connected_dropout': 973_396, 'plain': 1_270_282,
                  'average_pool2': 966_986, 'linear_scores': 966_986}

TOP1 = (Column('Top-1', 'top1', 'test', decimals=2),)

TABLE_1 = Table(
    title='Table 1',
    data='CIFAR-10 test',
    source='cifar10',
    columns=TOP1,
    rows=(
        Row('Stochastic Pooling', (15.13,), why=OTHERS),
        Row('CNN + Spearmint', (14.98,), why=OTHERS),
        Row('Conv. maxout + Dropout', (11.68,), why=OTHERS),
        Row('NIN + Dropout', (10.41,), 'paper', parameters=966_986,
            note="the author's page: about 14 % after 200 epochs, 10.7 % after 230, 10.4 % after 260."),
        Row('CNN + Spearmint + Data Augmentation', (9.50,), why=OTHERS),
        Row('Conv. maxout + Dropout + Data Augmentation', (9.38,), why=OTHERS),
        Row('DropConnect + 12 networks + Data Augmentation', (9.32,), why=OTHERS),
        Row('NIN + Dropout + Data Augmentation', (8.81,), 'augmented', parameters=966_986),
    ),
    examples=10_000,
    train_examples=50_000,
    epochs=260,
)

# Section 4.2, in the text: dropout between the blocks "improves the performance by more than 20 %" (that from memory).
DROPOUT = Table(
    title='Section 4.2, without dropout',
    data='CIFAR-10 test',
    source='cifar10',
    columns=TOP1,
    rows=(Row('NIN', (14.51,), 'no_dropout', parameters=966_986),),
    examples=10_000,
    train_examples=50_000,
    epochs=260,
)

TABLE_2 = Table(
    title='Table 2',
    data='CIFAR-100 test',
    source='cifar100',
    columns=TOP1,
    rows=(
        Row('Learned Pooling', (43.71,), why=OTHERS),
        Row('Stochastic Pooling', (42.51,), why=OTHERS),
        Row('Conv. maxout + Dropout', (38.57,), why=OTHERS),
        Row('Tree based priors', (36.85,), why=OTHERS),
        Row('NIN + Dropout', (35.68,), 'cifar100', parameters=984_356),
    ),
    examples=10_000,
    train_examples=50_000,
    epochs=260,
)

# 400 images of each class of the training set and 200 of each of the extra set are for validation; the rest is trained
# on: 604,388 - 6,000.
TABLE_3 = Table(
    title='Table 3',
    data='SVHN test',
    source='svhn_cropped',
    columns=TOP1,
    rows=(
        Row('Stochastic Pooling', (2.80,), why=OTHERS),
        Row('Rectifier + Dropout', (2.78,), why=OTHERS),
        Row('Rectifier + Dropout + Synthetic Translation', (2.68,), why=OTHERS),
        Row('Conv. maxout + Dropout', (2.47,), why=OTHERS),
        Row('NIN + Dropout', (2.35,), 'svhn', parameters=1_986_026),
        Row('Multi-digit Number Recognition', (2.16,), why=OTHERS),
        Row('DropConnect', (1.94,), why=OTHERS),
    ),
    examples=26_032,
    train_examples=598_388,
)

TABLE_4 = Table(
    title='Table 4',
    data='MNIST test',
    source='mnist',
    columns=TOP1,
    rows=(
        Row('2-Layer CNN + 2-Layer NN', (0.53,), why=OTHERS),
        Row('Stochastic Pooling', (0.47,), why=OTHERS),
        Row('NIN + Dropout', (0.47,), 'mnist', shorter=('mnist_short', 'mnist_continued'), parameters=349_674,
            note='no augmentation.'),
        Row('Conv. maxout + Dropout', (0.45,), why=OTHERS),
    ),
    examples=10_000,
    train_examples=60_000,
)

TABLE_5 = Table(
    title='Table 5',
    data='CIFAR-10 test',
    source='cifar10',
    columns=TOP1,
    rows=(
        Row('mlpconv + Fully Connected', (11.59,), 'fully_connected', memory=True),
        Row('mlpconv + Fully Connected + Dropout', (10.88,), 'fully_connected_dropout', memory=True),
        Row('mlpconv + Global Average Pooling', (10.41,), 'paper', parameters=966_986),
    ),
    examples=10_000,
    train_examples=50_000,
    epochs=260,
)

# Section 4.6, in the text: three convolutions and a locally connected layer of 10 maps.
CONVENTIONAL = 'the network of Hinton et al. 2012, of which this paper gives neither the layers nor the training'
SECTION_4_6 = Table(
    title='Section 4.6, a conventional CNN',
    data='CIFAR-10 test',
    source='cifar10',
    columns=TOP1,
    rows=(
        Row('Fully Connected', (17.56,), why=CONVENTIONAL),
        Row('Fully Connected + Dropout', (15.99,), why=CONVENTIONAL),
        Row('Global Average Pooling', (16.46,), why=CONVENTIONAL),
    ),
    examples=10_000,
    train_examples=50_000,
)

# Not the paper: the author's page of his Caffe model says 59.36 % accuracy on the validation set, hence 100 - 59.36.
AUTHORS_PAGE = Table(
    title="The author's page of his Caffe model",
    data='ILSVRC-2012',
    source='imagenet2012',
    columns=(Column('Top-1 (val)', 'top1', 'validation', decimals=2),),
    rows=(Row('NIN-ImageNet, iteration 450,000', (40.64,), 'imagenet', protocol='centre', parameters=7_595_176),),
    examples=50_000,
    train_examples=1_281_167,
    epochs=22.48,       # 450,000 steps of 64 images
)

QUARTER_WIDTH = Effects(
    title='Table 5 at a quarter of the width',
    data='CIFAR-10, five batches',
    source='cifar10',
    experiment='quarter_width',
    rows=(
        Effect('global average pooling instead of a fully connected layer', 'global_average', 'fully_connected',
               '-1.18 (Table 5, from memory)', 'less'),
        Effect('global average pooling instead of a fully connected layer with dropout', 'global_average',
               'fully_connected_dropout', '-0.47 (Table 5, from memory)', 'less'),
        Effect('dropout before the fully connected layer', 'fully_connected_dropout', 'fully_connected',
               '-0.71 (Table 5, from memory)', 'less'),
        Effect('dropout between the blocks', 'global_average', 'no_dropout', '-4.10 (section 4.2)', 'less'),
        Effect('1x1 layers after each convolution instead of plain convolutions', 'global_average', 'plain',
               'says nothing of this pair', None),
    ))

TABLES = (TABLE_1, DROPOUT, TABLE_2, TABLE_3, TABLE_4, TABLE_5, QUARTER_WIDTH, SECTION_4_6, AUTHORS_PAGE)

# What has been seen of an experiment short of its number, for the table of claims, beside two steps in small.
SEEN = {
    'paper': 'counts, sizes; PyTorch and devices in float64, in small',
    'cifar100': 'counts and sizes; two steps in small',
    'svhn': 'counts and sizes; two steps in small',
    'mnist': 'counts and sizes; PyTorch in float64, in small',
    'imagenet': "counts and sizes; weights in Caffe's format give the logits of OpenCV's reader",
}
