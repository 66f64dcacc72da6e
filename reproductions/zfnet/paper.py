"""What the paper printed: M. D. Zeiler, R. Fergus, "Visualizing and Understanding Convolutional Networks",
arXiv:1311.2901v3, 2013.

Error rates are in %. Tables 4 to 7 print accuracies: here they are 100 minus those. Every row names the experiment that
reproduces it or says why none does.
"""
from lib.effects import Effect, Effects
from lib.paper import Counts
from lib.tables import OTHERS, Column, Row, Table

IMAGES, EPOCHS = 1_281_167, 70

# Counts of the networks as published: weights and biases.
_FULLY_CONNECTED = {'fc6': 37_752_832, 'fc7': 16_781_312, 'fc8': 4_097_000}
_AFTER_CONV1 = {'conv2': 614_656, 'conv3': 885_120, 'conv4': 1_327_488, 'conv5': 884_992} | _FULLY_CONNECTED
PARAMETERS = {'conv1': 14_208} | _AFTER_CONV1
KRIZHEVSKY_PARAMETERS = {'conv1': 34_944} | _AFTER_CONV1
WIDE_PARAMETERS = PARAMETERS | {'conv3': 1_180_160, 'conv4': 4_719_616, 'conv5': 4_719_104, 'fc6': 75_501_568}

# Height, width and maps of every layer's output, for a 224x224x3 image.
_AFTER_LAYER_2 = {
    'conv3': (13, 13, 384),
    'conv4': (13, 13, 384),
    'conv5': (13, 13, 256),
    'pool5': (6, 6, 256),
    'fc6': (4096,),
    'fc7': (4096,),
    'fc8': (1000,),
}
SIZES = {
    'conv1': (110, 110, 96),
    'pool1': (55, 55, 96),
    'norm1': (55, 55, 96),
    'conv2': (26, 26, 256),
    'pool2': (13, 13, 256),
    'norm2': (13, 13, 256),
} | _AFTER_LAYER_2
KRIZHEVSKY_SIZES = {
    'conv1': (55, 55, 96),
    'norm1': (55, 55, 96),
    'pool1': (27, 27, 96),
    'conv2': (27, 27, 256),
    'norm2': (27, 27, 256),
    'pool2': (13, 13, 256),
} | _AFTER_LAYER_2
WIDE_SIZES = SIZES | {'conv3': (13, 13, 512), 'conv4': (13, 13, 1024), 'conv5': (13, 13, 512), 'pool5': (6, 6, 512)}

# Of each architecture of Table 3, in its order.
TOTALS = {
    'krizhevsky': 62_378_344,
    'krizhevsky_without_3_4': 59_870_824,
    'krizhevsky_without_7': 45_597_032,
    'krizhevsky_without_6_7': 12_964_200,
    'krizhevsky_without_3_4_6_7': 10_456_680,
    'krizhevsky_fc_2048': 28_868_968,
    'krizhevsky_fc_8192': 154_562_920,
    'paper': 62_357_608,
    'fc_2048': 28_848_232,
    'fc_8192': 154_542_184,
    'conv_512_1024_512': 107_627_624,
    'conv_512_1024_512_fc_8192': 237_560_936,
}
TWO_GROUPS_TOTAL = 60_965_224           # of Krizhevsky's own network on two GPUs

# For `python -m launch.inspect zfnet --explain=conv1`.
LESSONS = {
    'conv1': 'Fewer parameters than in AlexNet, 14,208 against 34,944, but in this layer only: no other has fewer than '
             'its counterpart there, and in all there are 62,357,608 against 60,965,224.',
}

COUNTS = {
    'paper': Counts('ZFNet, 224x224x3', PARAMETERS, TOTALS['paper'], SIZES, 1_168_032_896, receptive_field=171),
    'krizhevsky': Counts('Krizhevsky on one GPU, 224x224x3', KRIZHEVSKY_PARAMETERS, TOTALS['krizhevsky'],
                         KRIZHEVSKY_SIZES, 1_135_256_096, receptive_field=195),
    'conv_512_1024_512': Counts('ZFNet 512-1024-512, 224x224x3', WIDE_PARAMETERS, TOTALS['conv_512_1024_512'],
                                WIDE_SIZES, 2_476_704_896, receptive_field=171),
}

