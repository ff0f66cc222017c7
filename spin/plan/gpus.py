"""Peak speeds of common GPUs: dense half-precision tensor TFLOP/s, as their makers state them."""

PEAK_TFLOPS = {
    "t4": 65.0,
    "a10": 125.0,
    "rtx3090": 71.0,
    "rtx4090": 165.0,
    "l40s": 362.0,
    "a100": 312.0,
    "h100": 989.0,
    "h200": 989.0,
}
"""fp16 on the T4, bf16 on the others."""
