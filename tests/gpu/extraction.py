"""`python -m tests.gpu.extraction CLIPS FOLDER`: the priors of a folder of clips by the pipeline's own steps.

A process of its own, so that the same code can be shown a machine without a GPU. All heads and words: near a tie a
choice may differ.
"""

import sys
from pathlib import Path

from components.cli.look import chain_defaults, extract_priors, model_size

VDM = "scenes-cogvideox"


def main():
    clips, folder = sys.argv[1], Path(sys.argv[2])
    own = {"source": clips, "store": (folder / "store").as_uri(), "shard": "0/1", "text": "response", "vdm": VDM}
    values = chain_defaults() | own
    values["params_ddim_inversion"] |= model_size(VDM)
    values["params_head_selection"]["mhs"] = values["params_token_selection"]["mtti"] = False
    extract_priors(folder, values)


if __name__ == "__main__":
    main()
