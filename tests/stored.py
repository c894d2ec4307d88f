"""Writing a .beton of given bytes, among them such as no writer would make."""

from __future__ import annotations

from pathlib import Path

import numpy as np

PAGE = 1 << 23


def write_beton(path: Path, images: list[tuple[int, int, int, bytes]], labels: list[int]) -> None:
    """A .beton of image files: mode (0 JPEG, 1 raw), height, width and bytes of each."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.types import (
        ALLOC_TABLE_TYPE,
        CURRENT_VERSION,
        TYPE_ID_HANDLER,
        FieldDescType,
        HeaderType,
        get_metadata_type,
    )

    fields = {"image": RGBImageField("jpg"), "label": IntField()}
    type_ids = {handler: number for number, handler in TYPE_ID_HANDLER.items()}
    descriptions = np.zeros(2, FieldDescType)
    for row, (name, field) in zip(descriptions, fields.items(), strict=True):
        row["type_id"] = type_ids[type(field)]
        row["name"][: len(name)] = np.frombuffer(name.encode(), np.uint8)
        row["arguments"][:] = field.to_binary()[0]
    index = np.zeros(len(images), get_metadata_type(list(fields.values())))
    index["f1"] = labels
    table = np.zeros(len(images), ALLOC_TABLE_TYPE)
    data = b""
    for number, (mode, height, width, image) in enumerate(images):
        index["f0"][number] = (mode, width, height, PAGE + len(data))
        table[number] = (number, PAGE + len(data), len(image))
        data += image
    header = np.zeros(1, HeaderType)
    header["version"], header["num_fields"], header["page_size"] = CURRENT_VERSION, 2, PAGE
    header["num_samples"], header["alloc_table_ptr"] = len(images), 2 * PAGE
    front = header.tobytes() + descriptions.tobytes() + index.tobytes()
    assert len(front) <= PAGE
    assert len(data) <= PAGE
    path.write_bytes(front.ljust(PAGE, b"\0") + data.ljust(PAGE, b"\0") + table.tobytes())
