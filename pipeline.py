"""Three Kubeflow pipelines: `motion_priors` (videos → prior set), `fine_tune` (prior set → tuned model, report), `motion_enhancer` (both).

Wiring and scheduling, nothing else. A parameter reaches only the tasks that use it, so KFP's cache reruns only what a
change touches; `params_<step>` goes by step, `rerun_<task>` by task: give it a new value and that task and what follows
run again.
"""

from typing import Any, NamedTuple

from kfp import dsl

from components.attention_capture.step import STEP as ATTENTION_CAPTURE
from components.benchmark_eval.step import STEP as BENCHMARK_EVAL
from components.dataset_import.step import STEP as DATASET_IMPORT
from components.ddim_inversion.step import STEP as DDIM_INVERSION
from components.head_selection.step import STEP as HEAD_SELECTION
from components.kubeflow.component import component, pipeline_outputs
from components.kubeflow.descriptions import described
from components.kubeflow.scheduling import each, on_a100, on_cpu, run_limits
from components.kubeflow.trainjob import on_a100_nodes
from components.plan.step import STEP as PLAN
from components.prior_set.step import STEP as PRIOR_SET
from components.report.step import STEP as REPORT
from components.sft.step import STEP as SFT
from components.token_selection.step import STEP as TOKEN_SELECTION
from components.vlm_attention.step import STEP as VLM_ATTENTION

NONE = "0"  # the nonce that asks for nothing
Priors = pipeline_outputs("Priors", priors="PriorSet")
Tuned = pipeline_outputs("Tuned", model="TunedModel", report="Report", summary="Markdown")
SHARDS = [f"{k}/8" for k in range(8)]


def defaults(step: Any) -> dict[str, Any]:
    """A step's full defaults: shown in the form, and part of the cache key when they change."""
    values: dict[str, Any] = step.params().model_dump(mode="json", exclude_none=True)
    return values


class Shared(NamedTuple):
    """The pipeline parameters that both halves use."""

    store: Any
    shards: Any
    seed: Any
    rerun: dict[str, Any]
    params: dict[str, Any]

    def of(self, step: Any, task: str = "") -> dict[str, Any]:
        """`params` and `rerun` of a task."""
        return {"store": self.store, "params": self.params[step.name], "rerun": self.rerun.get(task or step.name, NONE)}


def extract(
    shared: Shared,
    source: Any,
    source_digest: Any,
    vdm: Any,
    num_steps: Any,
    head_ratio: Any,
    token_ratio: Any,
    text: Any,
) -> Any:
    """Videos → prior set (steps 0 to 4)."""
    videos = component(DATASET_IMPORT, form="training")(
        source=source, source_digest=source_digest, **shared.of(DATASET_IMPORT)
    )
    on_cpu(videos, "0 · Import videos")
    with each(shared.shards, "Shards: read the video model") as shard:
        inverted = component(DDIM_INVERSION)(
            videos=videos.outputs["videos"], shard=shard, vdm=vdm, num_steps=num_steps, **shared.of(DDIM_INVERSION)
        )
        on_a100(inverted, "1 · DDIM inversion")
        captured = component(ATTENTION_CAPTURE)(
            trajectories=inverted.outputs["trajectories"],
            shard=shard,
            vdm=vdm,
            num_steps=num_steps,
            text=text,
            seed=shared.seed,
            **shared.of(ATTENTION_CAPTURE),
        )
        on_a100(captured, "2 · Attention capture")
    heads = component(HEAD_SELECTION)(
        maps=dsl.Collected(captured.outputs["maps"]), head_ratio=head_ratio, **shared.of(HEAD_SELECTION)
    )
    on_cpu(heads, "3 · Head selection (MHS)")
    with each(shared.shards, "Shards: select words") as shard:
        words = component(TOKEN_SELECTION)(
            heads=heads.outputs["heads"], shard=shard, token_ratio=token_ratio, **shared.of(TOKEN_SELECTION)
        )
        on_cpu(words, "4 · Token selection (MTTI)")
    joined = component(PRIOR_SET, form="collected")(
        shards=dsl.Collected(words.outputs["prior"]), **shared.of(PRIOR_SET)
    )
    return on_cpu(joined, "Prior set").outputs["priors"]


