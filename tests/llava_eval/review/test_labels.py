from pathlib import Path

import pytest

from llava_eval.review.labels import labels


@pytest.mark.parametrize(
    ("names", "files", "told"),
    [
        (["a", "b"], ["x-1.jsonl", "x-2.jsonl"], ["a", "b"]),
        (["a", "a"], ["x-1-judge.jsonl", "x-2-judge.jsonl"], ["a (1)", "a (2)"]),
        (["a", "a"], ["m-v1.5-j.jsonl", "m-v1.6-j.jsonl"], ["a (v1.5)", "a (v1.6)"]),
        (["a", "a"], ["r.jsonl", "r-old.jsonl"], ["a", "a (old)"]),
        (["a", "a"], ["runs/x/t/reviews.jsonl", "runs/y/t/reviews.jsonl"], ["a (x)", "a (y)"]),
        (["a", "b", "a"], ["x.jsonl", "x.jsonl", "y.jsonl"], ["a (x)", "b", "a (y)"]),
        (["a", "a"], ["x.jsonl", "x.jsonl"], ["a", "a"]),
    ],
)
def test_names_alike_get_what_their_files_differ_in(names, files, told):
    assert labels(names, [Path(file) for file in files]) == told
