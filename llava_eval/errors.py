"""The errors of `llava_eval`.

EvalError            exit code 2: the command was given something wrong
├── FlagsError       flags that exclude each other, or that this machine cannot serve
├── TaskError        a task name or a task file
├── DataError        benchmark files that are missing or malformed
├── AnswersError     an answers file that cannot be read or does not fit the task
├── VerdictsError    a judge's verdicts that cannot be read or do not fit the task
├── RunError         a run folder that cannot be used with these settings
├── ModelError       the model that --model names cannot be loaded
├── JudgeError       a judge that refuses its key, its name or what it is asked with
├── ReviewError      one answer cannot be judged; it has no verdict, the others go on
├── SampleError      one sample cannot be asked; its response says why, the run goes on
└── BackendError     exit code 1: the model failed while it answered
"""


class EvalError(Exception):
    """Anything a user can put right; the message says what was given and what to change."""

    exit_code = 2


class FlagsError(EvalError):
    """Flags that exclude each other, or ask for what is not installed here."""


class TaskError(EvalError):
    """An unknown task, or a task file that breaks the schema."""


class DataError(EvalError):
    """Benchmark files that are missing or malformed."""


class AnswersError(EvalError):
    """An answers file that is broken or does not belong to the task."""


class VerdictsError(EvalError):
    """A file of a judge's verdicts that is broken, of another kind, or about another task."""


class RunError(EvalError):
    """A run folder that is in use, belongs to other settings, or lacks what was asked of it."""


class ModelError(EvalError):
    """The model that was named cannot be loaded."""


class JudgeError(EvalError):
    """A judge that can review nothing: its key, name, address or settings are refused."""


class ReviewError(EvalError):
    """One answer cannot be judged; its verdict is missing, the others go on."""


class SampleError(EvalError):
    """One sample cannot be asked; the run records the reason and goes on."""


class BackendError(EvalError):
    """The model failed while it answered."""

    exit_code = 1
