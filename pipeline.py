"""Kubeflow pipelines: `motion_priors` (videos → prior set), `fine_tune` (prior set → report), both in one, `ablations`.

Wiring and scheduling, nothing else. `given.task` passes a task the parameters that its step declares and no others, so
KFP's cache reruns only what a change touches; `params_<step>` goes by step, `rerun_<task>` by task: give it a new value
and that task and what follows run again.
"""

from collections.abc import Sequence
from typing import Any

from kfp import dsl

from components import steps
from components.kubeflow.component import pipeline_outputs
from components.kubeflow.scheduling import each, on_cpu, run_limits, units_on_a100, with_limits
from components.kubeflow.signature import Arguments, takes
from components.kubeflow.trainjob import on_a100_nodes

Priors = pipeline_outputs("Priors", priors="PriorSet")
Tuned = pipeline_outputs("Tuned", model="TunedModel", report="Report", summary="Markdown")
Compared = pipeline_outputs("Compared", report="Report", summary="Markdown")
EXTRACTION = (*steps.EXTRACTION, "prior_set")
CHECKED = ("vlm_attention", "benchmark_import", "leakage_check", "sft")
TUNING = (*CHECKED, "baseline_eval", "tuned_eval", "tuned_attention", "report")
VARIED = (*CHECKED, "training_set", "baseline_eval", "tuned_eval", "comparison")
SFT_GPUS = 8  # of a node
ONCE = ("variants",)  # what a task takes that runs its step once per variant


def plan_first(given: Arguments, form: str) -> Any:
    """`plan` validates everything before anything is computed; it is never cached, its digests feed the importers."""
    task = given.task("plan", form=form)
    task.set_caching_options(False)
    return with_limits(on_cpu(task, "Plan", models=True), SFT_GPUS)


def extract(given: Arguments, planned: Any, varied: Sequence[str] = ()) -> Any:
    """Videos → prior set (steps 0 to 4); `varied`: of every variant, one task doing each step for all of them."""
    source = planned.outputs["source_digest"]
    videos = given.task("dataset_import", form="training", varied=varied, source_digest=source)
    on_cpu(videos, "0 · Import videos")
    with each(given["shards"], "1–2 video model") as shard:
        inverted = given.task("ddim_inversion", varied=varied, videos=videos.outputs["videos"], shard=shard)
        units_on_a100(inverted, "1 · DDIM inversion")
        trajectories = inverted.outputs["trajectories"]
        captured = given.task("attention_capture", varied=varied, trajectories=trajectories, shard=shard)
        units_on_a100(captured, "2 · Attention capture")
    heads = given.task("head_selection", varied=varied, maps=dsl.Collected(captured.outputs["maps"]))
    on_cpu(heads, "3 · Head selection (MHS)")
    with each(given["shards"], "4 words") as shard:
        words = given.task("token_selection", varied=varied, heads=heads.outputs["heads"], shard=shard)
        on_cpu(words, "4 · Token selection (MTTI)")
    joined = given.task("prior_set", form="collected", varied=varied, shards=dsl.Collected(words.outputs["prior"]))
    return on_cpu(joined, "Prior set").outputs["priors"]


def prepare(given: Arguments, planned: Any, priors: Any, varied: Sequence[str] = ()) -> tuple[Any, Any, Any]:
    """Prior set → what a training reads (step 5, leakage check), and the benchmarks' videos."""
    with each(given["shards"], "5 VLM") as shard:
        frozen = given.task("vlm_attention", form="frozen", varied=varied, priors=priors, shard=shard)
        units_on_a100(frozen, "5 · VLM attention")
    digest = planned.outputs["benchmark_digest"]
    items = given.task("benchmark_import", "dataset_import", "benchmark", benchmark_digest=digest)
    on_cpu(items, "Import benchmarks")
    videos = items.outputs["videos"]
    checked = given.task("leakage_check", varied=varied, priors=priors, videos=videos)
    on_cpu(checked, "Leakage check")
    return frozen.outputs["maps"], checked.outputs["leakage"], videos


