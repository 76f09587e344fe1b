from random import Random

from llava_core.tiny.drawings import Scene, Sign, Thing
from llava_core.tiny.questions import caption, questions_about

SCENE = Scene(
    things=(
        Thing(color="orange", shape="circle", size="large", place="top left"),
        Thing(color="blue", shape="cross", size="small", place="bottom right"),
    )
)


def answers(drawing):
    """Everything that is ever asked, with the answer, which is always the same."""
    found = {}
    for seed in range(60):
        for question in questions_about(drawing, Random(seed)):
            assert found.setdefault(question.text, question.answer) == question.answer
    return found


def test_what_is_asked_about_a_scene_is_answered_rightly():
    asked = answers(SCENE)
    right = {
        "What color is the circle?": "orange",
        "What shape is the blue object?": "cross",
        "Where is the cross?": "bottom right",
        "Where is the orange object?": "top left",
        "Is the cross large or small?": "small",
        "How many objects are there?": "2",
        "How many objects are there, and how many would there be with two more?": "2 and 4",
        "Is the number of objects in the picture 2?": "Yes",
        "Is the number of objects in the picture 3?": "No",
        "Is the circle orange?": "Yes",
        "Is the circle red?": "No",
        "Does the picture show a cross that is blue?": "Yes",
        "Is the circle at the top left?": "Yes",
        "Is the circle at the bottom right?": "No",
        "Are the circle and the cross the same size?": "No",
        "Are there both a circle and a cross?": "Yes",
        "Are there both a circle and a square?": "No",
        "Is there an orange circle in the image?": "Yes",
        "Is there a blue circle in the image?": "No",
        "圆形是什么颜色？": "橙色",
        "蓝色的物体是什么形状？": "十字形",
        "十字形在图中的什么位置？": "右下角",
        "Is this image blurry?": "No",
        "How is the brightness of this image?": "Normal",
        "Which problem does this image have?": "None",
    }
    assert {text: asked[text] for text in right} == right


def test_what_is_wrong_with_a_picture_is_all_that_is_asked_then():
    blurred = answers(Scene(things=SCENE.things, treatment="blur"))
    assert blurred == {
        "Is this image blurry?": "Yes",
        "How is the brightness of this image?": "Normal",
        "Which problem does this image have?": "Blur",
        "这张图片模糊吗？": "是",
        "这张图片的亮度如何？": "正常",
        "这张图片存在什么问题？": "模糊",
    }


def test_what_is_asked_about_a_sign_is_answered_rightly():
    asked = answers(Sign(color="white", words=("bank",)))
    assert asked["What does the sign say?"] == "bank"
    assert asked["What color is the sign?"] == "white"
    assert asked["How many letters has the sign?"] == "4"
    assert asked['Is the word on the sign "bank"?'] == "Yes"
    assert asked['Is the word on the sign "taxi"?'] == "No"
    assert answers(Sign(color="red", words=("tea", "bank")))["What is the last word?"] == "bank"


def test_sums_are_right():
    asked = answers(Sign(color="red", terms=(3, 9)))
    assert asked["What is the result?"] == "12"
    assert asked["Is the result 12?"] == "Yes"
    assert asked["Is the result 13?"] == "No"


def test_every_second_claim_is_true():
    said = [
        question.answer
        for seed in range(200)
        for question in questions_about(SCENE, Random(seed))
        if question.text.startswith("Is there")
    ]
    assert 0.4 < said.count("Yes") / len(said) < 0.65


def test_captions_name_everything():
    assert caption(SCENE) == (
        "A drawing on grey ground with a large orange circle at the top left, a small blue cross "
        "at the bottom right."
    )
    assert caption(Sign(color="orange", words=("tea", "bank"))) == (
        "An orange sign that says tea bank."
    )
    assert caption(Sign(color="red", terms=(2, 3))) == "A red sign that says 2 + 3, which makes 5."
