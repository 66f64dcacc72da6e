"""What the paper printed: K. Simonyan, A. Zisserman, "Very Deep Convolutional Networks for Large-Scale Image
Recognition", arXiv:1409.1556, 2014.

Error rates are in %, as printed. Every row names the experiment that reproduces it or says why none does. S is the side
to which training images are resized, Q that of test images.
"""
from collections.abc import Iterator

from lib.paper import Counts
from lib.tables import OTHERS, Column, Row, Table

IMAGES, EPOCHS = 1_281_167, 74          # 370,000 steps of 256 images

# Table 1, column by column: blocks of "conv(window)-(maps)", each followed by "maxpool"; FC-4096, FC-4096, FC-1000 end
# them all.
TABLE_1 = {
    'A': ('conv3-64', 'conv3-128', 'conv3-256 conv3-256', 'conv3-512 conv3-512', 'conv3-512 conv3-512'),
    'A_LRN': ('conv3-64 LRN', 'conv3-128', 'conv3-256 conv3-256', 'conv3-512 conv3-512', 'conv3-512 conv3-512'),
    'B': ('conv3-64 conv3-64', 'conv3-128 conv3-128', 'conv3-256 conv3-256', 'conv3-512 conv3-512',
          'conv3-512 conv3-512'),
    'C': ('conv3-64 conv3-64', 'conv3-128 conv3-128', 'conv3-256 conv3-256 conv1-256', 'conv3-512 conv3-512 conv1-512',
          'conv3-512 conv3-512 conv1-512'),
    'D': ('conv3-64 conv3-64', 'conv3-128 conv3-128', 'conv3-256 conv3-256 conv3-256', 'conv3-512 conv3-512 conv3-512',
          'conv3-512 conv3-512 conv3-512'),
    'E': ('conv3-64 conv3-64', 'conv3-128 conv3-128', 'conv3-256 conv3-256 conv3-256 conv3-256',
          'conv3-512 conv3-512 conv3-512 conv3-512', 'conv3-512 conv3-512 conv3-512 conv3-512'),
}
WEIGHT_LAYERS = {'A': 11, 'A_LRN': 11, 'B': 13, 'C': 16, 'D': 16, 'E': 19}         # as Table 1 prints

# Table 2: millions of parameters as printed, and exactly.
MILLIONS = {'A': 133, 'A_LRN': 133, 'B': 133, 'C': 134, 'D': 138, 'E': 144}
TOTALS = {'A': 132_863_336, 'A_LRN': 132_863_336, 'B': 133_047_848, 'C': 133_638_952, 'D': 138_357_544,
          'E': 143_667_240}
# The shallow network of section 4.1: five convolutions of 5x5.
TOTAL_5X5 = 134_503_528

# One image of 224x224, forward; and pixels a side that a place of the last maps sees.
MULTIPLY_ADDS = {'A': 7_609_090_048, 'A_LRN': 7_609_090_048, 'B': 11_308_466_176, 'C': 11_770_888_192,
                 'D': 15_470_264_320, 'E': 19_632_062_464}
RECEPTIVE_FIELDS = {'A': 150, 'A_LRN': 150, 'B': 156, 'C': 156, 'D': 212, 'E': 268}

# Configuration D by layer, weights and biases.
PARAMETERS_D = {
    'conv1_1': 1_792,
    'conv1_2': 36_928,
    'conv2_1': 73_856,
    'conv2_2': 147_584,
    'conv3_1': 295_168,
    'conv3_2': 590_080,
    'conv3_3': 590_080,
    'conv4_1': 1_180_160,
    'conv4_2': 2_359_808,
    'conv4_3': 2_359_808,
    'conv5_1': 2_359_808,
    'conv5_2': 2_359_808,
    'conv5_3': 2_359_808,
    'fc6': 102_764_544,
    'fc7': 16_781_312,
    'fc8': 4_097_000,
}


