"""What the papers on adversarial images say of errors and distortions, with the looks that the gallery keeps of ours.

Their networks are not those of this repository, so of their numbers only directions are tested.
"""
from lib.looks import Look

NOISE = 'more error than noise of the same size'
SZEGEDY = "After Szegedy et al., section 4.2, with Goodfellow's method: "
OWN = SZEGEDY + "the gradient's signs instead of random ones, "
OTHER = SZEGEDY + "signs of another network's gradient instead of random ones, "
LENET5, CIFAR = 'LeNet-5, epsilon 0.25', '80-second network, epsilon 0.06'

LOOKS = (
    Look(OWN + LENET5, NOISE, 'lenet5/fgsm', '0.25', 'error', 'random signs: error'),
    Look(OWN + CIFAR, NOISE, 'cifar/fgsm', '0.06', 'error', 'random signs: error'),
    Look(OTHER + LENET5, NOISE, 'lenet5/fgsm_transfer', '0.25', 'transferred', 'random signs: other'),
    Look(OTHER + CIFAR, NOISE, 'cifar/fgsm_transfer', '0.06', 'transferred', 'random signs: other'),
    Look('Goodfellow et al., section 4: error on MNIST, epsilon 0.25, maxout network; ours LeNet-5', '89.4',
         'lenet5/fgsm', '0.25', 'error'),
    Look('Goodfellow et al., section 4: error on CIFAR-10, epsilon 0.1 of images with a standard deviation '
         'of about 0.5, convolutional maxout network; ours the 80-second network, epsilon 0.06 of the range, whose '
         'deviation is 0.25: a fifth more than theirs, clipped and rounded', '87.15', 'cifar/fgsm', '0.06', 'error'),
    Look('Szegedy et al., Table 1: mean least distortion on MNIST, FC100-100-10; ours LeNet-5', '0.058',
         'lenet5/lbfgs', None, 'distortion'),
)
