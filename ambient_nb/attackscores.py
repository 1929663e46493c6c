"quick"
from dataclasses import asdict, dataclass
from html import escape
import numpy as np
import pandas as pd
import torch
from ambient_nb.core import BadInput
from ambient_nb.features import Encoder
from ambient_nb.report import Section, card, html_table, picture
from ambient_nb.textdetection import Separation, chance_of, check_truth, separation


def closeness(
    images: torch.Tensor,  # (N,C,H,W) uint8
    restored: torch.Tensor,  # (N,n,C,H,W) uint8
    masks: torch.Tensor | None = None,  # (N,1,H,W): 1 shown, 0 hidden; None where all was hidden
    encoder: Encoder | None = None,  # its cosines, in place of pixels
) -> torch.Tensor:  # (N,n) float64, high where close
    "How close each restoration came."
    N, n = restored.shape[:2]
    if tuple(restored.shape) != (N, n, *images.shape[1:]) or N != len(images) or restored.dtype != torch.uint8:
        wanted = f'uint8 of shape ({len(images)}, n, {", ".join(map(str, images.shape[1:]))})'
        raise BadInput('restored', f'{restored.dtype} {tuple(restored.shape)}', wanted)
    if encoder is not None:
        a, b = encoder(images).double(), encoder(restored.flatten(0, 1)).double().view(N, n, -1)
        return torch.nn.functional.cosine_similarity(a[:, None], b, dim=2)
    hidden = torch.ones(N, 1, 1, *images.shape[2:]) if masks is None else 1 - masks[:, None].double()
    apart = (restored.double() - images[:, None].double()) / 127.5
    counted = (hidden * torch.ones_like(apart)).sum((2, 3, 4))
    if not (counted > 0).all():
        raise BadInput('masks', 'one that shows all', 'masks that hide at least one pixel')
    return -((hidden * apart.square()).sum((2, 3, 4)) / counted).sqrt()


@dataclass(frozen=True, eq=False)
class Attacked:
    "What a model made of images that it was shown in part or under noise."

    table: pd.DataFrame  # image, score, best, p (NaN without a null), member (where told); highest score first
    null: pd.DataFrame  # image, score, best; empty without a null
    how: dict  # the attack and its options
    judged: Separation | None  # images told to be members against the others and the null; None without both
    pictures: dict  # image -> (3,C,H,W) uint8: the image, what was shown of it, the best restoration

    @property
    def section(self) -> Section:  # 'attack'
        "The part of a report."
        return attack_section(self)

    def _repr_html_(self):
        return self.section.body


def ranked_attack(
    names: list[str],  # N of them
    scores: torch.Tensor,  # (N,n) of `closeness`
    pictures: torch.Tensor,  # (N,3,C,H,W) uint8: image, what was shown, best restoration
    how: dict,  # the attack and its options, JSON-able
    null: torch.Tensor | None = None,  # (m,n) the same of images known not to be in the training set
    truth=None,  # N times True or False: which were in the training set, where that is known
) -> Attacked:
    "Rank images by how well they were given back."
    told, columns = check_truth(truth, len(names)), dict(score=scores.mean(1).numpy(), best=scores.amax(1).numpy())
    null = torch.empty(0, scores.shape[1]) if null is None else null.double()
    of_null = null.mean(1).numpy()
    table = pd.DataFrame(dict(image=list(names)) | columns)
    table['p'] = chance_of(table.score, of_null) if len(null) else np.nan
    verdict = None
    if told is not None:
        table['member'] = told
        others = np.concatenate([table.score[~told], of_null])
        verdict = separation(table.score[told], others) if told.sum() > 1 and len(others) > 1 else None
    shown = dict(zip(names, pictures))
    best = null.amax(1).numpy() if len(null) else of_null
    table = table.sort_values('score', ascending=False, kind='stable', ignore_index=True)
    rest = pd.DataFrame(dict(image=[f'null {i}' for i in range(len(null))], score=of_null, best=best))
    return Attacked(table, rest, how, verdict, shown)


def attack_words(found: Attacked) -> tuple[str, ...]:  # sentences
    "What an attack says."
    N, m = len(found.table), len(found.null)
    if m:
        low = int((found.table.p <= 0.01).sum())
        smallest = '' if m >= 99 else f'; {m} images of a null allow no p below {1 / (1 + m):.2g}'
        out = [f'{low} of {N} images were given back as at most 1 % of {m} images of the null would be{smallest}.']
    else:
        out = [f'{N} images are ranked; without a null nothing tells easy images from known ones.']
    if found.judged is not None:
        out.append(f'On images whose truth is known: {str(found.judged).replace("prompts", "images")}.')
    return tuple(out)


def attack_section(
    found: Attacked,
    most: int = 20,  # images in the table, highest scores first
    cards: int = 6,  # of them, with pictures
) -> Section:  # 'attack'
    "A ranked list with pictures, as a part of a report."
    shown, notes = found.table.head(most), attack_words(found)
    head = ['image', 'score', 'best', 'p', *(['member'] if 'member' in shown else [])]
    rows = [
        [line.image, f'{line.score:.3g}', f'{line.best:.3g}', '' if np.isnan(line.p) else f'{line.p:.3g}']
        + ([('yes' if line.member else 'no')] if 'member' in shown else [])
        for line in shown.itertuples()
    ]
    of = ', '.join(f'{name} {value}' for name, value in found.how.items())
    said = (*notes, f'Options: {of}. Score: mean closeness of the restorations, best: the closest one.')
    captions = ('the image', 'what was shown', 'closest restoration')
    gallery = ''.join(
        card([picture(u, c) for u, c in zip(found.pictures[line.image], captions)], f'{line.image}: {line.score:.3g}')
        for line in shown.head(cards).itertuples()
    )
    body = ''.join(f'<p class="soft">{escape(s)}</p>' for s in said)
    body += f'<div class="cards">{gallery}</div>{html_table(head, rows)}'
    numbers = dict(how=found.how, images=len(found.table), null=len(found.null))
    if found.judged is not None:
        numbers['judged'] = asdict(found.judged)
    return Section('attack', f'Images: {len(found.table)} ranked by how they were given back', numbers, body, notes)
