"""Decoding a JPEG inside a compiled kernel, by the libjpeg-turbo that FFCV is linked to.

FFCV's own `imdecode` takes the fast, inexact cosine transform, which is no faster on today's processors, and drops
the decoder's return code: of a damaged JPEG it gives whatever another image left behind. The accurate transform gives
the pixels of PIL and torchvision.

The functions are bound by their names, not by addresses, so that numba can keep the compiled code on disk.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from numba import njit, types

from datamodules.ffcv_mended import libffcv

llvmlite.binding.load_library_permanently(libffcv.__file__)  # and with it what it is linked to

HANDLE = ADDRESS = types.uintp
SIZE = types.uint64  # C's unsigned long
INT = types.int32
TJPF_RGB = 0
TJFLAG_ACCURATEDCT = 4096

init_decompress: Any = types.ExternalFunction("tjInitDecompress", HANDLE())
destroy: Any = types.ExternalFunction("tjDestroy", INT(HANDLE))
decompress_header: Any = (
    types.ExternalFunction(  # width, height, subsampling and colour space go to the last four addresses
        "tjDecompressHeader3", INT(HANDLE, ADDRESS, SIZE, ADDRESS, ADDRESS, ADDRESS, ADDRESS)
    )
)
decompress: Any = (
    types.ExternalFunction(  # to an address: width, bytes a row (0: 3 x width), height, pixel format, flags
        "tjDecompress2", INT(HANDLE, ADDRESS, SIZE, ADDRESS, INT, INT, INT, INT, INT)
    )
)


@njit(cache=True, error_model="numpy")
def decode_rgb(jpeg: Any, length: int, height: int, width: int, pixels: Any) -> bool:
    """Decode the first `length` bytes of `jpeg` into `pixels`, and say whether that went well.

    It did not if libjpeg-turbo has anything to complain of, warnings such as a premature end included, or if the image
    is not `height` x `width`. Then nothing is known of `pixels`.

    Args:
        jpeg: uint8 [bytes], contiguous.
        pixels: uint8 [at least 3 * height * width], contiguous; red, green, blue, row by row.
    """
    found = np.empty(4, np.int32)
    address = found.ctypes.data
    handle = init_decompress()
    good = decompress_header(handle, jpeg.ctypes.data, length, address, address + 4, address + 8, address + 12) == 0
    good = good and found[0] == width and found[1] == height
    if good:
        target = pixels.ctypes.data
        status = decompress(handle, jpeg.ctypes.data, length, target, width, 0, height, TJPF_RGB, TJFLAG_ACCURATEDCT)
        good = status == 0
    destroy(handle)
    return good
