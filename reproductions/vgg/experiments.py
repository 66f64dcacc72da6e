"""The recipes of Simonyan and Zisserman 2014 (section 3): networks A to E, trained at one scale or with scale jitter.

'paper' is configuration D, which people call VGG-16, as the paper trains it first: images of 256 pixels, from a trained
A. The same network at 384 pixels goes on from there, and the one with scale jitter from that:

    A -> B, C, paper (D), E -> C_384, D_384, E_384 -> C_jitter, D_jitter, E_jitter
"""
import functools

from lib.experiment import Data, Evaluation, Experiment, Optimizer, variant
from reproductions.vgg.model import FULLY_CONNECTED, Model

# Section 3.1: "the first four convolutional layers and the last three fully-connected layers" of A.
FROM_A = ('conv1_1', 'conv2_1', 'conv3_1', 'conv3_2', *FULLY_CONNECTED)

PAPER = Experiment(
    summary='D, 16 layers, S=256, started from a run of A; D_glorot needs none',
    source='Table 3, D, S=256',
    published='paper',
    model=Model(),
    data=Data(source='imagenet2012', resize=256, image_size=224, mean='channel', crop='random', reflect=True,
              color_noise=0.1),
    optimizer=Optimizer(learning_rate=0.01, momentum=0.9, weight_decay=0.0005, schedule='plateau', drops=3),
    evaluation=Evaluation(crops='dense', scales=(256,)),
    batch_size=256,
    epochs=74,
    starts_from='A',
    starts_with=FROM_A,
)

ablation = functools.partial(variant, PAPER)

NEW = dict(starts_from=None, starts_with=None)
A = NEW | dict(model__configuration='A')
SHALLOW = NEW | dict(model__configuration='B_5x5', evaluation__crops='centre', evaluation__scales=())

# The paper gives the smaller rate for S=384 only, and for neither how long.
CONTINUED = dict(starts_with=None, optimizer__learning_rate=0.001, evaluation__scales=(384,))
AT_384 = CONTINUED | dict(data__resize=384)
JITTER = CONTINUED | dict(data__resize=512, data__crop='scaled', data__crop_scales=(256, 512))

# torchvision's initial weights are He et al.'s by the outputs, to which Glorot's are the nearest here.
TORCHVISION = NEW | dict(
    model__init='glorot', data__crop='area', data__color_noise=0.0, optimizer__weight_decay=1e-4,
    optimizer__bias_weight_decay=True, optimizer__schedule='steps', optimizer__drop_epochs=(30, 60),
    evaluation__crops='centre', evaluation__scales=(), epochs=90)


def continued(configuration: str) -> dict[str, Experiment]:
    """Training at 384 pixels and with scale jitter, by name."""
    first, model = 'paper' if configuration == 'D' else configuration, dict(model__configuration=configuration)
    fixed, jitter = f'{configuration}_384', f'{configuration}_jitter'
    return {
        fixed: ablation(f'{configuration}, S=384, started from a run of {first}', f'Table 3, {configuration}, S=384',
                        fixed, **model, **AT_384, starts_from=first),
        jitter: ablation(f'{configuration}, S from 256 to 512, started from a run of {fixed}',
                         f'Table 3, {configuration}, S=[256;512]', jitter, **model, **JITTER, starts_from=fixed),
    }


def torchvision(configuration: str, number: int) -> dict[str, Experiment]:
    name = f'torchvision_{configuration}'
    return {name: ablation(f"torchvision's vgg{number}", f'torchvision, vgg{number}', name, **TORCHVISION,
                           model__configuration=configuration)}


EXPERIMENTS = {
    'paper': PAPER,
    'A': ablation('A, 11 layers, S=256, initial weights as printed', 'Table 3, A', 'A', **A),
    'A_LRN': ablation('A with local response normalisation', 'Table 3, A-LRN', 'A_LRN', **A, model__norm='response'),
    'A_glorot': ablation("A with Glorot's initial weights", 'section 3.1', 'A', **A, model__init='glorot'),
    'A_small_weights': ablation('A with initial weights of deviation 0.01, not of variance 0.01 as printed',
                                'section 3.1', 'A', **A, model__deviation=0.01),
    'B': ablation('B, 13 layers, S=256, started from a run of A', 'Table 3, B', 'B', model__configuration='B'),
    'B_5x5': ablation('one 5x5 convolution for each two of 3x3 in B, S=256', 'section 4.1', 'B_5x5', **SHALLOW),
    'C': ablation('C, 16 layers, three of them 1x1, S=256, started from a run of A', 'Table 3, C, S=256', 'C',
                  model__configuration='C'),
    'D_glorot': ablation("D with Glorot's initial weights", 'section 3.1', **NEW, model__init='glorot'),
    'E': ablation('E, 19 layers, S=256, started from a run of A', 'Table 3, E, S=256', 'E', model__configuration='E'),
    **continued('C'),
    **continued('D'),
    **continued('E'),
    **torchvision('A', 11),
    **torchvision('B', 13),
    **torchvision('D', 16),
    **torchvision('E', 19),
}
