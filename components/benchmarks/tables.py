"""Annotations in parquet, as data sets lie on the hub. pyarrow is imported with the first one that is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from components.benchmarks.rows import Rows
from components.core.errors import DataError


def table_rows(rows: Rows, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield place (`file:number`) and fields of each row of a parquet file of the source.

    Raises:
        DataError: it is missing, or no whole parquet file.
    """
    import pyarrow
    from pyarrow.parquet import read_table

    data, source = rows.backend.get(path), f"{rows.backend.uri}/{path}"
    if data is None:
        raise DataError("the annotation file is missing", source=source, remedy="complete the source")
    try:
        found = read_table(pyarrow.BufferReader(data), use_threads=False).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        pointer = data.startswith(b"version https://git-lfs")
        problem = "a git-lfs pointer, not the table itself" if pointer else f"not a whole parquet file: {error}"
        remedy = "run `git lfs pull` in the source's repository" if pointer else "download it again"
        raise DataError(problem, source=source, remedy=remedy) from error
    for number, row in enumerate(found, start=1):
        yield f"{path}:{number}", row
