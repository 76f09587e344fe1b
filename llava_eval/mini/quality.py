"""Mini versions of Q-Bench, English and Chinese: what is wrong with a picture as a picture."""

import json
from collections.abc import Callable, Iterable, Mapping
from random import Random

from PIL import Image, ImageFilter

from llava_eval.mini.files import Files, Record
from llava_eval.mini.scenes import draw_scene, jpeg, random_scene

_NUM_PICTURES = 40
_BLUR_PX = 4
_DARKER, _BRIGHTER = 0.3, 2.0

_TREATMENTS: Mapping[str, Callable[[Image.Image], Image.Image]] = {
    "nothing": lambda picture: picture,
    "blur": lambda picture: picture.filter(ImageFilter.GaussianBlur(_BLUR_PX)),
    "dark": lambda picture: picture.point(lambda level: int(level * _DARKER)),
    "bright": lambda picture: picture.point(lambda level: min(255, int(level * _BRIGHTER))),
}
# What the file calls a kind of question, and what a question is about.
_YES_OR_NO, _WHAT, _HOW = 0, 1, 2
_DISTORTION, _OTHER = 0, 1

_CHINESE = {
    "Is this image blurry?": "这张图片模糊吗？",
    "How is the brightness of this image?": "这张图片的亮度如何？",
    "Which problem does this image have?": "这张图片存在什么问题？",
    "Yes": "是",
    "No": "否",
    "Dark": "暗",
    "Normal": "正常",
    "Bright": "亮",
    "Blur": "模糊",
    "Underexposure": "曝光不足",
    "Overexposure": "曝光过度",
    "None": "没有问题",
}


def qbench() -> Files:
    """Scenes, some of them blurred, darkened or brightened, one question each."""
    random = Random("qbench")
    files: Files = {}
    records: list[Record] = []
    for number in range(_NUM_PICTURES):
        image = f"{number:05}.jpg"
        treatment = random.choice(list(_TREATMENTS))
        picture = _TREATMENTS[treatment](draw_scene(random_scene(random)))
        files[f"qbench/images_llvisionqa/{image}"] = jpeg(picture)
        records.append(_record(image, treatment, random))
    chinese = [_in_chinese(record) for record in records]
    files["qbench/llvisionqa_dev.json"] = _array(records)
    files["qbench/llvisionqa_test.json"] = _array(map(_unanswered, records))
    files["qbench/质衡-问答-验证集.json"] = _array(chinese)
    files["qbench/质衡-问答-测试集.json"] = _array(map(_unanswered, chinese))
    return files


def _record(image: str, treatment: str, random: Random) -> Record:
    problems = {"blur": "Blur", "dark": "Underexposure", "bright": "Overexposure"}
    levels = {"dark": "Dark", "bright": "Bright"}
    blurred = "Yes" if treatment == "blur" else "No"
    kind, concern, question, candidates, answer = random.choice(
        [
            (_YES_OR_NO, _DISTORTION, "Is this image blurry?", ["Yes", "No"], blurred),
            (
                _HOW,
                _OTHER,
                "How is the brightness of this image?",
                ["Dark", "Normal", "Bright"],
                levels.get(treatment, "Normal"),
            ),
            (
                _WHAT,
                _DISTORTION,
                "Which problem does this image have?",
                [*problems.values(), "None"],
                problems.get(treatment, "None"),
            ),
        ]
    )
    random.shuffle(candidates)
    return {
        "type": kind,
        "concern": concern,
        "question": question,
        "img_path": image,
        "candidates": candidates,
        "correct_ans": answer,
    }


def _in_chinese(record: Record) -> Record:
    return {
        **record,
        "question": _CHINESE[record["question"]],
        "candidates": [_CHINESE[each] for each in record["candidates"]],
        "correct_ans": _CHINESE[record["correct_ans"]],
    }


def _unanswered(record: Record) -> Record:
    return {name: value for name, value in record.items() if name != "correct_ans"}


def _array(records: Iterable[Record]) -> bytes:
    return json.dumps(list(records), ensure_ascii=False).encode()
