"""ZFNet's recipe as published (section 3), the architectures of Tables 2 and 3, and the transfer to other data sets of
Tables 4 to 6."""
import functools

from lib.experiment import Arm, Comparison, Data, Evaluation, Experiment, Optimizer, variant
from reproductions.zfnet.model import KRIZHEVSKY, ZFNET, Conv, Dense, Layer, Model, Norm, Pool, changed, without

PAPER = Experiment(
    summary='the network of Figure 3 and its recipe: 7x7 and stride 2 at first, filters limited, ten fixed crops',
    source='Table 2, 1 convnet as per Fig. 3',
    published='paper',
    model=Model(),
    data=Data(source='imagenet2012', resize=256, image_size=224, crop='corners', reflect=True),
    optimizer=Optimizer(learning_rate=0.01, momentum=0.9, schedule='plateau', drops=3, max_filter_rms=0.1),
    evaluation=Evaluation(crops='ten'),
    batch_size=128,
    epochs=70,
)

ablation = functools.partial(variant, PAPER)

WIDE = dict(conv3=512, conv4=1024, conv5=512)


def fully_connected(width: int) -> dict[str, int]:
    return dict(fc6=width, fc7=width)


# Table 3: the seven of "our replication of Krizhevsky", then the five of "our model", in its order; what each changes
# in words. All are trained by the same recipe.
ARCHITECTURES: dict[str, tuple[str, tuple[Layer, ...]]] = {
    'krizhevsky': ('the network of Krizhevsky et al. on one GPU: 11x11 and stride 4 at first', KRIZHEVSKY),
    'krizhevsky_without_3_4': ('without layers 3 and 4', without(KRIZHEVSKY, 'conv3', 'conv4')),
    'krizhevsky_without_7': ('without layer 7', without(KRIZHEVSKY, 'fc7')),
    'krizhevsky_without_6_7': ('without layers 6 and 7', without(KRIZHEVSKY, 'fc6', 'fc7')),
    'krizhevsky_without_3_4_6_7': ('without layers 3, 4, 6 and 7', without(KRIZHEVSKY, 'conv3', 'conv4', 'fc6', 'fc7')),
    'krizhevsky_fc_2048': ('layers 6 and 7 of 2048 units', changed(KRIZHEVSKY, 'width', **fully_connected(2048))),
    'krizhevsky_fc_8192': ('layers 6 and 7 of 8192 units', changed(KRIZHEVSKY, 'width', **fully_connected(8192))),
    'paper': (PAPER.summary, ZFNET),
    'fc_2048': ('layers 6 and 7 of 2048 units', changed(ZFNET, 'width', **fully_connected(2048))),
    'fc_8192': ('layers 6 and 7 of 8192 units', changed(ZFNET, 'width', **fully_connected(8192))),
    'conv_512_1024_512': ('layers 3, 4 and 5 of 512, 1024 and 512 maps', changed(ZFNET, 'width', **WIDE)),
    'conv_512_1024_512_fc_8192': ('layers 3, 4 and 5 of 512, 1024 and 512 maps, 6 and 7 of 8192 units',
                                  changed(ZFNET, 'width', **WIDE, **fully_connected(8192))),
}


def architecture(name: str) -> Experiment:
    summary, stack = ARCHITECTURES[name]
    whose = 'our replication of Krizhevsky' if name.startswith('krizhevsky') else 'our model'
    return ablation(summary, f'Table 3, {whose}', name, model__layers=stack)


# Transfer (section 5.2): layers 1 to 7 are kept as ImageNet left them and a softmax of the new classes is trained on
# them; or the whole network is trained from random weights. The paper says no more of the training: one schedule for
# all, fixed, so that the images it is judged on decide nothing. Kept layers see the mean they know, ImageNet's (that of
# Caffe's mean image), and are not limited.
FEATURES = tuple(layer.name for layer in ZFNET if isinstance(layer, (Conv, Dense)))
IMAGENET_MEAN = (122.67891434, 116.66876762, 104.00698793)      # R, G, B
TRANSFER = dict(optimizer__schedule='steps', optimizer__drop_epochs=(50, 60))
KEPT = dict(starts_from='paper', starts_with=FEATURES, data__mean=IMAGENET_MEAN, optimizer__max_filter_rms=None,
            optimizer__layer_learning_rate=tuple((layer, 0.0) for layer in FEATURES))

# Folders as they are unpacked, a class a folder, of which each fold draws its images; with their background and clutter
# classes, which are among the 9,144 and 30,607 images that the paper counts.
CALTECH = {
    'caltech101': ('Caltech-101', 'Table 4', (15, 30), dict(model__classes=102)),
    'caltech256': ('Caltech-256', 'Table 5', (15, 30, 45, 60), dict(model__classes=257)),
}


