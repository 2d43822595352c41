"""Images in parquet files: one column of encoded images, each row with its bytes."""

import sys

from nelbo.data import open_images

from fixtures.image_files import RGB, as_binary, as_parquet, encoded, pa, pixels_nhwc, pq, refusal


def test_rows_without_bytes_are_refused(tmp_path):
    column = pa.array([{"bytes": encoded(RGB), "path": ""}, None, {"bytes": None, "path": "a.png"}])
    assert "2 of 3 images cannot be used: row 1 (holds no bytes), row 2" in refusal(as_parquet(tmp_path, column))


def test_a_parquet_must_tell_which_column(tmp_path):
    assert "no column of encoded images among ['label', 'x']" in refusal(as_parquet(tmp_path, pa.array([1]), "x"))
    table = pa.table({name: pa.array([encoded(RGB)]) for name in "ab"})
    pq.write_table(table, tmp_path / "images.parquet")
    assert "2 columns of encoded images among ['a', 'b']" in refusal(tmp_path / "images.parquet")
    pq.write_table(table.append_column("image", pa.array([encoded(RGB)])), tmp_path / "images.parquet")
    assert len(open_images(tmp_path / "images.parquet")) == 1


def test_pyarrow_is_asked_for_when_missing(tmp_path, monkeypatch):
    path = as_binary(tmp_path, pixels_nhwc(1))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install nelbo[data]" in refusal(path)
