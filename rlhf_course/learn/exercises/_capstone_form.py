"""The second exercise of lesson 12: a rule that checks an answer's form."""

import re
from statistics import mean

from rlhf_course import capstone
from rlhf_course.learn.catalogue import Case, Exercise, Mistake


def format_reward(completions):
    rewards = []
    for text in completions:
        _, opened, rest = text.partition("<answer>")
        number, closed, after = rest.partition("</answer>")
        whole = re.fullmatch(r"\s*-?\d+\s*", number) is not None
        rewards.append(
            1.0 if opened and closed and whole and not after.strip() and text.count("</answer>") == 1 else 0.0
        )
    return rewards


def _format_cases(stream):
    return [
        Case(
            "a right one, one without tags, one without an end",
            (["7 + 5 = 12, so <answer>12</answer>", "The answer is 12.", "<answer>12"],),
        ),
        Case("nothing but the answer", (["<answer>12</answer>"],)),
        Case("a line break after it", (["<answer>12</answer>\n", "<answer> 12 </answer> "],)),
        Case("thoughts over several lines", (["First 7.\nThen 5 more.\n\n<answer>12</answer>"],)),
        Case("thoughts with a < in them", (["7 < 12, and 12 - 7 is <b>five</b>: <answer>5</answer>"],)),
        Case("a negative number", (["3 - 8 is below zero.\n<answer>-5</answer>"],)),
        Case("more than one try", (["<answer>11</answer> or <answer>12</answer>", "<answer>1</answer>" * 20],)),
        Case("it goes on talking", (["<answer>12</answer> because 7 + 5 = 12.", "<answer>12</answer>\nIt is 12."],)),
        Case("no number", (["<answer>number</answer>", "<answer></answer>", "<answer>12.5</answer>"],)),
        Case("a number and words", (["<answer>7 + 5 = 12</answer>", "<answer>about 12</answer>"],)),
        Case("the wrong tags", (["<Answer>12</Answer>", "[answer]12[/answer]", "</answer>12<answer>"],)),
        Case("an open tag in the thoughts", (["I shall write <answer> and then <answer>12</answer>"],)),
        Case("no completion at all", ([],)),
        Case("two empty ones, and one with an end too many", (["", " ", "<answer>12</answer> or 13</answer>"],)),
        Case("an end before the beginning", (["It is 11</answer>, no, <answer>12</answer>"],)),
    ]


_NUMBER = r"<answer>\s*-?\d+\s*</answer>"


def _number_in(text):
    return float(text.split("</answer>")[0].strip().isdigit())


def _behind_the_first_tag(text):
    return text.partition("<answer>")[2].partition("</answer>")


def _is_whole(number):
    return re.fullmatch(r"\s*-?\d+\s*", number) is not None


def _opened_once(text):
    return text.count("<answer>") == 1 and text.rstrip().endswith("</answer>")


def _pattern(pattern, flags=re.DOTALL, match=re.fullmatch):
    return lambda completions: [float(match(pattern, text, flags) is not None) for text in completions]


