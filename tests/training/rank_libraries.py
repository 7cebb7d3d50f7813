"""What the ranks of tests are forked off: a process that has the libraries loaded and has done nothing with them.

DeepSpeed collects garbage six times while it makes an engine, and looks for a C library by compiling. In a forked
process that copies every page of the libraries' objects and took 3.3 of 4.3 seconds; frozen objects are left alone.
"""

import gc

import deepspeed.ops

import training.loop.trainer

assert training.loop.trainer and deepspeed.ops.__compatible_ops__
gc.collect()
gc.freeze()
