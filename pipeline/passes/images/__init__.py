"""A batch, image by image: each image passes through the convolutional part of the network before the next starts.

Activations of one image stay in the core's own cache where those of a whole batch would travel to memory and back, and
threads share the images, so that they meet once and not after every layer.
"""

from .in_turn import compute_images_in_turn as compute_images_in_turn
from .trunk import MIN_IMAGES as MIN_IMAGES
