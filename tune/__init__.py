"""Ray Tune over the library's training loop, the choice of the dimension, and its law."""

import time

IMPORTED = time.time()  # before all that is slow to import: a process's first trial begins here