# Section 4.1 compares parts of dog faces while one is covered; lower is a tighter correspondence.
_OCCLUSION = 'where the parts of the dogs lie is not public; the measure: launch.visualize --method=correspondence'
TABLE_1 = Table(
    title='Table 1, correspondence of parts: a Hamming distance, not an error',
    data='five images of dogs',
    source=None,
    columns=(Column('Layer 5', 'top1', 'test', decimals=3), Column('Layer 7', 'top1', 'test', decimals=3)),
    rows=(
        Row('Right eye', (0.067, 0.069), why=_OCCLUSION, note='± 0.007, ± 0.015.'),
        Row('Left eye', (0.069, 0.068), why=_OCCLUSION, note='± 0.007, ± 0.013.'),
        Row('Nose', (0.079, 0.069), why=_OCCLUSION, note='± 0.017, ± 0.011.'),
        Row('Random', (0.107, 0.073), why=_OCCLUSION, note='± 0.017, ± 0.014.'),
    ),
)

ILSVRC = dict(data='ILSVRC-2012', source='imagenet2012', examples=50_000, train_examples=IMAGES, epochs=EPOCHS)
VALIDATION = (Column('Top-1 (val)', 'top1', 'validation'), Column('Top-5 (val)', 'top5', 'validation'))

# Section 5.1. The paper does not say how many crops are averaged.
TABLE_2 = Table(
    title='Table 2',
    columns=(*VALIDATION, Column('Top-5 (test)', 'top5', 'test')),
    rows=(
        Row('Gunji et al.', (None, None, 26.2), why=OTHERS),
        Row('Krizhevsky et al., 1 convnet', (40.7, 18.2, None), why=OTHERS),
        Row('Krizhevsky et al., 5 convnets', (38.1, 16.4, 16.4), why=OTHERS),
        Row('Krizhevsky et al., 1* convnets', (39.0, 16.6, None), why=OTHERS),
        Row('Krizhevsky et al., 7* convnets', (36.7, 15.4, 15.3), why=OTHERS),
        Row('Our replication of Krizhevsky et al., 1 convnet', (40.5, 18.1, None), 'krizhevsky',
            parameters=TOTALS['krizhevsky']),
        Row('1 convnet as per Fig. 3', (38.4, 16.5, None), 'paper', parameters=TOTALS['paper']),
        Row('5 convnets as per Fig. 3 (a)', (36.7, 15.3, 15.3), members=('paper',) * 5),
        Row('1 convnet, layers 3, 4, 5: 512, 1024, 512 maps (b)', (37.5, 16.0, 16.1), 'conv_512_1024_512',
            parameters=TOTALS['conv_512_1024_512']),
        Row('6 convnets, (a) and (b)', (36.0, 14.7, 14.8), members=('paper',) * 5 + ('conv_512_1024_512',)),
    ),
    **ILSVRC,
)


def _architecture(name: str, experiment: str, values: tuple[float, float, float]) -> Row:
    return Row(name, values, experiment, parameters=TOTALS[experiment],
               note='train error: `--eval_only --set evaluation.split=train`.')


# Section 5.1.
TABLE_3 = Table(
    title='Table 3',
    columns=(Column('Top-1 (train)', 'top1', 'train'), *VALIDATION),
    rows=(
        _architecture('Our replication of Krizhevsky et al.', 'krizhevsky', (35.1, 40.5, 18.1)),
        _architecture('Removed layers 3, 4', 'krizhevsky_without_3_4', (41.8, 45.4, 22.1)),
        _architecture('Removed layer 7', 'krizhevsky_without_7', (27.4, 40.0, 18.4)),
        _architecture('Removed layers 6, 7', 'krizhevsky_without_6_7', (27.4, 44.8, 22.4)),
        _architecture('Removed layers 3, 4, 6, 7', 'krizhevsky_without_3_4_6_7', (71.1, 71.3, 50.1)),
        _architecture('Layers 6, 7: 2048 units', 'krizhevsky_fc_2048', (40.3, 41.7, 18.8)),
        _architecture('Layers 6, 7: 8192 units', 'krizhevsky_fc_8192', (26.8, 40.0, 18.1)),
        _architecture('Our model as per Fig. 3', 'paper', (33.1, 38.4, 16.5)),
        _architecture('Our model, layers 6, 7: 2048 units', 'fc_2048', (38.2, 40.2, 17.6)),
        _architecture('Our model, layers 6, 7: 8192 units', 'fc_8192', (22.0, 38.8, 17.0)),
        _architecture('Our model, layers 3, 4, 5: 512, 1024, 512 maps', 'conv_512_1024_512', (18.8, 37.5, 16.0)),
        _architecture('Our model, layers 6, 7: 8192 units and layers 3, 4, 5: 512, 1024, 512 maps',
                      'conv_512_1024_512_fc_8192', (10.0, 38.3, 16.9)),
    ),
    **ILSVRC,
)


