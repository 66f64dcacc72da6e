"""What the paper printed: A. Krizhevsky, I. Sutskever, G. E. Hinton, "ImageNet Classification with Deep Convolutional
Neural Networks", NIPS 2012; and, for its CIFAR-10 nets, the page of its author's code, cuda-convnet.

Error rates are in %, as printed. Every row names the experiment that reproduces it or says why none does.
"""
from typing import NamedTuple

from lib.effects import Effect, Effects
from lib.paper import Counts
from lib.races import Race
from lib.tables import OTHERS, Column, Row, Table

# Counts of the network as published (section 3.5, Figure 2): weights and biases.
PARAMETERS = {
    'conv1': 34_944,
    'conv2': 307_456,
    'conv3': 885_120,
    'conv4': 663_936,
    'conv5': 442_624,
    'fc6': 37_752_832,
    'fc7': 16_781_312,
    'fc8': 4_097_000,
}
TOTAL = 60_965_224
MULTIPLY_ADDS = 724_406_816                     # one image, forward

# Height, width and maps of every layer's output, for a 224x224x3 image.
SIZES = {
    'conv1': (55, 55, 96),
    'pool1': (27, 27, 96),
    'conv2': (27, 27, 256),
    'pool2': (13, 13, 256),
    'conv3': (13, 13, 384),
    'conv4': (13, 13, 384),
    'conv5': (13, 13, 256),
    'pool5': (6, 6, 256),
    'fc6': (4096,),
    'fc7': (4096,),
    'fc8': (1000,),
}

# Neurons as the caption of Figure 2 counts them. conv1 is wrong there: 55 * 55 * 96 = 290,400. The others fit SIZES.
NEURONS_PRINTED = {
    'conv1': 253_440,
    'conv2': 186_624,
    'conv3': 64_896,
    'conv4': 64_896,
    'conv5': 43_264,
    'fc6': 4096,
    'fc7': 4096,
    'fc8': 1000,
}
CONV1_NEURONS = 290_400

COUNTS = {'paper': Counts('AlexNet, 224x224x3', PARAMETERS, TOTAL, SIZES, MULTIPLY_ADDS, receptive_field=195)}

# For `python -m launch.inspect alexnet --explain=conv1`.
LESSONS = {
    'conv1': '224 or 227? 224 is the original: cuda-convnet rounds up, and the last of 55 windows overhangs by 3 '
             "pixels of zeros at the right and bottom. 227 pixels, which need no overhang, are Caffe's; 224 with a "
             "border of 2, rounded down, torchvision's. All three give 55 places.",
}

# Parameters of the variants: one tower without groups; half the kernels in conv1 to conv4 on one GPU, the net that the
# footnote of section 3.2 compares with (conv5 and the fully connected layers keep their size).
VARIANT_TOTALS = {
    'one_tower': 62_378_344,
    'one_gpu': 59_798_312,
    'one_weird_trick_128': 61_100_840,          # Krizhevsky 2014: 64-192-384-256-256 maps, no groups
    'torchvision': 61_100_840,
    'caffe': TOTAL,
    'batch_norm': TOTAL + 9_568,                # a scale and a shift for each map of seven layers, instead of a bias
}

# cuda-convnet's CIFAR-10 nets at the size of image each of them reads: 32, or 24 with random crops.
CIFAR_TOTALS = {
    'cifar_80sec': 145_578,
    'cifar_19pct': 89_578,
    'cifar_18pct': 89_578,
    'cifar_13pct': 1_116_490,
    'cifar_11pct': 2_112_970,
}

# Section 6. The test labels of ILSVRC-2010 are public; TFDS does not have that year's images.
TABLE_1 = Table(
    title='Table 1',
    data='ILSVRC-2010 test',
    source='folder:ilsvrc2010',
    columns=(Column('Top-1', 'top1', 'test'), Column('Top-5', 'top5', 'test')),
    rows=(
        Row('Sparse coding', (47.1, 28.2), why=OTHERS),
        Row('SIFT + FVs', (45.7, 25.7), why=OTHERS),
        Row('CNN', (37.5, 17.0), 'ilsvrc2010', protocol='ten', parameters=TOTAL),
        # footnote to the table's text: "without averaging predictions over ten patches"
        Row('CNN, one crop (footnote)', (39.0, 18.3), 'ilsvrc2010', protocol='centre', parameters=TOTAL),
    ),
    train_examples=1_200_000,       # "roughly 1.2 million"
    epochs=90,
)

