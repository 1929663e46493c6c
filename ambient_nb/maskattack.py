"quick"
from dataclasses import dataclass, field
from functools import partial
import numpy as np
import torch
from ambient_nb.attackscores import Attacked, closeness, ranked_attack
from ambient_nb.core import BadInput, check_float, check_int, progress, rng, seed_of
from ambient_nb.corruptions import Mask
from ambient_nb.data import to_float, to_uint8
from ambient_nb.features import Encoder
from ambient_nb.inverse import posterior
from ambient_nb.sampling import check_levels, noise_levels, start_noise


def box_mask(
    boxes,  # (top, left, height, width) each, px, at least one
    side: tuple,  # (H,W) of the image
) -> torch.Tensor:  # (1,H,W): 1 shown, 0 hidden
    "What boxes hide of an image."
    mask = torch.ones(1, *side)
    for box in boxes:
        top, left, height, width = box = tuple(map(int, box))
        if min(top, left, height - 1, width - 1) < 0 or top + height > side[0] or left + width > side[1]:
            raise BadInput('boxes', box, f'(top, left, height, width) inside {side[0]}x{side[1]}, in pixels')
        mask[:, top : top + height, left : left + width] = 0
    return mask


def drawn_mask(
    side: tuple,  # (H,W) of the image
    generator: torch.Generator,
    boxes: int = 3,  # drawn, from 1
    survival: float = 0.9,  # probability that a box is kept, in (0,1]
    allowed: tuple = (0.01, 0.5),  # shares of the image that may be hidden
) -> torch.Tensor:  # (1,H,W): 1 shown, 0 hidden
    "Random boxes, drawn until what they hide is of a fitting size."
    boxes, survival = check_int('boxes', boxes, 1), check_float('survival', survival, 0, 1, open_lo=True, open_hi=False)

    def whole(lo, hi):  # from lo to hi
        return lo + int(torch.randint(hi - lo + 1, (), generator=generator))

    for _ in range(1000):
        found = []
        for _ in range(boxes):
            height, width = (whole(max(1, s // 8), max(1, s // 2)) for s in side)
            found.append((whole(0, side[0] - height), whole(0, side[1] - width), height, width))
        kept = [box for box in found if torch.rand((), generator=generator) < survival]
        mask = box_mask(kept, side)
        if allowed[0] <= 1 - mask.mean() <= allowed[1]:
            return mask
    raise BadInput('allowed', allowed, 'shares that random boxes can hide')


@dataclass(frozen=True)
class GivenMask(Mask):
    "A mask for each image, as given."

    masks: torch.Tensor = field(kw_only=True)  # (N,1,H,W): 1 shown, 0 hidden

    def mask(self, ids, shape, draw=0):
        return self.masks[torch.as_tensor(ids).cpu()]


def completions(
    D,  # a denoiser one can differentiate
    x: torch.Tensor,  # (N,C,H,W) images in [-1,1]
    masks: torch.Tensor,  # (N,1,H,W): 1 shown, 0 hidden
    n: int = 2,  # an image
    *,
    labels=None,  # what D is told of each image: (N,label_dim), Words of N prompts; None for nothing
    steps: int = 50,  # of the sampler
    sigmas: torch.Tensor | None = None,  # falling to 0, in place of `steps`
    scale: float = 1.0,  # of A-DPS
    device: torch.device | str = 'cpu',  # where D lives
) -> torch.Tensor:  # (N,n,C,H,W) float32: shown pixels as they were, the others as drawn
    "Complete images, several times each."
    N, n = len(x), check_int('n', n, 1)
    if tuple(masks.shape) != (N, 1, *x.shape[2:]) or not ((masks == 0) | (masks == 1)).all():
        raise BadInput('masks', tuple(masks.shape), f'zeros and ones of shape ({N},1,{x.shape[2]},{x.shape[3]})')
    sigmas = noise_levels(D, steps) if sigmas is None else check_levels(sigmas)
    operator, ids, out = GivenMask(masks=masks), torch.arange(N), []
    draw = partial(posterior, D, sigmas=sigmas, labels=labels, operator=operator, ids=ids, scale=scale)
    for j in progress(range(n), desc='completing'):
        z = start_noise([seed_of(0, 'completion', i, j) for i in range(N)], tuple(x.shape[1:])).to(device)
        for step in draw(x=z, y=operator.corrupt(x, ids).to(device)):
            pass
        out.append(torch.where(masks.bool(), x, step.x.float().cpu()))
    return torch.stack(out, 1)


def check_attacked(
    images: torch.Tensor,  # (N,C,H,W) uint8
    name: str = 'images',  # the parameter, for the error
) -> torch.Tensor:  # the same; BadInput otherwise
    "Images that can be attacked."
    if not isinstance(images, torch.Tensor) or images.dtype != torch.uint8 or images.ndim != 4 or not len(images):
        given = f'{images.dtype} {tuple(images.shape)}' if isinstance(images, torch.Tensor) else type(images).__name__
        raise BadInput(name, given, 'uint8 of shape (N,C,H,W), as `read_pictures(...).pixels`')
    return images


def mask_attack(
    complete,  # (x, masks) -> (N,n,C,H,W): a partial of `completions` or of `inpainted`
    images: torch.Tensor,  # (N,C,H,W) uint8
    null: torch.Tensor | None = None,  # (m,C,H,W) uint8, images known not to be in the training set; None for none
    truth=None,  # N times True or False: which were in the training set, where that is known
    *,
    boxes=None,  # for each image a list of (top, left, height, width); None to draw them
    encoder: Encoder | None = None,  # compares whole images by features; None compares the hidden pixels
    names: list[str] | None = None,  # N of them
    seed: int = 0,  # of the masks
    **drawn,  # options of `drawn_mask`
) -> Attacked:
    "Hide parts of images, have them completed, rank them by how close that came."
    check_attacked(images)
    if boxes is not None and len(boxes) != len(images):
        raise BadInput('boxes', len(boxes), f'{len(images)} lists, one an image')

    def attacked(u, kind):  # closeness, and what was shown and drawn
        side = tuple(u.shape[2:])
        if boxes is not None and kind == 'images':
            masks = torch.stack([box_mask(some, side) for some in boxes])
        else:
            masks = torch.stack([drawn_mask(side, rng(seed, 'mask', kind, i), **drawn) for i in range(len(u))])
        made = to_uint8(complete(to_float(u), masks))
        found = closeness(u, made, masks, encoder)
        best = made[torch.arange(len(u)), found.argmax(1)]
        return found, torch.stack([u, (u * masks).to(torch.uint8), best], 1)

    scores, looks = attacked(images, 'images')
    of_null = None if null is None else attacked(check_attacked(null, 'null'), 'null')[0]
    names = list(names or (f'image {i}' for i in range(len(images))))
    by = 'hidden pixels' if encoder is None else encoder.name
    return ranked_attack(names, scores, looks, dict(attack='masking', compared=by, seed=seed), of_null, truth)


def inpainted(
    pipe,  # an inpainting pipeline of diffusers, such as StableDiffusionInpaintPipeline
    x: torch.Tensor,  # (N,3,H,W) images in [-1,1], sides that the pipeline takes
    masks: torch.Tensor,  # (N,1,H,W): 1 shown, 0 hidden
    n: int = 2,  # completions an image
    *,
    prompts: list[str] | None = None,  # N of them; None for empty ones
    guidance: float = 8.0,  # its guidance_scale
    strength: float = 0.99,  # share of the noise that it begins with, in (0,1]
    steps: int = 20,  # of its sampler
) -> torch.Tensor:  # (N,n,3,H,W) float32
    "Complete images by a pipeline."
    from PIL import Image

    N, n = len(x), check_int('n', n, 1)
    strength = check_float('strength', strength, 0, 1, open_lo=True, open_hi=False)
    prompts = [''] * N if prompts is None else list(prompts)
    if len(prompts) != N:
        raise BadInput('prompts', len(prompts), f'{N} texts, one an image')
    how = dict(guidance_scale=guidance, strength=strength, num_inference_steps=steps, output_type='np')
    size, out = dict(height=x.shape[2], width=x.shape[3]), torch.empty(N, n, *x.shape[1:])
    for i in progress(range(N), desc='inpainting'):
        image = Image.fromarray(to_uint8(x[i]).permute(1, 2, 0).numpy())
        hidden = Image.fromarray((255 * (1 - masks[i, 0])).to(torch.uint8).numpy())
        for j in range(n):
            seeded = torch.Generator().manual_seed(seed_of(0, 'completion', i, j))
            made = pipe(prompt=prompts[i], image=image, mask_image=hidden, generator=seeded, **how, **size).images
            drawn = torch.from_numpy(np.asarray(made[0])).permute(2, 0, 1).float() * 2 - 1
            out[i, j] = torch.where(masks[i].bool(), x[i], drawn)
    return out
