"""The report of training runs: ``python -m sparsum.report RUN... --out DIR``.

One module per concern: :mod:`.labels` names runs by what differs between them, :mod:`.metrics`
knows what a number means and how it is printed, :mod:`.experiments` what each experiment has of
its own and :mod:`.published` what others have published, :mod:`.style` the looks, :mod:`.figures`
the pictures, :mod:`.tables` the numbers, :mod:`.page` the HTML, :mod:`.files` writes atomically
and :mod:`.__main__` is the command. Runs of different experiments get a part of the page each.
"""
