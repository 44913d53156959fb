"""Kubeflow: components, scheduling, compilation, local runs, clients. The only package that imports kfp and docker."""
