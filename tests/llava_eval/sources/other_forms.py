"""The mini data in the forms in which others hand the benchmarks round.

Each function reads the official files of the mini data and gives the rows of the data set on the
Hub; a table of VLMEvalKit is made of the same rows.
"""

import csv
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

Rows = list[dict[str, Any]]

SHORT = "\nAnswer the question using a single word or phrase."


def picture(path: Path) -> dict[str, Any]:
    return {"bytes": path.read_bytes(), "path": path.name}


def json_lines(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]


def vqav2_val(root: Path) -> Rows:
    folder = root / "vqav2"
    questions = json.loads((folder / "v2_OpenEnded_mscoco_val2014_questions.json").read_text())
    annotations = json.loads((folder / "v2_mscoco_val2014_annotations.json").read_text())
    known = {row["question_id"]: row for row in annotations["annotations"]}
    return [
        {
            **row,
            "answers": known[row["question_id"]]["answers"],
            "answer_type": known[row["question_id"]]["answer_type"],
            "image": picture(folder / f"val2014/COCO_val2014_{row['image_id']:012}.jpg"),
        }
        for row in questions["questions"]
    ]


def vqav2(root: Path) -> Rows:
    return [
        {
            "question_id": record["question_id"],
            "image_id": int(record["image"].removesuffix(".jpg").rpartition("_")[2]),
            "question": record["text"].removesuffix(SHORT),
            "answers": None,
            "image": picture(root / "vqav2/test2015" / record["image"]),
        }
        for record in json_lines(root / "vqav2/llava_vqav2_mscoco_test-dev2015.jsonl")
    ]


def vizwiz(root: Path) -> Rows:
    return [
        {
            "question_id": record["image"].removesuffix(".jpg"),
            "question": record["text"].split("\n")[0],
            "answers": None,
            "image": picture(root / "vizwiz/test" / record["image"]),
        }
        for record in json_lines(root / "vizwiz/llava_test.jsonl")
    ]


def vizwiz_val(root: Path) -> Rows:
    return [
        {
            "question_id": row["image"].removesuffix(".jpg"),
            "question": row["question"],
            "answers": [each["answer"] for each in row["answers"]],
            "category": row["answer_type"],
            "image": picture(root / "vizwiz/val" / row["image"]),
        }
        for row in json.loads((root / "vizwiz/val.json").read_text())
    ]


def gqa(root: Path) -> Rows:
    asked = {
        row["question_id"] for row in json_lines(root / "gqa/llava_gqa_testdev_balanced.jsonl")
    }
    official = json.loads((root / "gqa/data/testdev_balanced_questions.json").read_text())
    return [{"id": name, **row} for name, row in official.items() if name in asked]


def gqa_pictures(root: Path) -> Rows:
    paths = sorted((root / "gqa/data/images").iterdir())
    return [{"id": path.stem, "image": picture(path)} for path in paths]


def textvqa(root: Path) -> Rows:
    asked = json_lines(root / "textvqa/llava_textvqa_val_v051_ocr.jsonl")
    document = json.loads((root / "textvqa/TextVQA_0.5.1_val.json").read_text())
    rows = []
    for row, record in zip(document["data"], asked, strict=True):
        read = record["text"].split("\n")[1].removeprefix("Reference OCR token: ")
        rows.append(
            {
                **row,
                "ocr_tokens": read.split(", ") if read else [],
                "image": picture(root / f"textvqa/train_images/{row['image_id']}.jpg"),
            }
        )
    return rows


def pope(root: Path) -> Rows:
    return [
        {
            "question_id": str(row["question_id"]),
            "question": row["text"],
            "answer": row["label"],
            "image_source": row["image"].removesuffix(".jpg"),
            "category": category,
            "image": picture(root / "pope/val2014" / row["image"]),
        }
        for category in ("adversarial", "popular", "random")
        for row in json_lines(root / f"pope/coco/coco_pope_{category}.json")
    ]


