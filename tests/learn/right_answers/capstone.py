"""Right answers to the exercises of `capstone`, written otherwise than the package does."""

import math
import re
from statistics import fmean


def form_by_tags(completions):
    def good(text):
        tags = re.findall(r"</?answer>", text)
        pieces = re.split(r"</?answer>", text)
        if tags != ["<answer>", "</answer>"] or pieces[2].strip():
            return False
        try:
            int(pieces[1])
        except ValueError:
            return False
        return True

    return [1.0 if good(text) else 0.0 for text in completions]


def form_by_end(completions):
    rewards = []
    for text in completions:
        found = re.search(r"<answer>\s*[+-]?[0-9]+\s*</answer>\s*\Z", text)
        rewards.append(float(bool(found) and text.count("<answer>") == text.count("</answer>") == 1))
    return rewards


def evaluate_by_bayes(before, after, judge, prompts):
    """The interval of a Beta posterior by its quantiles on a grid."""
    kept = [(prompt, before(prompt), after(prompt)) for prompt in prompts]
    wins = 0.0
    for prompt, old, new in kept:
        a, b = judge(prompt, new), judge(prompt, old)
        wins += 1.0 if a > b else 0.5 if a == b else 0.0
    n = len(kept)
    grid = [(i + 0.5) / 4000 for i in range(4000)]
    logs = [wins * math.log(p) + (n - wins) * math.log(1 - p) for p in grid]
    weights = [math.exp(value - max(logs)) for value in logs]
    total, running, low, high = sum(weights), 0.0, None, 1.0
    for p, weight in zip(grid, weights):
        running += weight / total
        low = p if low is None and running >= 0.025 else low
        if running >= 0.975:
            high = p
            break
    words = [fmean(len(row[place].split()) for row in kept) for place in (1, 2)]
    return dict(
        zip(("win_rate", "low", "high", "n", "length_before", "length_after"), (wins / n, low, high, n, *words))
    )


def evaluate_by_agresti_and_coull(before, after, judge, prompts):
    old, new = [before(prompt) for prompt in prompts], [after(prompt) for prompt in prompts]
    games = [judge(p, b) - judge(p, a) for p, a, b in zip(prompts, old, new)]
    n = len(games)
    rate = sum(0.5 * (1 + (game > 0) - (game < 0)) for game in games) / n
    centre = (rate * n + 2) / (n + 4)
    half = 1.96 * math.sqrt(centre * (1 - centre) / (n + 4))
    return {
        "win_rate": rate,
        "low": max(centre - half, 0),
        "high": min(centre + half, 1),
        "n": n,
        "length_before": sum(len(text.split()) for text in old) / n,
        "length_after": sum(len(text.split()) for text in new) / n,
        "longer": sum(len(b) > len(a) for a, b in zip(old, new)) / n,
    }


RIGHT_ANSWERS = {
    "capstone.format_reward": [form_by_tags, form_by_end],
    "capstone.evaluate": [evaluate_by_bayes, evaluate_by_agresti_and_coull],
}
