"""An evaluation in other tools' files: lmms-eval's results and samples, a table, the file that a leaderboard takes.

Pure functions from a result to texts by path. Equal results give equal bytes: where lmms-eval writes a date, files are
named after the result's digest, and fields of its machine are null.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, get_args

from components.benchmarks.interface import Benchmark, get_benchmark
from components.core.artifacts import EvalResult, ItemResult
from components.core.errors import DataError, ParameterError
from components.core.records import Json, canonical_json, sha256
from components.quality.statistics import Estimate, accuracy

Format = Literal["lmms-eval", "csv", "submission"]
FORMATS: tuple[str, ...] = get_args(Format)
_NOT_KNOWN = ("git_hash", "date", "lmms_eval_version", "system_instruction", "chat_template", "start_time", "end_time")


def exported(result: EvalResult, form: str) -> dict[str, str]:
    """Return the files of one of `FORMATS`, by path.

    Raises:
        ParameterError: another format, or a benchmark whose authors take no file.
        DataError: the result does not hold what the format needs.
    """
    if form not in FORMATS:
        raise ParameterError(f"no format {form!r}", source="--format", remedy=f"give one of {', '.join(FORMATS)}")
    return _WRITERS[form](result, get_benchmark(result.protocol))


def _submission(result: EvalResult, benchmark: Benchmark) -> dict[str, str]:
    if benchmark.submission is None:
        problem = f"no authors of {benchmark.title} take a file of replies"
        raise ParameterError(problem, source="--format", remedy="give another format")
    name, text = benchmark.submission([*result.lines, *result.held_out])
    return {name: text}


def _csv(result: EvalResult, benchmark: Benchmark) -> dict[str, str]:
    """Return one row per item, in the order of the source's names; held-out ones have no verdict."""
    rows = [_row(line) for line in _in_order([*result.lines, *result.held_out])]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return {f"{_file_name(result.protocol)}.csv": text.getvalue()}


def _row(line: ItemResult) -> dict[str, object]:
    one = line.sample
    return {
        "uid": one.uid,
        "sample": one.id,
        "video": line.video.name or line.video.id,
        "type": one.question_type,
        "question": one.question,
        "options": "\n".join(f"{option.letter}. {option.text}" for option in one.options),
        "answer": one.answer,
        "prompt": line.prompt,
        "reply": line.reply,
        "parsed": line.parsed,
        "rule": line.rule,
        "correct": int(line.correct) if one.answer else None,
        "official_correct": int(line.official_correct) if one.answer else None,
    }


def _lmms_eval(result: EvalResult, benchmark: Benchmark) -> dict[str, str]:
    """Return the results and the samples as lmms-eval 0.7 writes them, below a folder of the model's name.

    `doc_id` counts the items in the order of the source's names. `filtered_resps` is the letter that was read, `resps`
    the reply; `score` is what a comparison with `--baseline` takes.
    """
    task, model, lines = _file_name(result.protocol), _file_name(result.model), _in_order(result.lines)
    if any(line.prompt is None for line in lines):
        problem = "an evaluation without its prompts, as older versions made them"
        raise DataError(problem, source=f"sha256:{result.digest}", remedy="evaluate again, or export csv")
    digest = result.digest
    types = [benchmark.task_type(line.sample.question_type, f"item {line.sample.uid}") for line in lines]
    members = {metric.name: set(benchmark.members(metric, types)) for metric in benchmark.metrics}
    samples = [
        _sample(line, index, {f"{task}_{name.lower()}" for name, own in members.items() if index in own})
        for index, line in enumerate(lines)
    ]
    stem = f"{model}/{digest[:16]}"
    results = json.dumps(_results(result, digest, benchmark, lines, types, samples), indent=2, ensure_ascii=False)
    return {f"{stem}_results.json": f"{results}\n", f"{stem}_samples_{task}.jsonl": "".join(map(_json_line, samples))}


def _sample(line: ItemResult, index: int, metrics: set[str]) -> Json:
    one, right = line.sample, float(line.correct)
    document = {"question": one.question, "options": [option.model_dump() for option in one.options]}
    return {
        "doc_id": index,
        "target": one.answer,
        "resps": [line.reply],
        "filtered_resps": line.parsed,
        "token_counts": [None],
        "doc_hash": sha256(canonical_json({**document, "answer": one.answer, "video": line.video.id})),
        "score": right,
        **{metric: {"score": right, "total": 1.0, "video": line.video.file.sha256} for metric in sorted(metrics)},
        "input": line.prompt,
        "uid": one.uid,
        "video": line.video.name or line.video.id,
        "question_type": one.question_type,
        "rule": line.rule,
        "official_correct": float(line.official_correct),
    }


def _results(
    result: EvalResult,
    digest: str,
    benchmark: Benchmark,
    lines: Sequence[ItemResult],
    types: Sequence[str],
    samples: Sequence[Json],
) -> Json:
    means = lambda own: accuracy(
        [lines[i].correct for i in own], [lines[i].video.file.sha256 for i in own], [types[i] for i in own]
    )
    totals, _ = benchmark.measure(means, types)
    task = _file_name(result.protocol)
    measured: Json = {"alias": benchmark.title}
    for name, estimate in totals.items():
        measured |= _metric(f"{task}_{name.lower()}", estimate)
    provenance = {step: record.model_dump(mode="json") for step, record in sorted(result.provenance.items())}
    hashes = "".join(f"sample_{index}{sample['doc_hash']}" for index, sample in enumerate(samples))
    config = {"task": task, "output_type": "generate_until", "doc_to_target": "answer", "cluster_key": "video"}
    return {
        "results": {task: measured},
        "group_subtasks": {task: []},
        "configs": {task: {**config, "score_key": "score", "metadata": {"version": result.schema_version}}},
        "versions": {task: result.schema_version},
        "n-shot": {task: 0},
        "higher_is_better": {task: {f"{task}_{name.lower()}": True for name in totals}},
        "n-samples": {task: {"original": len(lines), "effective": len(lines)}},
        "config": {"model": result.model, "result": f"sha256:{digest}", "provenance": provenance},
        "task_hashes": {task: sha256(hashes.encode())},
        "model_source": "motion-enhancer",
        "model_name": result.model,
        "model_name_sanitized": _file_name(result.model),
        **dict.fromkeys(_NOT_KNOWN),
    }


def _metric(name: str, estimate: Estimate) -> Json:
    """Return a metric with its standard errors; of a mean over task types there is only the mean."""
    apart = (estimate.value * (1 - estimate.value) / max(1, estimate.n - 1)) ** 0.5
    clustered = "N/A" if estimate.error is None else estimate.error
    return {
        f"{name},none": estimate.value,
        f"{name}_stderr,none": "N/A",
        f"{name}_stderr_clt,none": "N/A" if estimate.error is None else apart,
        f"{name}_stderr_clustered,none": clustered,
    }


def _in_order(lines: Iterable[ItemResult]) -> list[ItemResult]:
    return sorted(lines, key=lambda line: (line.sample.uid, line.sample.id))


def _file_name(text: str) -> str:
    """Return a name without what file systems refuse, shells read, or hides a file."""
    return re.sub(r"^\.+|[^A-Za-z0-9._-]+", "_", text)


def _json_line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) + "\n"


_WRITERS: Mapping[str, Callable[[EvalResult, Benchmark], dict[str, str]]] = MappingProxyType(
    {"lmms-eval": _lmms_eval, "csv": _csv, "submission": _submission}
)
