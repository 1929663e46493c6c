"The libraries of the extra 'sd', for the tests that need them."

import pytest

from ambient_nb.torchfidelity import mend_torchvision


def needs_sd(*names: str):  # diffusers
    "Skip the whole file where diffusers, or another of these, is missing."
    mend_torchvision()  # peft imports torchvision
    for name in ('transformers', *names):
        pytest.importorskip(name, reason=f"{name} comes with the extra 'sd'")
    return pytest.importorskip('diffusers', reason="diffusers comes with the extra 'sd'")
