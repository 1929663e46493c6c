"Random sources against a short walk, and what only a disk can show: shards of tars, links, the two zips of one source."

from functools import partial
import io
import json
import random
import re
import tarfile
import zipfile
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ambient_nb.cli import app
from ambient_nb.core import BadInput
from ambient_nb.data import read_zip
from ambient_nb.datamake import account, make_zip
from ambient_nb.siblings import sibling_notes
from PIL import Image
from typer.testing import CliRunner

make_zip = partial(make_zip, overwrite=True)  # to one place, again and again

WORDS = {
    'train': ['train', 'Training', 'TRAIN', 'train2017', 'images_train'],
    'val': ['valid', 'Validation', 'val', 'dev', 'val-images'],
    'test': ['test', 'Testing', 'TEST', 'my_test'],
    'unlabeled': ['unlabeled', 'Unlabelled'],
}


def png(i, side=8):
    a = np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(a).save(out := io.BytesIO(), 'PNG')
    return out.getvalue()


def put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def sources(path):
    stored = json.loads(zipfile.ZipFile(path).read('dataset.json'))
    names = stored.get('classes')
    labels = dict(stored['labels'] or ())
    members = sorted(n for n in zipfile.ZipFile(path).namelist() if n.endswith('.png'))
    return {s: names[labels[m]] if labels else None for s, m in zip(stored['source'], members)}


# --- a property: random trees ---------------------------------------------------------------------------------------


def random_tree(draw):
    "Paths of a source: a top, a split as folder or in the name, classes, deeper folders, endings; and hidden files."
    top = draw.choice(['', 'pets/', 'a/b/'])
    where = draw.choice(['folder', 'below', 'file', 'none'])
    splits = draw.sample(sorted(WORDS), draw.randint(1, 4)) if where != 'none' else ['']
    classes = draw.sample(['cat', 'dog', 'emu', 'bullet_train', '3', 'ærø'], draw.randint(2, 4))
    words = {split: draw.choice(WORDS[split]) if split else '' for split in splits}
    whole = {'train', 'training', 'valid', 'validation', 'val', 'dev', 'test', 'testing', 'unlabeled', 'unlabelled'}
    if where != 'folder' or not {w.lower() for w in words.values()} <= whole:  # else nobody can tell which word counts
        classes = [c for c in classes if c != 'bullet_train'] + ['newt']
    names = []
    for split in splits:
        word = words[split]
        for i, name in enumerate(classes):
            for j in range(draw.randint(1, 3)):
                deep = draw.choice(['', 'x/'])
                end = draw.choice(['png', 'PNG', 'jpg', 'bmp', 'gif'])
                file = f'{i}{j}.{end}' if where != 'file' else f'{i}{j}-{word}.{end}'
                path = dict(folder=f'{word}/{name}/', below=f'{name}/{word}/', file=f'{name}/', none=f'{name}/')[where]
                names.append(f'{top}{path}{deep}{file}')
    extra = ['notes.txt', '.hidden/0.png', '__MACOSX/0.png', f'{top}._0.png', 'x.html']
    return names, draw.sample(extra, draw.randint(0, 5))


def reference_walk(names):
    "For each visible picture its split and class, by looking for words of a fixed list; 30 lines and nothing shared."
    means = {}
    for split, words in WORDS.items():
        for word in words:
            means[word.lower()] = split
    found = {}
    for name in names:
        parts = name.split('/')
        if any(p.startswith('.') or p == '__MACOSX' for p in parts):
            continue
        if parts[-1].lower().rsplit('.', 1)[-1] not in ('png', 'jpg', 'bmp', 'gif'):
            continue
        split, rest = '', []
        for p in parts[:-1]:
            if p.lower() in means:
                split = means[p.lower()]
            else:
                rest.append(p)
        if not split and '-' in parts[-1]:
            split = means[parts[-1].rsplit('.', 1)[0].split('-', 1)[1].lower()]
        rest = [p for p in rest if p not in ('pets', 'a', 'b', 'x')]
        found[name] = (split, rest[0] if rest else None)
    return found


