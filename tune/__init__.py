"""Ray Tune over the library's training loop, the choice of the dimension, and its law."""
