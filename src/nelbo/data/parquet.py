"""A .parquet table with a column of encoded images, as Hugging Face data sets store them."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from nelbo.data.encoded import EncodedFiles, EncodedImages, open_encoded
from nelbo.errors import NelboError, one_line

if TYPE_CHECKING:
    import pyarrow as pa

USUAL_NAMES = ("image", "img")


@dataclass(frozen=True, eq=False)
class ParquetSource(EncodedFiles):
    """The images of a column; they are held encoded, as they are in the file."""

    encoded: pa.ChunkedArray = field(repr=False)

    def __len__(self) -> int:
        return len(self.encoded)

    def item_name(self, index: int) -> str:
        """Returns the number of the row, counted from 0."""
        return f"row {index}"

    def open(self, index: int) -> BytesIO:
        """Returns a row's bytes.

        Raises:
            ValueError: It has none.
        """
        data = self.encoded[index].as_py()
        if data is None:
            raise ValueError("holds no bytes")
        return BytesIO(data)


def open_parquet(path: Path) -> EncodedImages:
    """Opens a table of encoded images: binary values, or structures with a binary field ``bytes``.

    Raises:
        NelboError: As for :func:`parquet_source`, or some images cannot be used.
    """
    return open_encoded(str(path), parquet_source(path))


def parquet_source(path: Path) -> ParquetSource:
    """Returns the encoded images of a table.

    Raises:
        NelboError: pyarrow is missing, or the table is damaged, empty, or has no one column of images.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise NelboError(f"{path} needs the package pyarrow: run pip install nelbo[data]") from error
    try:
        column = _image_column(path, pq.read_schema(path))  # A column's name may be no text: ValueError.
        encoded = _bytes_of(pq.read_table(path, columns=[column]), column)
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno:  # The system's, not Arrow's: the file may be whole.
            raise
        raise NelboError(f"{path} is damaged or no .parquet file ({one_line(error)}): fetch it again") from error
    if not len(encoded):
        raise NelboError(f"{path} is empty: its column {column!r} has no rows")
    return ParquetSource(encoded)


def _image_column(path: Path, schema: pa.Schema) -> str:
    """Returns the one column whose type fits; among several, one of the usual names."""
    found = [column.name for column in schema if _is_encoded(column.type)]
    usual = [name for name in USUAL_NAMES if name in found]
    if usual or len(found) == 1:
        return (usual or found)[0]
    among = f"{len(found)} columns" if found else "no column"
    raise NelboError(f"{path} has {among} of encoded images among {schema.names}: name the one to read 'image'")


def _is_encoded(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if isinstance(kind, pa.StructType):
        return any(field.name == "bytes" and _is_encoded(field.type) for field in kind)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _bytes_of(table: pa.Table, column: str) -> pa.ChunkedArray:
    """Returns the column, or its field ``bytes`` where it is a structure."""
    flat = table.flatten()
    return flat.column(f"{column}.bytes" if column not in flat.column_names else column)
