"""Sparsum: exact training with discrete and structured latent variables, in Python.

Importing this package loads nothing heavy: neither torch nor matplotlib nor a compiled module.

* ``python -m sparsum.report RUN... --out DIR`` draws a report of training runs;
* ``python -m sparsum.tensorboard RUN`` shows a run in TensorBoard while it trains;
* :mod:`sparsum.runs` reads the run folders that ``sparsum train`` writes.
"""

__version__ = "0.1.0"
