"""Preloaded first by the fork server: the environment of its imports; Ctrl-C ends it and its tasks at once."""

import os
import signal

from components.kubeflow.processes import ENVIRONMENT

# with the last one torch asks the driver's library for devices, not CUDA, which would be of no use after a fork
os.environ.update(ENVIRONMENT, PYTORCH_NVML_BASED_CUDA_CHECK="1")
signal.signal(signal.SIGINT, signal.SIG_DFL)
