"""The steps of the method in their order, by the names of their folders; declarations are loaded on first use."""

from __future__ import annotations

EXTRACTION = ("dataset_import", "ddim_inversion", "attention_capture", "head_selection", "token_selection")
TUNING = ("vlm_attention", "leakage_check", "sft", "benchmark_eval", "report")
STEPS = ("plan", *EXTRACTION, "prior_set", *TUNING, "training_set", "comparison")
