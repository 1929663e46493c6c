"quick"
from dataclasses import asdict, dataclass
from html import escape
import numpy as np
import pandas as pd
import torch
from ambient_nb.core import BadInput, check_choice
from ambient_nb.membership import auc, caught
from ambient_nb.report import Section, html_table
from ambient_nb.stats import Estimate
from ambient_nb.text import TextDenoiser
from ambient_nb.textdifference import text_differences
from ambient_nb.textsharpness import sharpness_differences


@dataclass(frozen=True)
class Separation:
    "How well a score tells two sets of prompts apart."

    auc: Estimate  # the chance that a memorized prompt has the higher score
    caught: Estimate | None  # memorized prompts found at 1 % false alarms; None with fewer than 200 others
    memorized: int  # prompts
    others: int

    def __str__(self) -> str:
        found = 'not known with fewer than 200 others' if self.caught is None else f'{100 * self.caught} %'
        return f'AUC {self.auc}, found at 1 % false alarms: {found} ({self.memorized} against {self.others} prompts)'


def separation(
    memorized: np.ndarray,  # (n,) scores, n >= 2
    others: np.ndarray,  # (m,) scores, m >= 2
) -> Separation:
    "A score on prompts whose truth is known."
    a, b = (np.asarray(s, dtype=np.float64) for s in (memorized, others))
    for name, s in (('memorized', a), ('others', b)):
        if s.ndim != 1 or len(s) < 2 or not np.isfinite(s).all():
            raise BadInput(name, f'scores of shape {s.shape}', 'two or more finite scores')
    return Separation(auc(-a, -b), caught(-a, -b), len(a), len(b))


def chance_of(
    scores: np.ndarray,  # (P,)
    null: np.ndarray,  # (m,) scores of prompts known not to be in the training set
) -> np.ndarray:  # (P,) in (0,1]
    "The chance that a prompt of the null scores as high."
    ordered = np.sort(np.asarray(null, dtype=np.float64))
    above = len(ordered) - np.searchsorted(ordered, np.asarray(scores, dtype=np.float64), 'left')
    return (1 + above) / (1 + len(ordered))


SCORES = dict(
    difference=lambda D, prompts, **how: text_differences(D, prompts, **how),
    sharpness=lambda D, prompts, **how: sharpness_differences(D, prompts, **how),
)  # name -> Wen's and Jeon's, each with the options of its page


@dataclass(frozen=True, eq=False)
class Detected:
    "What a model tells of prompts."

    table: pd.DataFrame  # prompt, score, p (NaN without a null), memorized (where told); highest score first
    null: pd.DataFrame  # prompt, score; empty without a null
    how: dict  # the score and its options
    judged: Separation | None  # prompts told to be memorized against those told not to be and the null; None without both
    blind: Separation | None  # the same judged by the number of words: what can be told without the model

    @property
    def section(self) -> Section:  # 'detection'
        "The part of a report."
        return detection_section(self)

    def _repr_html_(self):
        return self.section.body


def check_truth(
    truth,  # P times True or False; None where it is not known
    count: int,  # P
) -> np.ndarray | None:  # (P,) bool; BadInput otherwise
    "Which prompts are known to be memorized."
    if truth is None:
        return None
    told = np.asarray(truth)
    if told.shape != (count,) or not np.isin(told, (0, 1)).all():
        raise BadInput('truth', truth, f'{count} times True or False, one a prompt')
    return told.astype(bool)


def detect(
    D: TextDenoiser,
    prompts: list[str],
    null: list[str] | None = None,  # prompts known not to be in the training set, of the same kind; None for none
    truth: list[bool] | None = None,  # which prompts are memorized, where that is known
    *,
    score: str = 'difference',  # a key of SCORES
    **how,  # options of `text_differences` or `sharpness_differences`, such as n, steps and k
) -> Detected:
    "Rank prompts by how much a model knows them by heart."
    measure = SCORES[check_choice('score', score, SCORES)]
    told = check_truth(truth, len(prompts))
    if null is not None and (twice := set(prompts) & set(null)):
        raise BadInput('null', sorted(twice)[0], 'prompts that are not among those in question')
    scores = measure(D, prompts, **how).scores.numpy()
    null = list(null or ())
    of_null = measure(D, null, **how).scores.numpy() if null else np.empty(0)
    chance = chance_of(scores, of_null) if null else np.nan
    table = pd.DataFrame(dict(prompt=list(prompts), score=scores, p=chance))
    verdict = blind = None
    if told is not None:
        table['memorized'] = told
        words, of_words = (np.array([len(p.split()) for p in some], dtype=float) for some in (prompts, null))
        if told.sum() > 1 and (~told).sum() + len(null) > 1:
            verdict = separation(scores[told], np.concatenate([scores[~told], of_null]))
            blind = separation(words[told], np.concatenate([words[~told], of_words]))
    table = table.sort_values('score', ascending=False, kind='stable', ignore_index=True)
    kept = {k: v for k, v in how.items() if isinstance(v, (int, float, str))}
    return Detected(table, pd.DataFrame(dict(prompt=null, score=of_null)), dict(score=score) | kept, verdict, blind)


def detection_words(found: Detected) -> tuple[str, ...]:  # sentences
    "What a detection says."
    P, m = len(found.table), len(found.null)
    out = []
    if m:
        low = int((found.table.p <= 0.01).sum())
        smallest = '' if m >= 99 else f'; {m} prompts of a null allow no p below {1 / (1 + m):.2g}'
        out.append(f'{low} of {P} prompts score as at most 1 % of {m} prompts of the null would{smallest}.')
    else:
        out.append(f'{P} prompts are ranked; without a null their scores have no scale.')
    if found.judged is not None:
        out.append(f'On prompts whose truth is known: {found.judged}.')
        if not found.blind.auc.lo <= 0.5 <= found.blind.auc.hi:
            out.append(
                f'The number of words alone tells them apart too (AUC {found.blind.auc}): the sets differ in more '
                'than memory, and so may their scores.'
            )
    return tuple(out)


def detection_section(
    found: Detected,
    most: int = 50,  # prompts shown, highest scores first
) -> Section:  # 'detection'
    "A ranked list, as a part of a report."
    shown, notes = found.table.head(most), detection_words(found)
    head = ['prompt', 'score', 'p', *(['memorized'] if 'memorized' in shown else [])]
    rows = [
        [line.prompt, f'{line.score:.4g}', '' if np.isnan(line.p) else f'{line.p:.3g}']
        + ([('yes' if line.memorized else 'no')] if 'memorized' in shown else [])
        for line in shown.itertuples()
    ]
    of = ', '.join(f'{name} {value}' for name, value in found.how.items())
    said = (*notes, f'Options: {of}. p: the chance that a prompt of the null scores as high.')
    body = ''.join(f'<p class="soft">{escape(s)}</p>' for s in said) + html_table(head, rows)
    numbers = dict(how=found.how, prompts=len(found.table), null=len(found.null))
    if found.judged is not None:
        numbers |= dict(judged=asdict(found.judged), blind=asdict(found.blind))
    return Section('detection', f'Prompts: {len(found.table)} ranked by {found.how["score"]}', numbers, body, notes)
