"""Print what an executed notebook has for a terminal: the text of its cells tagged `terminal`.

python tools/terminal.py NOTEBOOK.ipynb
"""

import sys

import nbformat


def told(path: str) -> str:
    "The text outputs of the cells with the tag."
    cells = [c for c in nbformat.read(path, 4).cells if 'terminal' in c.metadata.get('tags', [])]
    return ''.join(o.text for c in cells for o in c.outputs if o.output_type == 'stream' and o.name == 'stdout')


if __name__ == '__main__':
    print(told(sys.argv[1]), end='')
