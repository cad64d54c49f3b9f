"""On PYTHONPATH: shifts the clock of one kind of process by some seconds.

``SHIFTED_CLOCK=-90:executor`` shifts the processes that have the word in their command line.
"""

import os
import sys
import time

seconds, _, word = os.environ.get("SHIFTED_CLOCK", "0:").partition(":")
if any(word in each for each in sys.orig_argv):
    real = time.time
    time.time = lambda: real() + float(seconds)