@pytest.mark.parametrize('seed', range(40))
def test_what_is_taken_equals_a_short_walk(tmp_path, seed):
    draw = random.Random(seed)
    names, extra = random_tree(draw)
    ends = dict(png='PNG', jpg='JPEG', bmp='BMP', gif='GIF')
    src = tmp_path / 'src'
    for i, name in enumerate([*names, *extra]):
        a = np.full((8, 8, 3), i, np.uint8)
        Image.fromarray(a).save(out := io.BytesIO(), ends.get(name.lower().rsplit('.', 1)[-1], 'PNG'))
        put(src / name, b'text' if name.endswith('.txt') else b'<html>' if name.endswith('.html') else out.getvalue())
    if seed % 3 == 0:  # the same through a zip, with slashes that lean the other way
        with zipfile.ZipFile(tmp_path / 'src.zip', 'w') as z:
            for p in sorted(src.rglob('*')):
                if p.is_file():
                    z.writestr(p.relative_to(src).as_posix().replace('/', '\\'), p.read_bytes())
        src = tmp_path / 'src.zip'
    expected = reference_walk([*names, *extra])
    there = sorted({split for split, _ in expected.values()})
    for split in there:
        made = make_zip(src, tmp_path / 'o.zip', split=split or None)
        mine = {n: name for n, (part, name) in expected.items() if part == split}
        assert sources(tmp_path / 'o.zip') == mine
        counted = {(part, name): n for part, of in made['parts'].items() for name, (n, _) in of.items()}
        assert counted == Counter(expected.values())
        assert all(
            taken == (n if part == split else 0) for part, of in made['parts'].items() for n, taken in of.values()
        )
        visible = [n for n in extra if n in ('notes.txt', 'x.html')]
        assert sum(n for what, n in made['left'].items() if what.startswith('files ending')) == len(visible)
        hidden = [n for n in extra if n not in visible]
        assert sum(n for what, n in made['left'].items() if 'hidden' in what) == len(hidden)
    for split in set(WORDS) - set(there):
        with pytest.raises(BadInput, match=f"split='{split}'"):
            make_zip(src, tmp_path / 'x.zip', split=split)
    if 'train' not in there and '' not in there:
        with pytest.raises(BadInput, match=re.escape(there[0])):
            make_zip(src, tmp_path / 'x.zip')


# --- what the property does not draw ----------------------------------------------------------------------------------


def made_of(src, tmp_path, **options):
    make_zip(src, tmp_path / 'o.zip', **options)
    return sources(tmp_path / 'o.zip')


def fill(src, *names):
    for i, name in enumerate(names):
        put(src / name, png(i))
    return src


def test_a_split_word_is_never_a_class(tmp_path):
    src = fill(tmp_path / 'cars', 'train/0.png', 'tram/1.png')
    with pytest.raises(BadInput, match=r"train \(1\) and 1 others, such as tram/1.png.*split='none'"):
        make_zip(src, tmp_path / 'x.zip')
    assert set(made_of(src, tmp_path, split='none').values()) == {'train', 'tram'}
    with pytest.raises(BadInput, match='names test and train'):
        make_zip(fill(tmp_path / 'two', 'test/train/0.png', 'test/cat/0.png'), tmp_path / 'x.zip')


def test_folder_wins_over_the_name_of_the_file(tmp_path):
    "Imagenette's training pictures are called ILSVRC2012_val_…, and ImageNet has a class of bullet trains."
    src = fill(tmp_path / 'i', 'train/n1/ILSVRC2012_val_1.png', 'train/bullet_train/2.png', 'val/n1/n_train_3.png')
    assert made_of(src, tmp_path, seed=None) == {
        'train/bullet_train/2.png': 'bullet_train',
        'train/n1/ILSVRC2012_val_1.png': 'n1',
    }


def test_one_class_in_one_split_keeps_its_name(tmp_path):
    src = fill(tmp_path / 'p', 'Train/cat/0.png', 'Train/cat/1.png', 'test/cat/2.png', 'test/dog/3.png')
    assert set(made_of(src, tmp_path).values()) == {'cat'}


def test_class_numbers_are_those_of_the_other_zip(tmp_path):
    "The training source lies elsewhere, and its classes begin earlier in the alphabet."
    one = fill(tmp_path / 'one', 'cat/0.png', 'dog/1.png', 'emu/2.png')
    two = fill(tmp_path / 'two', 'dog/0.png', 'emu/1.png')
    train, test = tmp_path / 'pets-train.zip', tmp_path / 'pets-test.zip'
    make_zip(one, train)
    assert sorted(read_zip(make_zip(two, test)['out']).labels.tolist()) == [0, 1]
    made = make_zip(two, test, classes=train, seed=None)
    assert read_zip(test).labels.tolist() == [1, 2] and made['class_order'] == 'as in pets-train.zip'
    assert set(sources(test).values()) == {'dog', 'emu'}
    fill(two, 'fox/2.png')
    with pytest.raises(BadInput, match='classes=.*it has no fox'):
        make_zip(two, test, classes=train)
    with pytest.raises(BadInput, match='classes=.*this source has none'):
        make_zip(fill(tmp_path / 'bare', '0.png'), test, classes=train)