def tune(shared: Shared, priors: Any, vlm: Any, align_weight: Any, benchmarks: Any, benchmark_digest: Any) -> Any:
    """Prior set → tuned model, benchmarks, report (steps 5 to 8)."""
    with each(shared.shards, "Shards: read the VLM") as shard:
        frozen = component(VLM_ATTENTION, form="frozen")(
            priors=priors, shard=shard, vlm=vlm, **shared.of(VLM_ATTENTION)
        )
        on_a100(frozen, "5 · VLM attention")
    model = component(SFT)(
        maps=dsl.Collected(frozen.outputs["maps"]),
        vlm=vlm,
        align_weight=align_weight,
        seed=shared.seed,
        **shared.of(SFT),
    )
    on_a100_nodes(model, "6 · Fine-tuning with alignment", gpus=8)
    items = component(DATASET_IMPORT, "benchmark_import", "benchmark")(
        benchmarks=benchmarks, benchmark_digest=benchmark_digest, **shared.of(DATASET_IMPORT, "benchmark_import")
    )
    on_cpu(items, "Import benchmarks")
    with each(benchmarks, "Benchmarks: untouched model") as benchmark:
        before = component(BENCHMARK_EVAL, "baseline_eval", "untouched")(
            videos=items.outputs["videos"], benchmark=benchmark, vlm=vlm, **shared.of(BENCHMARK_EVAL, "baseline_eval")
        )
        on_a100(before, "7 · Evaluate the untouched model")
    with each(benchmarks, "Benchmarks: tuned model") as benchmark:
        after = component(BENCHMARK_EVAL, "tuned_eval", "tuned")(
            videos=items.outputs["videos"],
            model=model.outputs["model"],
            benchmark=benchmark,
            **shared.of(BENCHMARK_EVAL, "tuned_eval"),
        )
        on_a100(after, "7 · Evaluate the tuned model")
    seen = component(VLM_ATTENTION, "tuned_attention", "tuned")(
        priors=priors, model=model.outputs["model"], **shared.of(VLM_ATTENTION, "tuned_attention")
    )
    on_a100(seen, "Attention after tuning")
    page = component(REPORT)(
        untouched=dsl.Collected(before.outputs["result"]),
        tuned=dsl.Collected(after.outputs["result"]),
        maps=seen.outputs["maps"],
        priors=priors,
        model=model.outputs["model"],
        **shared.of(REPORT),
    )
    on_cpu(page, "8 · Report")
    return Tuned(model=model.outputs["model"], report=page.outputs["report"], summary=page.outputs["summary"])


def plan_first(form: str, shared: Shared, **scalars: Any) -> Any:
    """`plan` validates everything before anything is computed; it is never cached, its digests feed the importers."""
    params = {f"params_{name}": value for name, value in shared.params.items()}
    task = component(PLAN, form=form)(
        store=shared.store,
        shards=shared.shards,
        seed=shared.seed,
        params=defaults(PLAN),
        rerun=NONE,
        **params,
        **scalars,
    )
    task.set_caching_options(False)
    return on_cpu(task, "Plan", models=True)


