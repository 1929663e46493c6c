"Captioned pictures: the same ones from every kind of source, and what a list leaves out is counted."

import csv
import io
import json
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ambient_nb.captions import Duplication, captioned_images, read_captions, weighted_order
from ambient_nb.core import BadInput
from ambient_nb.data import digits
from PIL import Image

PIXELS = digits()[0].pixels[:6]
TEXTS = [('a one',), ('a two', 'the digit two'), (), ('a four \u2028 of two lines',), ('a "five", quoted',), ()]


def png(k):
    Image.fromarray(PIXELS[k, 0].numpy()).save(file := io.BytesIO(), format='PNG')
    return file.getvalue()


def files(head='', list_in=''):
    "Pictures and their list; the last picture is in no line."
    lines = [dict(file_name=f'{head}{k}.png', text=list(texts) or None) for k, texts in enumerate(TEXTS[:-1])]
    text = '\n'.join(json.dumps(line, ensure_ascii=False) for line in lines)
    return {f'{list_in}{head}{k}.png': png(k) for k in range(6)} | {f'{list_in}metadata.jsonl': text.encode()}


def written(folder, contents):
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def packed(path, contents):
    with zipfile.ZipFile(path, 'w') as z:
        for name, content in contents.items():
            z.writestr(name, content)
    return path


def as_table(path):
    cells = [dict(bytes=png(k), path=None) for k in range(6)]
    pq.write_table(pa.table(dict(image=cells, text=[list(texts) or None for texts in TEXTS], label=[0] * 6)), path)
    return path


def as_csv(folder):
    "A line for each caption; one without any has an empty one."
    csv.writer(rows := io.StringIO()).writerows(
        [('file_name', 'text'), *((f'{k}.png', text) for k, texts in enumerate(TEXTS) for text in texts or ('',))]
    )
    return written(folder, {f'{k}.png': png(k) for k in range(6)} | {'metadata.csv': rows.getvalue().encode()})


@pytest.mark.parametrize(
    'source',
    [
        lambda t: written(t, files()),
        lambda t: written(t, files('photos/')),
        lambda t: packed(t / 'a.zip', files(list_in='set/')),
        lambda t: written(t, files(list_in='train/')),
        as_csv,
        lambda t: as_table(t / 'train.parquet'),
    ],
)
def test_every_source_says_the_same(tmp_path, source):
    read = read_captions(source(tmp_path))
    assert read.captions == TEXTS
    assert read.counts == dict(pictures=6, captions=5, different=5, without=2)
    assert torch.equal(captioned_images(read).pixels, PIXELS)


def test_a_split_is_asked_for(tmp_path):
    folder = written(tmp_path, files(list_in='train/') | {'test/9.png': png(0)})
    assert read_captions(folder).split == 'train' and len(read_captions(folder).entries) == 6
    with pytest.raises(BadInput, match='captions?'):
        read_captions(folder, split='test')
    with pytest.raises(BadInput, match="split='val'"):
        read_captions(folder, split='val')


@pytest.mark.parametrize(
    ('line', 'what'),
    [
        ('{"file_name": "7.png", "text": "a"}', '7.png is not'),
        ('{"text": "a"}', 'file_name'),
        ('{"file_name": "0.png", "text": 3}', 'a list of texts, not 3'),
        ('{"file_name": "0.png", "text": [["a"]]}', 'a list of texts'),
        ('{"file_name": ', 'JSON'),
    ],
)
def test_a_mistake_has_a_place(tmp_path, line, what):
    folder = written(
        tmp_path, {'0.png': png(0), 'metadata.jsonl': b'{"file_name": "0.png", "text": "a"}\n\n' + line.encode()}
    )
    with pytest.raises(BadInput, match='metadata.jsonl: line 3') as said:
        read_captions(folder)
    assert what in str(said.value)


def test_a_mistake_in_a_table_has_a_place(tmp_path):
    pq.write_table(pa.table(dict(image=[dict(bytes=png(0))] * 2, text=[1, 2])), tmp_path / 'a.parquet')
    with pytest.raises(BadInput, match='a.parquet: text, row 0'):
        read_captions(tmp_path / 'a.parquet')


def test_as_imagefolder_but_for_what_it_drops(tmp_path):
    "datasets 5.2.0 leaves out the picture that no line names, and makes an example of each line."
    datasets = pytest.importorskip('datasets', reason="Hugging Face's datasets is not installed")
    folder = written(tmp_path / 'set', files())
    theirs = datasets.load_dataset(
        'imagefolder', data_dir=str(folder), split='train', cache_dir=str(tmp_path / 'cache')
    )
    mine = read_captions(folder)
    assert [tuple(row['text'] or ()) for row in theirs] == mine.captions[:5]
    assert len(theirs) == 5 and len(mine.entries) == 6 and mine.captions[5] == ()


def test_a_duplicated_image_is_drawn_as_often_as_it_should():
    ids = digits()[0].ids[:50]
    rule = Duplication('dup_image', 0.1, 7, seed=3)
    weights = rule.weights(ids)
    counts = weighted_order(weights, 1, 0, 40_000).bincount(minlength=50)
    expected = 40_000 * weights / weights.sum()
    assert ((counts - expected).square() / expected).sum() < 100  # chi-square of 49: 99.99 % below 96
    assert torch.equal(rule.copied(ids.flip(0)).flip(0), rule.copied(ids))
    assert not torch.equal(rule.copied(ids), Duplication('dup_image', 0.1, 7, seed=4).copied(ids))
    assert weighted_order(torch.tensor([0.0, 1.0, 0.0]), 0, 0, 500).eq(1).all()
