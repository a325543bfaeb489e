"""Stand-ins for other packages' modules, under their names and with their defaults."""

from __future__ import annotations