FALL_2011_IMAGES = 90 * 15_000_000      # that 1 CNN* saw before, if 90 epochs; the paper does not say how many

# Section 6. The asterisk: pre-trained on ImageNet Fall 2011 (15M images, 22K classes), with a sixth convolution over
# the last pooling layer, then fine-tuned. The paper does not give that convolution's size.
TABLE_2 = Table(
    title='Table 2',
    data='ILSVRC-2012',
    source='imagenet2012',
    columns=(Column('Top-1 (val)', 'top1', 'validation'), Column('Top-5 (val)', 'top5', 'validation'),
             Column('Top-5 (test)', 'top5', 'test')),
    rows=(
        Row('SIFT + FVs', (None, None, 26.2), why=OTHERS),
        Row('1 CNN', (40.7, 18.2, None), 'paper', protocol='ten', parameters=TOTAL),
        Row('5 CNNs', (38.1, 16.4, 16.4), members=('paper',) * 5, protocol='ten'),
        Row('1 CNN*', (39.0, 16.6, None), 'fine_tuned', protocol='ten', pretraining=FALL_2011_IMAGES),
        Row('7 CNNs*', (36.7, 15.4, 15.3), members=('paper',) * 5 + ('fine_tuned',) * 2, protocol='ten',
            pretraining=2 * FALL_2011_IMAGES),
    ),
    examples=50_000,
    train_examples=1_281_167,
    epochs=90,
)

# Section 6, in the text. 8.9 million images, half for training and half for testing; a sixth convolution.
FALL_2009 = Table(
    title='Section 6, Fall 2009 release',
    data='ImageNet Fall 2009, 10,184 classes',
    source='folder:imagenet-fall2009',
    columns=(Column('Top-1', 'top1', 'validation'), Column('Top-5', 'top5', 'validation')),     # of the other half
    rows=(
        Row('CNN with a sixth convolution', (67.4, 40.9), 'fall_2009'),
        Row('Best published before', (78.1, 60.9), why=OTHERS),
    ),
    train_examples=4_450_000,
)

# Percentage points of error by which the network is worse without the thing; the paper does not say on which year and
# split. A row is a difference between two runs.
DIFFERENCES = Table(
    title='Differences stated in the text',
    data='ImageNet',
    source=None,
    columns=(Column('Top-1', 'top1', 'validation'), Column('Top-5', 'top5', 'validation')),
    train_examples=1_281_167,       # of ILSVRC-2012
    rows=(
        # footnote: the one-GPU net has half the kernels in every convolution but the last, so that the fully connected
        # layers, and with them all parameters, are about as many
        Row('One GPU instead of two (3.2)', (1.7, 1.2), 'one_gpu', minus='paper',
            note='half the kernels in every convolution but the last.'),
        Row('No response normalisation (3.3)', (1.4, 1.2), 'no_lrn', minus='paper'),
        Row('No overlap in pooling (3.4)', (0.4, 0.3), 'non_overlapping_pool', minus='paper',
            note='z = 2, s = 2 instead of z = 3, s = 2.'),
        Row('No augmentation (4.1)', (None, None), 'no_augmentation', minus='paper', note='no number.'),
        Row('No PCA colour (4.1)', (1.0, None), 'no_pca_colour', minus='paper', words='over 1'),
        Row('No dropout (4.2)', (None, None), 'no_dropout', minus='paper',
            note='no number: "substantial overfitting", in roughly half the iterations.'),
        Row('Test instead of validation (6)', (None, 0.1), words='at most 0.1',
            why='the test labels of ILSVRC-2012 are not public'),
        Row('Without conv3 (7)', (2.0, None), 'without_conv3', minus='paper', words='about 2'),
        Row('Without conv4 (7)', (2.0, None), 'without_conv4', minus='paper', words='about 2'),
        Row('Without conv5 (7)', (2.0, None), 'without_conv5', minus='paper', words='about 2'),
    ),
)

