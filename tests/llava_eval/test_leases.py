from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from llava_eval.leases import Leases, by_picture
from tests.llava_eval.fakes import make_prompt, make_prompts


def ids(prompts) -> list[str]:
    return [prompt.sample.sample_id for prompt in prompts]


def about(pictures: str):
    return [make_prompt(str(number), picture=name) for number, name in enumerate(pictures)]


def test_prompts_about_the_same_pictures_are_together() -> None:
    assert [ids(group) for group in by_picture(about("abab"))] == [["0", "2"], ["1", "3"]]


def test_loans_grow_smaller_towards_the_end_and_stop_at_a_few() -> None:
    leases = Leases(about_each(1000), num_workers=2)
    sizes = [len(leases.claim(worker=0)) for _ in range(10)]
    assert sizes[:3] == [250, 188, 141]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] >= 16


def about_each(count: int):
    return [make_prompt(str(number), picture=f"{number}.jpg") for number in range(count)]


def test_a_picture_is_never_parted() -> None:
    prompts = [make_prompt(str(number), picture=f"{number // 7}.jpg") for number in range(700)]
    leases = Leases(prompts, num_workers=3)
    seen: list[int] = []
    while loan := leases.claim(worker=0):
        seen += [key for key, _ in groupby(int(i) // 7 for i in ids(loan))]
    assert seen == list(range(100))


def test_what_a_dead_worker_leaves_is_lent_next() -> None:
    leases = Leases(about_each(100), num_workers=2)
    first = leases.claim(worker=0)
    assert leases.answered(worker=0, sample_id="0")
    assert ids(leases.release(worker=0).prompts) == ids(first)[1:]
    assert ids(leases.claim(worker=1))[: len(first) - 1] == ids(first)[1:]


def test_what_workers_died_of_is_lent_alone_and_then_no_more() -> None:
    leases = Leases(about("ababcd"), num_workers=1)
    for worker in range(2):
        assert len(leases.claim(worker)) == 6
        assert leases.release(worker).lost == []
    assert ids(leases.claim(worker=2)) == ["0", "2"]
    assert ids(leases.release(worker=2).lost) == ["0", "2"]
    assert [ids(leases.claim(worker)) for worker in range(3)] == [["1", "3"], ["4"], ["5"]]


def test_what_no_worker_died_of_is_lent_together_again() -> None:
    leases = Leases(about_each(40), num_workers=1)
    for worker in range(2):
        leases.claim(worker)
        leases.release(worker)
    assert [len(leases.claim(worker)) for worker in range(21)] == [*[1] * 20, 16]


def test_a_late_answer_of_a_dead_worker_is_not_awaited() -> None:
    leases = Leases(make_prompts(3), num_workers=1)
    leases.claim(worker=0)
    leases.release(worker=0)
    assert not leases.answered(worker=0, sample_id="1")


def test_a_worker_that_ends_early_gives_back_what_it_left_out() -> None:
    leases = Leases(make_prompts(3), num_workers=1)
    leases.claim(worker=0)
    leases.answered(worker=0, sample_id="1")
    assert ids(leases.end(worker=0)) == ["0", "2"]
    assert leases.finished


@given(
    num_prompts=st.integers(0, 200),
    num_pictures=st.integers(1, 60),
    steps=st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["work", "answer", "die"]))),
)
def test_every_prompt_is_answered_once_whoever_dies(
    num_prompts: int, num_pictures: int, steps: list[tuple[int, str]]
) -> None:
    prompts = [
        make_prompt(str(number), picture=f"{number % num_pictures}")
        for number in range(num_prompts)
    ]
    leases = Leases(prompts, num_workers=4)
    lent: dict[int, list[str]] = {}
    answered: list[str] = []
    for worker, step in [*steps, *[(9, "work"), (9, "answer")] * (num_prompts + 1)]:
        if step == "die":
            answered += ids(leases.release(worker).lost)
            lent.pop(worker, None)
        elif step == "work" and not lent.get(worker):
            lent[worker] = ids(leases.claim(worker))
        elif step == "answer" and lent.get(worker):
            done = lent[worker].pop(0)
            assert leases.answered(worker, done)
            answered.append(done)
    for worker in range(4):
        answered += ids(leases.end(worker))
    assert sorted(answered, key=int) == ids(prompts)
    assert leases.finished
