"""`save` and `load`: operators and estimators in files that carry numbers and no code.

A file holds a manifest, which is JSON, and arrays. `manifest` turns objects into both and back;
`containers` puts both into one file, an ``npz`` or a ``safetensors``.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kronops.files.containers import container_named, container_of
from kronops.files.manifest import decode, encode, register_savable

__all__ = ["load", "register_savable", "save"]


def save(path: str | os.PathLike[str], op: Any, *, format: str = "npz") -> None:
    """Write an operator, or an estimator of `kronops.kfac`, to a file.

    The file has the same content whatever its name is, and takes the place of one that was there
    when it is complete: an interrupted `save` leaves the old one. What is shared inside ``op`` is
    written once. Factorisations are not written.

    Parameters
    ----------
    path : str or path
        The name of the file, as it is: no ending is added.
    op : LinearOperator, Estimator or Curvature
        Its arrays are brought to the host's memory; lazy ones are computed.
    format : {"npz", "safetensors"}
        ``"npz"``: an uncompressed archive, which `numpy.load` opens too. ``"safetensors"`` needs
        the library of that name, and holds complex arrays as pairs of real numbers.

    Raises
    ------
    TypeError
        ``op`` is, or has in it, something that is no operator, array or Python number.
    ValueError
        An array has a dtype that files do not hold; ``format`` is neither.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np, kronops
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "covariance.npz"
    >>> kronops.save(path, kronops.kron(np.eye(2), np.full((2, 2), 3.0)).damped(1.0))
    >>> kronops.load(path).diagonal()
    array([4., 4., 4., 4.])
    """
    container = container_named(format)
    text, arrays = encode(op)
    with _replacing(Path(path)) as file:
        container.write(file, text, arrays)


def load(path: str | os.PathLike[str], backend: str | None = None, device: Any = None) -> Any:
    """What `save` wrote; the format is found out from the content.

    Nothing in a file is executed. No memory is taken before the file was found to be as long as the
    arrays in it need, and every array is compared with its checksum.

    Parameters
    ----------
    path : str or path
        The file.
    backend : str, optional
        The library of the arrays, as in `LinearOperator.to_backend`; None: the one that they were
        saved from, which is imported.
    device : optional
        A device of that library; None: its default, wherever the arrays were when they were saved.

    Raises
    ------
    ValueError
        The file is damaged, or none of ours, or of a later version of kronops.
    OSError
        It cannot be read.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np, kronops
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "any name"
    >>> kronops.save(path, kronops.DiagonalOperator(np.array([2.0, 4.0])))
    >>> kronops.load(path, backend="numpy").solve(np.ones(2))
    array([0.5 , 0.25])
    """
    path = Path(path)
    text, arrays = container_of(path).read(path)
    return decode(text, arrays, path, backend, device)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Any]:
    """A new file beside ``path``, which takes its name if all goes well."""
    path = path.resolve()  # of a link, what it leads to
    replaces = path.exists()
    if replaces and not path.is_file():
        raise ValueError(f"path = {path} is no regular file: it would be replaced by one")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path = {path}: there is no folder {path.parent}")
    made = path.with_name(f".kronops-{secrets.token_hex(8)}")
    try:
        with made.open("xb") as file:
            if replaces:
                shutil.copymode(path, made)
            yield file
        os.replace(made, path)
    except BaseException:
        made.unlink(missing_ok=True)
        raise
