"""Benchmarks as they are published, small: made-up questions about pictures and clips made here."""

import json
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from tests.dataset_import.data import clip, document
from tests.media.made import encode, moving

CHOICES = {"choice_a": "One", "choice_b": "Two", "choice_c": "Three", "choice_d": "Four"}
TYPES = ["Scene Understanding", "Instance Identity", "Instance Attributes", "Instance Location", "Instances Counting"]
TYPES += ["Spatial Relation", "Instance Interaction", "Visual Reasoning", "Text Understanding"]
SEED = [*TYPES, "Action Recognition", "Action Prediction", "Procedure Understanding"]
SEED2 = [*TYPES, "Celebrity Recognition", "Landmark Recognition", "Chart Understanding", "Visual Referring Expression"]
SEED2 += ["Science Knowledge", "Emotion Recognition", "Visual Mathematics", "Difference Spotting", "Meme Comprehension"]
SEED2 += ["Global Video Understanding", "Action Recognition", "Action Prediction", "Procedure Understanding"]
SEED2 += ["In-Context Captioning", "Interleaved Image-Text Analysis", "Text-to-Image Generation"]
SEED2 += ["Next Image Prediction", "Text-Image Creation"]
FRAMES = {10: "task10/ssv2_8_frame", 11: "task11/kitchen_8_frame", 12: "task12/breakfast_8_frame"}
LONG = {11: "P03/P03_24.MP4", 12: "P06/cam01/P06_cereals.avi"}


