"""AlexNet's recipe as published (section 5), its ablations, and those of other people."""
import dataclasses
import functools

from lib.experiment import Checkpoint, Data, Evaluation, Experiment, Optimizer, variant
from reproductions.alexnet import cifar_experiments
from reproductions.alexnet.model import Model

PAPER = Experiment(
    summary='the network and recipe as published: two groups, LRN, overlapping pooling, dropout, ten crops',
    source='Table 2, 1 CNN',
    published='paper',
    model=Model(),
    data=Data(source='imagenet2012', resize=256, image_size=224, crop='random', reflect=True, color_noise=0.1),
    optimizer=Optimizer(learning_rate=0.01, momentum=0.9, weight_decay=0.0005, schedule='plateau', drops=3),
    evaluation=Evaluation(crops='ten'),
    batch_size=128,
    epochs=90,
)

ablation = functools.partial(variant, PAPER)

QUICKSTART = dataclasses.replace(
    PAPER,
    summary='all eight layers at reduced width on the digits that scikit-learn ships, in minutes on a laptop',
    source='Table 2, 1 CNN, in small',
    model=Model(classes=10, widths=(24, 64, 96, 96, 64), fc_width=256, init='scaled', bias_init=0.1),
    data=Data(source='digits', resize=68, image_size=64, crop='random', reflect=True),
    optimizer=Optimizer(learning_rate=0.003, weight_decay=0.0005, schedule='steps', drop_epochs=(24, 32)),
    batch_size=32,
    epochs=36,
)

# The weights fit two MiB as 16-bit numbers. The kernels of the first layer begin small beside what they become with
# pixels of this scale, so that a training of twelve thousand steps, where the paper's has 900,000, leaves little noise.
SMALL = dataclasses.replace(
    PAPER,
    summary='all eight layers on photographs, the first as wide as in the paper, the rest narrow: to look into',
    source='Figure 3, in small',
    model=Model(widths=(96, 128, 128, 128, 96), fc_width=112, init='scaled', bias_init=0.1,
                dropout=0.3),
    data=dataclasses.replace(PAPER.data, source='imagenette/160px-v2', mean='channel', pixel_scale=64.0),
    optimizer=Optimizer(learning_rate=0.02, weight_decay=0.0005, schedule='cosine'),
    batch_size=32,
    epochs=40,
    checkpoint=Checkpoint(keep=(1, 2, 5, 10, 20)),
)

# Krizhevsky 2014. Rates are those of cuda-convnet2's files, where they grow in proportion to the batch (the paper
# argues for its square root) and drop three times, to 1/250 in all. So are the deviations, the last bias, the place of
# the first normalisation and its scale, which those files divide by the window.
ONE_TOWER = dict(model__widths=(64, 192, 384, 256, 256), model__groups=1)
WEIRD_TRICK = ONE_TOWER | dict(
    model__lrn_after=('conv', 'unit'), model__lrn_alpha=2e-5,
    model__deviations=(0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01), model__loss='logistic',
    model__last_bias_init=-7.0, evaluation__crops='centre', optimizer__schedule='steps',
    optimizer__drop_factor=250 ** (1 / 3), optimizer__drop_epochs=(22.5, 45, 67.5), optimizer__bias_learning_rate=2.0)


def weird_trick(batch: int, fc_batch: int) -> dict[str, Experiment]:
    """One row of its table, by name: batches of the convolutions and of the fully connected layers."""
    name = f'one_weird_trick_{batch}' + f'_{fc_batch}' * (fc_batch != batch)
    return {name: ablation(
        f'"One weird trick": batches of {batch}, and of {fc_batch} in the fully connected layers',
        'Krizhevsky 2014, Table 1', name, **WEIRD_TRICK, batch_size=batch, optimizer__learning_rate=0.01 * batch / 128,
        optimizer__fc_batch=fc_batch, optimizer__fc_learning_rate=fc_batch / batch)}


# Networks whose trained weights are public, each with the recipe that its publishers give as far as it is one of ours.
CAFFE = dict(model__lrn_k=1.0, model__lrn_alpha=2e-5, model__lrn_own_group=False, data__image_size=227,
             data__color_noise=0.0, batch_size=256, optimizer__schedule='steps', optimizer__drop_epochs=(20, 40, 60),
             optimizer__bias_learning_rate=2.0, evaluation__crops='centre',
             model__deviations=(0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.01))
TORCHVISION = ONE_TOWER | dict(
    model__norm='none', model__padding=2, model__rounding='floor', data__mean='channel', data__color_noise=0.0,
    batch_size=256, optimizer__weight_decay=1e-4, optimizer__bias_weight_decay=True, optimizer__schedule='steps',
    optimizer__drop_epochs=(30, 60), evaluation__crops='centre')