def test_both_zips_of_a_source_number_alike(tmp_path):
    src = fill(tmp_path / 'p', *(f'{part}/{k}/0.png' for part, ks in (('train', 'bd'), ('test', 'ad')) for k in ks))
    names = {}
    for split in ('train', 'test'):
        make_zip(src, tmp_path / f'{split}.zip', split=split, seed=None)
        notes = json.loads(zipfile.ZipFile(tmp_path / f'{split}.zip').read('dataset.json'))
        names[split] = notes['classes']
        assert [notes['classes'][k] for _, k in notes['labels']] == [s.split('/')[1] for s in notes['source']]
    assert names['train'] == names['test'] == ['b', 'd', 'a']  # the training split's first


def test_webdataset_shards(tmp_path):
    for part, start in (('train-000000', 0), ('train-000001', 3), ('val-000000', 6)):
        with tarfile.open((tmp_path / 'w').mkdir(exist_ok=True) or tmp_path / 'w' / f'pets-{part}.tar', 'w') as tar:
            for i in range(start, start + 3):
                for end, data in (('png', png(i)), ('cls', str(i % 2).encode()), ('json', b'{}')):
                    member = tarfile.TarInfo(f'{i:06d}.{end}')
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    made = make_zip(tmp_path / 'w', tmp_path / 'o.zip', seed=None)
    assert made['n'] == 6 and read_zip(tmp_path / 'o.zip').labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert made['left'] == {'files ending in .json': 9} and made['parts']['val'] == {'0': [2, 0], '1': [1, 0]}
    one = make_zip(tmp_path / 'w' / 'pets-val-000000.tar', tmp_path / 'o.zip')
    assert one['n'] == 3 and one['classes'] == 2


def test_nested_edm_zip_keeps_its_labels_and_shards_are_no_classes(tmp_path):
    names = [f'{i // 2:05d}/img{i:08d}.png' for i in range(4)]
    with zipfile.ZipFile(tmp_path / 'n.zip', 'w') as z:
        for i, name in enumerate(names):
            z.writestr(f'my data/{name}', png(i))
        z.writestr('my data/dataset.json', json.dumps(dict(labels=[[n, 5 - i] for i, n in enumerate(names)])))
    make_zip(tmp_path / 'n.zip', tmp_path / 'o.zip', seed=None)
    assert read_zip(tmp_path / 'o.zip').labels.tolist() == [5, 4, 3, 2]
    src = fill(tmp_path / 'bare', *names)
    assert make_zip(src, tmp_path / 'o.zip')['labels'] == 'none in the source'
    signs = fill(tmp_path / 'signs', '00000/00000_0.png', '00001/00000_1.png')
    with pytest.raises(BadInput, match="folders=None.*'shards' or 'classes'"):
        make_zip(signs, tmp_path / 'o.zip')
    assert make_zip(signs, tmp_path / 'o.zip', folders='classes')['classes'] == 2


def test_metadata_of_both_splits_numbers_classes_once(tmp_path):
    src = fill(tmp_path / 'm', 'train/0.png', 'train/1.png', 'test/0.png')
    put(src / 'train/metadata.csv', b'file_name,label,text\n0.png,dog,a\n1.png,cat,b\n')
    line = '{"file_name": "0.png", "label": "ant", "text": "one\u2028two"}\n'  # a line end in text is none of JSON's
    put(src / 'test/metadata.jsonl', line.encode())
    assert made_of(src, tmp_path) == {'train/0.png': 'dog', 'train/1.png': 'cat'}
    made = make_zip(src, tmp_path / 'o.zip', split='test')
    assert sources(tmp_path / 'o.zip') == {'test/0.png': 'ant'} and made['left'] == {'column text': 3}
    put(src / 'train/metadata.csv', b'file_name,label\n0.png,dog\n')
    with pytest.raises(BadInput, match='every picture once.*train/1.png'):
        make_zip(src, tmp_path / 'x.zip')


def test_several_layouts_at_once_are_refused(tmp_path):
    src = fill(tmp_path / 's', '0.png')
    np.save(src / 'features.npy', np.zeros((4, 8, 8), np.uint8))
    with pytest.raises(BadInput, match='1 pictures, 1 arrays'):
        make_zip(src, tmp_path / 'x.zip')


def test_labels_that_are_not_kept_are_counted(tmp_path):
    np.savez(tmp_path / 'a.npz', images=np.zeros((4, 8, 8), np.uint8), ids=np.arange(4), labels=np.array([1, -1, 0, 0]))
    made = make_zip(tmp_path / 'a.npz', tmp_path / 'o.zip')
    assert made['labels'].startswith('none, as 1 of 4 pictures have no class (missing, or -1), such as a.npz: 1')
    assert made['left'] == {'array ids': '(4,)'} and 'array ids: (4,)' in account(made)