def _error(accuracy: float) -> float:
    return round(100 - accuracy, 1)


def _transfer(title: str, name: str, words: str, count: int, classes: int, rows: tuple[tuple[str, float, float], ...],
              scratch: tuple[float, float], kept: tuple[float, float]) -> Table:
    """A column of Table 4 or 5: accuracies with the deviations that the paper has (0 for none)."""
    def note(accuracy: float, deviation: float) -> str:
        return (f'accuracy {accuracy} ± {deviation} over five folds (`--set data.fold=0` to 4), the mean over classes; '
                'ours is over images, `python -m launch.features` prints both.')

    return Table(
        title=f'{title}, {count} training images a class: 100 minus accuracy',
        data=words,
        source=f'folder:{name}',
        columns=(Column('Top-1', 'top1', 'validation'),),
        rows=(
            *(Row(row, (_error(accuracy),), why=OTHERS, note=f'accuracy {accuracy}' + f' ± {deviation}' * bool(
                deviation) + '.') for row, accuracy, deviation in rows),
            Row('Non-pretrained convnet', (_error(scratch[0]),), f'{name}_{count}_scratch', note=note(*scratch)),
            Row('ImageNet-pretrained convnet', (_error(kept[0]),), f'{name}_{count}', note=note(*kept),
                pretraining=EPOCHS * IMAGES),
        ),
        train_examples=count * classes,
    )


# Section 5.2. On up to 50 images of each class.
TABLE_4 = (
    _transfer('Table 4', 'caltech101', 'Caltech-101', 15, 102, (('Jianchao et al.', 73.2, 0),), (22.8, 1.5),
              (83.8, 0.5)),
    _transfer('Table 4', 'caltech101', 'Caltech-101', 30, 102,
              (('Bo et al.', 81.4, 0.33), ('Jianchao et al.', 84.3, 0)), (46.5, 1.7), (86.5, 0.5)),
)
TABLE_5 = tuple(
    _transfer('Table 5', 'caltech256', 'Caltech-256', count, 257, (('Sohn et al.', sohn, 0), ('Bo et al.', *bo)),
              scratch, kept)
    for count, sohn, bo, scratch, kept in (
        (15, 35.1, (40.5, 0.4), (9.0, 1.4), (65.7, 0.2)),
        (30, 42.1, (48.0, 0.2), (22.5, 0.7), (70.6, 0.2)),
        (45, 45.7, (51.9, 0.2), (31.2, 0.5), (72.7, 0.4)),
        (60, 47.9, (55.2, 0.3), (38.8, 1.4), (74.2, 0.3)),
    ))

# Section 5.2. Images show several objects and a softmax names one, as the paper says itself.
PASCAL = {
    'airplane': 96.0, 'bicycle': 77.1, 'bird': 88.4, 'boat': 85.5, 'bottle': 55.8, 'bus': 85.8, 'car': 78.6,
    'cat': 91.2, 'chair': 65.0, 'cow': 74.4, 'dining table': 67.7, 'dog': 87.8, 'horse': 86.0, 'motorbike': 85.1,
    'person': 90.9, 'potted plant': 52.2, 'sheep': 83.6, 'sofa': 61.1, 'train': 91.8, 'tv': 76.1,
}
_SERVER = ('images of several classes, judged by a server that keeps its labels; `--experiment=pascal2012` trains '
           'such a softmax on the training images, in the paper on those of validation too, and measures its error on '
           'validation images of one class')
