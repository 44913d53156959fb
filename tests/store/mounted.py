"""A secret in a folder as Kubernetes mounts it: files of one version behind the link `..data`."""

import os
import shutil


def mount(folder, secret):
    """Mount a secret (text by key), or change what is mounted there."""
    folder.mkdir(parents=True, exist_ok=True)
    before = list(folder.glob("..2*"))
    made = folder / f"..2026_{os.urandom(4).hex()}"
    made.mkdir()
    for key, text in secret.items():
        (made / key).write_text(text)
    link = folder / "..data_tmp"
    link.symlink_to(made.name)
    link.replace(folder / "..data")
    for path in folder.iterdir():
        if not path.name.startswith(".."):
            path.unlink()
    for key in secret:
        (folder / key).symlink_to(f"..data/{key}")
    for path in before:
        shutil.rmtree(path)
