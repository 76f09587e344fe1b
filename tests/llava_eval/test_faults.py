from llava_eval.faults import MAX_FAULTS_SHOWN, shortened, type_fault


def test_the_first_few_faults_are_told_and_the_others_counted() -> None:
    few = ["a", "b"]
    assert shortened([]) == ""
    assert shortened(few) == "a\nb"
    told = shortened(["a"] * (MAX_FAULTS_SHOWN + 2)).splitlines()
    assert told == ["a"] * MAX_FAULTS_SHOWN + ["and 2 more faults like these"]


def test_a_truth_value_is_no_integer() -> None:
    assert type_fault("vote", 1, (int, str)) is None
    assert type_fault("vote", True, (int, str)) == "vote: expected an integer or a string, got true"
    assert type_fault("flags", "x" * 99, (list,)) == 'flags: expected a list, got "' + "x" * 39
