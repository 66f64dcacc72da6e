"""GoogLeNet's recipe as far as the paper gives it (sections 5 to 7), its ablations, and that of Caffe's replication.

The paper gives momentum, the fall of the learning rate, averaging, and how images are cropped. What it leaves out, the
first rate, batch, weight decay, initial weights and epochs, is from the replication in Caffe, bvlc_googlenet.
"""
import functools

from lib.experiment import Data, Evaluation, Experiment, Optimizer, variant
from reproductions.googlenet.model import Model

EPOCHS = 250

PAPER = Experiment(
    summary='the network and recipe as published: nine inception modules, two auxiliary classifiers, averaged weights',
    source='Table 3, 1 model',
    published='paper',
    model=Model(),
    # The size of the jitter is ours: section 6 names photometric distortions and gives no number.
    data=Data(source='imagenet2012', resize=256, image_size=224, mean='channel', crop='area', reflect=True,
              color_jitter=0.4),
    # 4 % less every 8 epochs. The decay of the average is ours.
    optimizer=Optimizer(learning_rate=0.01, momentum=0.9, weight_decay=2e-4, bias_learning_rate=2.0, schedule='steps',
                        drop_factor=1 / 0.96, drop_epochs=tuple(range(8, EPOCHS, 8)), averaging=0.9999),
    evaluation=Evaluation(crops='twelve', scales=(256, 288, 320, 352)),
    batch_size=32,
    epochs=EPOCHS,
)

ablation = functools.partial(variant, PAPER)

# bvlc_googlenet, by its quick recipe: the rate falls as the square root of what is left of 60 epochs.
CAFFE = dict(data__mean=(123.0, 117.0, 104.0), data__crop='random', data__color_jitter=0.0,
             optimizer__schedule='square_root', optimizer__drop_factor=10.0, optimizer__drop_epochs=(),
             optimizer__averaging=0.0, evaluation__crops='centre', evaluation__scales=(), epochs=60)

EXPERIMENTS = {
    'paper': PAPER,
    'without_reductions': ablation("modules without 1x1 reductions, Figure 2(a): the pooling's maps go on as they are",
                                   'section 4', model__reductions=False),
    'without_auxiliary': ablation('without the auxiliary classifiers', 'section 5', model__heads=()),
    'fully_connected': ablation('a fully connected layer of 1,024 units instead of average pooling', 'section 5',
                                model__last='fully_connected'),
    'no_dropout': ablation('without dropout before the linear layer', 'section 5', model__dropout=0.0),
    'no_lrn': ablation('without local response normalisation, which Table 1 does not list', 'Figure 3',
                       model__norm='none'),
    'no_averaging': ablation('the parameters of the last step instead of their average', 'section 6',
                             optimizer__averaging=0.0),
    'random_crops': ablation('crops of 224 pixels anywhere in the image, none of other sizes and shapes', 'section 6',
                             data__crop='random'),
    'no_distortions': ablation('without photometric distortions', 'section 6', data__color_jitter=0.0),
    'caffe': ablation("Caffe's bvlc_googlenet", 'BVLC', 'caffe', **CAFFE),
}