def test_command_prints_what_was_found_and_searches_the_other_split(tmp_path):
    src = fill(tmp_path / 'p', *(f'{part}/cat/{i}.png' for part in ('train', 'val') for i in range(10)))
    put(src / 'val/dog/0.png', png(99))
    leak = (src / 'train/cat/4.png').read_bytes()
    put(src / 'val/dog/leak.png', leak)
    run = CliRunner()
    out = {split: str(tmp_path / f'p-{split}.zip') for split in ('train', 'val')}
    first = run.invoke(app, ['data', 'make', str(src), out['train']])
    assert first.exit_code == 0 and 'train: 10 found, 10 taken, 0 left (cat 10/10/0)' in first.output
    assert 'val: 12 found, 0 taken, 12 left (cat 10/0/10, dog 2/0/2)' in first.output and 'also in' not in first.output
    second = run.invoke(app, ['data', 'make', str(src), out['val'], '--split', 'val', '--classes', out['train']])
    assert second.exit_code == 0 and set(sources(out["val"]).values()) == {"cat", "dog"}
    second = run.invoke(app, ['data', 'make', str(src), out['val'], '--split', 'val', '--overwrite'])
    assert '1 of 12 pictures are also in p-train.zip, or nearly, such as val/dog/leak.png' in second.output
    assert sibling_notes(out['train'])[0].startswith('1 of 10 pictures are also in p-val.zip')
    third = run.invoke(app, ['data', 'make', str(src), out['val'], '--split', 'val', '--no-check', '--overwrite'])
    assert third.exit_code == 0 and 'also in' not in third.output


def test_make_zip_tells_of_the_other_split_whoever_calls_it(tmp_path):
    src = fill(tmp_path / 'p', *(f'{part}/{i}.png' for part in ('train', 'dev') for i in range(3 * (part == 'dev'), 9)))
    made = [make_zip(src, tmp_path / f'p-{part}.zip', split=part) for part in ('train', 'dev')]
    assert [len(m['beside']) for m in made] == [0, 1]
    told = made[1]['beside'][0]
    assert 'pictures are also in p-train.zip, or nearly' in told and account(made[1]).endswith(told)
    assert make_zip(src, tmp_path / 'p-dev.zip', split='dev', check=False)['beside'] == []
    assert 'beside' not in json.loads(zipfile.ZipFile(tmp_path / 'p-dev.zip').read('dataset.json'))['meta']


def tar_of(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, 'w') as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def test_labels_in_json_and_the_lists_of_img2dataset(tmp_path):
    "WebDataset's samples may carry a record; img2dataset's records have no labels, and a table lies beside each shard."
    records = {f'{i}.json': json.dumps(dict(label=5 - i, caption='x')).encode() for i in range(3)}
    pictures = {f'{i}.png': png(i) for i in range(3)}
    tar_of(tmp_path / 'w' / 'w-train-0.tar', pictures | records)
    made = make_zip(tmp_path / 'w', tmp_path / 'o.zip', seed=None)
    assert read_zip(tmp_path / 'o.zip').labels.tolist() == [5, 4, 3] and made['left'] == {}
    tar_of(tmp_path / 'w' / 'w-train-0.tar', pictures | {'0.json': records['0.json']})
    with pytest.raises(BadInput, match='labelled everywhere or nowhere; .*1.png is not'):
        make_zip(tmp_path / 'w', tmp_path / 'o.zip')
    bare = {name: b'{"caption": "x", "url": "y"}' for name in records}
    tar_of(tmp_path / 'i' / '00000.tar', pictures | bare | {'0.txt': b'x'})
    pq.write_table(pa.table(dict(url=['a'] * 3)), tmp_path / 'i' / '00000.parquet')
    made = make_zip(tmp_path / 'i', tmp_path / 'o.zip')
    assert (made['n'], made['labels']) == (3, 'none in the source')
    assert made['left'] == {
        'files ending in .json': 3,
        'files ending in .txt': 1,
        'tables that go with shards left out': 1,
    }


def test_arrays_in_folders_that_look_like_classes_are_named(tmp_path):
    for i, name in enumerate(('cat/0', 'cat/1', 'dog/2')):
        (tmp_path / 'n' / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / 'n' / f'{name}.npy', np.full((8, 8, 3), i, np.uint8))
    made = make_zip(tmp_path / 'n', tmp_path / 'o.zip')
    assert made['left'] == {'folders of arrays, which are no classes here (cat, dog)': 2} and made['n'] == 3


