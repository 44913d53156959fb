"""Four synthetic clips with two MotionBench items each, one that is held out, and one of another protocol."""

from components.benchmark_eval.step import STEP
from components.benchmarks.interface import get_benchmark
from components.core import artifacts as a
from components.core.records import Option, StepRecord
from components.core.text import sample_id
from components.models.vlm.model import Vlm
from components.store.entries import Store
from components.synthetic.scenes import write_set
from tests.runner import published, put_manifest, run_step
from tests.vlm_attention import made

QWEN = "tiny-qwen2.5-vl"
TYPES = list(get_benchmark("motionbench").types)


def sample(clip, k, answer="A", protocol="motionbench"):
    words = zip("ABCD", ("left", "right", "up", "down"), strict=True)
    options = [Option(letter=letter, text=f"{word} {k}") for letter, word in words]
    question = f"Where does it move, {k}?"
    named = {"id": sample_id(clip.id, question, options, "", []), "uid": f"q{k}", "is_instruction": False}
    asked = {"question": question, "options": options, "response": "", "answer": answer}
    return a.Sample(**named, **asked, question_type=TYPES[k % 6], protocol=protocol)


def make_world(folder):
    """The folder with the store, the data set's artifact, and its lines."""
    write_set(folder / "set", "bench", 4, seed=3, size=(64, 64), num_frames=9)
    store = Store(str(folder / "store"))
    lines = []
    for k, file in enumerate(sorted((folder / "set").rglob("*.mp4"))):
        clip = made.video(store, file)
        asked = [sample(clip, 10 * k + j, "ABCD"[j % 4]) for j in range(2)]
        held_out, other = sample(clip, 10 * k + 5, ""), sample(clip, 10 * k + 6, protocol="favor")
        lines.append(a.VideoLine(video=clip, samples=[*asked, held_out, other]))
    return folder, dataset(folder / "artifact", lines), lines


def dataset(folder, lines):
    record = StepRecord(version="1", params={}, scalars={})
    made = a.VideoDataset(kind="VideoDataset", provenance={"benchmark_import": record}, lines=lines)
    return put_manifest(folder, made)


def run(world, tmp_path, benchmark="motionbench=./data", videos=None, vlm=QWEN, **params):
    params, shared = {"viewing": made.VIEWING, **params}, {"vlm": vlm, "benchmark": benchmark}
    return run_step(
        STEP, tmp_path, world[0] / "store", params, shared, {"videos": videos or world[1]}, form="untouched"
    )


def result(outputs):
    return published(outputs, "result", a.EvalResult)


def recorded(monkeypatch):
    """What is asked from now on: conversations and their longest replies."""
    asked, replies = [], Vlm.replies

    def record(vlm, layouts, prefix, count):
        asked.extend((layout, count) for layout in layouts)
        return replies(vlm, layouts, prefix, count)

    monkeypatch.setattr(Vlm, "replies", record)
    return asked
