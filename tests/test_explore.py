"The panel: its controls in an encoder's space, where mirrored copies are found by their mirror image."

import pytest
import torch
from ambient_nb.audit import audit
from ambient_nb.core import refused
from ambient_nb.data import digits
from ambient_nb.explore import ORDERS, Explorer

POOL, HELDOUT = digits()


@pytest.mark.parametrize('encoder', ['pixels', 'digits-cnn'])
def test_the_panel_follows_its_controls(encoder, tmp_path):
    found = audit(
        torch.cat([HELDOUT.pixels[:80], POOL.pixels[:20].flip(-1)]),
        POOL,
        HELDOUT.pixels[80:200],
        encoder=encoder,
        flips=True,
        cache=tmp_path,
    )
    panel = Explorer(found, shown=7)

    def numbers():
        return [int(tile.children[1].description.split(':')[0]) for tile in panel.grid.children]

    assert (
        numbers() == found.rows()['sample'].head(7).tolist()
        and found.verdict.split(': ')[0] in panel.verdict.value
        and panel.page.max == 15
    )
    panel.threshold.value = 0.95
    assert found.at(0.95).verdict.split(': ')[0] in panel.verdict.value and found.threshold == 1 / 3
    for name, by in ORDERS.items():
        panel.order.value = name
        if by is not None:
            assert (
                numbers()
                == found.table[found.table.set == 'generated']
                .sort_values(by[0], ascending=by[1], kind='stable')['sample']
                .head(7)
                .tolist()
            )
    panel.page.value = 15
    assert numbers() == [98, 99]
    panel.grid.children[1].children[1].click()
    near = found.neighbours(99)
    assert (
        panel.chosen == ('generated', 99)
        and near.position[0] == 19
        and near.d[0] < 1e-3
        and (near.d.diff()[1:] >= 0).all()
    )
    assert (
        f'{near.name[7]}, d {near.d[7]:.3g}' in panel.detail.value
        and panel.detail.value in panel._repr_html_().replace('<h2>Chosen</h2>', '<h2>Chosen</h2><div class="audit">')
    )
    panel.set.value = 'holdout'
    panel.page.value = 1
    panel.choose(3)
    assert numbers() == list(range(7)) and 'holdout image 3' in panel._repr_html_()
    assert 'sample=' in refused(panel.choose, 10**6) and 'k=' in refused(found.neighbours, 0, k=0)
    assert 'to 99' in refused(found.neighbours, 100)
