"""Network in Network's recipes: its author's, in our units, for the paper's four data sets and for ImageNet; ablations.

The author's code, like cuda-convnet, keeps

    v <- mom v - epsW wc w - epsW coeff g;  w <- w + v,

where g is the gradient of the mean cross-entropy and `coeff` its weight in the cost. Ours is

    v <- momentum v - rate (weight_decay w + g);  w <- w + v,

so rate = epsW coeff and weight_decay = wc / coeff. CIFAR-10's files have epsW 1, wc 1e-5 and coeff 0.1, and epsW 0.1 in
the last layer: rate 0.1, there 0.01, decay 1e-4. CIFAR-100's have epsW 0.01, wc 1e-3 and coeff 2 in all layers: rate
0.02, decay 5e-4. epsB is twice epsW everywhere, and biases are not decayed.
"""
import dataclasses
import functools

from lib.experiment import Arm, Comparison, Data, Evaluation, Experiment, Optimizer, variant
from reproductions.nin import model as networks
from reproductions.nin.model import Model, Pool

PAPER = Experiment(
    summary="CIFAR-10 without augmentation: three mlpconv blocks, global average pooling, dropout; the author's recipe",
    source='Table 1, NIN + Dropout',
    published='paper',
    model=Model(networks.CIFAR10),
    data=Data(source='cifar10', train_split='train', validation_split='test', image_size=32, contrast='global',
              whiten=True),
    optimizer=Optimizer(learning_rate=0.1, momentum=0.9, weight_decay=1e-4, bias_learning_rate=2.0,
                        layer_learning_rate=(('cccp6', 0.1),), schedule='steps', drop_epochs=(200, 230)),
    batch_size=128,
    epochs=260,
)

ablation = functools.partial(variant, PAPER)

SCORES = networks.CIFAR10[-2]           # the block that makes the maps of the classes

# The digits go in as numbers from 0 to 1, with nothing subtracted.
MNIST = dict(model=Model(networks.MNIST, channels=1), data__source='mnist', data__image_size=28, data__contrast='none',
             data__whiten=False, data__mean=(0.0, 0.0, 0.0), data__pixel_scale=255.0)

# At the published weights the loss of the digits stays at ln 10 for the first hundreds of steps. With scaled ones and a
# rate of 0.02 or more it stops at a higher error than it should, as when maps of classes have died of their ReLU.
SHORT = MNIST | dict(model=Model(networks.MNIST, channels=1, init='scaled'), optimizer__learning_rate=0.01,
                     optimizer__layer_learning_rate=())

# 450,000 iterations of 64 images, the rate a tenth after 200,000 and after 400,000: epochs of 1,281,167 images.
IMAGENET_IMAGES = 1_281_167
IMAGENET = Experiment(
    summary="ImageNet: the author's four-block network in Caffe",
    source="the author's page of the Caffe model",
    published='imagenet',
    model=Model(networks.IMAGENET),
    data=Data(source='imagenet2012', resize=256, image_size=224, crop='random', reflect=True),
    optimizer=Optimizer(learning_rate=0.01, momentum=0.9, weight_decay=5e-4, bias_learning_rate=2.0, schedule='steps',
                        drop_epochs=(200_000 * 64 / IMAGENET_IMAGES, 400_000 * 64 / IMAGENET_IMAGES)),
    evaluation=Evaluation(crops='centre'),
    batch_size=64,
    epochs=23,
    steps=450_000,
)

# Nobody states a recipe for the pair: this one is ours.
FLATTEN = Experiment(
    summary='five convolutions, then their maps flattened into fully connected layers: 34,066,792 parameters',
    source='the literature on flattening and global average pooling',
    published='flatten',
    model=Model(networks.FLATTEN, rounding='floor', init='scaled'),
    data=Data(source='imagenet2012', resize=256, image_size=224, crop='random', reflect=True),
    optimizer=Optimizer(learning_rate=0.01, momentum=0.9, weight_decay=5e-4, schedule='steps',
                        drop_epochs=(30, 60, 80)),
    batch_size=128,
    epochs=90,
)