_FORM = Exercise(
    id="capstone.format_reward",
    reference=capstone.format_reward,
    answer=format_reward,
    cases=_format_cases,
    mistakes=[
        Mistake(
            "tags are enough",
            lambda completions: [float("<answer>" in text and "</answer>" in text) for text in completions],
            "You look for the two tags, wherever they stand and whatever is between them. A policy will find out that "
            "it may write them around anything.",
        ),
        Mistake(
            "the opening tag is enough",
            lambda completions: [float("<answer>" in text) for text in completions],
            "You look for the opening tag alone. Who reads the answer needs to know where it ends, too.",
        ),
        Mistake(
            "anywhere in the text",
            _pattern(r"<answer>\s*-?\d+\s*</answer>", match=re.search),
            "You search for the form anywhere. Then twenty guesses in twenty pairs of tags are as good as one answer, "
            "and a model that is paid for it will write twenty.",
        ),
        Mistake(
            "digits between two tags",
            _pattern(r"<answer>\d+</answer>", match=re.search),
            "Digits between two tags are a beginning. Now ask the contract about the rest: may the number be below "
            "zero? May white space stand inside? A second pair of tags in the text? More words after the last one?",
        ),
        Mistake(
            "the last one counts",
            _pattern(r".*<answer>\s*-?\d+\s*</answer>\s*"),
            "You check how the text ends. What stands before may be other answers in tags of their own: a list of "
            "guesses whose last one fits is not one answer.",
        ),
        Mistake(
            "an end too many",
            lambda completions: [
                float(re.search(r"<answer>\s*-?\d+\s*</answer>", text) is not None and _opened_once(text))
                for text in completions
            ],
            "You count the opening tags and look at the end. A second </answer> passes unseen, with another guess "
            "before it: one pair means one of each.",
        ),
        Mistake(
            "an end before it",
            lambda completions: [
                float(_is_whole(number) and closed != "" and not after.strip())
                for number, closed, after in map(_behind_the_first_tag, completions)
            ],
            "Behind the first <answer> all is well. A </answer> that stands before it passes unseen, with a guess of "
            "its own: no tag may stand among the thoughts, whichever it is.",
        ),
        Mistake(
            "one form, whatever is around it",
            lambda completions: [float(len(re.findall(_NUMBER, text)) == 1) for text in completions],
            "You count the forms and find one. What stands around it is free: more words after it, and single tags "
            "that belong to no form.",
        ),
        Mistake(
            "digits at the end",
            _pattern(r".*<answer>-?\d+</answer>"),
            "You ask for a number in tags at the end, and that is the core. Two things are left: white space may stand "
            "inside and after the tags, and nothing is said yet of tags among the thoughts (.* takes any).",
        ),
        Mistake(
            "a < ends the thoughts",
            _pattern(rf"[^<]*{_NUMBER}\s*"),
            'You allow no < before the answer. In a thought it may mean "less than": only the two tags are forbidden '
            "there.",
        ),
        Mistake(
            "lines of their own",
            lambda completions: [
                float(any(map(re.compile(rf"((?!</?answer>).)*{_NUMBER}\s*").fullmatch, text.splitlines())))
                for text in completions
            ],
            "One line with the right form is enough for you, whatever the other lines say. With re.MULTILINE (or line "
            "by line) ^ and $ are the ends of a line; the contract is about the whole text.",
        ),
        Mistake(
            "any float",
            _pattern(r"((?!</?answer>).)*<answer>\s*-?\d+(\.\d*)?\s*</answer>\s*"),
            "12.5 passes: float() reads it, and so may your pattern. A whole number is asked for.",
        ),
        Mistake(
            "anything between the tags",
            _pattern(r"((?!</?answer>).)*<answer>((?!</?answer>).)*</answer>\s*"),
            "Whatever stands between your tags counts. The form asks for one whole number there, so that a program can "
            "read it.",
        ),
        Mistake(
            "a number somewhere between the tags",
            _pattern(r"((?!</?answer>).)*<answer>((?!</?answer>).)*\d((?!</?answer>).)*</answer>\s*"),
            "A number among words is enough for you. int() will not be able to read what is between those tags.",
        ),
        Mistake(
            "one line only",
            _pattern(r".*<answer>\s*-?\d+\s*</answer>\s*", flags=re.NOFLAG),
            "Thoughts over several lines get nothing: in a pattern, a dot stands for anything but a line break, "
            "unless you say so (re.DOTALL).",
        ),
        Mistake(
            "nothing but the answer",
            _pattern(r"\s*<answer>\s*-?\d+\s*</answer>\s*"),
            "You allow nothing before the tags. Thinking first is welcome: a model that must answer with its first "
            "token has no room to work anything out.",
        ),
        Mistake(
            "not one space more",
            _pattern(r"((?!</?answer>).)*<answer>-?\d+</answer>"),
            "You refuse answers for a space or a line break. The rule is about what is said: white space inside or "
            "after the tags is harmless.",
        ),
        Mistake(
            "no number below zero",
            _pattern(r"((?!</?answer>).)*<answer>\s*\d+\s*</answer>\s*"),
            "−5 is a whole number as well: allow for a sign.",
        ),
        Mistake(
            "it may go on talking",
            _pattern(r"((?!</?answer>).)*<answer>\s*-?\d+\s*</answer>((?!</?answer>).)*"),
            "You let it go on after the answer. Then nothing tells the model to stop, and its answers fill all the "
            "room there is.",
        ),
        Mistake(
            "one text",
            lambda completions: float(re.fullmatch(_NUMBER, completions) is not None),
            "You take completions for one text. It is a list of them: go through it, and return a list with one float "
            "for each.",
        ),
        Mistake(
            "the good ones alone",
            lambda completions: [reward for reward in capstone.format_reward(completions) if reward],
            "You leave out the completions that fail. Each of them needs its reward too, 0.0, in its own place.",
        ),
        Mistake(
            "pieces that are not there",
            lambda completions: [_number_in(text.split("<answer>")[1]) for text in completions],
            "You take the piece behind the tag before you know that there is one. split gives a list of one where it "
            "finds nothing: ask for the tags first.",
        ),
        Mistake(
            "a match that is not there",
            lambda completions: [_number_in(re.search(r"<answer>(.*)", text).group(1)) for text in completions],
            "You ask the match for its group before you know that there is a match. Where a pattern does not fit, re "
            "returns None.",
        ),
        Mistake(
            "int without a net",
            lambda completions: [
                float(closed != "" and not after.strip() and int(number) is not None)
                for number, closed, after in map(_behind_the_first_tag, completions)
            ],
            "int() raises where there is no whole number, and an answer without one is exactly what the rule must "
            "survive: catch the ValueError, or ask a pattern.",
        ),
        Mistake(
            "the share",
            lambda completions: [mean(capstone.format_reward(completions) or [0.0])] * len(completions),
            "You give every completion the mean of all. Then no completion is better than its group, and GRPO has "
            "nothing to learn from.",
        ),
    ],
    hints=[
        "Say it as a list of conditions: how many pairs of tags, what stands between them, what may stand before, what "
        "may stand after.",
        "One way is a regular expression and re.fullmatch, with re.DOTALL. Another is str.partition: cut the text at "
        "the first <answer>, then the rest at </answer>, and look at the three pieces.",
        'What is left between the tags must fit r"\\s*-?\\d+\\s*", what is left behind them must be empty once '
        "stripped, "
        "and no other tag may stand anywhere.",
    ],
    reason="A rule is a reward model without errors of its own, as long as it says what is meant. Everything it "
    "forgets to ask for is free, and a policy that is paid will take it: several guesses, words where a number "
    "belongs, talk that never ends. So write down what an answer may NOT do, and test the rule on answers that try.",
)

EXERCISES = [_FORM]