# A. Krizhevsky, "One weird trick for parallelizing convolutional neural networks", arXiv:1404.5997, 2014, Table 1: the
# batch of the convolutions, that of the fully connected layers, cross-entropy (a sum over 1,000 logistic units), top-1
# error in %, GPUs (K20), hours for 90 epochs. All from memory, but for 98.05 hours and the speed-up of 6.25.


class WeirdTrick(NamedTuple):
    """A row of that table."""
    batch: int
    fc_batch: int
    cross_entropy: float
    top1: float
    gpus: int
    hours: float

    @property
    def experiment(self) -> str:
        return f'one_weird_trick_{self.batch}' + f'_{self.fc_batch}' * (self.fc_batch != self.batch)


WEIRD_TRICK = (
    WeirdTrick(128, 128, 2.611, 42.33, 1, 98.05),
    WeirdTrick(256, 256, 2.624, 42.63, 2, 50.24),
    WeirdTrick(256, 128, 2.614, 42.27, 2, 50.90),
    WeirdTrick(512, 512, 2.637, 42.59, 4, 26.20),
    WeirdTrick(512, 128, 2.625, 42.44, 4, 26.78),
    WeirdTrick(1024, 1024, 2.678, 43.28, 8, 15.68),
    WeirdTrick(1024, 128, 2.651, 42.86, 8, 15.91),
)
WEIRD_TRICK_TOTAL = 61_100_840
WEIRD_TRICK_TABLE = Table(
    title='Krizhevsky 2014, Table 1',
    data='ILSVRC-2012',
    source='imagenet2012',
    columns=(Column('Top-1 (val)', 'top1', 'validation', decimals=2),),
    rows=tuple(Row(f'batch {row.batch}, fully connected {row.fc_batch}', (row.top1,), row.experiment,
                   protocol='centre', parameters=WEIRD_TRICK_TOTAL, memory=True,
                   note=f'{row.hours:.2f} hours on {row.gpus} x K20, {WEIRD_TRICK[0].hours / row.hours:.2f} times as '
                        f'fast as on one; cross-entropy {row.cross_entropy} (from memory).') for row in WEIRD_TRICK),
    examples=50_000,
    train_examples=1_281_167,
    epochs=90,
)

# The page TrainingExample of cuda-convnet2: the same network on one GPU with softmax.
CUDA_CONVNET2 = Table(
    title="cuda-convnet2's own page",
    data='ILSVRC-2012',
    source='imagenet2012',
    columns=(Column('Top-1 (val)', 'top1', 'validation', decimals=2),
             Column('Top-5 (val)', 'top5', 'validation', decimals=2)),
    rows=(
        Row('single view', (42.55, 19.81), 'cuda_convnet2', protocol='centre', parameters=WEIRD_TRICK_TOTAL),
        Row('ten views', (40.42, 18.15), 'cuda_convnet2', protocol='ten', parameters=WEIRD_TRICK_TOTAL),
    ),
    examples=50_000,
    train_examples=1_281_167,
    epochs=90,
)

# What the publishers of trained weights say of them: 100 minus their accuracies.
PUBLISHED_WEIGHTS = Table(
    title='Published weights',
    data='ILSVRC-2012',
    source='imagenet2012',
    columns=(Column('Top-1 (val)', 'top1', 'validation', decimals=1),
             Column('Top-5 (val)', 'top5', 'validation', decimals=1)),
    rows=(
        Row('torchvision alexnet', (43.478, 20.934), 'torchvision', protocol='centre', parameters=WEIRD_TRICK_TOTAL),
        Row('Caffe bvlc_alexnet, iteration 360,000', (42.9, 19.8), 'caffe', protocol='centre', parameters=TOTAL),
        Row('CaffeNet, iteration 310,000', (42.6, 19.6), 'caffenet', protocol='centre', parameters=TOTAL),
    ),
    examples=50_000,
    train_examples=1_281_167,
)