@dsl.pipeline(name="motion-priors", pipeline_config=run_limits())
@described
def motion_priors(
    source: str = "./data",
    store: str = "minio://motion-enhancer/store",
    vdm: str = "cogvideox-5b",
    num_steps: int = 5,
    head_ratio: float = 0.5,
    token_ratio: float = 0.5,
    text: str = "both",
    seed: int = 1,
    shards: list = SHARDS,  # type: ignore[type-arg]
    params_dataset_import: dict = defaults(DATASET_IMPORT),  # type: ignore[type-arg]
    params_ddim_inversion: dict = defaults(DDIM_INVERSION),  # type: ignore[type-arg]
    params_attention_capture: dict = defaults(ATTENTION_CAPTURE),  # type: ignore[type-arg]
    params_head_selection: dict = defaults(HEAD_SELECTION),  # type: ignore[type-arg]
    params_token_selection: dict = defaults(TOKEN_SELECTION),  # type: ignore[type-arg]
    params_prior_set: dict = defaults(PRIOR_SET),  # type: ignore[type-arg]
    rerun_dataset_import: str = NONE,
    rerun_ddim_inversion: str = NONE,
    rerun_attention_capture: str = NONE,
    rerun_head_selection: str = NONE,
    rerun_token_selection: str = NONE,
    rerun_prior_set: str = NONE,
) -> Priors:  # type: ignore[valid-type]
    """Read a video diffusion model's attention while it reconstructs videos, and publish it as a motion-prior data set."""
    rerun = {
        "dataset_import": rerun_dataset_import,
        "ddim_inversion": rerun_ddim_inversion,
        "attention_capture": rerun_attention_capture,
        "head_selection": rerun_head_selection,
        "token_selection": rerun_token_selection,
        "prior_set": rerun_prior_set,
    }
    params = {
        "dataset_import": params_dataset_import,
        "ddim_inversion": params_ddim_inversion,
        "attention_capture": params_attention_capture,
        "head_selection": params_head_selection,
        "token_selection": params_token_selection,
        "prior_set": params_prior_set,
    }
    shared = Shared(store, shards, seed, rerun, params)
    choices = {"vdm": vdm, "num_steps": num_steps, "head_ratio": head_ratio, "token_ratio": token_ratio, "text": text}
    planned = plan_first("motion_priors", shared, source=source, **choices)
    return Priors(priors=extract(shared, source, planned.outputs["source_digest"], **choices))  # type: ignore[no-any-return]


@dsl.pipeline(name="fine-tune", pipeline_config=run_limits())
@described
def fine_tune(
    priors: str = "./priors",
    benchmarks: list = ["motionbench=./benchmarks"],  # type: ignore[type-arg]
    store: str = "minio://motion-enhancer/store",
    vlm: str = "qwen2.5-vl-7b",
    align_weight: float = 1.0,
    seed: int = 1,
    shards: list = SHARDS,  # type: ignore[type-arg]
    params_dataset_import: dict = defaults(DATASET_IMPORT),  # type: ignore[type-arg]
    params_prior_set: dict = defaults(PRIOR_SET),  # type: ignore[type-arg]
    params_vlm_attention: dict = defaults(VLM_ATTENTION),  # type: ignore[type-arg]
    params_sft: dict = defaults(SFT),  # type: ignore[type-arg]
    params_benchmark_eval: dict = defaults(BENCHMARK_EVAL),  # type: ignore[type-arg]
    params_report: dict = defaults(REPORT),  # type: ignore[type-arg]
    rerun_prior_set: str = NONE,
    rerun_vlm_attention: str = NONE,
    rerun_sft: str = NONE,
    rerun_benchmark_import: str = NONE,
    rerun_baseline_eval: str = NONE,
    rerun_tuned_eval: str = NONE,
    rerun_tuned_attention: str = NONE,
    rerun_report: str = NONE,
) -> Tuned:  # type: ignore[valid-type]
    """Fine-tune a vision-language model with an existing motion-prior data set, evaluate it before and after, and report."""
    rerun = {
        "prior_set": rerun_prior_set,
        "vlm_attention": rerun_vlm_attention,
        "sft": rerun_sft,
        "benchmark_import": rerun_benchmark_import,
        "baseline_eval": rerun_baseline_eval,
        "tuned_eval": rerun_tuned_eval,
        "tuned_attention": rerun_tuned_attention,
        "report": rerun_report,
    }
    params = {
        "dataset_import": params_dataset_import,
        "prior_set": params_prior_set,
        "vlm_attention": params_vlm_attention,
        "sft": params_sft,
        "benchmark_eval": params_benchmark_eval,
        "report": params_report,
    }
    shared = Shared(store, shards, seed, rerun, params)
    planned = plan_first("fine_tune", shared, priors=priors, benchmarks=benchmarks, vlm=vlm, align_weight=align_weight)
    opened = component(PRIOR_SET, form="opened")(prior_digest=planned.outputs["prior_digest"], **shared.of(PRIOR_SET))
    on_cpu(opened, "Prior set")
    return tune(shared, opened.outputs["priors"], vlm, align_weight, benchmarks, planned.outputs["benchmark_digest"])  # type: ignore[no-any-return]


