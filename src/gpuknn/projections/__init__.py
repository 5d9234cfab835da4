"""Projections of rows: to a few coordinates by PCA, to binary sketches by references.

model.py            the two kinds of models, as files keep them
pca.py              axes from exact sums (`moments.py`);  references.py  what sketches compare with
projected.py        rows through a model: a `Derived` of `vectors`
blocks.py           rows taken block by block by a device's threads

What a device does with a block, and why its bytes are the same everywhere, says `engine/projecting.py`.
"""
