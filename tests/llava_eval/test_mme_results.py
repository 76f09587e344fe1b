import pytest

from llava_eval.errors import AnswersError
from llava_eval.mme_results import read_mme_results
from llava_eval.registry import load_tasks
from llava_eval.sources.open import load_samples


@pytest.fixture
def samples(mini):
    return load_samples(load_tasks()["mme"], str(mini))


def write(folder, samples, *, suffix, separator="\n"):
    """Results as LLaVA's converter writes them: the truth as the answer, and its own ending."""
    tables = {}
    for sample in samples:
        picture = sample.images[0].path.stem
        question = sample.question.partition("\n")[0]
        (truth,) = sample.answers
        line = f"{picture}{suffix}\t{question}  Please answer yes or no.\t{truth}\t{truth}"
        tables.setdefault(sample.group, []).append(line)
    for category, lines in tables.items():
        (folder / f"{category}.txt").write_text(separator.join(lines))


@pytest.mark.parametrize("suffix", [".jpg", ".txt"])
def test_every_line_finds_its_sample(suffix, samples, tmp_path):
    write(tmp_path, samples, suffix=suffix)
    answers = {answer.sample_id: answer for answer in read_mme_results(tmp_path, samples)}
    assert answers.keys() == {sample.sample_id for sample in samples}
    for sample in samples:
        answer = answers[sample.sample_id]
        assert (answer.question_id, answer.prompt) == (sample.question_id, sample.question)
        assert (answer.text,) == sample.answers


def test_a_line_that_fits_nothing_names_no_sample(samples, tmp_path):
    (tmp_path / "OCR.txt").write_text("9.jpg\tWhat?\tYes\tno,\twho knows\n")
    (answer,) = read_mme_results(tmp_path, samples)
    assert (answer.sample_id, answer.question_id) == ("", "OCR/9.jpg")
    assert (answer.prompt, answer.text) == ("What?", "no,\twho knows")


def test_a_table_without_answers_is_refused(samples, tmp_path):
    (tmp_path / "OCR.txt").write_text("1.jpg\tWhat?\tYes\n")
    with pytest.raises(AnswersError, match=r"OCR.txt:1: expected 4 columns .*, got 3 \(picture, q"):
        read_mme_results(tmp_path, samples)


def test_a_folder_without_tables_is_refused(samples, tmp_path):
    with pytest.raises(AnswersError, match=r"no tables; expected a file CATEGORY.txt a category"):
        read_mme_results(tmp_path, samples)
