"""Reports of training runs and of sweeps: ``python -m sparsum.report RUN... --out DIR``.

One module per concern: :mod:`.labels` names runs by what differs between them, :mod:`.metrics`
knows what a number means and how it is printed, :mod:`.experiments` what each experiment has of
its own and :mod:`.published` what others have published, :mod:`.style` the looks, :mod:`.figures`
the pictures, :mod:`.tables` the numbers, :mod:`.page` the HTML, :mod:`.files` writes atomically
and :mod:`.__main__` is the command. Runs of different experiments get a part of the page each.

A sweep has a report of its own: :mod:`.methods` puts the seeds of a method together,
:mod:`.intervals` says how far a mean may be from a published one, and :mod:`.sweep_tables`,
:mod:`.sweep_figures`, :mod:`.sweep_captions`, :mod:`.sweep_page` and :mod:`.sweep_report` are what
their namesakes are for single runs. Both pages are put together from :mod:`.elements`.
"""
