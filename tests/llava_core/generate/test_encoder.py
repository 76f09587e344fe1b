"""Pictures are prepared by other threads, ahead of the model, and seen in passes of some size."""

import threading
import time

import pytest
import torch

from llava_core.generate.encoder import PictureEncoder, Shown
from llava_core.generate.stopwatch import Stopwatch
from tests.llava_core.toy import toy_config, toy_image, toy_model
from tests.llava_core.toy_hugging_face import PINPOINTS, make_processor


@pytest.fixture
def stopwatch():
    return Stopwatch()


def encoder(model, stopwatch):
    return PictureEncoder(model, make_processor().image_processor, stopwatch)


def shown(encoder, count, size=(60, 40)):
    images = [toy_image(i, *size) for i in range(count)]
    return [Shown(encoder.key(image, pad=True), image, True) for image in images]


@pytest.mark.parametrize(
    ("config", "passes"),
    [
        ({}, [32, 8]),
        # Five tiles each: six pictures a pass.
        ({"image_aspect_ratio": "anyres", "grid_pinpoints": PINPOINTS}, [30] * 6 + [20]),
    ],
)
def test_passes_are_full_and_give_what_all_at_once_gives(config, passes, stopwatch, monkeypatch):
    model = toy_model(toy_config(**config))
    ours = encoder(model, stopwatch)
    pictures = shown(ours, 40, (60, 60))
    with torch.inference_mode():
        expected = model.encode_pictures([ours.picture(p.image, pad=True) for p in pictures])
    tiles = []
    forward = model.vision_tower.forward
    monkeypatch.setattr(
        model.vision_tower, "forward", lambda pixels: tiles.append(len(pixels)) or forward(pixels)
    )
    for features, wanted in zip(ours.encode(pictures), expected, strict=True):
        torch.testing.assert_close(features, wanted, rtol=0, atol=1e-5)
    assert tiles == passes


def test_what_is_expected_is_prepared_by_other_threads_before_it_is_asked_for(
    stopwatch, monkeypatch
):
    ours = encoder(toy_model(), stopwatch)
    prepared, plain = {}, ours.picture
    done = threading.Semaphore(0)

    def picture(image, *, pad):
        prepared[threading.current_thread().name] = True
        done.release()
        return plain(image, pad=pad)

    monkeypatch.setattr(ours, "picture", picture)
    pictures = shown(ours, 6)
    ours.expect(pictures)
    assert all(done.acquire(timeout=10) for _ in pictures)
    assert all(name.startswith("pictures") for name in prepared)
    ours.encode(pictures)
    # Nothing is prepared twice.
    assert not done.acquire(blocking=False)


def test_the_time_that_the_model_waits_does_not_count_as_work(stopwatch, monkeypatch):
    ours = encoder(toy_model(), stopwatch)
    (picture,) = shown(ours, 1)
    plain = ours.picture
    monkeypatch.setattr(
        ours, "picture", lambda image, *, pad: time.sleep(0.4) or plain(image, pad=pad)
    )
    start = time.perf_counter()
    with stopwatch.working():
        ours.encode([picture])
    assert stopwatch.seconds <= time.perf_counter() - start - 0.3


def test_what_is_forgotten_can_still_be_encoded(stopwatch):
    ours = encoder(toy_model(), stopwatch)
    pictures = shown(ours, 3)
    ours.expect(pictures)
    ours.forget()
    assert len(ours.encode(pictures)) == 3
