"""Compiled kernels for CUDA: addresses and shapes. Arguments are checked in kltui.kernels.cuda; call that."""

def device_count() -> int: ...
def has_code(device: int) -> bool: ...
def kl_rows(
    p: int,
    q: int,
    dtype: int,
    rows: int,
    columns: int,
    stride_p: int,
    stride_q: int,
    forward: int,
    reverse: int,
    same_top: int,
    device: int,
    stream: int,
) -> None: ...
def log_softmax_gather(
    logits: int,
    dtype: int,
    rows: int,
    columns: int,
    stride: int,
    targets: int,
    scale: float,
    softcap: float,
    out: int,
    device: int,
    stream: int,
) -> None: ...
def online_update(
    tile: int,
    dtype: int,
    rows: int,
    columns: int,
    stride: int,
    first: int,
    targets: int,
    scale: float,
    softcap: float,
    reference: int,
    sum: int,
    target_logit: int,
    device: int,
    stream: int,
) -> None: ...
def sum_by_text(
    logp: int, text_index: int, count: int, texts: int, sums: int, device: int, stream: int
) -> None: ...
def double_centre(
    x: int, rows: int, columns: int, out: int, means: int, device: int, stream: int
) -> None: ...