def tune(given: Arguments, planned: Any, priors: Any) -> Any:
    """Prior set → tuned model, benchmarks, report (steps 5 to 8)."""
    maps, leakage, videos = prepare(given, planned, priors)
    tuned = given.task("sft", form="checked", maps=dsl.Collected(maps), leakage=leakage)
    on_a100_nodes(tuned, "6 · Fine-tuning with alignment", gpus=SFT_GPUS)
    model = tuned.outputs["model"]
    with each(given["benchmarks"], "7 untouched") as benchmark:
        before = given.task("baseline_eval", "benchmark_eval", "untouched", videos=videos, benchmark=benchmark)
        units_on_a100(before, "7 · Evaluate the untouched model")
    with each(given["benchmarks"], "7 tuned") as benchmark:
        after = given.task("tuned_eval", "benchmark_eval", "tuned", videos=videos, model=model, benchmark=benchmark)
        units_on_a100(after, "7 · Evaluate the tuned model")
    seen = given.task("tuned_attention", "vlm_attention", "tuned", priors=priors, model=model)
    units_on_a100(seen, "Attention after tuning")
    results = {"untouched": dsl.Collected(before.outputs["result"]), "tuned": dsl.Collected(after.outputs["result"])}
    page = given.task("report", **results, maps=seen.outputs["maps"], priors=priors, model=model)
    on_cpu(page, "8 · Report")
    return Tuned(model=model, report=page.outputs["report"], summary=page.outputs["summary"])


def compare(given: Arguments, planned: Any, priors: Any) -> Any:
    """Prior sets of all variants → their trainings, each with every seed, their evaluations, one page."""
    maps, leakage, videos = prepare(given, planned, priors, ONCE)
    joined = given.task("training_set", varied=ONCE, shards=dsl.Collected(maps))
    on_cpu(joined, "Training set")
    read = {"joined": joined.outputs["maps"], "leakage": leakage}
    with each(given["benchmarks"], "7 untouched") as benchmark:
        before = given.task("baseline_eval", "benchmark_eval", "untouched", ONCE, videos=videos, benchmark=benchmark)
        units_on_a100(before, "7 · Evaluate the untouched model")
    with each(given["trial_shards"], "6–7 trainings") as part:
        trials = (*ONCE, "seeds", "trial_shard")
        tuned = given.task("sft", form="joined", varied=trials, trial_shard=part, **read)
        on_a100_nodes(tuned, "6 · Fine-tuning with alignment", gpus=SFT_GPUS)
        of_all, model = (*ONCE, "benchmarks"), tuned.outputs["model"]
        after = given.task("tuned_eval", "benchmark_eval", "tuned", of_all, videos=videos, model=model)
        units_on_a100(after, "7 · Evaluate the tuned models")
    results = {"untouched": dsl.Collected(before.outputs["result"]), "tuned": dsl.Collected(after.outputs["result"])}
    page = given.task("comparison", priors=priors, **results)
    on_cpu(page, "8 · Comparison")
    return Compared(report=page.outputs["report"], summary=page.outputs["summary"])


@dsl.pipeline(name="motion-priors", pipeline_config=run_limits())
@takes(*EXTRACTION)
def motion_priors(given: Arguments) -> Priors:  # type: ignore[valid-type]
    """Read a video diffusion model's attention while it reconstructs videos, and publish it as motion priors."""
    planned = plan_first(given, "motion_priors")
    return Priors(priors=extract(given, planned))  # type: ignore[no-any-return]


@dsl.pipeline(name="fine-tune", pipeline_config=run_limits())
@takes("prior_set", *TUNING)
def fine_tune(given: Arguments) -> Tuned:  # type: ignore[valid-type]
    """Fine-tune a vision-language model with a published set of motion priors, evaluate it before and after, report."""
    planned = plan_first(given, "fine_tune")
    opened = given.task("prior_set", form="opened", prior_digest=planned.outputs["prior_digest"])
    on_cpu(opened, "Prior set")
    return tune(given, planned, opened.outputs["priors"])  # type: ignore[no-any-return]


@dsl.pipeline(name="motion-enhancer", pipeline_config=run_limits())
@takes(*EXTRACTION, *TUNING)
def motion_enhancer(given: Arguments) -> Tuned:  # type: ignore[valid-type]
    """From a folder of videos with captions or questions to a fine-tuned vision-language model with its benchmarks."""
    planned = plan_first(given, "motion_enhancer")
    return tune(given, planned, extract(given, planned))  # type: ignore[no-any-return]


@dsl.pipeline(name="ablations", pipeline_config=run_limits())
@takes(*EXTRACTION, *VARIED)
def ablations(given: Arguments) -> Compared:  # type: ignore[valid-type]
    """Variants of one run side by side, each trained with several seeds, on one page; what they share is done once."""
    planned = plan_first(given, "ablations")
    return compare(given, planned, extract(given, planned, ONCE))  # type: ignore[no-any-return]
