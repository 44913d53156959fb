"""The shared parameters of each pipeline, as `plan` takes them."""

from __future__ import annotations

from components.runtime import parameters as p
from components.runtime.parameters import SharedParams


class Shared(SharedParams):
    """What every pipeline has."""

    shards: p.Shards
    seed: p.Seed
    over_limits: p.OverLimits


class MotionPriors(Shared):
    """The shared parameters of `motion_priors`."""

    source: p.SourceUri
    vdm: p.Vdm
    num_steps: p.NumSteps
    head_ratio: p.HeadRatio
    token_ratio: p.TokenRatio
    text: p.Text


class Tuning(Shared):
    """The shared parameters of pipelines that fine-tune."""

    benchmarks: p.Benchmarks
    vlm: p.Vlm
    align_weight: p.AlignWeight


class FineTune(Tuning):
    """The shared parameters of `fine_tune`."""

    priors: p.Priors


class MotionEnhancer(MotionPriors, Tuning):
    """The shared parameters of `motion_enhancer`."""


class Ablations(MotionEnhancer):
    """The shared parameters of `ablations`."""

    variants: p.Variants
    baseline: p.Baseline
    seeds: p.Seeds
    trial_shards: p.TrialShards
