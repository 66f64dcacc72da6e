"""LeNet-5's recipe as published (section III, appendices A to C), and what is called LeNet-5 now."""
import dataclasses
import functools

from lib.experiment import Arm, Comparison, Data, Evaluation, Experiment, Optimizer, variant
from reproductions.lenet5.caffe import CaffeModel
from reproductions.lenet5.model import Model

# Paper is -0.1 and ink 1.175: (p - 20) / 200 at 0 and 255.
DATA = Data(source='mnist', validation_split='test', border=2, image_size=32, mean=(20.0, 20.0, 20.0),
            pixel_scale=200.0)

PAPER = Experiment(
    summary='the network and recipe as published: one example at a time, a rate of its own for each parameter',
    source='Figure 9, LeNet-5',
    published='paper',
    model=Model(),
    data=DATA,
    optimizer=Optimizer(learning_rate=5e-4, momentum=0.0, schedule='listed',
                        rates=((0, 1.0), (2, 0.4), (5, 0.2), (8, 0.1), (12, 0.02)),
                        update_batch=1, curvature=500, damping=0.02),
    evaluation=Evaluation(batch_size=500),
    batch_size=500,
    epochs=20,
)

ablation = functools.partial(variant, PAPER)

MODERN = dict(model__connections='full', model__subsampling='max', model__output='linear', model__init='scaled',
              optimizer=Optimizer(learning_rate=0.01, momentum=0.9, schedule='cosine'), batch_size=64)

EXPERIMENTS = {
    'paper': PAPER,
    'training_sizes': Comparison(
        summary='the first 15,000 and 30,000 training images, and all of them; each twenty passes',
        source='section III, Figure 6',
        base=PAPER,
        arms=tuple(Arm(f'images_{count}', (('data.train_split', f'train[:{count}]'),))
                   for count in (15000, 30000, 60000))),
    'distortions': ablation('60,000 fresh distortions a pass: translated, scaled, squeezed, sheared',
                            'Figure 9, LeNet-5 with distortions', 'distortions', data__affine=(1.0, 0.1, 0.1, 0.2)),
    'scaled_init': ablation('initial weights of variance 1 / fan-in', 'appendix A, and Efficient BackProp 1998',
                            model__init='scaled'),
    'distances': ablation('penalties that are the squared distances themselves, as printed', 'equation 7',
                          model__penalty=1.0, model__rubbish=100.0),
    'full_connections': ablation('every map of C3 reads all maps of S2', 'section II.B, Table I',
                                 model__connections='full'),
    'no_rubbish': ablation('without the penalty j of what is no character', 'equation 9', model__rubbish=1e9),
    'one_rate': ablation('stochastic gradient descent with one rate for all parameters', 'appendix C',
                         optimizer__curvature=None, optimizer__learning_rate=0.005),
    'modern': ablation('softmax, max pooling, all connections, batches: what is called LeNet-5 now', 'as is done now',
                       'modern', **MODERN),
    'caffe': ablation("Caffe's LeNet: 20-50-500-10, max pooling, one layer of ReLUs; its rate, which falls to 0.6, "
                      'constant', 'BVLC, lenet_train_test', 'caffe', model=CaffeModel(),
                      data=dataclasses.replace(DATA, border=0, image_size=28, mean=(0.0, 0.0, 0.0), pixel_scale=256.0),
                      optimizer=Optimizer(learning_rate=0.01, momentum=0.9, weight_decay=5e-4,
                                          bias_learning_rate=2.0, bias_weight_decay=True),
                      batch_size=64, epochs=11, steps=10_000),
}