def test_numbers_that_are_no_bytes_are_counted_where_they_are_read(tmp_path):
    u = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8)
    np.savez(tmp_path / 'a.npz', x=u.astype(np.float32) / 255)
    made = make_zip(tmp_path / 'a.npz', tmp_path / 'o.zip', seed=None)
    assert made['converted'] == {'float32 in [0, 1] to bytes': 4} and 'to bytes: 4' in account(made)
    assert np.array_equal(read_zip(tmp_path / 'o.zip').pixels[:, 0].numpy(), u)


# --- why folders, tables and shards are not read by datasets and webdataset -------------------------------------------


def test_where_datasets_reads_as_ours_and_where_it_does_not(tmp_path, monkeypatch):
    "The splits and classes that 5.2.0 knows are ours too; others it adds to the training set, or loses their pictures."
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'hf'))
    datasets = pytest.importorskip('datasets', reason='compares with Hugging Face datasets')

    def theirs(src):
        found = datasets.load_dataset('imagefolder', data_dir=str(src), cache_dir=str(tmp_path / 'cache'))
        return {split: len(rows) for split, rows in found.items()}

    def ours(src):
        made = make_zip(src, tmp_path / 'o.zip')
        return {split: sum(n for n, _ in of.values()) for split, of in made['parts'].items()}

    kinds = [f'{k}/{i}.png' for k in ('cat', 'dog') for i in range(3)]
    known = fill(tmp_path / 'known', *(f'{part}/{name}' for part in ('train', 'test') for name in kinds))
    assert theirs(known) == ours(known) == dict(train=6, test=6)
    capital = fill(tmp_path / 'capital', *(f'{part}/{name}' for part in ('Train', 'Test') for name in kinds))
    assert theirs(capital) == dict(train=12) and ours(capital) == dict(train=6, test=6)
    linked = fill(tmp_path / 'linked', 'cat/0.png')
    (linked / 'dog').symlink_to(known / 'train' / 'dog')
    assert theirs(linked) == dict(train=1) and ours(linked) == {'': 4}


def test_what_save_to_disk_wrote(tmp_path, monkeypatch):
    "Its caches lie beside its data, and are none: 5.2.0 writes one there when a saved set is filtered."
    monkeypatch.setenv('HF_HOME', str(tmp_path / 'hf'))
    datasets = pytest.importorskip('datasets', reason='compares with Hugging Face datasets')
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=['ant', 'bee']))
    pictures = [Image.fromarray(np.full((8, 8, 3), i, np.uint8)) for i in range(6)]
    whole = datasets.Dataset.from_dict(dict(image=pictures, label=[0, 1] * 3), features=features)
    datasets.DatasetDict(train=whole.select([5, 0, 3]), test=whole.select([1])).save_to_disk(tmp_path / 's')
    datasets.load_from_disk(str(tmp_path / 's'))['train'].filter(lambda row: row['label'] == 0)
    made = make_zip(tmp_path / 's', tmp_path / 'o.zip', seed=None)
    assert read_zip(tmp_path / 'o.zip').pixels[:, 0, 0, 0].tolist() == [5, 0, 3]
    assert made['parts'] == dict(test={'bee': [1, 0]}, train={'ant': [1, 1], 'bee': [2, 2]})
    assert made['left'] == {'tables that state.json does not list left out': 1}


def test_where_webdataset_reads_otherwise(tmp_path):
    "A label without its picture, a picture without its label, and a flipped bit pass through 1.0.2 without a word."
    webdataset = pytest.importorskip('webdataset', reason='compares with webdataset')
    with tarfile.open(tmp_path / 'a.tar', 'w') as tar:
        for name, data in (('0.png', png(0)), ('0.cls', b'1'), ('1.png', png(1)), ('2.cls', b'3')):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert len(list(webdataset.WebDataset(str(tmp_path / 'a.tar'), shardshuffle=False))) == 3
    with pytest.raises(BadInput, match='one .cls file for every picture: 1'):
        make_zip(tmp_path / 'a.tar', tmp_path / 'o.zip')
    flipped = bytearray((tmp_path / 'a.tar').read_bytes())
    flipped[1024] ^= 1  # in the header of 0.cls
    (tmp_path / 'b.tar').write_bytes(flipped)
    assert len(list(webdataset.WebDataset(str(tmp_path / 'b.tar'), shardshuffle=False))) < 3
    with pytest.raises(BadInput):
        make_zip(tmp_path / 'b.tar', tmp_path / 'o.zip')