def picture(seed, size=(32, 48)):
    coarse = np.random.default_rng(seed).integers(0, 255, (size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse.repeat(8, 0).repeat(8, 1))


def saved(path, seed, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(seed).save(path, **options)
    return path


def zipped(folder, target, parts=1, base=None):
    """A folder as a zip file beside it, in parts as the hub has large ones; the folder is gone then."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in files:
            archive.write(path, path.relative_to(base or folder.parent))
            path.unlink()
    if parts > 1:
        data = target.read_bytes()
        size = -(-len(data) // parts)
        for number in range(parts):
            piece = data[number * size : (number + 1) * size]
            target.with_name(f"{target.name}.{number + 1:03d}").write_bytes(piece)
        target.unlink()


def seed_question(kind, uid, data_id, **more):
    media = "image" if kind <= 9 else "video"
    texts = {"answer": "ABCD"[kind % 4], "question": f"What is it, {uid}?", "question_id": uid}
    return CHOICES | texts | {"data_id": data_id, "data_type": media, "question_type_id": kind} | more


def seed(root, pack=True, videos=False):
    """SEED-Bench: an image for each of its kinds, still frames for each kind of video; or the videos themselves."""
    questions = []
    for kind in range(1, 10):
        name = f"1454426_259111{kind}"  # no ending, as in the data set
        saved(root / "SEED-Bench-image" / name, kind, format="JPEG", quality=95)
        questions.append(seed_question(kind, f"10{kind}", name))
    for kind, uid, name in ((10, "v1738", "94328.webm"), (11, "v1962", LONG[11]), (12, "v4397", LONG[12])):
        for number in range(1, 9):
            saved(root / "v1_video" / FRAMES[kind] / uid / f"{number}.png", 100 * kind + number)
        bounds = {10: {}, 11: {"segment": [2.0, 4.0]}, 12: {"segment": [18, 46]}}[kind]
        questions.append(seed_question(kind, uid, name, **bounds))
    if videos:
        clip(root / "SSV2/videos/94328.webm", num_frames=12)
        for kind, folder, rate in ((11, "EPIC-KITCHENS", 10), (12, "BreakfastII_15fps_qvga_sync", 15)):
            path = root / folder / LONG[kind]
            path.parent.mkdir(parents=True)
            encode(path, moving(60, 32, 48), rate=rate, fmt="mp4" if kind == 11 else "avi", g=10, bf=0)
        questions.append(seed_question(11, "v1963", LONG[11], segment=[0.0, 3.0]))
    document(root / "SEED-Bench.json", {"questions": questions, "question_type": numbered(SEED)})
    if pack:
        zipped(root / "SEED-Bench-image", root / "SEED-Bench-image.zip")
        zipped(root / "v1_video", root / "v1_video.zip", parts=3)
    return questions


def numbered(types):
    return {name: number for number, name in enumerate(types, start=1)}


def seed2_question(kind, data_id, media, part, source="SEED-Bench v2"):
    told = {"data_source": source, "level": "L1", "subpart": part, "version": "v2"}
    return seed_question(kind, f"{kind}_0", data_id) | told | {"data_type": media}


def seed2(root):
    """SEED-Bench-2: one question of each of its 27 kinds."""
    questions = []
    for kind in range(1, 17):
        source, name = ("cc3m", f"cc3m_{kind}") if kind < 9 else ("SEED-Bench v2", f"task{kind}/{kind}.png")
        folder = "cc3m-image" if kind < 9 else "SEED-Bench-2-image"
        saved(root / folder / name, kind, format="JPEG" if kind < 9 else "PNG")
        questions.append(seed2_question(kind, name, "Single Image", "Single-Image & Text Comprehension", source))
    several = {17: 2, 18: 2} | dict.fromkeys(range(19, 23), 8) | {23: 3, 24: 3, 25: 4, 26: 7, 27: 4}
    for kind, count in several.items():
        names = [f"task{kind}/frames/WRQ{kind}/{number}.png" for number in range(1, count + 1)]
        media, part = "Multiple Images", "Multiple-Images & Text Comprehension"
        if kind in range(19, 23):
            media, part = "Video", "Video & Text Comprehension"
            for number, name in enumerate(names):
                saved(root / "SEED-Bench-2-image" / name, 100 * kind + number)
        elif kind in (23, 24):
            media, part = "Interleaved Image", "Interleaved Image & Text Comprehension"
        elif kind > 24:
            media = part = "Image & Text Generation" if kind == 27 else "Image Generation"
        questions.append(seed2_question(kind, names, media, part))
    document(root / "SEED-Bench_v2_level1_2_3.json", {"questions": questions, "question_type": numbered(SEED2)})
    zipped(root / "cc3m-image", root / "cc3m-image.zip")
    zipped(root / "SEED-Bench-2-image", root / "SEED-Bench-2-image.zip", parts=2)
    return questions


def videomme(root, size=(32, 48)):
    """Video-MME: three questions about each of three videos, of the three lengths; videos in two zip files."""
    rows = []
    for number, length in enumerate(("short", "medium", "long"), start=1):
        name = f"fFjv93ACG{number}o"
        clip(root / f"chunk{1 + number % 2}/data/{name}.mp4", seed=number, size=size)
        for asked in range(1, 4):
            told = {"video_id": f"{number:03d}", "duration": length, "domain": "Knowledge", "sub_category": "History"}
            told |= {"url": f"https://www.youtube.com/watch?v={name}", "videoID": name}
            told |= {"question_id": f"{number:03d}-{asked}", "task_type": "Counting Problem"}
            told |= {"question": f"How, {asked}?", "options": ["A. Apples.", "B. Figs.", "C. Berries.", "D. Nuts."]}
            rows.append(told | {"answer": "ABCD"[asked]})
    table = pyarrow.Table.from_pylist(rows)
    features = {name: {"dtype": "string", "_type": "Value"} for name in table.column_names}
    features["options"] = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (root / "videomme").mkdir()
    pyarrow.parquet.write_table(table, root / "videomme/test-00000-of-00001.parquet")
    for chunk in (1, 2):
        zipped(root / f"chunk{chunk}", root / f"videos_chunked_{chunk:02d}.zip", base=root / f"chunk{chunk}")
    (root / "subtitles").mkdir()
    (root / "subtitles/a.srt").write_text("1")
    zipped(root / "subtitles", root / "subtitle.zip")
    return rows