@dsl.pipeline(name="motion-enhancer", pipeline_config=run_limits())
@described
def motion_enhancer(
    source: str = "./data",
    benchmarks: list = ["motionbench=./benchmarks"],  # type: ignore[type-arg]
    store: str = "minio://motion-enhancer/store",
    vdm: str = "cogvideox-5b",
    vlm: str = "qwen2.5-vl-7b",
    num_steps: int = 5,
    head_ratio: float = 0.5,
    token_ratio: float = 0.5,
    text: str = "both",
    align_weight: float = 1.0,
    seed: int = 1,
    shards: list = SHARDS,  # type: ignore[type-arg]
    params_dataset_import: dict = defaults(DATASET_IMPORT),  # type: ignore[type-arg]
    params_ddim_inversion: dict = defaults(DDIM_INVERSION),  # type: ignore[type-arg]
    params_attention_capture: dict = defaults(ATTENTION_CAPTURE),  # type: ignore[type-arg]
    params_head_selection: dict = defaults(HEAD_SELECTION),  # type: ignore[type-arg]
    params_token_selection: dict = defaults(TOKEN_SELECTION),  # type: ignore[type-arg]
    params_prior_set: dict = defaults(PRIOR_SET),  # type: ignore[type-arg]
    params_vlm_attention: dict = defaults(VLM_ATTENTION),  # type: ignore[type-arg]
    params_sft: dict = defaults(SFT),  # type: ignore[type-arg]
    params_benchmark_eval: dict = defaults(BENCHMARK_EVAL),  # type: ignore[type-arg]
    params_report: dict = defaults(REPORT),  # type: ignore[type-arg]
    rerun_dataset_import: str = NONE,
    rerun_ddim_inversion: str = NONE,
    rerun_attention_capture: str = NONE,
    rerun_head_selection: str = NONE,
    rerun_token_selection: str = NONE,
    rerun_prior_set: str = NONE,
    rerun_vlm_attention: str = NONE,
    rerun_sft: str = NONE,
    rerun_benchmark_import: str = NONE,
    rerun_baseline_eval: str = NONE,
    rerun_tuned_eval: str = NONE,
    rerun_tuned_attention: str = NONE,
    rerun_report: str = NONE,
) -> Tuned:  # type: ignore[valid-type]
    """From a folder of videos with captions or questions to a fine-tuned vision-language model with its benchmark table."""
    rerun = {
        "dataset_import": rerun_dataset_import,
        "ddim_inversion": rerun_ddim_inversion,
        "attention_capture": rerun_attention_capture,
        "head_selection": rerun_head_selection,
        "token_selection": rerun_token_selection,
        "prior_set": rerun_prior_set,
        "vlm_attention": rerun_vlm_attention,
        "sft": rerun_sft,
        "benchmark_import": rerun_benchmark_import,
        "baseline_eval": rerun_baseline_eval,
        "tuned_eval": rerun_tuned_eval,
        "tuned_attention": rerun_tuned_attention,
        "report": rerun_report,
    }
    params = {
        "dataset_import": params_dataset_import,
        "ddim_inversion": params_ddim_inversion,
        "attention_capture": params_attention_capture,
        "head_selection": params_head_selection,
        "token_selection": params_token_selection,
        "prior_set": params_prior_set,
        "vlm_attention": params_vlm_attention,
        "sft": params_sft,
        "benchmark_eval": params_benchmark_eval,
        "report": params_report,
    }
    shared = Shared(store, shards, seed, rerun, params)
    choices = {"vdm": vdm, "num_steps": num_steps, "head_ratio": head_ratio, "token_ratio": token_ratio, "text": text}
    planned = plan_first(
        "motion_enhancer", shared, source=source, benchmarks=benchmarks, vlm=vlm, align_weight=align_weight, **choices
    )
    priors = extract(shared, source, planned.outputs["source_digest"], **choices)
    return tune(shared, priors, vlm, align_weight, benchmarks, planned.outputs["benchmark_digest"])  # type: ignore[no-any-return]
