"""Manifests in parts, written by hand: a head that names them, the lines and their videos."""

import gzip

from components.core.lines import part_path
from components.core.records import canonical_json, sha256


def part(store, *lines):
    """Write a part's file; what a head says of it."""
    text = b"".join(canonical_json(line) + b"\n" for line in lines)
    store.backend.put(part_path(sha256(text)), gzip.compress(text, mtime=0))
    return {"sha256": sha256(text), "bytes": len(text)}


def in_parts(store, *groups, kind="PriorSet", **fields):
    """Publish a manifest with a part for each group of (line, video), models both; its digest and its parts' paths."""
    parts = []
    for group in groups:
        lines = [{**line.model_dump(mode="json", exclude={"video"}), "video": video.id} for line, video in group]
        videos = part(store, *(video.model_dump(mode="json") for _, video in group))
        about = {"count": len(group), "first": lines[0]["video"], "last": lines[-1]["video"]}
        parts.append({**about, "lines": part(store, *lines), "videos": {**videos, "count": len(group)}})
    head = {"kind": kind, "schema_version": "2", "provenance": {}, "left_out": {"parts": []}}
    data = canonical_json({**head, "lines": {"parts": parts}, **fields})
    store.backend.put(f"manifests/{sha256(data)}.json", data)
    named = [one[file]["sha256"] for one in parts for file in ("lines", "videos")]
    return sha256(data), [part_path(digest) for digest in named]
