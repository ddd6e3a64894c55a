"""The learner's side: `from rlhf_course.learn import exercise, check, hint, solution, quiz, lab`, and `chat`."""

from rlhf_course.learn.attempt import check, exercise, hint, solution, usable
from rlhf_course.learn.chat import chat
from rlhf_course.learn.grading import Grade, NotAttempted, grade
from rlhf_course.learn.interview_widget import interview
from rlhf_course.learn.labs import lab
from rlhf_course.learn.progress import board
from rlhf_course.learn.quiz_widget import quiz
from rlhf_course.learn.reading import reading_list

__all__ = [
    "Grade",
    "NotAttempted",
    "board",
    "chat",
    "check",
    "exercise",
    "grade",
    "hint",
    "interview",
    "lab",
    "quiz",
    "reading_list",
    "solution",
    "usable",
]
