from llava_core.data.check import check_files
from llava_core.templates import get_template
from llava_core.tiny.samples import write_samples


def test_all_files_are_without_fault(tmp_path):
    files = write_samples(tmp_path, num_captions=5, num_basics=9, num_conversations=30, seed=1)
    for path, template, number in (
        (files.captions, "plain", 5),
        (files.basics, "v1", 9),
        (files.conversations, "v1", 30),
    ):
        report = check_files([path], image_folder=files.pictures, template=get_template(template))
        assert (report.faults, report.stray) == ((), ())
        assert report.num_with_picture == number
        assert report.num_records >= number


def test_some_conversations_have_no_picture(tmp_path):
    files = write_samples(tmp_path, num_captions=0, num_basics=0, num_conversations=25, seed=1)
    assert files.conversations.read_text().count('"words-') == 2
