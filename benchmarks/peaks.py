"""The arithmetic that a device can do: by its datasheet, and as a matrix product on this very device reaches it."""

from __future__ import annotations

from time import perf_counter, process_time

import torch

from benchmarks.throughput import wait_for_device

# Dense TFLOP/s: 16 bit (bf16 or fp16, 32-bit accumulation), TF32, FP32 without tensor cores; None where there is none.
# Datasheets of NVIDIA that print the rate with 2:4 sparsity, twice as high, are halved here. The longest name that a
# device's own name holds counts, so PCIe cards come out right.
DATASHEETS: dict[str, tuple[float, float | None, float, str]] = {
    "Tesla T4": (65, None, 8.1, "NVIDIA T4 datasheet, 2019"),
    "V100": (125, None, 15.7, "NVIDIA V100 datasheet, 2020: SXM2"),
    "A10": (125, 62.5, 31.2, "NVIDIA A10 datasheet, 2021"),
    "A100": (312, 156, 19.5, "NVIDIA A100 datasheet, 2021"),
    "L4": (121, 60, 30.3, "NVIDIA L4 datasheet, 2023, halved"),
    "L40S": (362, 183, 91.6, "NVIDIA L40S datasheet, 2023"),
    "RTX 4090": (165.2, 82.6, 82.6, "NVIDIA Ada GPU architecture whitepaper, 2022, appendix A"),
    "H100": (989.4, 494.7, 66.9, "NVIDIA H100 architecture whitepaper, 2023, table 2: SXM5"),
    "H100 PCIe": (756, 378, 51.2, "NVIDIA H100 architecture whitepaper, 2023, table 2: PCIe"),
    "H200": (989.4, 494.7, 66.9, "NVIDIA H200 datasheet, 2024, halved"),
}


def datasheet_peak(name: str, precision: str) -> tuple[float, str] | None:
    """Dense FLOP/s of the device called `name` at Lightning's `precision`, and the source; None if it is not listed.

    In 32 bits that of TF32 where matrix products or cuDNN's convolutions may use it; the latter do by default.
    """
    found = [key for key in DATASHEETS if key in name.replace("-", " ").split(" ") or (" " in key and key in name)]
    if not found:
        return None
    sixteen, tf32, single, source = DATASHEETS[max(found, key=len)]
    if "16" in precision:
        return sixteen * 1e12, source
    if tf32 and (torch.backends.cudnn.allow_tf32 or torch.get_float32_matmul_precision() != "highest"):
        return tf32 * 1e12, source
    return single * 1e12, source


def matmul_ceiling(device: torch.device, precision: str, seconds: float = 1.0) -> float:
    """FLOP/s of the fastest square matrix product found on the device; per processor second on a CPU.

    The best of sizes 512 to 8192 (2048 on a CPU), each repeated for a share of `seconds`.
    """
    kind = torch.bfloat16 if "bf16" in precision else torch.float16 if "16" in precision else torch.float32
    sizes = (512, 1024, 2048) if device.type == "cpu" else (2048, 4096, 8192)
    clock = process_time if device.type == "cpu" else perf_counter
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
        a @ b
        wait_for_device(device)
        started, count = clock(), 0
        while clock() - started < seconds / len(sizes):
            a @ b
            wait_for_device(device)
            count += 1
        best = max(best, 2 * size**3 * count / (clock() - started))
    return best