def convolutions(column: str) -> Iterator[tuple[str, int, int, int, int]]:
    """(name, side of its maps, window, input maps, output maps) of the convolutions in a column of Table 1."""
    inputs = 3
    for block, words in enumerate(TABLE_1[column], 1):
        kinds = [word for word in words.split() if word != 'LRN']
        for number, word in enumerate(kinds, 1):
            window, maps = (int(part) for part in word.removeprefix('conv').split('-'))
            yield f'conv{block}_{number}', 224 // 2 ** (block - 1), window, inputs, maps
            inputs = maps


def _counts(column: str) -> Counts:
    layers = list(convolutions(column))
    parameters = {name: window * window * inputs * maps + maps for name, _, window, inputs, maps in layers}
    parameters |= {name: PARAMETERS_D[name] for name in ('fc6', 'fc7', 'fc8')}
    sizes = {}
    for name, side, _, _, maps in layers:
        pool = f'pool{name[4]}'
        sizes.pop(pool, None)           # so that it follows the last convolution of its block
        sizes |= {name: (side, side, maps), pool: (side // 2, side // 2, maps)}
    sizes |= {'fc6': (4096,), 'fc7': (4096,), 'fc8': (1000,)}
    return Counts(f'VGG {column.replace("_", "-")}, 224x224x3', parameters, TOTALS[column], sizes,
                  MULTIPLY_ADDS[column], RECEPTIVE_FIELDS[column])


EXPERIMENT = {column: 'paper' if column == 'D' else column for column in TABLE_1}       # of S=256, by column
COUNTS = {EXPERIMENT[column]: _counts(column) for column in ('D', *TABLE_1)}

ILSVRC = dict(data='ILSVRC-2012', source='imagenet2012', examples=50_000, train_examples=IMAGES, epochs=EPOCHS)
VALIDATION = (Column('Top-1 (val)', 'top1', 'validation'), Column('Top-5 (val)', 'top5', 'validation'))
WITH_TEST = (*VALIDATION, Column('Top-5 (test)', 'top5', 'test'))
ONE_RUN = EPOCHS * IMAGES


def _row(column: str, scale: str, values: tuple[float | None, ...], protocol: str, note: str = '') -> Row:
    """Of a network trained at a `scale`: 256, 384 or jitter."""
    name = EXPERIMENT[column] if scale == '256' else f'{column}_{scale}'
    before = {'256': 0 if column in ('A', 'A_LRN') else 1, '384': 2, 'jitter': 3}[scale]
    words = {'jitter': 'S=[256;512]'}.get(scale, f'S={scale}')
    return Row(f'{column.replace("_", "-")}, {words}', values, name, protocol=protocol, parameters=TOTALS[column],
               pretraining=before * ONE_RUN, note=note)


# Section 4.1. Q = S, and for jittered S half the sum of its ends, 384. Densely on the image and its reflection.
TABLE_3 = Table(
    title='Table 3, one test scale',
    columns=VALIDATION,
    rows=(
        _row('A', '256', (29.6, 10.4), 'dense@256'),
        _row('A_LRN', '256', (29.7, 10.5), 'dense@256'),
        _row('B', '256', (28.7, 9.9), 'dense@256'),
        _row('C', '256', (28.1, 9.4), 'dense@256'),
        _row('C', '384', (28.1, 9.3), 'dense@384'),
        _row('C', 'jitter', (27.3, 8.8), 'dense@384'),
        _row('D', '256', (27.0, 8.8), 'dense@256'),
        _row('D', '384', (26.8, 8.7), 'dense@384'),
        _row('D', 'jitter', (25.6, 8.1), 'dense@384'),
        _row('E', '256', (27.3, 9.0), 'dense@256'),
        _row('E', '384', (26.9, 8.7), 'dense@384'),
        _row('E', 'jitter', (25.5, 8.0), 'dense@384'),
    ),
    **ILSVRC,
)

# Section 4.2. Q = S - 32, S, S + 32; for jittered S its ends and their mean.
AROUND_256, AROUND_384, WIDE = 'dense@224+256+288', 'dense@352+384+416', 'dense@256+384+512'
TABLE_4 = Table(
    title='Table 4, three test scales',
    columns=VALIDATION,
    rows=(
        _row('B', '256', (28.2, 9.6), AROUND_256),
        _row('C', '256', (27.7, 9.2), AROUND_256),
        _row('C', '384', (27.8, 9.2), AROUND_384),
        _row('C', 'jitter', (26.3, 8.2), WIDE),
        _row('D', '256', (26.6, 8.6), AROUND_256),
        _row('D', '384', (26.5, 8.6), AROUND_384),
        _row('D', 'jitter', (24.8, 7.5), WIDE),
        _row('E', '256', (26.9, 8.7), AROUND_256),
        _row('E', '384', (26.7, 8.6), AROUND_384),
        _row('E', 'jitter', (24.8, 7.5), WIDE, '7.3 % top-5 error on the test set, whose labels are not public.'),
    ),
    **ILSVRC,
)

# Section 4.3. 150 crops: a grid of 5x5 and reflections at each of three scales.
CROPS_150, BOTH = 'fifty@256+384+512', 'dense_and_fifty@256+384+512'
TABLE_5 = Table(
    title='Table 5, densely and by crops',
    columns=VALIDATION,
    rows=tuple(_row(column, 'jitter', values, protocol) for column, results in (
        ('D', ((24.8, 7.5), (24.6, 7.5), (24.4, 7.2))),
        ('E', ((24.8, 7.5), (24.6, 7.4), (24.4, 7.1))),
    ) for protocol, values in zip((WIDE, CROPS_150, BOTH), results)),
    **ILSVRC,
)

# Section 4.4.
JITTERED = ('D_jitter', 'E_jitter')
SUBMISSION = ('paper', 'D_384', 'D_jitter', 'C', 'C_384', 'E', 'E_384')
SUBMISSION_NOTE = ('the paper tested each network at its own three scales (Table 4), all are tested at the same here; '
                   'which networks they were is from memory.')
CHAIN = 3 * ONE_RUN             # before a network with jitter: A, S=256, S=384


def _fused(name: str, values: tuple[float | None, ...], protocol: str) -> Row:
    return Row(name, values, members=JITTERED, protocol=protocol, pretraining=2 * CHAIN)


TABLE_6 = Table(
    title='Table 6, networks averaged',
    columns=WITH_TEST,
    rows=(
        Row('ILSVRC submission, 7 networks', (24.7, 7.5, 7.3), members=SUBMISSION, note=SUBMISSION_NOTE,
            pretraining=12 * ONE_RUN),
        _fused('D and E, S=[256;512], dense', (24.0, 7.1, 7.0), WIDE),
        _fused('D and E, S=[256;512], 150 crops', (23.9, 7.2, None), CROPS_150),
        _fused('D and E, S=[256;512], dense and 150 crops', (23.7, 6.8, 6.8), BOTH),
    ),
    **ILSVRC,
)

TABLE_7 = Table(
    title='Table 7',
    columns=WITH_TEST,
    rows=(
        _fused('VGG, 2 networks, dense and 150 crops', (23.7, 6.8, 6.8), BOTH),
        Row('VGG, 1 network, dense and 150 crops', (24.4, 7.1, 7.0), 'E_jitter', protocol=BOTH,
            parameters=TOTALS['E'], pretraining=CHAIN),
        Row('VGG, ILSVRC submission, 7 networks, dense', (24.7, 7.5, 7.3), members=SUBMISSION, note=SUBMISSION_NOTE,
            pretraining=12 * ONE_RUN),
        Row('GoogLeNet, 1 network', (None, 7.9, None), why=OTHERS),
        Row('GoogLeNet, 7 networks', (None, 6.7, None), why=OTHERS),
        Row('MSRA, 11 networks', (None, None, 8.1), why=OTHERS),
        Row('MSRA, 1 network', (27.9, 9.1, 9.1), why=OTHERS),
        Row('Clarifai, several networks', (None, None, 11.7), why=OTHERS),
        Row('Clarifai, 1 network', (None, None, 12.5), why=OTHERS),
        Row('Zeiler and Fergus, 6 networks', (36.0, 14.7, 14.8), why=OTHERS),
        Row('Zeiler and Fergus, 1 network', (37.5, 16.0, 16.1), why=OTHERS),
        Row('OverFeat, 7 networks', (34.0, 13.2, 13.6), why=OTHERS),
        Row('OverFeat, 1 network', (35.7, 14.2, None), why=OTHERS),
        Row('Krizhevsky et al., 5 networks', (38.1, 16.4, 16.4), why=OTHERS),
        Row('Krizhevsky et al., 1 network', (40.7, 18.2, None), why=OTHERS),
    ),
    **ILSVRC,
)

# Section 4.1, in the text: a difference between two runs, on a central crop. Read as percentage points.
DIFFERENCES = Table(
    title='Differences stated in the text',
    columns=(Column('Top-1 (val)', 'top1', 'validation', decimals=0),),
    rows=(
        Row('One 5x5 instead of two 3x3 in B (4.1)', (7,), 'B_5x5', minus='B', protocol='centre',
            pretraining=ONE_RUN),
    ),
    **ILSVRC,
)

# What the publishers of trained weights say of them: 100 minus their accuracies. The authors' own are D and E trained
# with scale jitter.
PUBLISHED_WEIGHTS = Table(
    title='Published weights',
    data='ILSVRC-2012',
    source='imagenet2012',
    columns=WITH_TEST,
    rows=(
        Row('VGG_ILSVRC_16_layers', (None, 7.5, 7.4), 'D_jitter', protocol=WIDE, parameters=TOTALS['D'],
            pretraining=CHAIN),
        Row('VGG_ILSVRC_19_layers', (None, 7.5, 7.3), 'E_jitter', protocol=WIDE, parameters=TOTALS['E'],
            pretraining=CHAIN),
        _fused('both', (None, 7.1, 7.0), WIDE),
        Row('MatConvNet, of the 16-layer file', (28.5, 9.9, None), 'D_jitter', protocol='centre',
            parameters=TOTALS['D'], pretraining=CHAIN),
        Row('MatConvNet, of the 19-layer file', (28.7, 9.9, None), 'E_jitter', protocol='centre',
            parameters=TOTALS['E'], pretraining=CHAIN),
        Row('torchvision vgg11', (30.98, 11.372, None), 'torchvision_A', protocol='centre', parameters=TOTALS['A']),
        Row('torchvision vgg13', (30.072, 10.754, None), 'torchvision_B', protocol='centre', parameters=TOTALS['B']),
        Row('torchvision vgg16', (28.408, 9.618, None), 'torchvision_D', protocol='centre', parameters=TOTALS['D']),
        Row('torchvision vgg19', (27.624, 9.124, None), 'torchvision_E', protocol='centre', parameters=TOTALS['E']),
    ),
    examples=50_000,
    train_examples=IMAGES,
)

TABLES = (TABLE_3, TABLE_4, TABLE_5, TABLE_6, TABLE_7, DIFFERENCES, PUBLISHED_WEIGHTS)

# What has been seen of an experiment short of its number, for the table of claims, beside two steps in small.
SEEN = {
    'paper': 'counts, sizes, PyTorch, devices, dense evaluation: see below',
    'A_LRN': 'counts, sizes, PyTorch',
    'B_5x5': 'PyTorch; two steps in small',
    'C': 'counts, sizes, PyTorch',
    'D_jitter': "two steps in small; weights in Caffe's format give the logits of OpenCV's reader",
    'E_jitter': "two steps in small; weights in Caffe's format give the logits of OpenCV's reader",
} | {f'torchvision_{column}': "weights written by torch give torch's logits" for column in 'ABDE'}
