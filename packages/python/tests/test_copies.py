from __future__ import annotations

import torch

from ckpt_worker.loading.copies import Copy, CopyPlan


def test_copies_of_rows_columns_and_whole_tensors() -> None:
    source = torch.arange(4 * 24, dtype=torch.int32).view(4, 24)
    rows, columns, whole = torch.zeros(2, 24, dtype=torch.int32), torch.zeros(4, 6, dtype=torch.int32), torch.zeros_like(source)
    plan = CopyPlan(
        [
            Copy("rows", rows, 2 * 24 * 4, (96, 4)),
            Copy("columns", columns, 6 * 4, (96, 4)),
            Copy("whole", whole, 0, (96, 4)),
            Copy("none", torch.zeros(0, 3), 0, (12, 4)),
        ]
    )
    plan.run(source)
    assert torch.equal(rows, source[2:])
    assert torch.equal(columns, source[:, 6:12])
    assert torch.equal(whole, source)
