"""A store made by hand for `store check` and `store gc`: works in the steps' layout, and manifests over them."""

from components.core import artifacts as a
from components.core.records import sha256
from components.store.entries import File, WorkFolder


def paths(store):
    return {item.path for item in store.backend.walk()}


class Made:
    """One piece of work of each step over one video, with every kind of reference."""

    def __init__(self, store):
        self.store = store
        self.video_file = self.raw(f"videos/{sha256(b'video')}.mp4", b"video")
        mask = self.work("dataset_import", "mask", {"video": "v"}, mask=b"mask")
        imported = self.open("dataset_import", "video")
        imported.adopt("video", self.video_file)
        imported.adopt("mask", mask.files["mask"])
        imported.finish("clip.mp4", {"video": {"address": "file:///somewhere/clip.mp4"}}, {})
        self.trajectory = self.work("ddim_inversion", "t", {"video": "v"}, scratch=("latents",), latents=b"latents")
        read = {"trajectory": self.trajectory.key}
        self.maps = self.work("attention_capture", "m", read, maps=b"maps", statistics=b"statistics")
        self.drawn = self.work("attention_capture_pictures", "p", {"maps": self.maps.key}, heads=b"heads")
        read = {"attention": self.maps.key}
        self.prior = self.work("token_selection", "n", read, prior=b"prior", per_frame=b"per_frame")
        self.words = self.work("vlm_attention", "w", {"prior": self.prior.key}, token_map=b"token_map")
        self.seen = self.work("vlm_attention_maps", "s", {"token_map": self.words.key}, vlm_map=b"vlm_map")
        files = {"model": b"model", "config": b"{}", "aligner": b"aligner", "log": b"log"}
        self.model = self.work("sft", "x", {"lines": [[self.words.key, "0" * 64]]}, **files)
        self.answer = self.work("benchmark_eval", "a", {"video": "v"})

    def raw(self, path, data):
        self.store.backend.put(path, data)
        return File(path=path, sha256=sha256(data), bytes=len(data))

    def key(self, name):
        return sha256(f"key of {name}".encode())[:32]

    def open(self, step, name):
        return WorkFolder(self.store, step, "1", self.key(f"{step}/{name}"))

    def work(self, step, name, reads, scratch=(), **files):
        folder = self.open(step, name)
        for role, data in files.items():
            folder.put(role, "bin", data + name.encode(), scratch=role in scratch)
        return folder.finish(name, reads, {})

    def prior_line(self, **fields):
        maps, prior = self.maps, self.prior
        file = a.Ref(**self.video_file.model_dump(), task="dataset_import")
        video = a.Video(file=file, width=1, height=1, rotation=0, duration=1, times=[0])
        sample = a.Sample(id="0" * 16, uid="u", question="q", is_instruction=False, response="r", answer="")
        return {
            "video": video,
            "sample": sample,
            "key": prior.key,
            "grid": a.Grid(times=[(0, 1)], rows=1, cols=1, box=(0, 1, 0, 1)),
            "pieces": [],
            "truncated": 0,
            "heads": [0],
            "statistics": maps.ref("statistics", "attention_capture"),
            "prior": prior.ref("prior", "token_selection"),
            "per_frame": prior.ref("per_frame", "token_selection"),
            "mask": self.store.entry("dataset_import", self.key("dataset_import/video")).ref("mask", "dataset_import"),
            "confidence": a.Confidence(concentration=0, dynamics=0, value=0),
            "pictures": {"heads": self.drawn.ref("heads", "attention_capture")},
            **fields,
        }

    def vlm_line(self):
        seen, words = (self.seen.ref("vlm_map", "vlm_attention"), self.words.ref("token_map", "vlm_attention"))
        line = self.prior_line(token_map=words, coverage=1.0, vlm_map=seen, distance=0.0)
        return a.VlmLine(**{**line, "key": self.words.key})

    def publish(self, kind, **fields):
        """In version 1, with the lines inline; what parts lead to is `in_parts.py`'s."""
        return self.store.publish(kind(kind=kind.KIND, schema_version="1", provenance={}, **fields))

    def priors(self, **fields):
        return self.publish(a.PriorSet, lines=[a.PriorLine(**self.prior_line(**fields))], heads=[], saturation={})

    def tuned(self):
        model = self.model
        files = [model.ref(role, "sft") for role in ("model", "config")]
        more = {"aligner": [model.ref("aligner", "sft")], "log": model.ref("log", "sft"), "lines": [self.vlm_line()]}
        return self.publish(a.TunedModel, key=model.key, files=files, **more)

    def evaluated(self):
        shared = {name: value for name, value in self.prior_line().items() if name in ("video", "sample", "mask")}
        told = {"reply": "A", "parsed": "A", "rule": "r", "correct": True, "official_correct": True, "frames": [0]}
        lines = [a.ItemResult(**shared, key=self.answer.key, **told)]
        return self.publish(a.EvalResult, protocol="p", model="m", scores=[], lines=lines)

    def report(self, **reads):
        page = self.work("report", "page", reads, page=b"page")
        return page, self.publish(a.Report, page=page.ref("page", "report"))


def everything_of(*entries):
    files = {file.path for entry in entries for file in entry.files.values()}
    return files | {f"{entry.step}/{entry.key}/entry.json" for entry in entries}