# G. E. Hinton et al., "Improving neural networks by preventing co-adaptation of feature detectors", 2012: the only
# number for dropout on ImageNet, and not this paper's.
DROPOUT_2012 = Table(
    title='Hinton et al. 2012',
    data='ILSVRC-2010 test',
    source=None,
    columns=(Column('Top-1', 'top1', 'test'),),
    rows=(
        Row('Without dropout', (48.6,), why='an earlier, smaller network of another paper'),
        Row('With dropout', (42.4,), why='an earlier, smaller network of another paper'),
    ),
)

# Section 3.3. The published files of these nets differ in more than the normalisation (64 instead of 32 maps in local3,
# weight decay .01 instead of .004 in the last layer), so the two rows are no clean ablation.
CIFAR = Table(
    title='Section 3.3, four-layer CNN',
    data='CIFAR-10 test',
    source='cifar10',
    columns=(Column('Top-1', 'top1', 'test', decimals=0),),
    rows=(
        Row('Without response normalisation', (13,), 'cifar_13pct', protocol='ten'),
        Row('With response normalisation', (11,), 'cifar_11pct', protocol='ten',
            note='the two published networks differ in local3 and in weight decay too.'),
    ),
    examples=10_000,
    train_examples=50_000,
)

# Not the paper: the page of cuda-convnet, whose file names are the experiments' names. The page's times are for an
# unnamed Fermi GPU. Trained on the whole training set; 80sec, 19pct and 18pct without augmentation.
CUDA_CONVNET = Table(
    title="cuda-convnet's own page",
    data='CIFAR-10 test',
    source='cifar10',
    columns=(Column('Top-1', 'top1', 'test', decimals=0),),
    rows=(
        Row('layers-80sec', (26,), 'cifar_80sec'),
        Row('layers-19pct', (19,), 'cifar_19pct'),
        Row('layers-19pct, with translations', (14.2,), words='14.2', why='the page gives neither file nor schedule'),
        Row('layers-18pct', (18,), 'cifar_18pct'),
        Row('layers-conv-local-13pct', (13,), 'cifar_13pct', protocol='ten'),
        Row('layers-conv-local-11pct', (11,), 'cifar_11pct', protocol='ten', note='crops and reflections averaged.'),
    ),
    examples=10_000,
    train_examples=50_000,
)

# Section 3.1. Four layers, no regularisation, the learning rate of each chosen for speed. The text gives the factor;
# the epochs are read off the picture.
# It does not give the initial weights or the scale of the input, so the race is run under several.
CONDITIONS = {
    'figure1': 'scaled initial weights, input / 64',
    'figure1_raw': 'scaled initial weights, input 0 to 255',
    'figure1_gaussian': 'weights N(0, 0.01^2) and biases 0, input 0 to 255',
    'figure1_gaussian_64': 'weights N(0, 0.01^2) and biases 0, input / 64',
    'figure1_published': "cuda-convnet's initial weights, input 0 to 255",
}
FIGURE_1 = tuple(Race(
    title=f'Figure 1 with {words}',
    data='CIFAR-10',
    source='cifar10',
    experiment=experiment,
    faster='relu',
    slower='tanh',
    factor=6,
    claim='six times faster (section 3.1)',
    target=25,
    epochs={'relu': '~5-6', 'tanh': '~35'},
    memory=True,
) for experiment, words in CONDITIONS.items())

