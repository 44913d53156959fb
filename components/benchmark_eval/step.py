"""Step 7 · benchmark_eval: a benchmark's questions answered by one model, greedily, and scored. A unit is one item.

A reply is remembered by (model, item, viewing, protocol); parsing and scoring are done again each time, from the remembered reply.
"""

from __future__ import annotations
