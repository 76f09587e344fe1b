from llava_core.images import open_image
from llava_core.serve.example_pictures import write_examples


def test_examples_are_pictures_with_questions(tmp_path):
    examples = write_examples(tmp_path)
    assert len(examples) >= 2
    for path, question in examples:
        picture = open_image(path)
        assert picture.width > picture.height
        assert len(picture.getcolors()) > 3
        assert question.endswith("?")