# The paper's numbers here are for ImageNet, that of normalisation for a greater network on CIFAR-10 too. These are not
# those images and networks: what is tested is the sign.
ON_IMAGENET = 'top-1 on ImageNet'
ON_CIFAR = Effects(
    title='In small, on CIFAR-10',
    data='CIFAR-10, five batches',
    source='cifar10',
    experiment='cifar_paired',
    rows=(
        Effect('pooling without overlap (3.4)', 'no_overlap', 'published', f'+0.4 {ON_IMAGENET}', 'more'),
        Effect('crops and reflections, error above that in training (4.1)', 'crops_and_reflections', 'published',
               'less overfitting', 'less', overfitting=True),
        Effect('crops and reflections (4.1)', 'crops_and_reflections', 'published', 'says nothing of the error', None),
        Effect('colour noise besides (4.1)', 'pca_colour', 'crops_and_reflections',
               f'less by over 1, {ON_IMAGENET}', 'less'),
        Effect('dropout, error above that in training (4.2)', 'dropout', 'published', 'less overfitting', 'less',
               overfitting=True),
        Effect('dropout (4.2)', 'dropout', 'published', 'says nothing of the error', None),
        Effect("normalisation across nine maps after pool1 and pool2, constants of cuda-convnet's 11 % network (3.3)",
               'across_maps', 'published',
               f'13 to 11 % on CIFAR-10 with another network and schedule, -1.4 {ON_IMAGENET}', 'less'),
        Effect('normalisation within maps', 'within_maps', 'published', 'says nothing', None),
        Effect('conv2 in two groups against half the maps, which are 43 % fewer parameters (3.2)', 'two_groups',
               'half_the_maps', f'-1.7 {ON_IMAGENET}', 'less'),
        Effect('conv2 in two groups', 'two_groups', 'published', 'says nothing', None),
        Effect('tanh instead of ReLU (3.1)', 'tanh', 'published', 'says nothing of the final error', None),
        Effect('|tanh| instead of ReLU (3.1)', 'abs_tanh', 'published', 'says nothing of the final error', None),
        Effect('|tanh| instead of tanh', 'abs_tanh', 'tanh', 'says nothing', None),
        Effect('average pooling only, instead of maximum only', 'all_average', 'all_max', 'says nothing', None),
        Effect('minimum pooling only, instead of maximum only', 'all_min', 'all_max', 'says nothing', None),
        Effect('maximum pooling only, instead of max, average, average', 'all_max', 'published', 'says nothing', None),
        Effect('global average pooling instead of flattening', 'global_average', 'published', 'says nothing', None),
    ))
NORMALISATION = Effects(
    title='Section 3.3 with a short schedule',
    data='CIFAR-10, five batches',
    source='cifar10',
    experiment='section_3_3',
    rows=(
        Effect('normalisation, all else equal', 'with_normalisation', 'without_normalisation', '13 to 11 %', 'less'),
        Effect('the published 11 % network against the 13 % one, which has half of local3 and less decay besides',
               'with_normalisation', 'layers_13pct', "13 and 11 % on its author's page", 'less'),
    ))

TABLES = (TABLE_1, TABLE_2, *FIGURE_1, FALL_2009, DIFFERENCES, ON_CIFAR, DROPOUT_2012, CIFAR, NORMALISATION,
          CUDA_CONVNET, WEIRD_TRICK_TABLE, CUDA_CONVNET2, PUBLISHED_WEIGHTS)

# What has been seen of an experiment short of its number, for the table of claims, beside two steps in small.
_DEVICES = 'two steps in small; the same on 1, 2 and 4 devices in float64'
SEEN = dict.fromkeys((row.experiment for row in WEIRD_TRICK), _DEVICES) | {
    'paper': 'counts, sizes, PyTorch, devices, photographs: see below',
    **dict.fromkeys(('figure1', 'figure1_gaussian_64', 'cifar_80sec', 'cifar_18pct', 'cifar_paired', 'section_3_3'),
                    'run to its end'),
    'figure1_gaussian': 'one rate a unit and one seed run until 25 %',
    'ilsvrc2010': 'as `paper`; folders of images',
    'fall_2009': 'two steps in small; folders of images',
    'fall_2011': 'pre-training and fine-tuning in small, by command',
    'fine_tuned': 'pre-training and fine-tuning in small, by command',
    'torchvision': "weights written by torch give torch's logits",
    'caffe': "weights in Caffe's format give the logits of OpenCV's reader",
    'caffenet': "weights in Caffe's format give the logits of OpenCV's reader",
}