def scienceqa(root: Path) -> Rows:
    folder = root / "scienceqa"
    problems = json.loads((folder / "problems.json").read_text())
    split = json.loads((folder / "pid_splits.json").read_text())["test"]
    return [
        {
            **{key: problems[name][key] for key in ("question", "choices", "answer", "hint")},
            **{key: problems[name][key] for key in ("subject", "grade")},
            "image": picture(folder / f"images/test/{name}/image.png"),
        }
        for name in split
        if problems[name]["image"]
    ]


def mme(root: Path) -> Rows:
    folder, rows = root / "MME", []
    truth = {}
    for path in (folder / "eval_tool/Your_Results").iterdir():
        for line in path.read_text().splitlines():
            name, question, answer = line.split("\t")
            bare = question.removesuffix("Please answer yes or no.").strip()
            truth[path.stem, name, bare] = answer
    for record in json_lines(folder / "llava_mme.jsonl"):
        category, name = record["category"], Path(record["image"]).name
        question = record["text"].removesuffix(SHORT).strip()
        rows.append(
            {
                "question_id": f"{category}/{name}",
                "question": f"{question} Please answer yes or no.",
                "answer": truth[category, name, question],
                "category": category,
                "image": picture(folder / "MME_Benchmark_release_version" / record["image"]),
            }
        )
    return rows


def mmbench(root: Path, *, file: str = "mmbench/mmbench_dev_20230712.tsv") -> Rows:
    text = (root / file).read_text(encoding="utf-8")
    csv.field_size_limit(2**31 - 1)
    rows: Rows = []
    for row in csv.DictReader(text.splitlines(), delimiter="\t"):
        image = {"bytes": b64decode(row["image"]), "path": f"{row['index']}.jpg"}
        blank = {"hint": row["hint"] or "nan", "C": row["C"] or "nan", "D": row["D"] or "nan"}
        rows.append({**row, **blank, "index": int(row["index"]), "image": image})
        rows[-1]["L2-category"] = rows[-1].pop("l2-category") or None
    return rows


def seed(root: Path) -> Rows:
    """A video is all its frames; LLaVA's is the middle one of three."""
    folder, rows = root / "seed_bench", []
    for row in json.loads((folder / "SEED-Bench.json").read_text())["questions"]:
        if row["data_type"] == "image":
            frames = [picture(folder / "SEED-Bench-image" / row["data_id"])]
        else:
            name = f"{row['question_type_id']}_{row['question_id']}.png"
            middle = picture(folder / "SEED-Bench-video-image" / name)
            frames = [{"bytes": b"early", "path": ""}, middle, {"bytes": b"late", "path": ""}]
        rows.append({**row, "image": frames})
    return rows


def llava_bench_wild(root: Path) -> Rows:
    folder = root / "llava-bench-in-the-wild"
    references = {row["question_id"]: row for row in json_lines(folder / "answers_gpt4.jsonl")}
    return [
        {
            "question_id": str(row["question_id"]),
            "question": row["text"],
            "gpt_answer": references[row["question_id"]]["text"],
            "category": row["category"],
            "image_id": row["image"],
            "image": picture(folder / "images" / row["image"]),
        }
        for row in json_lines(folder / "questions.jsonl")
    ]


def mm_vet(root: Path) -> Rows:
    own = json.loads((root / "mm-vet/mm-vet.json").read_text())
    return [
        {
            "question_id": name,
            "question": row["question"],
            "answer": row["answer"],
            "capability": ",".join(row["capability"]),
            "image": picture(root / "mm-vet/images" / row["imagename"]),
        }
        for name, row in own.items()
    ]


HUB_ROWS: dict[str, Callable[[Path], Rows]] = {
    "vqav2": vqav2,
    "vqav2_val": vqav2_val,
    "vizwiz": vizwiz,
    "vizwiz_val": vizwiz_val,
    "gqa": gqa,
    "textvqa": textvqa,
    "pope": pope,
    "scienceqa": scienceqa,
    "mme": mme,
    "mmbench": mmbench,
    "mmbench_cn": partial(mmbench, file="mmbench_cn/mmbench_dev_cn_20231003.tsv"),
    "seed": seed,
    "llava_bench_wild": llava_bench_wild,
    "mm_vet": mm_vet,
}