# Table 5 and the sections around it at a quarter of the width and with scaled initial weights, to fit a laptop; trained
# on the first four batches of CIFAR-10 and judged on the fifth.
QUARTER = ablation('CIFAR-10 at a quarter of the width', 'Table 5', model__init='scaled',
                   model__layers=networks.narrow(networks.CIFAR10, 4), data__train_split='train[:40000]',
                   data__validation_split='train[40000:]', optimizer__learning_rate=0.01,
                   optimizer__layer_learning_rate=(), optimizer__drop_epochs=(11, 13), epochs=14)
QUARTER_WIDTH = Comparison(
    summary='CIFAR-10 at a quarter of the width: global average pooling, fully connected layers, dropout, 1x1 layers',
    source='Table 5, sections 3.1 and 4.2',
    base=QUARTER,
    arms=(Arm('global_average'),
          Arm('no_dropout', (('model.dropout', 0.0),)),
          Arm('fully_connected', (('model.layers', networks.narrow(networks.FULLY_CONNECTED, 4)),)),
          Arm('fully_connected_dropout', (('model.layers', networks.narrow(networks.FULLY_CONNECTED_DROPOUT, 4)),)),
          Arm('plain', (('model.layers', networks.narrow(networks.PLAIN, 4)),))),
    splits=('test',))

EXPERIMENTS = {
    'paper': PAPER,
    'quarter_width': QUARTER_WIDTH,
    'augmented': ablation('CIFAR-10 with translations and reflections', 'Table 1, NIN + Dropout + Data Augmentation',
                          'augmented', data__padding=4, data__crop='random', data__reflect=True),
    'no_dropout': ablation('no dropout between the blocks', 'section 4.2', model__dropout=0.0),
    'cifar100': ablation("CIFAR-100: a hundred maps in the last layer, smaller initial weights, the author's rates",
                         'Table 2', 'cifar100', data__source='cifar100', model__layers=networks.CIFAR100,
                         optimizer__learning_rate=0.02, optimizer__weight_decay=5e-4,
                         optimizer__layer_learning_rate=()),
    'svhn': ablation('SVHN: wider blocks; local contrast normalisation', 'Table 3', 'svhn',
                     data__source='svhn_cropped', data__train_split='train+extra', data__contrast='local',
                     data__whiten=False, model__layers=networks.SVHN),
    'mnist': ablation('MNIST: a third of the parameters; no preprocessing', 'Table 4', 'mnist', **MNIST),
    'mnist_short': ablation('MNIST in five epochs: scaled initial weights, one rate for all layers', 'Table 4', 'mnist',
                            **SHORT, epochs=5, optimizer__drop_epochs=(3, 4)),
    'mnist_continued': ablation('three epochs more after mnist_short, without dropout, the rate along a cosine',
                                'Table 4', 'mnist', epochs=3, optimizer__schedule='cosine', optimizer__drop_epochs=(),
                                starts_from='mnist_short',
                                **SHORT | dict(model=dataclasses.replace(SHORT['model'], dropout=0.0))),
    'imagenet': IMAGENET,
    'fully_connected': ablation('a fully connected layer instead of global average pooling',
                                'Table 5, mlpconv + Fully Connected', model__layers=networks.FULLY_CONNECTED),
    'fully_connected_dropout': ablation('a fully connected layer instead of global average pooling, dropout before it',
                                        'Table 5, mlpconv + Fully Connected + Dropout',
                                        model__layers=networks.FULLY_CONNECTED_DROPOUT),
    'plain': ablation('convolutions without their 1x1 layers, but for the last, which makes the maps of the classes',
                      'section 3.1', model__layers=networks.PLAIN,
                      optimizer__layer_learning_rate=(('cccp1', 0.1),)),
    'average_pool2': ablation('average pooling after the second block, as in the copies for Caffe and Lasagne',
                              'section 4.1', model__layers=(*networks.CIFAR10[:4], Pool('average'),
                                                            *networks.CIFAR10[5:])),
    'linear_scores': ablation('no ReLU on the maps of the classes', 'section 3.2',
                              model__layers=(*networks.CIFAR10[:-2], dataclasses.replace(SCORES, last_unit=False),
                                             networks.CIFAR10[-1])),
    'flatten': FLATTEN,
    'global_average_pooling': dataclasses.replace(
        FLATTEN, summary='the same convolutions, then one more and global average pooling: 7,053,200 parameters',
        published='global_average_pooling',
        model=dataclasses.replace(FLATTEN.model, layers=networks.GLOBAL_AVERAGE_POOLING)),
}
