"quick"
from dataclasses import dataclass
from typing import Iterator
import pandas as pd
import torch
from ambient_nb.core import BadInput, bcast, check_float, check_int, progress
from ambient_nb.sampling import check_levels, noise_levels, predict, start_noise
from ambient_nb.stats import over_seeds
from ambient_nb.text import TextDenoiser, Words


def text_difference(
    D: TextDenoiser,
    x: torch.Tensor,  # (B,C,H,W) noisy images
    sigma: torch.Tensor | float,  # (B,) or a number, > 0
    words: Words,  # B prompts, or one for all
) -> torch.Tensor:  # (B,) >= 0; can be differentiated by x and by the words
    "How far a prompt moves the noise that is seen, image by image."
    return ((D(x, sigma) - D(x, sigma, words)) / bcast(sigma, x)).flatten(1).norm(dim=1)


def difference_steps(
    D: TextDenoiser,
    words: Words,  # B prompts
    x: torch.Tensor,  # (B,C,H,W) standard normal noise
    sigmas: torch.Tensor,  # (T+1,) falling
    scale: float = 7.5,  # of guidance; 1 is none
) -> Iterator[tuple]:  # T times: the level, (B,) differences at it, the state (B,C,H,W) float64 after the step
    "Draw a picture, and look at each step how far the prompt matters."
    x = x.double() * sigmas[0]
    for sigma, following in zip(sigmas[:-1], sigmas[1:]):
        free, told = predict(D, x, sigma, None), predict(D, x, sigma, words)
        difference = (free - told).flatten(1).norm(dim=1) / sigma
        x = x + (following - sigma) * (x - free - scale * (told - free)) / sigma
        yield float(sigma), difference, x


@dataclass(frozen=True, eq=False)
class Differences:
    "What prompts did to the noise, prompt by prompt, generation by generation, step by step."

    prompts: tuple[str, ...]  # P of them
    sigmas: tuple[float, ...]  # the k levels
    values: torch.Tensor  # (P,n,k) float64

    @property
    def table(self) -> pd.DataFrame:  # P*n*k lines: prompt, generation and step from 1, sigma, difference
        "Every number."
        P, n, k = self.values.shape
        index = pd.MultiIndex.from_product([self.prompts, range(1, n + 1), range(1, k + 1)])
        index.names = ['prompt', 'generation', 'step']
        return pd.DataFrame(
            dict(sigma=list(self.sigmas) * (P * n), difference=self.values.flatten().numpy()), index=index
        ).reset_index()

    def first(
        self,
        k: int,  # steps, from 1
    ):  # Differences
        "The same, had it stopped after k steps."
        k = check_int('k', k, 1, len(self.sigmas))
        return Differences(self.prompts, self.sigmas[:k], self.values[:, :, :k])

    @property
    def scores(self) -> torch.Tensor:  # (P,) m(p); high where a prompt is known by heart
        "The mean over steps and generations."
        return self.values.mean((1, 2))

    @property
    def summary(self) -> pd.DataFrame:  # a line a prompt: score, and its interval over generations where n > 1
        "The mean of each prompt, and how sure the generations make it."
        found = [over_seeds(each.mean(1).numpy()) for each in self.values]
        columns = dict(score=[e.value for e in found], lo=[e.lo for e in found], hi=[e.hi for e in found])
        return pd.DataFrame(columns, index=pd.Index(self.prompts, name='prompt'))


def check_prompts(prompts) -> list[str]:  # BadInput otherwise
    "A list of texts, at least one."
    if isinstance(prompts, str) or not len(prompts) or not all(isinstance(p, str) for p in prompts):
        raise BadInput('prompts', prompts, 'a list of at least one text')
    return list(prompts)


@torch.no_grad()
def text_differences(
    D: TextDenoiser,
    prompts: list[str],
    n: int = 4,  # generations a prompt, from 1
    *,
    steps: int = 50,  # T, of the sampler
    k: int | None = None,  # of them, how many are taken: the generation stops then; None for all
    scale: float = 7.5,  # of guidance
    sigmas: torch.Tensor | None = None,  # (T+1,) falling, in place of `steps`
    noise: torch.Tensor | None = None,  # (n,C,H,W) each generation begins with, N(0,I); None for that of seeds 0, 1, …
    device: torch.device | str = 'cpu',  # where D lives
    block: int = 8,  # generations at a time
) -> Differences:
    "The text-conditional noise difference of prompts."
    prompts, scale = check_prompts(prompts), check_float('scale', scale, 0)
    n = check_int('n', n, 1)
    sigmas = noise_levels(D, steps) if sigmas is None else check_levels(sigmas)
    k = len(sigmas) - 1 if k is None else check_int('k', k, 1, len(sigmas) - 1)
    noise = start_noise(range(n), D.shape) if noise is None else noise
    if tuple(noise.shape) != (n, *D.shape):
        raise BadInput('noise', tuple(noise.shape), f'of shape {(n, *D.shape)}')
    pairs = [(p, j) for p in prompts for j in range(n)]
    values = torch.empty(len(pairs), k, dtype=torch.float64)
    for i in progress(range(0, len(pairs), check_int('block', block, 1)), desc='text differences'):
        some = pairs[i : i + block]
        begun = noise[[j for _, j in some]].to(device)
        found = difference_steps(D, D.embed([p for p, _ in some]), begun, sigmas, scale)
        for step, (_, difference, _) in zip(range(k), found):
            values[i : i + block, step] = difference.cpu()
    return Differences(tuple(prompts), tuple(sigmas[:k].tolist()), values.view(len(prompts), n, k))