# Folders that stand for releases which TFDS does not have: --set data.source=folder:DIR names another place. The rate
# drops on errors of images that are not those of the test, which is an evaluation of its own.
ILSVRC2010 = dict(data__source='folder:~/ilsvrc2010', data__validation_split='val')
FALL_2009 = dict(data__source='folder:~/imagenet-fall2009', data__train_split='all[50000:4450000]',
                 data__validation_split='all[:50000]', model__classes=10_184, model__conv6=256)
FALL_2011 = dict(data__source='folder:~/imagenet-fall2011', data__train_split='all[50000:]',
                 data__validation_split='all[:50000]', model__classes=21_841, model__conv6=256)

EXPERIMENTS = {
    'paper': PAPER,
    'quickstart': QUICKSTART,
    'small': SMALL,
    'ilsvrc2010': ablation('the recipe on ILSVRC-2010, from a folder of images; test: --eval_only '
                           '--set data.validation_split=test', 'Table 1, CNN', 'ilsvrc2010', **ILSVRC2010),
    'fall_2009': ablation('10,184 classes and a sixth convolution, from a folder of images; test: --eval_only '
                          '--set data.validation_split=all[4450000:]', 'section 6', 'fall_2009', **FALL_2009),
    'fall_2011': ablation('pre-training for 1 CNN*: all classes, a sixth convolution, from a folder of images',
                          'Table 2, 1 CNN*', 'fall_2011', **FALL_2011),
    'fine_tuned': ablation('1 CNN*: a network with a sixth convolution, started from a run of fall_2011',
                           'Table 2, 1 CNN*', 'fine_tuned', model__conv6=256, starts_from='fall_2011'),
    'no_lrn': ablation('without local response normalisation', 'section 3.3', model__norm='none'),
    'non_overlapping_pool': ablation('pooling 2x2 at stride 2', 'section 3.4', model__pool_size=2),
    'tanh': ablation('tanh units instead of ReLU', 'section 3.1', model__activation='tanh'),
    'no_dropout': ablation('without dropout', 'section 4.2', model__dropout=0.0),
    'no_pca_colour': ablation('without the PCA colour noise', 'section 4.1', data__color_noise=0.0),
    'no_augmentation': ablation('one central crop, no reflection, no colour noise', 'section 4.1',
                                data__crop='centre', data__reflect=False, data__color_noise=0.0),
    'one_tower': ablation('the same widths without groups', 'section 3.2', model__groups=1),
    'one_gpu': ablation('half the maps in conv1 to conv4, so that it fits one GPU (footnote 2 as we read it)',
                        'section 3.2', model__groups=1, model__widths=(48, 128, 192, 192, 256)),
    'without_conv3': ablation('without the third layer', 'section 7', model__without='conv3'),
    'without_conv4': ablation('without the fourth layer', 'section 7', model__without='conv4'),
    'without_conv5': ablation('without the fifth layer', 'section 7', model__without='conv5'),
    'input_227': ablation('227 pixels, so that no window overhangs', 'section 2, as in Caffe', data__image_size=227),
    'batch_norm': ablation('batch normalisation of all layers but the last, no LRN', 'section 3.3, as is done now',
                           model__norm='batch'),
    'cosine_schedule': ablation('a learning rate that falls as half a cosine', 'section 5, as is done now',
                                optimizer__schedule='cosine'),
    'pool_average': ablation('average pooling', 'section 3.4', model__pool='average'),
    'pool_min': ablation('minimum pooling', 'section 3.4', model__pool='min'),
    'caffe': ablation("Caffe's bvlc_alexnet", 'BVLC', 'caffe', model__bias_init=0.1, **CAFFE),
    'caffenet': ablation("Caffe's CaffeNet: normalisation after pooling", 'BVLC', 'caffenet',
                         model__lrn_after=('pool', 'pool'), **CAFFE),
    'torchvision': ablation("torchvision's AlexNet: the network of 2014 without normalisation", 'torchvision',
                            'torchvision', **TORCHVISION),
    **weird_trick(128, 128), **weird_trick(256, 256), **weird_trick(256, 128), **weird_trick(512, 512),
    **weird_trick(512, 128), **weird_trick(1024, 1024), **weird_trick(1024, 128),
    'cuda_convnet2': ablation('the network of one_weird_trick_128 with softmax and ten crops', "cuda-convnet2's page",
                              'cuda_convnet2', **WEIRD_TRICK | dict(model__loss='softmax', evaluation__crops='ten')),
    **cifar_experiments.EXPERIMENTS,
}
