#!/usr/bin/env bash
# Expected: `save_pretrained` of a network, or of a pipeline that holds it, with a LoRA adapter loaded gives a folder
#   from which `from_pretrained` brings the same network back, with the adapter or without, or else it refuses.
# Happens: the layers under LoRA are written as `….base_layer.weight`, which nothing looks for when it is read: they
#   are "newly initialized", says a warning. By default they are left on the meta device, and the first call fails;
#   with `low_cpu_mem_usage=False`, the default where accelerate is missing, they hold whatever memory held, the network
#   answers something else (often nan), and nothing fails.
# Matters to: whoever fine-tunes by LoRA and saves the whole pipeline: the folder looks whole (it has all the bytes).
# ambient_nb: a run with LoRA saves LoRA alone, in diffusers' format with its alpha; a pipeline is saved whole only
#   where the whole network was trained.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --no-compile torch==2.13.0 diffusers==0.42.1 peft==0.21.2 numpy==2.4.6
"$work/venv/bin/pip" install --quiet --no-compile transformers==5.24.0 accelerate==1.15.0
cd "$work"
HF_HOME="$work/home" HF_HUB_OFFLINE=1 "$work/venv/bin/python" -W ignore - <<'PY'
import diffusers
import peft
import torch

diffusers.utils.logging.set_verbosity_error()
attention = dict(attention_head_dim=4, cross_attention_dim=32)
blocks = dict(
    down_block_types=('CrossAttnDownBlock2D', 'DownBlock2D'), up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D')
)
torch.manual_seed(0)
net = diffusers.UNet2DConditionModel(
    sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, **attention, **blocks
).eval()
net.add_adapter(peft.LoraConfig(r=2, target_modules=['to_q', 'to_k', 'to_v', 'to_out.0'], init_lora_weights=False))
asked = torch.randn(1, 4, 8, 8), 500, torch.randn(1, 77, 32)


@torch.no_grad()
def answer(network):
    return network(*asked).sample


wanted = answer(net)
net.disable_adapters()
plain = answer(net)
net.save_pretrained('whole')
print('diffusers', diffusers.__version__, '/ peft', peft.__version__, '/ torch', torch.__version__)
back = diffusers.UNet2DConditionModel.from_pretrained('whole')
empty = [name for name, p in back.named_parameters() if p.is_meta]
print(f'read again: {len(empty)} of {len([*back.parameters()])} parameters are on the meta device, such as {empty[0]}')
try:
    answer(back)
    failed = ''
except RuntimeError as e:
    failed = str(e)
print('its first call:', failed)
assert len(empty) == 40 and 'meta' in failed
loose = diffusers.UNet2DConditionModel.from_pretrained('whole', low_cpu_mem_usage=False)
same = [torch.allclose(answer(loose), other, atol=1e-3) for other in (wanted, plain)]
told = 'some' if answer(loose).isfinite().all() else 'nan'
print(f'with low_cpu_mem_usage=False its answer ({told}) is that of the network with LoRA, without: {same}')
assert same == [False, False] and not torch.allclose(wanted, plain, atol=1e-3)
PY
