"""AlexNet's recipe as published (section 5), its ablations, and cuda-convnet's recipes for CIFAR-10."""
import dataclasses

from lib.experiment import Arm, Comparison, Data, Evaluation, Experiment, Optimizer, change
from reproductions.alexnet import cifar
from reproductions.alexnet.cifar import CifarModel
from reproductions.alexnet.model import Model

PAPER = Experiment(
    summary='the network and recipe as published: two groups, LRN, overlapping pooling, dropout, ten crops',
    source='Table 2, 1 CNN',
    published='paper',
    model=Model(),
    data=Data(source='imagenet2012', resize=256, image_size=224, random_crop=True, reflect=True, color_noise=0.1),
    optimizer=Optimizer(learning_rate=0.01, momentum=0.9, weight_decay=0.0005, schedule='plateau', drops=3),
    evaluation=Evaluation(crops='ten'),
    batch_size=128,
    epochs=90,
)


def ablation(summary: str, source: str, **changes) -> Experiment:
    """PAPER with the fields at dotted paths changed; dots are written as two underscores."""
    experiment = dataclasses.replace(PAPER, summary=summary, source=source)
    for path, value in changes.items():
        experiment = change(experiment, path.replace('__', '.'), value)
    return experiment


QUICKSTART = dataclasses.replace(
    PAPER,
    summary='all eight layers at reduced width on the digits that scikit-learn ships, in minutes on a laptop',
    source='Table 2, 1 CNN, in small',
    model=Model(classes=10, widths=(24, 64, 96, 96, 64), fc_width=256, init='scaled', bias_init=0.1),
    data=Data(source='digits', resize=68, image_size=64, random_crop=True, reflect=True),
    optimizer=Optimizer(learning_rate=0.003, weight_decay=0.0005, schedule='steps', drop_epochs=(24, 32)),
    batch_size=32,
    epochs=36,
)

# Biases learn at twice the rate of weights and are not decayed in all of cuda-convnet's parameter files.
CIFAR_OPTIMIZER = Optimizer(learning_rate=0.001, momentum=0.9, bias_learning_rate=2.0, schedule='steps')
CIFAR_DATA = Data(source='cifar10', train_split='train', validation_split='test', image_size=32)
CIFAR_CROPS = dataclasses.replace(CIFAR_DATA, image_size=24, random_crop=True, reflect=True)


def cuda_convnet(percent: str, layers: tuple, decay: dict[str, float], epochs: int, drop_epochs: tuple[int, ...],
                 data: Data = CIFAR_DATA) -> Experiment:
    """One of cuda-convnet's published CIFAR-10 recipes; `decay` by layer."""
    return Experiment(
        summary=f"CIFAR-10, cuda-convnet's layers-{percent}.cfg",
        source=f'cuda-convnet, layers-{percent}',
        published='cifar_' + percent.removeprefix('conv-local-'),
        model=CifarModel(layers),
        data=data,
        optimizer=dataclasses.replace(CIFAR_OPTIMIZER, layer_weight_decay=tuple(decay.items()),
                                      drop_epochs=drop_epochs),
        evaluation=Evaluation(crops='ten' if data.random_crop else 'centre'),
        batch_size=128,
        epochs=epochs)


SMALL_CONVS = {'conv1': 0.004, 'conv2': 0.004, 'conv3': 0.004}
LOCALS = {'local3': 0.004, 'local4': 0.004}

# The four-layer network is layers-19pct without weight decay; see "Open questions" in the README for each choice.
FIGURE1_BASE = dataclasses.replace(
    cuda_convnet('19pct', cifar.LAYERS_19PCT, {}, epochs=40, drop_epochs=()),
    summary='one arm of Figure 1', source='Figure 1', published='cifar_19pct',
    model=CifarModel(cifar.LAYERS_19PCT, init='scaled'),
    data=dataclasses.replace(CIFAR_DATA, pixel_scale=64.0),
    optimizer=Optimizer(learning_rate=0.01, momentum=0.9, schedule='constant'),
    evaluation=Evaluation(split='train', batch_size=500, stop_below=25.0))

FIGURE1 = Comparison(
    summary='CIFAR-10: epochs until 25 % training error with ReLU and with tanh, four-layer net, rates from a grid',
    source='Figure 1',
    base=FIGURE1_BASE,
    arms=tuple(Arm(activation, (('model.activation', activation), ('optimizer.learning_rate', rate)))
               for activation, rates in (('relu', (0.01, 0.02, 0.005)), ('tanh', (0.006, 0.012, 0.003)))
               for rate in rates))

EXPERIMENTS = {
    'paper': PAPER,
    'quickstart': QUICKSTART,
    'figure1': FIGURE1,
    'no_lrn': ablation('without local response normalisation', 'section 3.3', model__lrn=False),
    'non_overlapping_pool': ablation('pooling 2x2 at stride 2', 'section 3.4', model__pool_size=2),
    'tanh': ablation('tanh units instead of ReLU', 'section 3.1', model__activation='tanh'),
    'no_dropout': ablation('without dropout', 'section 4.2', model__dropout=0.0),
    'no_pca_colour': ablation('without the PCA colour noise', 'section 4.1', data__color_noise=0.0),
    'no_augmentation': ablation('one central crop, no reflection, no colour noise', 'section 4.1',
                                data__random_crop=False, data__reflect=False, data__color_noise=0.0),
    'one_tower': ablation('the same widths without groups', 'section 3.2', model__groups=1),
    'one_gpu': ablation('half the maps in conv1 to conv4, so that it fits one GPU (footnote 2 as we read it)',
                        'section 3.2', model__groups=1, model__widths=(48, 128, 192, 192, 256)),
    'without_conv3': ablation('without the third layer', 'section 7', model__without='conv3'),
    'without_conv4': ablation('without the fourth layer', 'section 7', model__without='conv4'),
    'without_conv5': ablation('without the fifth layer', 'section 7', model__without='conv5'),
    'cifar_80sec': cuda_convnet('80sec', cifar.LAYERS_80SEC, SMALL_CONVS | {'fc64': 0.03, 'fc10': 0.03}, 10, (8,)),
    'cifar_19pct': cuda_convnet('19pct', cifar.LAYERS_19PCT, SMALL_CONVS | {'fc10': 3.0}, 140, (120, 130)),
    'cifar_18pct': cuda_convnet('18pct', cifar.LAYERS_18PCT, SMALL_CONVS | {'fc10': 1.0}, 140, (120, 130)),
    'cifar_13pct': cuda_convnet('conv-local-13pct', cifar.LAYERS_13PCT, LOCALS | {'fc10': 0.004}, 520, (500, 510),
                                CIFAR_CROPS),
    'cifar_11pct': cuda_convnet('conv-local-11pct', cifar.LAYERS_11PCT, LOCALS | {'fc10': 0.01}, 520, (500, 510),
                                CIFAR_CROPS),
}