def caltech(name: str) -> dict[str, Experiment]:
    """By name: a softmax on kept layers, and the whole network from random weights, for each number of images."""
    words, source, counts, own = CALTECH[name]
    found = {}
    for count in counts:
        data = dict(data__source=f'folder:~/{name}', data__train_split='all', data__validation_split='all',
                    data__train_per_class=count, data__validation_per_class=50)
        kept, scratch = f'{name}_{count}', f'{name}_{count}_scratch'
        found[kept] = ablation(f'{words}, {count} images a class: a softmax on layers 1 to 7 of a run of paper',
                               f'{source}, ImageNet-pretrained convnet', kept, **TRANSFER, **KEPT, **own, **data)
        found[scratch] = ablation(f'{words}, {count} images a class: all layers from random weights',
                                  f'{source}, non-pretrained convnet', scratch, **TRANSFER, **own, **data)
    return found


# The public ZFNets of imgclsmob: a border of 1 pixel at the left and top instead of at the right and bottom,
# normalisation before pooling and its alpha divided by n. Their recipe is not among those here: only the network is.
IMGCLSMOB = (
    Conv('conv1', 96, 7, stride=2, padding=1, rounding='floor'), Norm('norm1', alpha=2e-5), Pool('pool1'),
    Conv('conv2', 256, 5, stride=2, rounding='floor'), Norm('norm2', alpha=2e-5), Pool('pool2'),
    *ZFNET[6:])

# The two networks that the paper compares, narrow and on small photographs: 7x7 at stride 2 at first, and 11x11 at
# stride 4. The second normalises before pooling, as Krizhevsky et al. do. In both the maps of layers 3 to 5 have 7x7
# places. Initial weights and the drops of the rate are ours.
NARROW = dict(conv1=48, conv2=64, conv3=96, conv4=96, conv5=64, fc6=256, fc7=256)
FIRST_LAYERS = Comparison(
    summary='photographs at reduced width: 7x7 at stride 2 in the first layer against 11x11 at stride 4',
    source='section 4.1',
    base=ablation('one of the two', 'section 4.1', model__layers=changed(ZFNET, 'width', **NARROW),
                  model__deviation=0.05, data__source='imagenette/160px-v2', data__resize=160, data__image_size=128,
                  data__mean='channel', data__pixel_scale=64.0, optimizer__schedule='steps',
                  optimizer__drop_epochs=(14, 18), batch_size=32, epochs=20),
    arms=(Arm('seven_2'), Arm('eleven_4', (('model.layers', changed(KRIZHEVSKY, 'width', **NARROW)),))))

EXPERIMENTS = {
    'paper': PAPER,
    'first_layers': FIRST_LAYERS,
    **{name: architecture(name) for name in ARCHITECTURES if name != 'paper'},
    **caltech('caltech101'),
    **caltech('caltech256'),
    'pascal2012': ablation('PASCAL VOC 2012, images of one class, from a folder: a softmax on layers 1 to 7 of a run '
                           'of paper', 'Table 6', 'pascal2012', **TRANSFER, **KEPT, model__classes=20,
                           data__source='folder:~/pascal2012', data__validation_split='val'),
    'krizhevsky_two_groups': ablation('the network of Krizhevsky et al. with the sparse connections of its two GPUs',
                                      'section 5.1', 'krizhevsky', model__layers=changed(
                                          KRIZHEVSKY, 'groups', conv2=2, conv4=2, conv5=2)),
    'no_filter_limit': ablation('filters of any size', 'section 3', optimizer__max_filter_rms=None),
    'weight_decay': ablation("with Krizhevsky's weight decay", 'section 3', optimizer__weight_decay=0.0005),
    'random_crops': ablation('crops at any place, instead of ten fixed ones', 'section 3', data__crop='random'),
    'no_lrn': ablation('without contrast normalisation', 'Figure 3', model__layers=without(ZFNET, 'norm1', 'norm2')),
    'imgclsmob': ablation("imgclsmob's zfnet", 'imgclsmob', 'imgclsmob', model__layers=IMGCLSMOB,
                          data__mean='channel', evaluation__crops='centre'),
    'imgclsmob_b': ablation("imgclsmob's zfnetb: layers 3, 4 and 5 of 512, 1024 and 512 maps", 'imgclsmob',
                            'imgclsmob_b', model__layers=changed(IMGCLSMOB, 'width', **WIDE), data__mean='channel',
                            evaluation__crops='centre'),
}
