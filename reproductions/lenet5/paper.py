"""What the paper printed: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-Based Learning Applied to Document
Recognition", Proceedings of the IEEE 86(11), November 1998.

Error rates are in %, as printed. Every row names the experiment that reproduces it or says why none does.
"""
from lib.effects import Effect, Effects
from lib.paper import Counts
from lib.tables import Column, Row, Table

# Section II.B, layer by layer: trainable parameters, and connections, which count a bias as one.
PARAMETERS = {
    'C1': 156,
    'S2': 12,
    'C3': 1_516,
    'S4': 32,
    'C5': 48_120,
    'F6': 10_164,
}
TOTAL = 60_000
CONNECTIONS = {
    'C1': 122_304,
    'S2': 5_880,
    'C3': 151_600,
    'S4': 2_000,
    'C5': 48_120,
    'F6': 10_164,
    'output': 840,                      # of the RBF units, which are fixed
}
TOTAL_CONNECTIONS = 340_908

SIZES = {
    'C1': (28, 28, 6),
    'S2': (14, 14, 6),
    'C3': (10, 10, 16),
    'S4': (5, 5, 16),
    'C5': (1, 1, 120),
    'F6': (84,),
    'output': (10,),
}
MODERN_PARAMETERS = {'C1': 156, 'C3': 2_416, 'C5': 48_120, 'F6': 10_164, 'output': 850}
CAFFE_PARAMETERS = {'C1': 520, 'C3': 25_050, 'F5': 400_500, 'F6': 5_010}
CAFFE_SIZES = {'C1': (24, 24, 20), 'S2': (12, 12, 20), 'C3': (8, 8, 50), 'S4': (4, 4, 50), 'F5': (500,), 'F6': (10,)}

COUNTS = {
    'paper': Counts('LeNet-5, 32x32', PARAMETERS, TOTAL, SIZES, 325_680, receptive_field=32),
    'modern': Counts('LeNet-5 as now, 32x32', MODERN_PARAMETERS, 61_706, SIZES, 416_520, receptive_field=32),
    'caffe': Counts('LeNet of Caffe, 28x28', CAFFE_PARAMETERS, 431_080, CAFFE_SIZES, 2_293_000, receptive_field=16),
}

OTHERS = 'not a convolutional network of this paper, printed as context'
SMALLER = 'another network of the paper: its layers are not given in full'

# Figure 9, test errors on MNIST without rejection.
FIGURE_9 = Table(
    title='Figure 9',
    data='MNIST test',
    source='mnist',
    columns=(Column('Top-1', 'top1', 'test', decimals=2),),
    rows=(
        Row('Linear', (12.0,), why=OTHERS),
        Row('Pairwise linear', (7.6,), why=OTHERS),
        Row('K-NN, Euclidean', (5.0,), why=OTHERS),
        Row('1,000 RBF + linear', (3.6,), why=OTHERS),
        Row('40 PCA + quadratic', (3.3,), why=OTHERS),
        Row('Tangent distance, 16x16', (1.1,), why=OTHERS),
        Row('SVM, polynomials of degree 4', (1.1,), why=OTHERS),
        Row('V-SVM, degree 9, distortions', (0.8,), why=OTHERS),
        Row('784-300-10', (4.7,), why=OTHERS),
        Row('784-300-100-10', (3.05,), why=OTHERS),
        Row('LeNet-1', (1.7,), why=SMALLER),
        Row('LeNet-4', (1.1,), why=SMALLER),
        Row('Boosted LeNet-4, distortions', (0.7,), why=SMALLER),
        Row('LeNet-5 (ours: penalties x 0.05)', (0.95,), 'paper', protocol='centre', parameters=TOTAL),
        Row('LeNet-5, distortions (ours: penalties x 0.05; 60,000 new ones a pass)', (0.8,), 'distortions',
            protocol='centre', parameters=TOTAL,
            note='the paper added 540,000 distorted images to the 60,000; here each pass distorts all 60,000 anew.'),
    ),
    examples=10_000,
    train_examples=60_000,
    epochs=20,
)

# Section III.C, in the text.
TRAINING_ERROR = Table(
    title='Section III, error on the training set',
    data='MNIST train',
    source='mnist',
    columns=(Column('Top-1', 'top1', 'train', decimals=2),),
    rows=(Row('LeNet-5, after 19 passes (ours: 20; penalties x 0.05)', (0.35,), 'paper', protocol='centre',
              parameters=TOTAL, note='--eval_only --set evaluation.split=train.'),),
    examples=60_000,
    train_examples=60_000,
    epochs=20,
)

# The figure's curves are not at hand as numbers.
SIZES_OF_TRAINING_SET = Effects(
    title='Figure 6, size of the training set',
    data='MNIST test',
    source='mnist',
    experiment='training_sizes',
    rows=(
        Effect('15,000 instead of 60,000 training images', 'images_15000', 'images_60000', 'more error', 'more'),
        Effect('30,000 instead of 60,000 training images', 'images_30000', 'images_60000', 'more error', 'more'),
        Effect('15,000 instead of 30,000 training images', 'images_15000', 'images_30000', 'more error', 'more'),
    ))

TABLES = (FIGURE_9, TRAINING_ERROR, SIZES_OF_TRAINING_SET)

SEEN = {
    'paper': 'run to its end; counts, connections, sizes, PyTorch',
    'distortions': 'run to its end',
    'training_sizes': 'run to its end',
    'modern': 'counts, sizes, PyTorch',
    'caffe': "weights in Caffe's format give the logits of OpenCV's reader",
}