TABLE_6 = Table(
    title='Table 6: 100 minus accuracy',
    data='PASCAL VOC 2012 test',
    source=None,
    columns=(Column('Ours', 'top1', 'test'),),
    rows=(
        Row('[A], mean', (_error(74.3),), why=OTHERS),
        Row('[B], mean', (_error(82.2),), why=OTHERS),
        Row('Ours, mean', (_error(79.0),), why=_SERVER),
        *(Row(f'Ours, {name}', (_error(accuracy),), why=_SERVER) for name, accuracy in PASCAL.items()),
    ),
)

# Section 5.3: (layer, classifier) -> accuracy and deviation on Caltech-101, 30 images a class, and on Caltech-256, 60.
# A layer's features are taken to be what the next one reads.
FEATURES = {
    ('norm1', 'svm'): ((44.8, 0.7), (24.6, 0.4)),
    ('norm2', 'svm'): ((66.2, 0.5), (39.6, 0.3)),
    ('conv3', 'svm'): ((72.3, 0.4), (46.0, 0.3)),
    ('conv4', 'svm'): ((76.6, 0.4), (51.3, 0.1)),
    ('pool5', 'svm'): ((86.2, 0.8), (65.6, 0.3)),
    ('fc7', 'svm'): ((85.5, 0.4), (71.7, 0.2)),
    ('pool5', 'softmax'): ((82.9, 0.4), (65.7, 0.5)),
    ('fc7', 'softmax'): ((85.4, 0.4), (72.6, 0.1)),
}


def _table_7(words: str, count: int, which: int) -> Table:
    def row(layer: str, classifier: str, accuracy: float, deviation: float) -> Row:
        kind = {'svm': 'SVM', 'softmax': 'Softmax'}[classifier]
        return Row(f'{kind} ({layer[-1]})', (_error(accuracy),), note=f'accuracy {accuracy} ± {deviation}.',
                   why=f'no training: `python -m launch.features zfnet --workdir=DIR --layer={layer} '
                       f'--classifier={classifier}`, with the --set of "Features of each layer" for {words} and '
                       f'data.train_per_class={count}')

    return Table(
        title=f'Table 7, {count} training images a class: 100 minus accuracy',
        data=words,
        source=None,
        columns=(Column('Top-1', 'top1', 'validation'),),
        rows=tuple(row(*key, *found[which]) for key, found in FEATURES.items()),
    )


TABLE_7 = (_table_7('Caltech-101', 30, 0), _table_7('Caltech-256', 60, 1))

# What imgclsmob says of its networks, which it trained by a recipe of its own.
PUBLISHED_WEIGHTS = Table(
    title='Published weights',
    columns=VALIDATION,
    rows=(
        Row('imgclsmob zfnet', (39.21, 16.78), 'imgclsmob', protocol='centre', parameters=TOTALS['paper']),
        Row('imgclsmob zfnetb', (35.81, 14.59), 'imgclsmob_b', protocol='centre',
            parameters=TOTALS['conv_512_1024_512']),
    ),
    data='ILSVRC-2012',
    source='imagenet2012',
    examples=50_000,
    train_examples=IMAGES,
)

FIRST_LAYERS = Effects(
    title='Section 4.1 in small, on photographs',
    data='Imagenette',
    source='imagenette/160px-v2',
    experiment='first_layers',
    rows=(Effect('7x7 at stride 2 and then 5x5 at stride 2, instead of 11x11 at 4 and 5x5 at 1; normalisation after '
                 'pooling instead of before', 'seven_2', 'eleven_4',
                 '-2.1 top-1 on ImageNet (Table 3)', 'less'),))

TABLES = (TABLE_1, TABLE_2, TABLE_3, FIRST_LAYERS, *TABLE_4, *TABLE_5, TABLE_6, *TABLE_7, PUBLISHED_WEIGHTS)

# What has been seen of an experiment short of its number, for the table of claims, beside two steps in small.
_KEPT = 'two steps in small, in which layers 1 to 7 do not move'
SEEN = {
    'paper': 'counts, sizes, PyTorch, devices: see below',
    'krizhevsky': 'counts, sizes, PyTorch',
    'first_layers': 'run to its end',
    'conv_512_1024_512': 'counts, sizes; two steps in small',
    'imgclsmob': "weights in imgclsmob's form give torch's logits",
    'imgclsmob_b': "weights in imgclsmob's form give torch's logits",
} | dict.fromkeys((row.experiment for table in (*TABLE_4, *TABLE_5) for row in table.rows if row.pretraining), _KEPT)