def write_parquet(folder: Path, rows: Rows, split: str, *, files: int = 2) -> None:
    """Writes a split over some files, in row groups of five, as the Hub has them of a hundred."""
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(rows) // files)
    for number in range(files):
        part = pyarrow.Table.from_pylist(rows[number * size : (number + 1) * size])
        name = f"{split}-{number:05}-of-{files:05}.parquet"
        parquet.write_table(part, folder / name, row_group_size=5)


def write_card(folder: Path, configs: dict[str, str]) -> None:
    """Writes the README.md that names the files of every config: `{"en": "dev"}`."""
    lines = ["---", "configs:"]
    for config, split in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))


def tsv_rows(task: str, root: Path) -> list[dict[str, Any]]:
    """The rows of VLMEvalKit's table; where a picture comes again, it is that of the first row."""
    seen: dict[str, int] = {}
    table = []
    for number, row in enumerate(_TSV_SOURCES.get(task, HUB_ROWS[task])(root)):
        made = _TSV_ROW.get(task, _plain_row)(row)
        index = made.pop("index", number)
        encoded = b64encode(row["image"]["bytes"]).decode()
        owner = seen.setdefault(encoded, index)
        table.append({"index": index, "image": encoded if owner == index else owner, **made})
    return table


def _joined_gqa(root: Path) -> Rows:
    pictures = {row["id"]: row["image"] for row in gqa_pictures(root)}
    return [{**row, "image": pictures[row["imageId"]]} for row in gqa(root)]


def _merged_pope(root: Path) -> Rows:
    """A question that several categories have is one row."""
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for row in pope(root):
        first = merged.setdefault((row["image_source"], row["question"]), {**row, "category": []})
        first["category"].append(row["category"])
    return [{**row, "category": ",".join(row["category"])} for row in merged.values()]


def _images_of_seed(root: Path) -> Rows:
    return [{**row, "image": row["image"][0]} for row in seed(root) if row["data_type"] == "image"]


_TSV_SOURCES: dict[str, Callable[[Path], Rows]] = {
    "gqa": _joined_gqa,
    "pope": _merged_pope,
    "seed": _images_of_seed,
}


def _plain_row(row: dict[str, Any]) -> dict[str, Any]:
    kept = ("question", "answer", "answers", "category")
    return {name: row[name] for name in kept if name in row}


def _options(texts: Sequence[str]) -> dict[str, str]:
    return dict(zip("ABCDE", [*texts, *[""] * (5 - len(texts))], strict=True))


def _mmbench_row(row: dict[str, Any]) -> dict[str, Any]:
    cells = {name: "" if cell == "nan" else cell for name, cell in row.items() if name != "image"}
    return {**cells, "l2-category": cells.pop("L2-category")}


_TSV_ROW: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "textvqa": lambda row: {"question": row["question"], "answer": row["answers"]},
    "mmbench": _mmbench_row,
    "mmbench_cn": _mmbench_row,
    "scienceqa": lambda row: {
        **_options(row["choices"]),
        "question": row["question"],
        "hint": row["hint"],
        "answer": "ABCDE"[row["answer"]],
    },
    "seed": lambda row: {
        **{letter: row[f"choice_{letter.lower()}"] for letter in "ABCD"},
        "question": row["question"],
        "answer": row["answer"],
        "category": "a type",
    },
    "llava_bench_wild": lambda row: {
        "question": row["question"],
        "gpt4_ans": row["gpt_answer"],
        "caption": "A drawing.",
        "category": row["category"],
    },
    "mm_vet": lambda row: {
        "question": row["question"],
        "answer": row["answer"],
        "category": row["capability"],
    },
}


def write_tsv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Writes a table as VLMEvalKit's are written; a list stands there as Python shows it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
